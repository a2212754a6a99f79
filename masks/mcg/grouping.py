"""Object candidates: tree nodes, and connected pairs, triplets and 4-tuples of them, as sets of leaf regions.

The walk is Multiscale Combinatorial Grouping's (Pont-Tuset et al., TPAMI 2017, section 5): merges are undone from the root
down; each undone merge lets its two children appear, and each newly appeared node is grouped with nodes that
appeared before and touch it. The first so many groups of each size are kept, so a hierarchy's largest and most
salient structures are combined first.
"""

import dataclasses
import heapq

import numba
import numpy as np

from masks.mcg.hierarchy import Hierarchy, Tree
from masks.mcg.leafsets import fill_holes, row_areas
from masks.mcg.regions import adjacency

MAX_PARTS = 4
MIN_SHARE = 0.05  # of a group's area, for each of its parts: duplicates above an overlap of 0.95 are not even listed
MAX_SHARE = 0.7  # of the picture, for groups: of near-complete pictures the single nodes are enough
ATTEMPT_LIMIT = 30_000_000  # groups looked at per tree, accepted or not: a bound on time for adversarial trees


@dataclasses.dataclass(frozen=True)
class Candidates:
    """P distinct sets of leaf regions of one image.

    Attributes:
        members: uint64[P, ceil(n / 64)], bit l % 64 of word l // 64 says whether leaf l belongs.
        tree: int32[P], the tree (index into `Hierarchy.trees`) that proposed it first.
        parts: int32[P], 1 .. 4 nodes.
        order: int32[P], its place among the tree's groups of that many parts.
        end: float32[P], lowest level at which one of its nodes disappears (MCG's end_th).
        begin: float32[P], lowest level at which one of its nodes forms (start_th).
        balance: float32[P], area of the smallest part over the largest.
    """

    members: np.ndarray
    tree: np.ndarray
    parts: np.ndarray
    order: np.ndarray
    end: np.ndarray
    begin: np.ndarray
    balance: np.ndarray

    def __len__(self) -> int:
        return len(self.members)


@numba.njit(cache=True)
def appearance(parent, level, limit):
    """Nodes in the order in which they appear when merges are undone from the root down.

    Args:
        parent, level: see `Tree`; levels never fall towards the root.
        limit: number of merges undone; merges at level 0 never are.

    Returns:
        node int32[c] with the root first and siblings side by side; up int32[c], place of the parent, -1 for the root.
    """
    total = len(parent)
    n = (total + 1) // 2
    child = np.full((total, 2), -1, np.int32)
    for i in range(total - 1):
        k = parent[i]
        child[k, 1 if child[k, 0] >= 0 else 0] = i
    node = np.empty(total, np.int32)
    up = np.empty(total, np.int32)
    node[0], up[0] = total - 1, -1
    count = 1
    heap = [(0.0, np.int64(0))]  # (minus level, place); equal levels in order of appearance
    if n == 1 or level[total - 1] <= 0:
        heap.pop()
    undone = 0
    while len(heap) > 0 and undone < limit:
        place = heapq.heappop(heap)[1]
        undone += 1
        for s in range(2):
            i = child[node[place], s]
            node[count], up[count] = i, place
            if i >= n and level[i] > 0:
                heapq.heappush(heap, (-np.float64(level[i]), np.int64(count)))
            count += 1
    return node[:count].copy(), up[:count].copy()


@numba.njit(cache=True)
def leaf_intervals(parent):
    """Leaves in depth-first order, and the half-open interval of it that each node covers.

    Returns:
        leaves int32[n]; low, high int32[2n - 1].
    """
    total = len(parent)
    n = (total + 1) // 2
    size = np.zeros(total, np.int32)
    size[:n] = 1
    for i in range(total - 1):
        size[parent[i]] += size[i]
    low = np.zeros(total, np.int32)
    taken = np.zeros(total, np.int32)
    for i in range(total - 2, -1, -1):
        low[i] = low[parent[i]] + taken[parent[i]]
        taken[parent[i]] += size[i]
    leaves = np.empty(n, np.int32)
    for i in range(n):
        leaves[low[i]] = i
    return leaves, low, low + size


