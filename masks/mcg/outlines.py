"""Outlines of nodes and groups of nodes: the edges around them, the holes in them, and the leaves they consist of.

A group is up to four disjoint nodes of one tree, none in another's holes, so up to four intervals of its leaf order and
those nodes' holes: whether a leaf belongs is asked of those, and a group is walked along its nodes' outlines, never through
its inside.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numba
import numpy as np

from maskmill.masks.mcg.nodes import Nodes, leaf_keys
from maskmill.masks.mcg.pieces import Pieces
from maskmill.masks.mcg.regions import Regions

if TYPE_CHECKING:
    from jaxtyping import Int32, Int64, UInt64

PARTS = 4


@numba.njit(cache=True)
def holds(group, low, high, place):
    """Whether the leaf at a place of the leaf order belongs to one of the group's nodes."""
    for k in range(PARTS):
        i = group[k]
        if i < 0:
            return False
        if low[i] <= place < high[i]:
            return True
    return False


@numba.njit(cache=True)
def outline(group, low, high, place, start, edge, outside, found, beyond, between):
    """Edges around a group and between its nodes.

    Args:
        group: int32[4], nodes, -1 padded; low .. outside: see `Nodes`.
        found, beyond: get the edges with one end in the group, and that edge's leaf outside; between: edges between nodes.

    Returns:
        how many edges are around and how many between.
    """
    around, shared = 0, 0
    # The intervals of the parts, empty where there is none: numbers of their own, not arrays, since this is all that is done.
    a, b, c, d = group[0], group[1], group[2], group[3]
    low_a, high_a = low[a], high[a]
    low_b, high_b = (low[b], high[b]) if b >= 0 else (low_a, low_a)
    low_c, high_c = (low[c], high[c]) if c >= 0 else (low_a, low_a)
    low_d, high_d = (low[d], high[d]) if d >= 0 else (low_a, low_a)
    for k in range(PARTS):
        i = group[k]
        if i < 0:
            break
        for j in range(start[i], start[i + 1]):
            spot = place[outside[j]]
            if low_a <= spot < high_a:  # never the part's own: these leaves are outside it
                other = 0
            elif low_b <= spot < high_b:
                other = 1
            elif low_c <= spot < high_c:
                other = 2
            elif low_d <= spot < high_d:
                other = 3
            else:
                found[around], beyond[around] = edge[j], outside[j]
                around += 1
                continue
            if k < other:  # listed by both nodes
                between[shared] = edge[j]
                shared += 1
    return around, shared


