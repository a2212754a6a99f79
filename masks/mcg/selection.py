"""From scores to a ranked list: maximum marginal relevance, and what may be in the list at all."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64, UInt64

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
def shared_pixels(one, two, table):
    """Pixels in both of two sets uint64[words]; `table` from `_byte_areas`."""
    total = 0.0
    for word in range(len(one)):
        bits = one[word] & two[word]
        byte = word * 8
        while bits:
            total += table[byte, bits & np.uint64(255)]
            bits >>= np.uint64(8)
            byte += 1
    return total


@numba.njit(cache=True)
def _select(members, area, score, top, weight, duplicate):
    """See `select`. A candidate's worth only falls as more are taken, so it is brought up to date when it comes first.

    Invariant: the heap holds, for every candidate left, a worth that is at least the true one; it is the true one where
    `compared` says that the candidate was compared with all that are taken.
    """
    table = _byte_areas(area)
    value = weight * score.astype(np.float64)
    sizes = np.empty(len(members))
    for p in range(len(members)):
        sizes[p] = shared_pixels(members[p], members[p], table)
    nearest = np.zeros(len(members))  # overlap with the most similar one taken, of those compared
    compared = np.zeros(len(members), np.int64)
    taken = np.empty(min(top, len(members)), np.int64)
    count = 0
    heap = [(-value[p], p) for p in range(len(members))]  # of equal worth the earlier candidate first
    heapq.heapify(heap)
    while len(heap) > 0 and count < len(taken):
        p = heapq.heappop(heap)[1]
        if compared[p] == count:
            taken[count] = p
            count += 1
            continue
        for t in taken[compared[p] : count]:
            both = shared_pixels(members[p], members[t], table)
            nearest[p] = max(nearest[p], both / (sizes[p] + sizes[t] - both))
        compared[p] = count
        if nearest[p] < duplicate:
            heapq.heappush(heap, (-(value[p] - (1 - weight) * nearest[p]), p))
    return taken[:count]


def select(
    members: UInt64[np.ndarray, "candidates words"],
    area: Int64[np.ndarray, " leaves"],
    score: Float32[np.ndarray, " candidates"],
    top: int,
    weight: float = SCORE_WEIGHT,
) -> Int64[np.ndarray, " chosen"]:
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
