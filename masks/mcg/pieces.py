"""The few regions that a tree's first nodes are made of, and what lies on the boundaries between them.

Groups of two to four nodes are made of the nodes that appear first, a few hundred. Each of those is a union of *pieces*, the
nodes among them that are not divided further, and an outline of hundreds of leaf edges is one of a few dozen *segments*, a
segment being all of the boundary of two pieces. To a group pieces are what leaves are to a node: it is filled and described
piece by piece, from sums that are taken once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numba
import numpy as np

from maskmill.masks.mcg.regions import Regions, adjacency

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32

    from maskmill.masks.mcg.nodes import Nodes

WEAK_STEP = 10.0  # of Lab colour, from leaf to leaf
STRONG_SHARE = 0.5  # of the picture's highest level
# Columns of `Pieces.segments`: boundary elements; sums over them of contour strength, level and colour step; how many of
# them have a small step, and how many a high level; the lowest and the highest level.
LENGTH, STRENGTH, LEVEL, STEP, WEAK, STRONG, LOWEST, HIGHEST = range(8)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The p pieces of the first c nodes of a tree, in leaf order, and the s segments between them.

    Attributes:
        node: int32[p], the node that each one is; low, high: int32[c], half-open interval of pieces that a node covers.
        key: uint64[p], sum of its leaves' keys; leaves: int32[p], how many; total: float64[p, columns], box: int32[p, 4],
            inner: float64[p, 4], as in `Nodes`: all without holes.
        start, neighbour, edge: compressed rows of who touches whom, and along which segment, as in `Regions`.
        segments: float64[s, 8], see `LENGTH` and so on.
        level_start: int32[s + 1], row starts of level float64[...], ascending, and level_length float64[...]: the levels
            along each segment, and the length of each.
        outline_start: int64[c + 1], row starts of `segment` and `outside` int32[...]: the segments around each node, holes
            filled, and the piece beyond each.
        hole_start: int64[c + 1], row starts of `holes` int32[...], the pieces in each node's holes.
        node_box: int32[c, 4], as in `Nodes`.
    """

    node: np.ndarray
    low: np.ndarray
    high: np.ndarray
    key: np.ndarray
    leaves: np.ndarray
    total: np.ndarray
    box: np.ndarray
    inner: np.ndarray
    start: np.ndarray
    neighbour: np.ndarray
    edge: np.ndarray
    segments: np.ndarray
    level_start: np.ndarray
    level: np.ndarray
    level_length: np.ndarray
    outline_start: np.ndarray
    segment: np.ndarray
    outside: np.ndarray
    hole_start: np.ndarray
    holes: np.ndarray
    node_box: np.ndarray

    @property
    def walk(self) -> tuple[np.ndarray, ...]:
        """What the kernels that walk outlines take, see `Nodes.walk`: a piece's number is its place."""
        place = np.arange(len(self.node), dtype=np.int32)
        return self.low, self.high, place, self.node_box, self.outline_start, self.segment, self.outside


def edge_table(regions: Regions) -> Float64[np.ndarray, "edges 8"]:
    """The edges between leaves as segments; float64[m, 8], see `LENGTH` and so on."""
    length, level = regions.length, regions.saliency
    top = max(1e-6, float(level.max(initial=0)))
    return np.stack(
        [
            length,
            length * regions.strength,
            length * level,
            length * regions.step,
            length * (regions.step < WEAK_STEP),
            length * (level > STRONG_SHARE * top),
            level,
            level,
        ],
        axis=1,
    )


@numba.njit(cache=True)
def _cut(up, low, high, leaves):
    """The undivided nodes in leaf order, and the piece at each place of it."""
    split = np.zeros(len(up), numba.boolean)
    for i in range(1, len(up)):
        split[up[i]] = True
    node_at = np.empty(leaves, np.int32)
    for i in range(len(up)):
        if not split[i]:
            node_at[low[i] : high[i]] = i
    node = np.empty(leaves, np.int32)
    piece_at = np.empty(leaves, np.int32)
    count = 0
    for spot in range(leaves):
        if spot == 0 or node_at[spot] != node_at[spot - 1]:
            node[count] = node_at[spot]
            count += 1
        piece_at[spot] = count - 1
    return node[:count].copy(), piece_at


@numba.njit(cache=True)
def _segments(piece_of, edges, count):
    """Segment of each edge between leaves, -1 inside a piece, and the two pieces of each; numbered as they come."""
    number = np.full((count, count), -1, np.int32)
    segment = np.full(len(edges), -1, np.int32)
    ends = np.empty((len(edges), 2), np.int32)
    found = 0
    for e in range(len(edges)):
        a, b = piece_of[edges[e, 0]], piece_of[edges[e, 1]]
        if a == b:
            continue
        a, b = min(a, b), max(a, b)
        if number[a, b] < 0:
            number[a, b] = found
            ends[found, 0], ends[found, 1] = a, b
            found += 1
        segment[e] = number[a, b]
    return segment, ends[:found].copy()


