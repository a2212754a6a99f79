"""Object candidates: tree nodes, and connected pairs, triplets and 4-tuples of them.

The walk is Multiscale Combinatorial Grouping's (Pont-Tuset et al., TPAMI 2017, section 5): merges are undone from the root
down; each undone merge lets its two children appear, and each newly appeared node is grouped with nodes that
appeared before and touch it. The first so many groups of each size are kept, so a hierarchy's largest and most
salient structures are combined first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

from maskmill.masks.mcg.nodes import Nodes
from maskmill.masks.mcg.outlines import singletons
from maskmill.masks.mcg.regions import AREA, Regions

if TYPE_CHECKING:
    from jaxtyping import Int32

MIN_SHARE = 0.05  # of a group's area, for each of its parts: duplicates above an overlap of 0.95 are not even listed
MAX_SHARE = 0.7  # of the picture, for groups: of near-complete pictures the single nodes are enough
ATTEMPT_LIMIT = 30_000_000  # groups looked at per tree, accepted or not: a bound on time for adversarial trees


@numba.njit(cache=True)
def touching(up, low, high, place, edges):
    """Which nodes are disjoint and share a boundary; bool[c, c], symmetric.

    Args:
        up, low, high, place: see `Nodes`, for the first c of them.
        edges: int32[m, 2], touching leaves.
    """
    count = len(up)
    n = len(place)
    split = np.zeros(count, numba.boolean)
    for i in range(1, count):
        split[up[i]] = True
    frontier = np.full(n, -1, np.int32)  # the undivided appeared node at each place of the leaf order
    for i in range(count):
        if not split[i]:
            frontier[low[i] : high[i]] = i
    out = np.zeros((count, count), numba.boolean)
    for e in range(len(edges)):
        place_a, place_b = place[edges[e, 0]], place[edges[e, 1]]
        first, second = frontier[place_a], frontier[place_b]
        if first == second or out[first, second]:
            continue
        a = first
        while not low[a] <= place_b < high[a]:
            b = second
            while not low[b] <= place_a < high[b]:
                out[a, b] = True
                out[b, a] = True
                b = up[b]
            a = up[a]
    return out


class _Appeared(NamedTuple):
    """The nodes that groups are made of, in order of appearance; see `Nodes` and `touching`.

    near: int32[c, c], rows of the nodes that touch each one, filled as nodes appear; degree: int32[c], how many they are.
    weight: float64[c], area of each node, holes included; largest: of a group.
    """

    up: np.ndarray
    low: np.ndarray
    high: np.ndarray
    touch: np.ndarray
    weight: np.ndarray
    near: np.ndarray
    degree: np.ndarray
    largest: float


# Inlined: a call hands over eight arrays, which takes longer than what these do (8.8 against 4.4 ms a picture in all).
@numba.njit(cache=True, inline="always")
def _apart(a, b, nodes):
    """Whether two nodes are disjoint and not each other's only sibling (together they are a node already)."""
    return (nodes.high[a] <= nodes.low[b] or nodes.high[b] <= nodes.low[a]) and nodes.up[a] != nodes.up[b]


@numba.njit(cache=True, inline="always")
def _fits(smallest, total, largest):
    """Whether a group is worth listing: no part next to nothing, and not nearly the whole picture."""
    return smallest >= MIN_SHARE * total and total <= largest


@numba.njit(cache=True, inline="always")
def _link(a, b, nodes):
    nodes.near[a, nodes.degree[a]] = b
    nodes.degree[a] += 1
    nodes.near[b, nodes.degree[b]] = a
    nodes.degree[b] += 1


@numba.njit(cache=True)
def _appear(c, limit, nodes):
    """Links a node to those before `limit` that touch it, and the second of two siblings to the first."""
    for i in range(limit):
        if nodes.touch[c, i]:
            _link(c, i, nodes)
    if nodes.touch[c, c - 1] and not c & 1:
        _link(c, c - 1, nodes)


@numba.njit(cache=True, inline="always")
def _found_otherwise(way, chained, a, b, c, d, touch):
    """Whether {c, a, b, d}, with d found as neighbour number `way` of the three, is found in another way too.

    Every connected set is to be built in exactly one way. Where a and b touch c: d touches c too and comes after b; or d
    touches a or b but not c. Where only a touches c (`chained`): d touches a and comes after b; or d touches b but neither
    a nor c.
    """
    if chained:
        return touch[c, d] or (way == 0 and d <= b) or (way == 1 and touch[a, d])
    return (way == 0 and d <= b) or (way > 0 and touch[c, d]) or (way == 2 and touch[a, d])


@numba.njit(cache=True)
def _add_fourths(c, a, b, chained, limit, smallest, total, nodes, out, count, left):
    """Lists the groups of c, a, b and one more node before `limit`. Returns the new `count` and `left`."""
    for way in range(2 if chained else 3):
        if chained:
            pivot = b if way else a
        else:
            pivot = c if way == 0 else (a if way == 1 else b)
        for k in range(nodes.degree[pivot]):
            if count >= len(out) or left <= 0:
                break
            d = nodes.near[pivot, k]
            left -= 1
            if d >= limit or _found_otherwise(way, chained, a, b, c, d, nodes.touch):
                continue
            if not (_apart(c, d, nodes) and _apart(a, d, nodes) and _apart(b, d, nodes)):
                continue
            if _fits(min(smallest, nodes.weight[d]), total + nodes.weight[d], nodes.largest):
                out[count, 0], out[count, 1], out[count, 2], out[count, 3] = c, a, b, d
                count += 1
    return count, left