@numba.njit(cache=True)
def _fill_holes(groups, low, high, place, box, start, edge, outside, own_start, own_holes, of_leaves, edges):
    leaf_box, neighbour_start, neighbour = of_leaves
    leaves = len(place)
    # 3g + 1: touches group g; 3g + 2: seen in g's complement; 3g + 3: known to reach the picture's border.
    state = np.zeros(leaves, np.int64)
    stack = np.empty(leaves, np.int32)
    found, beyond, between = np.empty(edges, np.int32), np.empty(edges, np.int32), np.empty(edges, np.int32)
    hole_start = np.zeros(len(groups) + 1, np.int64)
    holes = np.empty(1024, np.int32)
    count = 0
    for g in range(len(groups)):
        group = groups[g]
        x0, y0, x1, y1 = 1 << 30, 1 << 30, -1, -1
        for k in range(PARTS):
            i = group[k]
            if i < 0:
                break
            x0, y0 = min(x0, box[i, 0]), min(y0, box[i, 1])
            x1, y1 = max(x1, box[i, 2]), max(y1, box[i, 3])
        around = outline(group, low, high, place, start, edge, outside, found, beyond, between)[0]
        touches, seen, escaped = 3 * g + 1, 3 * g + 2, 3 * g + 3
        for k in range(PARTS):
            if group[k] < 0:
                break
            for j in range(own_start[group[k]], own_start[group[k] + 1]):
                state[own_holes[j]] = seen
        # Leaves at the rim of the box are open, and so is what they reach along the outline: nearly all of it, so that few
        # leaves are left to flood from.
        size = 0
        for j in range(around):
            leaf = beyond[j]
            if state[leaf] >= touches:
                continue
            if leaf_box[leaf, 0] <= x0 or leaf_box[leaf, 1] <= y0 or leaf_box[leaf, 2] >= x1 or leaf_box[leaf, 3] >= y1:
                state[leaf] = escaped
                stack[size] = leaf
                size += 1
            else:
                state[leaf] = touches
        while size > 0:
            size -= 1
            leaf = stack[size]
            for q in range(neighbour_start[leaf], neighbour_start[leaf + 1]):
                other = neighbour[q]
                if state[other] == touches:
                    state[other] = escaped
                    stack[size] = other
                    size += 1
        for j in range(around):
            seed = beyond[j]
            if state[seed] >= seen:
                continue
            # Flood the complement from here; it is a hole if nothing in it reaches the rim of the box.
            size, head, open_ = 1, 0, False
            stack[0] = seed
            state[seed] = seen
            while head < size and not open_:
                leaf = stack[head]
                head += 1
                if (
                    leaf_box[leaf, 0] <= x0
                    or leaf_box[leaf, 1] <= y0
                    or leaf_box[leaf, 2] >= x1
                    or leaf_box[leaf, 3] >= y1
                ):
                    open_ = True
                    break
                for q in range(neighbour_start[leaf], neighbour_start[leaf + 1]):
                    other = neighbour[q]
                    if state[other] == escaped:
                        open_ = True
                        break
                    if state[other] < seen and not holds(group, low, high, place[other]):
                        state[other] = seen
                        stack[size] = other
                        size += 1
            if open_:
                for q in range(size):
                    state[stack[q]] = escaped
                continue
            if count + size > len(holes):
                larger = np.empty(2 * (count + size), np.int32)
                larger[:count] = holes[:count]
                holes = larger
            holes[count : count + size] = stack[:size]
            count += size
        hole_start[g + 1] = count
    return hole_start, holes[:count].copy()


def fill_holes(
    groups: Int32[np.ndarray, "groups 4"], nodes: Nodes, regions: Regions
) -> tuple[Int64[np.ndarray, " groups+1"], Int32[np.ndarray, " leaves"]]:
    """Parts of each group's complement that do not reach the picture's border, beyond its nodes' own holes.

    A hole lies strictly inside the group's bounding box, so the search from a touching leaf ends as soon as it meets
    one that does not.

    Args:
        groups: int32[g, 4] of `nodes`; regions: of the leaves.

    Returns:
        start int64[g + 1], row starts of leaves int32[...], those in the holes of each group.
    """
    low, high, place, box, start, edge, outside = nodes.walk
    own, of_leaves = (nodes.hole_start, nodes.holes), (regions.box, regions.start, regions.neighbour)
    return _fill_holes(groups, low, high, place, box, start, edge, outside, *own, of_leaves, len(regions.length))


def fill_groups(
    groups: Int32[np.ndarray, "groups 4"], pieces: Pieces
) -> tuple[Int64[np.ndarray, " groups+1"], Int32[np.ndarray, " pieces"]]:
    """The same as `fill_holes`, of nodes that are filled, in pieces: what is found are the pieces in each group's holes."""
    low, high, place, box, start, edge, outside = pieces.walk
    own, of_pieces = (pieces.hole_start, pieces.holes), (pieces.box, pieces.start, pieces.neighbour)
    return _fill_holes(groups, low, high, place, box, start, edge, outside, *own, of_pieces, len(pieces.segments))


@numba.njit(cache=True)
def _absorb(hole_start, holes, additive, of_edges, start, edge, outside, total, inner):
    """Takes the holes' leaves into the nodes' sums, and the edges in and around them from outline to inside, in place."""
    neighbour_start, neighbour, neighbour_edge, length, saliency, step = of_edges
    in_hole = np.full(len(additive), -1, np.int32)
    new_start = np.zeros(len(start), np.int64)
    taken = np.empty(len(length), np.int32)
    kept = 0
    for i in range(len(start) - 1):
        count = 0
        for h in range(hole_start[i], hole_start[i + 1]):
            in_hole[holes[h]] = i
            total[i] += additive[holes[h]]
        for h in range(hole_start[i], hole_start[i + 1]):
            for j in range(neighbour_start[holes[h]], neighbour_start[holes[h] + 1]):
                if neighbour[j] > holes[h] and in_hole[neighbour[j]] == i:
                    taken[count] = neighbour_edge[j]
                    count += 1
        for j in range(start[i], start[i + 1]):
            if in_hole[outside[j]] == i:
                taken[count] = edge[j]
                count += 1
            else:
                edge[kept], outside[kept] = edge[j], outside[j]
                kept += 1
        new_start[i + 1] = kept
        for j in range(count):
            e = taken[j]
            inner[i, 0] += length[e]
            inner[i, 1] += length[e] * saliency[e]
            inner[i, 2] = max(inner[i, 2], saliency[e])
            inner[i, 3] += length[e] * step[e]
    return new_start, kept


