"""The leaves around a node or a group of nodes, and their sums.

A group's ring is its nodes' rings without the leaves that have come to be inside, each leaf once. Nodes' sums are taken once,
and for a group only what is to be taken off: the few leaves where its nodes meet, found as bits in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

from maskmill.masks.mcg import regions as columns
from maskmill.masks.mcg.outlines import PARTS

if TYPE_CHECKING:
    from jaxtyping import Float64

    from maskmill.masks.mcg.nodes import Nodes
    from maskmill.masks.mcg.regions import Regions

# Columns of what is summed: pixels, Lab, gradient energy, histogram.
LAB, TEXTURE, HISTOGRAM = 1, 4, 5
COLUMNS = HISTOGRAM + 3 * columns.BINS


class Rings(NamedTuple):
    """Rings of the c nodes of a tree, holes filled.

    total: float64[c, COLUMNS], sums over each ring. bits: uint64[k, words], the rings of the first k nodes, those that groups
    are made of, as sets of leaves. rows: float64[n, COLUMNS], what each leaf adds.
    """

    total: np.ndarray
    bits: np.ndarray
    rows: np.ndarray


def ring_rows(regions: Regions) -> Float64[np.ndarray, "leaves ring"]:
    """What is summed of each leaf; float64[n, COLUMNS]."""
    table, lab = regions.additive, slice(columns.SUMS, columns.SUMS + 3)
    return np.concatenate([table[:, [columns.AREA]], table[:, lab], table[:, columns.TEXTURE :]], axis=1)


@numba.njit(cache=True)
def _rings(start, outside, rows, top):
    total = np.zeros((len(start) - 1, rows.shape[1]))
    bits = np.zeros((top, (len(rows) + 63) // 64), np.uint64)
    seen = np.full(len(rows), -1, np.int32)
    for i in range(len(total)):
        own = total[i]
        for j in range(start[i], start[i + 1]):
            leaf = outside[j]
            if seen[leaf] == i:
                continue
            seen[leaf] = i
            row = rows[leaf]
            for c in range(COLUMNS):
                own[c] += row[c]
            if i < top:
                bits[i, leaf >> 6] |= np.uint64(1) << np.uint64(leaf & 63)
    return total, bits


def describe_rings(nodes: Nodes, rows: Float64[np.ndarray, "leaves ring"], top: int) -> Rings:
    """Rings of a tree's nodes, holes filled; `top`: how many of them groups may be made of; rows: see `ring_rows`."""
    total, bits = _rings(nodes.start, nodes.outside, rows, top)
    return Rings(total, bits, rows)


@numba.njit(cache=True)
def _take_off(word, bits, rows, sums):
    """Takes the rows of the leaves in one word of a set off the sums."""
    while bits:
        low = bits & (~bits + np.uint64(1))
        leaf = word << 6
        for step in (32, 16, 8, 4, 2, 1):
            if low >> np.uint64(step):
                low >>= np.uint64(step)
                leaf += step
        row = rows[leaf]
        for c in range(COLUMNS):
            sums[c] -= row[c]
        bits &= bits - np.uint64(1)


@numba.njit(cache=True)
def sum_ring(group, members, rings, sums):
    """Sums over the leaves around a group.

    Args:
        group: int32[4], nodes, -1 padded; members: uint64[words], the group's leaves, holes included.
        rings: `Rings`; sums: float64[COLUMNS], gets the result.
    """
    sums[:] = rings.total[group[0]]
    if group[1] < 0:
        return
    for k in range(1, PARTS):
        if group[k] < 0:
            break
        more = rings.total[group[k]]
        for c in range(COLUMNS):
            sums[c] += more[c]
    for word in range(len(members)):
        before = np.uint64(0)
        for k in range(PARTS):
            if group[k] < 0:
                break
            here = rings.bits[group[k], word]
            surplus = here & (members[word] | before)  # inside by now, or in the ring of an earlier node too
            if surplus:
                _take_off(word, surplus, rings.rows, sums)
            before |= here
