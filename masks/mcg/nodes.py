"""What is known of the nodes of a merge tree: a node's leaves are an interval, its numbers add up from its children's.

So everything a group of nodes needs (its area, colours, hull, outline) comes from a few nodes and their outlines, and the
leaves inside are never visited. `masks.mcg.outlines` fills the nodes' holes.
"""

from __future__ import annotations

import dataclasses
import heapq
from typing import TYPE_CHECKING

import numba
import numpy as np

from maskmill.masks.mcg.hierarchy import Tree
from maskmill.masks.mcg.regions import AREA, Regions

if TYPE_CHECKING:
    from jaxtyping import Int32, UInt64


@dataclasses.dataclass(frozen=True)
class Nodes:
    """The c nodes of one tree over n leaves that appear first when merges are undone from the root down.

    Attributes:
        up: int32[c], place of the parent in this list, -1 for the root; siblings are side by side.
        leaves: int32[n], leaves in depth-first order; place: int32[n], where each leaf stands in it.
        low, high: int32[c], half-open interval of that order that a node covers.
        begin, end: float32[c], levels at which a node forms and disappears (1 for the root).
        area: float64[c], pixels without holes.
        hole_start: int64[c + 1], row starts of `holes` int32[...], leaves in the holes of each node.
            What follows is of the nodes with their holes, once these are filled:
        key: uint64[c], sum of the leaves' keys, see `leaf_keys`.
        total: float64[c, columns], sums of `Regions.additive`.
        box: int32[c, 4]; support: float64[c, directions], as in `Regions`.
        inner: float64[c, 4], of the edges inside: length, length x saliency, highest saliency, length x step.
        start: int64[c + 1], row starts of `edge` (edges of the outline) and `outside` (their leaf outside), int32[...].
    """

    up: np.ndarray
    leaves: np.ndarray
    place: np.ndarray
    low: np.ndarray
    high: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    area: np.ndarray
    hole_start: np.ndarray
    holes: np.ndarray
    key: np.ndarray
    total: np.ndarray
    box: np.ndarray
    support: np.ndarray
    inner: np.ndarray
    start: np.ndarray
    edge: np.ndarray
    outside: np.ndarray

    @property
    def walk(self) -> tuple[np.ndarray, ...]:
        """What the kernels that walk outlines take: low, high, place, box, start, edge, outside."""
        return self.low, self.high, self.place, self.box, self.start, self.edge, self.outside


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


def leaf_keys(leaves: int) -> UInt64[np.ndarray, " {leaves}"]:
    """A fixed random 64-bit key per leaf; a set's key is their sum, so equal sets have equal keys: uint64[leaves].

    Two different sets share a key with probability 2**-64; with 2**16 candidates an image that is nothing.
    """
    return np.random.default_rng(0x6D63).integers(0, 2**64, leaves, dtype=np.uint64)


@numba.njit(cache=True)
def _add_up(parent, node, additive, box, support):
    """Sums, boxes and support functions of the nodes `node`, leaves upwards."""
    total = len(parent)
    n = (total + 1) // 2
    sums = np.zeros((total, additive.shape[1]))
    sums[:n] = additive
    boxes = np.empty((total, 4), np.int32)
    boxes[:, :2], boxes[:, 2:] = 1 << 30, -1
    boxes[:n] = box
    reach = np.full((total, support.shape[1]), -np.inf)
    reach[:n] = support
    for i in range(total - 1):
        k = parent[i]
        for c in range(sums.shape[1]):
            sums[k, c] += sums[i, c]
        for c in range(2):
            boxes[k, c] = min(boxes[k, c], boxes[i, c])
            boxes[k, c + 2] = max(boxes[k, c + 2], boxes[i, c + 2])
        for c in range(reach.shape[1]):
            reach[k, c] = max(reach[k, c], reach[i, c])
    return sums[node], boxes[node], reach[node]


@numba.njit(cache=True)
def _outlines(parent, node, edges, length, saliency, step):
    """Outlines of the nodes `node`, and what lies on the edges inside them; see `Nodes`."""
    total = len(parent)
    listed = np.full(total, -1, np.int32)
    for i in range(len(node)):
        listed[node[i]] = i
    inside = np.zeros((total, 4))
    start = np.zeros(len(node) + 1, np.int64)
    fill = np.zeros(len(node), np.int64)
    edge = np.empty(0, np.int32)
    outside = np.empty(0, np.int32)
    for turn in range(2):  # count, then list
        for e in range(len(edges)):
            a, b = edges[e, 0], edges[e, 1]
            while a != b:  # a parent's number is above its children's: the lower end climbs
                if a < b:
                    here, other, a = a, edges[e, 1], parent[a]
                else:
                    here, other, b = b, edges[e, 0], parent[b]
                i = listed[here]
                if i < 0:
                    continue
                if turn == 0:
                    start[i + 1] += 1
                else:
                    edge[fill[i]], outside[fill[i]] = e, other
                    fill[i] += 1
            if turn == 0:
                inside[a, 0] += length[e]
                inside[a, 1] += length[e] * saliency[e]
                inside[a, 2] = max(inside[a, 2], saliency[e])
                inside[a, 3] += length[e] * step[e]
        if turn == 0:
            start = np.cumsum(start)
            fill[:] = start[:-1]
            edge = np.empty(start[-1], np.int32)
            outside = np.empty(start[-1], np.int32)
    for i in range(total - 1):
        k = parent[i]
        inside[k, 0] += inside[i, 0]
        inside[k, 1] += inside[i, 1]
        inside[k, 2] = max(inside[k, 2], inside[i, 2])
        inside[k, 3] += inside[i, 3]
    return inside[node], start, edge, outside


def describe_nodes(tree: Tree, edges: Int32[np.ndarray, "touching 2"], regions: Regions, merges: int) -> Nodes:
    """The nodes that appear when `merges` merges are undone, holes not filled yet.

    Args:
        tree: over n leaves.
        edges: int32[m, 2], touching leaves.
        regions: what is known of the leaves and edges.
        merges: at least 0; the root always appears.
    """
    leaves, low, high = leaf_intervals(tree.parent)
    place = np.empty(len(leaves), np.int32)
    place[leaves] = np.arange(len(leaves), dtype=np.int32)
    node, up = appearance(tree.parent, tree.level, merges)
    root = tree.parent[node] == node
    keys = np.concatenate([np.zeros(1, np.uint64), np.cumsum(leaf_keys(len(leaves))[leaves], dtype=np.uint64)])
    total, box, support = _add_up(tree.parent, node, regions.additive, regions.box, regions.support)
    inner, start, edge, outside = _outlines(tree.parent, node, edges, regions.length, regions.saliency, regions.step)
    return Nodes(
        up=up,
        leaves=leaves,
        place=place,
        low=low[node],
        high=high[node],
        begin=tree.level[node],
        end=np.where(root, np.float32(1), tree.level[tree.parent[node]]),
        area=total[:, AREA].copy(),
        hole_start=np.zeros(len(node) + 1, np.int64),
        holes=np.zeros(0, np.int32),
        key=keys[high[node]] - keys[low[node]],
        total=total,
        box=box,
        support=support,
        inner=inner,
        start=start,
        edge=edge,
        outside=outside,
    )