@numba.njit(cache=True)
def _sum_segments(segment, count, table, order):
    """`Pieces.segments`, `level_start`, `level` and `level_length`; `order` are the edges by level."""
    out = np.zeros((count, table.shape[1]))
    out[:, LOWEST], out[:, HIGHEST] = np.inf, -np.inf
    start = np.zeros(count + 1, np.int32)
    for e in range(len(segment)):
        s = segment[e]
        if s < 0:
            continue
        start[s + 1] += 1
        for c in range(LOWEST):
            out[s, c] += table[e, c]
        out[s, LOWEST] = min(out[s, LOWEST], table[e, LOWEST])
        out[s, HIGHEST] = max(out[s, HIGHEST], table[e, HIGHEST])
    for s in range(count):
        start[s + 1] += start[s]
    fill = start[:-1].copy()
    level, length = np.empty(start[-1]), np.empty(start[-1])
    for e in order:
        s = segment[e]
        if s >= 0:
            level[fill[s]], length[fill[s]] = table[e, LOWEST], table[e, LENGTH]
            fill[s] += 1
    return out, start, level, length


@numba.njit(cache=True)
def _piece_outlines(up, piece_low, piece_high, node, ends, piece_of, own_start, own_holes):
    """Outlines of the nodes in segments, holes filled, and the pieces in their holes."""
    count = len(up)
    hole_start = np.zeros(count + 1, np.int64)
    holes = np.empty(0, np.int32)
    inside = np.full(len(node), -1, np.int32)
    for turn in range(2):  # count, then list
        inside[:] = -1
        at = 0
        for i in range(count):
            for h in range(own_start[i], own_start[i + 1]):
                piece = piece_of[own_holes[h]]  # a piece is connected: in a hole as a whole
                if inside[piece] != i:
                    inside[piece] = i
                    if turn == 1:
                        holes[at] = piece
                    at += 1
            hole_start[i + 1] = at
        if turn == 0:
            holes = np.empty(at, np.int32)
    start = np.zeros(count + 1, np.int64)
    fill = np.zeros(count, np.int64)
    segment, outside = np.empty(0, np.int32), np.empty(0, np.int32)
    for turn in range(2):
        for s in range(len(ends)):
            for side in range(2):
                other = ends[s, 1 - side]
                i = node[ends[s, side]]
                while not piece_low[i] <= other < piece_high[i]:
                    if turn == 0:
                        start[i + 1] += 1
                    else:
                        segment[fill[i]], outside[fill[i]] = s, other
                        fill[i] += 1
                    i = up[i]
        if turn == 0:
            start = np.cumsum(start)
            fill[:] = start[:-1]
            segment, outside = np.empty(start[-1], np.int32), np.empty(start[-1], np.int32)
    inside[:] = -1
    kept_start = np.zeros(count + 1, np.int64)
    kept = 0
    for i in range(count):
        for h in range(hole_start[i], hole_start[i + 1]):
            inside[holes[h]] = i
        for j in range(start[i], start[i + 1]):
            if inside[outside[j]] != i:
                segment[kept], outside[kept] = segment[j], outside[j]
                kept += 1
        kept_start[i + 1] = kept
    return kept_start, segment[:kept].copy(), outside[:kept].copy(), hole_start, holes


def describe_pieces(bare: Nodes, nodes: Nodes, edges: Int32[np.ndarray, "m 2"], regions: Regions, count: int) -> Pieces:
    """The pieces of the first `count` nodes of a tree.

    Args:
        bare, nodes: the nodes without and with their holes filled; edges: pairs of touching leaves.
        regions: what is known of the leaves and edges.
        count: at least 1; the children of the nodes before it are either all among them, or none.
    """
    up, low, high = nodes.up[:count], nodes.low[:count], nodes.high[:count]
    node, piece_at = _cut(up, low, high, len(nodes.place))
    piece_of = piece_at[nodes.place]
    segment, ends = _segments(piece_of, edges, len(node))
    table = edge_table(regions)
    order = np.argsort(regions.saliency, kind="stable")
    segments, level_start, level, level_length = _sum_segments(segment, len(ends), table, order)
    piece_low, piece_high = piece_at[low], piece_at[high - 1] + 1
    outline_start, around, outside, hole_start, holes = _piece_outlines(
        up, piece_low, piece_high, node, ends, piece_of, nodes.hole_start, nodes.holes
    )
    start, neighbour, edge = adjacency(ends, len(node))
    return Pieces(
        node=node,
        low=piece_low,
        high=piece_high,
        key=bare.key[node],
        leaves=high[node] - low[node],
        total=bare.total[node],
        box=bare.box[node],
        inner=bare.inner[node],
        start=start,
        neighbour=neighbour,
        edge=edge,
        segments=segments,
        level_start=level_start,
        level=level,
        level_length=level_length,
        outline_start=outline_start,
        segment=around,
        outside=outside,
        hole_start=hole_start,
        holes=holes,
        node_box=nodes.box[:count],
    )
