"""What the ranker knows of a candidate, from its nodes, its holes and its outline: no raster, no walk through its inside.

Single nodes are walked along the edges between leaves, groups along the segments between pieces; see `masks.mcg.measures` for
the numbers and `masks.mcg.pieces` for what is known of segments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numba
import numpy as np

from maskmill.masks.mcg import measures
from maskmill.masks.mcg import regions as columns
from maskmill.masks.mcg.candidates import Candidates, TreeGroups
from maskmill.masks.mcg.measures import BALANCE, BEGIN, CANDIDATE_FEATURES, END, LEAVES, ORDER, PARTS_, TREE
from maskmill.masks.mcg.nodes import Nodes
from maskmill.masks.mcg.outlines import PARTS, outline
from maskmill.masks.mcg.pieces import Pieces, edge_table
from maskmill.masks.mcg.regions import DIRECTIONS, Regions
from maskmill.masks.mcg.rings import describe_rings, ring_rows, sum_ring

if TYPE_CHECKING:
    from jaxtyping import Float32


class _Nodes(NamedTuple):
    """What the kernel reads of `Nodes`."""

    low: np.ndarray
    high: np.ndarray
    box: np.ndarray
    hole_start: np.ndarray
    total: np.ndarray
    support: np.ndarray
    inner: np.ndarray


class _Walk(NamedTuple):
    """Outlines of the nodes: in edges between leaves, see `Nodes`, or in segments between pieces, see `Pieces`."""

    low: np.ndarray
    high: np.ndarray
    place: np.ndarray
    start: np.ndarray
    edge: np.ndarray
    outside: np.ndarray


class _Parts(NamedTuple):
    """What is known of the leaves or pieces, and of the edges or segments between them; see `Pieces`."""

    leaves: np.ndarray
    total: np.ndarray
    inner: np.ndarray
    start: np.ndarray
    neighbour: np.ndarray
    edge: np.ndarray
    segments: np.ndarray
    level_start: np.ndarray
    level: np.ndarray
    level_length: np.ndarray


def _of_leaves(nodes: Nodes, regions: Regions, table: np.ndarray) -> tuple[_Walk, _Parts]:
    """Outlines in edges between leaves; what only holes of groups need is left out."""
    none, number = np.zeros((0, 0)), np.zeros(0, np.int32)
    parts = _Parts(
        leaves=number,
        total=none,
        inner=none,
        start=regions.start,
        neighbour=regions.neighbour,
        edge=regions.edge,
        segments=table,
        level_start=number,
        level=none[0:0].ravel(),
        level_length=none[0:0].ravel(),
    )
    low, high, place, _, start, edge, outside = nodes.walk
    return _Walk(low, high, place, start, edge, outside), parts


def _of_pieces(pieces: Pieces) -> tuple[_Walk, _Parts]:
    """Outlines in segments between pieces."""
    low, high, place, _, start, segment, outside = pieces.walk
    parts = _Parts(*(getattr(pieces, name) for name in _Parts._fields))
    return _Walk(low, high, place, start, segment, outside), parts


@numba.njit(cache=True)
def _take_in_holes(holes, parts, mark, state, found, beyond, around, between, shared):
    """Marks the pieces in a group's holes, and moves the segments in and around these from the outline to the inside.

    Args:
        holes: int32[...], pieces. parts: `_Parts`. mark: what `state` int64[p] gets for them.
        found, beyond, around, between, shared: see `masks.mcg.outlines.outline`.

    Returns:
        how many segments are around now, and how many inside.
    """
    for piece in holes:
        state[piece] = mark
    for piece in holes:
        for j in range(parts.start[piece], parts.start[piece + 1]):
            if parts.neighbour[j] > piece and state[parts.neighbour[j]] == mark:
                between[shared] = parts.edge[j]
                shared += 1
    kept = 0
    for j in range(around):
        if state[beyond[j]] == mark:
            between[shared] = found[j]
            shared += 1
        else:
            found[kept], beyond[kept] = found[j], beyond[j]
            kept += 1
    return kept, shared


@numba.njit(cache=True)
def _add(sums, row):
    for c in range(len(sums)):
        sums[c] += row[c]


@numba.njit(cache=True)
def _add_inner(inside, row):
    """Adds what lies on the edges inside a node or piece, see `Nodes.inner`."""
    inside[0] += row[0]
    inside[1] += row[1]
    inside[2] = max(inside[2], row[2])
    inside[3] += row[3]


@numba.njit(cache=True)
def _features(groups, hole_start, holes, members, nodes, walk, parts, rings, additive, size, turn, out):
    """All features but those that stand in `Candidates`, of groups that are walked leaf by leaf or piece by piece.

    Args:
        groups, hole_start, holes: see `TreeGroups`; members: see `Candidates`. additive: see `Regions`.
        nodes, walk, parts, rings: `_Nodes`, `_Walk`, `_Parts`, `Rings`.
    """
    height, width = size
    count = additive.shape[1]
    whole, rim = np.zeros(count), np.zeros(count)
    for leaf in range(len(additive)):
        _add(whole, additive[leaf])
        if additive[leaf, columns.SIDE : columns.SIDE + 4].sum() > 0:
            _add(rim, additive[leaf])
    own, ring, rest = np.empty(count), np.empty(len(rings.rows[0])), np.empty(count - columns.HISTOGRAM)
    hull, inside, box = np.empty(nodes.support.shape[1]), np.empty(4), np.empty(4, np.int64)
    in_hole = np.full(len(parts.leaves), -1, np.int64)  # the group in whose hole a piece was last
    found, beyond, between = np.empty((3, len(parts.segments)), np.int32)
    for g in range(len(groups)):
        own[:], hull[:], inside[:] = 0, -np.inf, 0
        box[:2], box[2:] = 1 << 30, -1
        leaf_count = 0.0
        for k in range(PARTS):
            i = groups[g, k]
            if i < 0:
                break
            _add(own, nodes.total[i])
            leaf_count += nodes.high[i] - nodes.low[i] + nodes.hole_start[i + 1] - nodes.hole_start[i]
            for c in range(2):
                box[c], box[c + 2] = min(box[c], nodes.box[i, c]), max(box[c + 2], nodes.box[i, c + 2])
            for c in range(len(hull)):
                hull[c] = max(hull[c], nodes.support[i, c])
            _add_inner(inside, nodes.inner[i])
        around, shared = outline(
            groups[g], walk.low, walk.high, walk.place, walk.start, walk.edge, walk.outside, found, beyond, between
        )
        filled = holes[hole_start[g] : hole_start[g + 1]]
        for piece in filled:
            _add(own, parts.total[piece])
            _add_inner(inside, parts.inner[piece])
            leaf_count += parts.leaves[piece]
        if len(filled):
            around, shared = _take_in_holes(filled, parts, g, in_hole, found, beyond, around, between, shared)
        sum_ring(groups[g], members[g], rings, ring)
        f = out[g]
        outer, contour = measures.outline_features(f, found[:around], parts)
        measures.inside_features(f, between[:shared], parts, inside, own[columns.AREA])
        measures.size_features(f, own, box, outer, contour, height, width)
        measures.shape_features(f, own, hull, turn, height, width)
        f[LEAVES] = np.log(leaf_count)
        measures.colour_features(f, own)
        measures.contrast_features(f, own, ring, whole, rim, rest)


def candidate_features(
    lists: list[TreeGroups], candidates: Candidates, regions: Regions
) -> Float32[np.ndarray, "candidates features"]:
    """The ranker's view of each candidate.

    Args:
        lists: groups of each tree, holes filled.
        candidates: the same as sets of leaves, P in all.
        regions: leaf statistics.

    Returns:
        float32[P, len(CANDIDATE_FEATURES)], finite.
    """
    out = np.zeros((len(candidates), len(CANDIDATE_FEATURES)), np.float32)
    turn = (np.cos(2 * np.pi / DIRECTIONS), np.sin(2 * np.pi / DIRECTIONS))
    table, rows, size = edge_table(regions), ring_rows(regions), (regions.height, regions.width)
    at = 0
    for one in lists:
        nodes, singles, end = (
            _Nodes(*(getattr(one.nodes, name) for name in _Nodes._fields)),
            one.singles,
            len(one.groups),
        )
        rings = describe_rings(one.nodes, rows, len(one.pieces.low))
        for first, last, (walk, parts) in (
            (0, singles, _of_leaves(one.nodes, regions, table)),
            (singles, end, _of_pieces(one.pieces)),
        ):
            _features(
                one.groups[first:last],
                one.hole_start[first : last + 1],
                one.holes,
                candidates.members[at + first : at + last],
                nodes,
                walk,
                parts,
                rings,
                regions.additive,
                size,
                turn,
                out[at + first : at + last],
            )
        at += end
    out[:, END], out[:, BEGIN], out[:, BALANCE] = candidates.end, candidates.begin, candidates.balance
    out[:, PARTS_], out[:, TREE] = candidates.parts, candidates.tree
    out[:, ORDER] = np.log1p(candidates.order)
    return out
