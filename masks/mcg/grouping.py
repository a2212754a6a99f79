"""Object candidates: tree nodes, and connected pairs, triplets and 4-tuples of them.

The walk is Multiscale Combinatorial Grouping's (Pont-Tuset et al., TPAMI 2017, section 5): merges are undone from the root
down; each undone merge lets its two children appear, and each newly appeared node is grouped with nodes that
appeared before and touch it. The first so many groups of each size are kept, so a hierarchy's largest and most
salient structures are combined first.
"""

import numba
import numpy as np

from maskmill.masks.mcg.nodes import Nodes
from maskmill.masks.mcg.outlines import singletons
from maskmill.masks.mcg.regions import AREA, Regions

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


@numba.njit(cache=True)
def _apart(a, b, up, low, high):
    """Whether two nodes are disjoint and not each other's only sibling (together they are a node already)."""
    return (high[a] <= low[b] or high[b] <= low[a]) and up[a] != up[b]


@numba.njit(cache=True)
def group_nodes(up, low, high, touch, weight, largest, quotas, attempts):
    """Groups of 2, 3 and 4 appeared nodes: connected, pairwise disjoint, without siblings.

    A group is listed when its last node appears, so groups come in order of appearance; each is listed once. A group with
    a part below `MIN_SHARE` of the whole is passed over: without that part it is nearly the same mask.

    Args:
        up, low, high, touch: see `touching`.
        weight: float64[c], area of each node, holes included.
        quotas: int64[4], how many singletons (ignored), pairs, triplets and 4-tuples to keep, the first ones.
        attempts: bound on the groups looked at.

    Returns:
        int32[g, 4] of nodes, -1 padded; all pairs, then triplets, then 4-tuples.
    """
    two = np.full((max(quotas[1], 1), 4), -1, np.int32)
    three = np.full((max(quotas[2], 1), 4), -1, np.int32)
    four = np.full((max(quotas[3], 1), 4), -1, np.int32)
    n2, n3, n4 = 0, 0, 0
    count = len(up)
    near = np.empty((count, count), np.int32)
    degree = np.zeros(count, np.int32)
    left = attempts
    for c in range(1, count):
        if (n2 >= quotas[1] and n3 >= quotas[2] and n4 >= quotas[3]) or left <= 0:
            break
        limit = c - 1 + (c & 1)  # siblings sit at 2t+1, 2t+2; nodes before both have appeared earlier
        for i in range(limit):
            if touch[c, i]:
                near[c, degree[c]] = i
                degree[c] += 1
        # `near[i]` of earlier nodes must also list later ones: they touch too.
        for k in range(degree[c]):
            i = near[c, k]
            near[i, degree[i]] = c
            degree[i] += 1
        if touch[c, c - 1] and not c & 1:
            near[c, degree[c]] = c - 1
            degree[c] += 1
            near[c - 1, degree[c - 1]] = c
            degree[c - 1] += 1
        for ka in range(degree[c]):
            a = near[c, ka]
            if a >= limit:
                continue
            left -= 1
            light2, sum2 = min(weight[c], weight[a]), weight[c] + weight[a]
            if light2 < MIN_SHARE * sum2:
                continue
            if sum2 > largest:
                continue
            if n2 < quotas[1]:
                two[n2, 0], two[n2, 1] = c, a
                n2 += 1
            if (n3 >= quotas[2] and n4 >= quotas[3]) or left <= 0:
                continue
            # Second nodes: neighbours of c after a, then neighbours of a that do not touch c.
            for source in range(2):
                for kb in range(degree[c] if source == 0 else degree[a]):
                    b = near[c, kb] if source == 0 else near[a, kb]
                    left -= 1
                    if left <= 0:
                        break
                    if b >= limit or not _apart(a, b, up, low, high):
                        continue
                    if source == 0 and b <= a:
                        continue
                    if source == 1 and (touch[c, b] or not _apart(c, b, up, low, high)):
                        continue
                    light3, sum3 = min(light2, weight[b]), sum2 + weight[b]
                    if light3 < MIN_SHARE * sum3:
                        continue
                    if sum3 > largest:
                        continue
                    if n3 < quotas[2]:
                        three[n3, 0], three[n3, 1], three[n3, 2] = c, a, b
                        n3 += 1
                    if n4 >= quotas[3]:
                        continue
                    # Third nodes d, so that every connected set is built in exactly one way:
                    #   a, b touch c: d touches c too and comes after b; or d touches a or b but not c;
                    #   only a touches c: d touches a, comes after b; or d touches b but neither a nor c.
                    for way in range(3):
                        if way == 0:
                            pivot = c if source == 0 else a
                        elif way == 1:
                            pivot = a if source == 0 else b
                        else:
                            if source == 1:
                                break
                            pivot = b
                        for kd in range(degree[pivot]):
                            if n4 >= quotas[3] or left <= 0:
                                break
                            d = near[pivot, kd]
                            left -= 1
                            if d >= limit:
                                continue
                            if source == 0:
                                if way == 0 and d <= b:
                                    continue
                                if way > 0 and touch[c, d]:
                                    continue
                                if way == 2 and touch[a, d]:
                                    continue
                            else:
                                if touch[c, d]:
                                    continue
                                if way == 0 and d <= b:
                                    continue
                                if way == 1 and touch[a, d]:
                                    continue
                            if not (
                                _apart(c, d, up, low, high)
                                and _apart(a, d, up, low, high)
                                and _apart(b, d, up, low, high)
                            ):
                                continue
                            if min(light3, weight[d]) < MIN_SHARE * (sum3 + weight[d]):
                                continue
                            if sum3 + weight[d] > largest:
                                continue
                            four[n4, 0], four[n4, 1], four[n4, 2], four[n4, 3] = c, a, b, d
                            n4 += 1
    out = np.empty((n2 + n3 + n4, 4), np.int32)
    out[:n2] = two[:n2]
    out[n2 : n2 + n3] = three[:n3]
    out[n2 + n3 :] = four[:n4]
    return out


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
    nodes: Nodes, edges: np.ndarray, regions: Regions, quotas: tuple[int, int, int, int], merges: int
) -> np.ndarray:
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