@numba.njit(cache=True)
def _add_thirds(c, a, limit, smallest, total, nodes, three, n3, four, n4, left):
    """Lists the groups of c, a and one or two more nodes before `limit`. Returns the new `n3`, `n4` and `left`.

    The third is a neighbour of c after a, or (`chained`) a neighbour of a that does not touch c.
    """
    for chained in (False, True):
        pivot = a if chained else c
        for k in range(nodes.degree[pivot]):
            b = nodes.near[pivot, k]
            left -= 1
            if left <= 0:
                break
            if b >= limit or not _apart(a, b, nodes):
                continue
            if (nodes.touch[c, b] or not _apart(c, b, nodes)) if chained else b <= a:
                continue
            smallest3, total3 = min(smallest, nodes.weight[b]), total + nodes.weight[b]
            if not _fits(smallest3, total3, nodes.largest):
                continue
            if n3 < len(three):
                three[n3, 0], three[n3, 1], three[n3, 2] = c, a, b
                n3 += 1
            if n4 < len(four):
                n4, left = _add_fourths(c, a, b, chained, limit, smallest3, total3, nodes, four, n4, left)
    return n3, n4, left


@numba.njit(cache=True)
def group_nodes(up, low, high, touch, weight, largest, quotas, attempts):
    """Groups of 2, 3 and 4 appeared nodes: connected, pairwise disjoint, without siblings.

    A group is listed when its last node appears, so groups come in order of appearance; each is listed once. A group with
    a part below `MIN_SHARE` of the whole is passed over: without that part it is nearly the same mask.

    Args:
        up, low, high, touch: see `touching`.
        weight: float64[c], area of each node, holes included.
        largest: area that no group exceeds.
        quotas: int64[4], how many singletons (ignored), pairs, triplets and 4-tuples to keep, the first ones.
        attempts: bound on the groups looked at.

    Returns:
        int32[g, 4] of nodes, -1 padded; all pairs, then triplets, then 4-tuples.
    """
    two, three, four = (
        np.full((quotas[1], 4), -1, np.int32),
        np.full((quotas[2], 4), -1, np.int32),
        np.full((quotas[3], 4), -1, np.int32),
    )
    n2, n3, n4 = 0, 0, 0
    count = len(up)
    nodes = _Appeared(
        up, low, high, touch, weight, np.empty((count, count), np.int32), np.zeros(count, np.int32), largest
    )
    left = attempts
    for c in range(1, count):
        if (n2 >= len(two) and n3 >= len(three) and n4 >= len(four)) or left <= 0:
            break
        limit = c - 1 + (c & 1)  # siblings sit at 2t+1, 2t+2; nodes before both have appeared earlier
        _appear(c, limit, nodes)
        for k in range(nodes.degree[c]):
            a = nodes.near[c, k]
            if a >= limit:
                continue
            left -= 1
            smallest, total = min(weight[c], weight[a]), weight[c] + weight[a]
            if not _fits(smallest, total, largest):
                continue
            if n2 < len(two):
                two[n2, 0], two[n2, 1] = c, a
                n2 += 1
            if (n3 < len(three) or n4 < len(four)) and left > 0:
                n3, n4, left = _add_thirds(c, a, limit, smallest, total, nodes, three, n3, four, n4, left)
    return np.concatenate((two[:n2], three[:n3], four[:n4]))


@numba.njit(cache=True)
def _untie_enclosed(touch, hole_start, holes, place, low, high):
    """Unties nodes from those that lie in their holes: together they would, once filled, be the one node."""
    inside = np.full(len(place), -1, np.int32)
    for a in range(len(touch)):
        if hole_start[a] == hole_start[a + 1]:
            continue
        for h in range(hole_start[a], hole_start[a + 1]):
            inside[place[holes[h]]] = a
        for b in range(len(touch)):
            if touch[a, b] and inside[low[b]] == a:
                touch[a, b] = False
                touch[b, a] = False


def list_groups(
    nodes: Nodes,
    edges: Int32[np.ndarray, "touching 2"],
    regions: Regions,
    quotas: tuple[int, int, int, int],
    merges: int,
) -> Int32[np.ndarray, "groups 4"]:
    """Singletons and groups of one tree; int32[g, 4], see `group_nodes`.

    Args:
        nodes: of one tree, at least those of `merges` merges, holes filled.
        edges: int32[m, 2], touching leaves.
        regions: what is known of the leaves.
        quotas: number of singletons, pairs, triplets and 4-tuples.
        merges: merges undone for pairs and larger; singletons may come from further down.
    """
    top = min(len(nodes.up), 2 * merges + 1)
    up, low, high = nodes.up[:top], nodes.low[:top], nodes.high[:top]
    touch = touching(up, low, high, nodes.place, edges)
    _untie_enclosed(touch, nodes.hole_start, nodes.holes, nodes.place, low, high)
    largest = MAX_SHARE * regions.area.sum()
    groups = group_nodes(
        up, low, high, touch, nodes.total[:top, AREA], largest, np.array(quotas, np.int64), ATTEMPT_LIMIT
    )
    return np.concatenate([singletons(min(quotas[0], len(nodes.up))), groups])