@numba.njit(cache=True)
def touching(node, up, low, high, leaf_place, edges):
    """Which appeared nodes are disjoint and share a boundary; bool[c, c], symmetric.

    Args:
        node, up: from `appearance`; low, high: from `leaf_intervals`; leaf_place int32[n]: place of a leaf in its order.
        edges: int32[m, 2], touching leaves.
    """
    count = len(node)
    n = len(leaf_place)
    split = np.zeros(count, numba.boolean)
    for i in range(1, count):
        split[up[i]] = True
    frontier = np.full(n, -1, np.int32)  # the undivided appeared node at each place of the leaf order
    for i in range(count):
        if not split[i]:
            frontier[low[node[i]] : high[node[i]]] = i
    out = np.zeros((count, count), numba.boolean)
    for e in range(len(edges)):
        place_a, place_b = leaf_place[edges[e, 0]], leaf_place[edges[e, 1]]
        first, second = frontier[place_a], frontier[place_b]
        if first == second or out[first, second]:
            continue
        a = first
        while not low[node[a]] <= place_b < high[node[a]]:
            b = second
            while not low[node[b]] <= place_a < high[node[b]]:
                out[a, b] = True
                out[b, a] = True
                b = up[b]
            a = up[a]
    return out


@numba.njit(cache=True)
def _apart(i, j, node, up, low, high):
    """Whether two appeared nodes are disjoint and not each other's only sibling (together they are a node already)."""
    a, b = node[i], node[j]
    return (high[a] <= low[b] or high[b] <= low[a]) and up[i] != up[j]