def fill_nodes(nodes: Nodes, regions: Regions) -> Nodes:
    """The nodes with their holes filled; boxes and hulls stay what they are."""
    hole_start, holes = fill_holes(singletons(len(nodes.up)), nodes, regions)
    total, inner, edge, outside = (a.copy() for a in (nodes.total, nodes.inner, nodes.edge, nodes.outside))
    of_edges = (
        regions.start,
        regions.neighbour,
        regions.edge,
        regions.length,
        regions.saliency,
        regions.step,
    )
    start, kept = _absorb(hole_start, holes, regions.additive, of_edges, nodes.start, edge, outside, total, inner)
    return dataclasses.replace(
        nodes,
        hole_start=hole_start,
        holes=holes,
        key=nodes.key + row_sums(leaf_keys(len(nodes.place))[holes], hole_start),
        total=total,
        inner=inner,
        start=start,
        edge=edge[:kept],
        outside=outside[:kept],
    )


def row_sums(
    values: UInt64[np.ndarray, " values"], start: Int64[np.ndarray, " starts"]
) -> UInt64[np.ndarray, " starts-1"]:
    """Sums of compressed rows: values uint64[...], start int64[r + 1] -> uint64[r], modulo 2**64."""
    running = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    return running[start[1:]] - running[start[:-1]]


def singletons(count: int) -> Int32[np.ndarray, "{count} 4"]:
    """Groups of the first `count` nodes alone; int32[count, 4]."""
    out = np.full((count, PARTS), -1, np.int32)
    out[:, 0] = np.arange(count)
    return out


@numba.njit(cache=True, inline="always")
def _set_bit(row, leaf):
    row[leaf >> 6] |= np.uint64(1) << np.uint64(leaf & 63)


@numba.njit(cache=True)
def node_rows(up, leaves, low, high, hole_start, holes):
    """Leaf sets of the nodes of one tree, holes filled; uint64[c, words], see `masks.runs.write_sets`.

    Args:
        up .. holes: see `Nodes`.
    """
    rows = np.zeros((len(up), (len(leaves) + 63) // 64), np.uint64)
    split = np.zeros(len(up), numba.boolean)
    for i in range(len(up) - 1, -1, -1):  # children first: a node's holes are in its parent, filled
        row = rows[i]
        if not split[i]:
            for p in range(low[i], high[i]):
                _set_bit(row, leaves[p])
        for h in range(hole_start[i], hole_start[i + 1]):
            _set_bit(row, holes[h])
        if up[i] >= 0:
            split[up[i]] = True
            for word in range(len(row)):
                rows[up[i], word] |= row[word]
    return rows


@numba.njit(cache=True)
def group_rows(groups, rows, hole_start, holes):
    """Leaf sets of groups of nodes, holes included; uint64[g, words].

    Args:
        groups: int32[g, 4], -1 padded; rows: of the nodes, see `node_rows`.
        hole_start: int64[g + 1], row starts of holes int32[...], nodes that lie in each group's holes.
    """
    out = np.zeros((len(groups), rows.shape[1]), np.uint64)
    for g in range(len(groups)):
        row = out[g]
        for k in range(PARTS):
            if groups[g, k] < 0:
                break
            part = rows[groups[g, k]]
            for word in range(len(row)):
                row[word] |= part[word]
        for h in range(hole_start[g], hole_start[g + 1]):
            part = rows[holes[h]]
            for word in range(len(row)):
                row[word] |= part[word]
    return out
