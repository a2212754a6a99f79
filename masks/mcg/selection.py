"""From scores to a ranked list: maximum marginal relevance, and what may be in the list at all."""

import numba
import numpy as np

SCORE_WEIGHT = 0.7
DUPLICATE = 0.95


@numba.njit(cache=True)
def _byte_areas(area):
    """Pixels of every subset of each 8 consecutive leaves; float64[ceil(n / 64) * 8, 256]."""
    words = (len(area) + 63) // 64
    table = np.zeros((words * 8, 256), np.float64)
    for byte in range(len(table)):
        for pattern in range(1, 256):
            low = 0
            while not pattern >> low & 1:
                low += 1
            leaf = byte * 8 + low
            table[byte, pattern] = table[byte, pattern & (pattern - 1)] + (area[leaf] if leaf < len(area) else 0)
    return table


@numba.njit(cache=True)
def intersections(members, row, table, out):
    """Pixels that each set shares with `row`, into `out` float64[P]; `table` from `_byte_areas`."""
    used = np.flatnonzero(row)
    for p in range(len(members)):
        total = 0.0
        for word in used:
            bits = members[p, word] & row[word]
            byte = word * 8
            while bits:
                total += table[byte, bits & np.uint64(255)]
                bits >>= np.uint64(8)
                byte += 1
        out[p] = total


@numba.njit(cache=True)
def _select(members, area, score, top, weight, duplicate):
    table = _byte_areas(area)
    sizes, shared = np.empty((2, len(members)))
    intersections(members, np.full(members.shape[1], 0xFFFFFFFFFFFFFFFF, np.uint64), table, sizes)
    nearest = np.zeros(len(members))  # overlap with the most similar one taken
    value = weight * score.astype(np.float64)
    taken = np.empty(min(top, len(members)), np.int64)
    count = 0
    while count < len(taken):
        best = -1
        for p in range(len(members)):
            if nearest[p] < duplicate and (
                best < 0 or value[p] - (1 - weight) * nearest[p] > value[best] - (1 - weight) * nearest[best]
            ):
                best = p
        if best < 0:
            break
        taken[count] = best
        count += 1
        intersections(members, members[best], table, shared)
        for p in range(len(members)):
            nearest[p] = max(nearest[p], shared[p] / (sizes[p] + sizes[best] - shared[p]))
    return taken[:count]


def select(
    members: np.ndarray, area: np.ndarray, score: np.ndarray, top: int, weight: float = SCORE_WEIGHT
) -> np.ndarray:
    """Orders candidates by maximum marginal relevance.

    Repeatedly takes the candidate with the largest `weight * score - (1 - weight) * overlap`, where overlap is its largest
    IoU with the ones already taken; those whose overlap is `DUPLICATE` or more are out. Ties go to the earlier candidate.

    Args:
        members: uint64[P, words], sets of leaves, none empty.
        area: int64[n], pixels of each leaf.
        score: float32[P], higher is better.
        top: how many to take.
        weight: of the score, 0..1.

    Returns:
        int64[k], k <= top, in order.

    Source: Carbonell & Goldstein 1998; weight and duplicates as in Pont-Tuset et al., TPAMI 2017, section 6.
    """
    return _select(members, area, score, top, weight, DUPLICATE)