@numba.njit(cache=True)
def group_nodes(node, up, low, high, touch, weight, largest, quotas, attempts):
    """Groups of 2, 3 and 4 appeared nodes: connected, pairwise disjoint, without siblings.

    A group is listed when its last node appears, so groups come in order of appearance; each is listed once. A group with
    a part below `MIN_SHARE` of the whole is passed over: without that part it is nearly the same mask.

    Args:
        node, up, low, high, touch: see `touching`.
        weight: float64[c], area of each node, holes included.
        quotas: int64[4], how many singletons (ignored), pairs, triplets and 4-tuples to keep, the first ones.
        attempts: bound on the groups looked at.

    Returns:
        int32[g, 4] of places in `node`, -1 padded; all pairs, then triplets, then 4-tuples.
    """
    two = np.full((max(quotas[1], 1), 4), -1, np.int32)
    three = np.full((max(quotas[2], 1), 4), -1, np.int32)
    four = np.full((max(quotas[3], 1), 4), -1, np.int32)
    n2, n3, n4 = 0, 0, 0
    count = len(node)
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
                    if b >= limit or not _apart(a, b, node, up, low, high):
                        continue
                    if source == 0 and b <= a:
                        continue
                    if source == 1 and (touch[c, b] or not _apart(c, b, node, up, low, high)):
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
                                _apart(c, d, node, up, low, high)
                                and _apart(a, d, node, up, low, high)
                                and _apart(b, d, node, up, low, high)
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
def bit_rows(groups, node, low, high, leaves):
    """Leaf sets of groups of nodes; uint64[g, words]."""
    rows = np.zeros((len(groups), (len(leaves) + 63) // 64), np.uint64)
    for g in range(len(groups)):
        for k in range(groups.shape[1]):
            if groups[g, k] < 0:
                break
            for p in range(low[node[groups[g, k]]], high[node[groups[g, k]]]):
                leaf = leaves[p]
                rows[g, leaf >> 6] |= np.uint64(1) << np.uint64(leaf & 63)
    return rows


@numba.njit(cache=True)
def _describe(groups, node, low, high, level, parent, area_sum, key_sum):
    """Keys, end, begin and balance of groups of one tree."""
    count = len(groups)
    keys = np.zeros(count, np.uint64)
    numbers = np.empty((count, 3), np.float32)
    parts = np.zeros(count, np.int32)
    for g in range(count):
        end, begin = np.inf, np.inf
        small, large = np.inf, 0.0
        for k in range(4):
            if groups[g, k] < 0:
                break
            i = node[groups[g, k]]
            parts[g] += 1
            end = min(end, level[parent[i]] if parent[i] != i else 1.0)
            begin = min(begin, level[i])
            area = area_sum[high[i]] - area_sum[low[i]]
            small, large = min(small, area), max(large, area)
            keys[g] += key_sum[high[i]] - key_sum[low[i]]
        numbers[g, 0], numbers[g, 1], numbers[g, 2] = end, begin, small / large
    return keys, numbers, parts


def leaf_keys(leaves: int) -> np.ndarray:
    """A fixed random 64-bit key per leaf; a set's key is their sum, so equal sets have equal keys: uint64[leaves].

    Two different sets share a key with probability 2**-64; with 2**15 candidates an image that is nothing.
    """
    return np.random.default_rng(0x6D63).integers(0, 2**64, leaves, dtype=np.uint64)


@numba.njit(cache=True)
def _skip_enclosed(touch, filled, node, low, leaves):
    """Unties nodes from those that lie in their holes: together they would, once filled, be the one node."""
    for a in range(len(touch)):
        for b in range(len(touch)):
            if touch[a, b]:
                leaf = leaves[low[node[b]]]
                if filled[a, leaf >> 6] >> np.uint64(leaf & 63) & np.uint64(1):
                    touch[a, b] = False
                    touch[b, a] = False


def tree_groups(
    tree: Tree,
    edges: np.ndarray,
    quotas: tuple[int, int, int, int],
    merges: int,
    area: np.ndarray,
    box: np.ndarray,
):
    """Singletons and groups of one tree: (groups, node, leaves, low, high); see `group_nodes`.

    Args:
        tree: merge tree over n leaves.
        edges: int32[m, 2], touching leaves.
        quotas: number of singletons, pairs, triplets and 4-tuples.
        merges: merges undone for pairs and larger; singletons may come from further down.
    """
    leaves, low, high = leaf_intervals(tree.parent)
    place = np.empty(len(leaves), np.int32)
    place[leaves] = np.arange(len(leaves), dtype=np.int32)
    node, up = appearance(tree.parent, tree.level, max(merges, -(-quotas[0] // 2)))
    top = min(len(node), 2 * merges + 1)
    touch = touching(node[:top], up[:top], low, high, place, edges)
    single = np.full((min(quotas[0], len(node)), 4), -1, np.int32)
    single[:, 0] = np.arange(len(single))
    filled = bit_rows(np.arange(top, dtype=np.int32).reshape(-1, 1), node, low, high, leaves)
    fill_holes(filled, box, *adjacency(edges, len(leaves))[:2])
    weight = row_areas(filled, area)
    _skip_enclosed(touch, filled, node, low, leaves)
    groups = group_nodes(
        node[:top],
        up[:top],
        low,
        high,
        touch,
        weight,
        MAX_SHARE * area.sum(),
        np.array(quotas, np.int64),
        ATTEMPT_LIMIT,
    )
    return np.concatenate([single, groups]), node, leaves, low, high


def propose(
    hierarchy: Hierarchy, area: np.ndarray, box: np.ndarray, quotas: tuple[tuple[int, int, int, int], ...], merges: int
) -> Candidates:
    """All candidates of an image, exact duplicates removed (the first of a kind stays).

    Args:
        hierarchy: trees over n leaves.
        area: int64[n], pixels of each leaf.
        quotas: singletons, pairs, triplets, 4-tuples for each tree; as many rows as there may be trees.
        merges: merges undone per tree for pairs and larger.

    Returns:
        The candidates, tree by tree, singletons first, each list in order of appearance.
    """
    count = len(area)
    keys_of = leaf_keys(count)
    lists = []
    for number, tree in enumerate(hierarchy.trees):
        groups, node, leaves, low, high = tree_groups(tree, hierarchy.edges, quotas[number], merges, area, box)
        area_sum = np.concatenate([[0], np.cumsum(area[leaves])]).astype(np.float64)
        key_sum = np.concatenate([np.zeros(1, np.uint64), np.cumsum(keys_of[leaves], dtype=np.uint64)])
        keys, numbers, parts = _describe(groups, node, low, high, tree.level, tree.parent, area_sum, key_sum)
        rows = bit_rows(groups, node, low, high, leaves)
        order = np.arange(len(groups)) - np.searchsorted(parts, parts)
        lists.append((rows, keys, numbers, parts, order.astype(np.int32), np.full(len(groups), number, np.int32)))
    rows, keys, numbers, parts, order, tree_of = (np.concatenate(column) for column in zip(*lists, strict=True))
    first = np.sort(np.unique(keys, return_index=True)[1])
    return Candidates(
        rows[first], tree_of[first], parts[first], order[first], numbers[first, 0], numbers[first, 1], numbers[first, 2]
    )
