"""What the ranker knows of a candidate, from its nodes, its holes and its outline: no raster, no walk through its inside.

The first sixteen numbers are close relatives of Multiscale Combinatorial Grouping's own (Pont-Tuset et al., TPAMI 2017,
section 6); the others describe how the region differs from what surrounds it, how it touches the picture's border,
how convex and how uniform it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numba
import numpy as np

from maskmill.masks.mcg import regions as columns
from maskmill.masks.mcg.candidates import Candidates, TreeGroups
from maskmill.masks.mcg.outlines import PARTS, outline
from maskmill.masks.mcg.regions import DIRECTIONS, Regions

if TYPE_CHECKING:
    from jaxtyping import Float32

CANDIDATE_FEATURES = (
    "end",  # lowest level at which a part disappears
    "begin",  # lowest level at which a part forms
    "balance",  # smallest part over largest
    "area",  # fraction of the picture
    "perimeter",  # boundary elements, picture border included, over the picture's perimeter
    "contour_sum",  # contour strength summed over the boundary, over the picture's perimeter
    "contour_mean",
    "roundness",  # perimeter squared over area
    "contour_per_size",  # contour sum over the square root of the area
    "left",
    "top",
    "right",
    "bottom",
    "box_area",
    "box_fill",
    "box_aspect",  # log of width over height
    "parts",
    "tree",
    "order",  # log of place in its list
    "border_fraction",  # of the perimeter on the picture's border
    "border_sides",  # picture sides touched
    "border_side_share",  # of the picture's left and right borders covered
    "border_top_share",
    "border_bottom_share",
    "solidity",  # area over the area of its hull
    "elongation",
    "ellipse_fill",
    "tilt",  # |vertical| part of the main axis
    "centre_x",  # distance of the centroid from the middle
    "centre_y",
    "saliency_mean",  # combined ultrametric level along the boundary
    "saliency_min",
    "saliency_weak",  # share of the boundary below a third of the mean level
    "saliency_strong",  # share of the boundary above the middle level
    "inner_max",  # highest level of a boundary inside
    "inner_mean",
    "inner_contrast",  # boundary mean over inner mean
    "inner_density",  # inner boundary elements per pixel
    "leaves",  # log of their number
    "light",
    "a",  # of Lab, mean
    "b",
    "light_spread",
    "a_spread",
    "b_spread",
    "edge_energy",  # mean contour strength of its pixels
    "texture",  # mean gradient of its pixels
    "ring_area",  # area of the touching leaves over its own
    "ring_light",  # difference of means, region minus ring
    "ring_chroma",
    "ring_texture",
    "ring_histogram",  # chi-square distance, ring
    "rest_light",  # the same against the whole rest of the picture
    "rest_chroma",
    "rest_histogram",
    "border_histogram",  # against the leaves on the picture's border
    "step_colour",  # colour step across the boundary, leaf to leaf
    "step_weak",  # share of the boundary with a small colour step
    "inner_step",  # colour step of the boundaries inside
)
# A candidate's numbers by name, in the order above; Numba takes them as constants.
(
    END, BEGIN, BALANCE, AREA, PERIMETER, CONTOUR_SUM, CONTOUR_MEAN, ROUNDNESS, CONTOUR_PER_SIZE, LEFT, TOP, RIGHT, BOTTOM,
    BOX_AREA, BOX_FILL, BOX_ASPECT, PARTS_, TREE, ORDER, BORDER_FRACTION, BORDER_SIDES, BORDER_SIDE_SHARE,
    BORDER_TOP_SHARE, BORDER_BOTTOM_SHARE, SOLIDITY, ELONGATION, ELLIPSE_FILL, TILT, CENTRE_X, CENTRE_Y, SALIENCY_MEAN,
    SALIENCY_MIN, SALIENCY_WEAK, SALIENCY_STRONG, INNER_MAX, INNER_MEAN, INNER_CONTRAST, INNER_DENSITY, LEAVES, LIGHT, A, B,
    LIGHT_SPREAD, A_SPREAD, B_SPREAD, EDGE_ENERGY, TEXTURE, RING_AREA, RING_LIGHT, RING_CHROMA, RING_TEXTURE,
    RING_HISTOGRAM, REST_LIGHT, REST_CHROMA, REST_HISTOGRAM, BORDER_HISTOGRAM, STEP_COLOUR, STEP_WEAK, INNER_STEP,
) = range(len(CANDIDATE_FEATURES))  # fmt: skip
WEAK_STEP = 10.0  # of Lab colour, from leaf to leaf


class _Nodes(NamedTuple):
    """What the kernels read of `Nodes`."""

    low: np.ndarray
    high: np.ndarray
    place: np.ndarray
    box: np.ndarray
    start: np.ndarray
    edge: np.ndarray
    outside: np.ndarray
    hole_start: np.ndarray
    total: np.ndarray
    support: np.ndarray
    inner: np.ndarray


class _Leaves(NamedTuple):
    """What the kernels read of `Regions`."""

    additive: np.ndarray
    start: np.ndarray
    neighbour: np.ndarray
    edge: np.ndarray
    length: np.ndarray
    strength: np.ndarray
    saliency: np.ndarray
    step: np.ndarray


_Fields = TypeVar("_Fields", _Leaves, _Nodes)


def _fields_of(kind: type[_Fields], source: object) -> _Fields:
    return kind(*(getattr(source, name) for name in kind._fields))


@numba.njit(cache=True)
def _chi_square(one, total_one, two, total_two):
    """Half chi-square distance of three stacked histograms, in 0..3."""
    out = 0.0
    if total_one <= 0 or total_two <= 0:
        return out
    for b in range(len(one)):
        p, q = one[b] / total_one, two[b] / total_two
        if p + q > 0:
            out += 0.5 * (p - q) * (p - q) / (p + q)
    return out


@numba.njit(cache=True)
def _hull_area(support, cosine, sine):
    """Area of the polygon whose support function is `support`: at least the convex hull's, tight for its sides.

    cosine, sine: of the angle between two neighbouring directions.
    """
    count = len(support)
    area = 0.0
    for t in range(count):
        before, after = support[t - 1], support[(t + 1) % count]
        side = (before + after - 2 * support[t] * cosine) / sine
        area += 0.5 * support[t] * max(side, 0.0)
    return area


@numba.njit(cache=True)
def _take_in_holes(holes, leaves, mark, state, found, beyond, around, between, shared):
    """Marks the leaves in a group's holes, and moves the edges in and around these from the outline to the inside.

    Args:
        holes: int32[...], leaves. leaves: `_Leaves`. mark: what `state` int64[n] gets for them.
        found, beyond, around, between, shared: see `masks.mcg.outlines.outline`.

    Returns:
        how many edges are around now, and how many inside.
    """
    for leaf in holes:
        state[leaf] = mark
    for leaf in holes:
        for j in range(leaves.start[leaf], leaves.start[leaf + 1]):
            if leaves.neighbour[j] > leaf and state[leaves.neighbour[j]] == mark:
                between[shared] = leaves.edge[j]
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
def _add_ring(outside, leaves, mark, state, ring):
    """Sums over the leaves around a group, each once, of the columns that the features need."""
    ring[:] = 0
    for leaf in outside:
        if state[leaf] != mark:
            state[leaf] = mark
            ring[columns.AREA] += leaves.additive[leaf, columns.AREA]
            for c in range(columns.SUMS, columns.SUMS + 3):
                ring[c] += leaves.additive[leaf, c]
            for c in range(columns.TEXTURE, columns.COLUMNS):  # the histogram is the last
                ring[c] += leaves.additive[leaf, c]


@numba.njit(cache=True)
def _outline_features(f, edges, leaves, top_level):
    """Levels and colour steps along the outline. Returns its length and its contour strength, inner borders only."""
    outer = contour = level = step = weak_step = strong = 0.0
    lowest = np.inf
    for e in edges:
        here = leaves.length[e]
        outer += here
        contour += here * leaves.strength[e]
        level += here * leaves.saliency[e]
        lowest = min(lowest, leaves.saliency[e])
        step += here * leaves.step[e]
        if leaves.step[e] < WEAK_STEP:
            weak_step += here
        if leaves.saliency[e] > 0.5 * top_level:
            strong += here
    bounded = max(outer, 1.0)
    weak = 0.0
    third = level / bounded / 3
    for e in edges:
        if leaves.saliency[e] < third:
            weak += leaves.length[e]
    f[CONTOUR_MEAN] = contour / bounded
    f[SALIENCY_MEAN] = level / bounded
    f[SALIENCY_MIN] = lowest if outer > 0 else 0.0
    f[SALIENCY_WEAK] = weak / bounded
    f[SALIENCY_STRONG] = strong / bounded
    f[STEP_COLOUR] = step / bounded
    f[STEP_WEAK] = weak_step / bounded
    return outer, contour


@numba.njit(cache=True)
def _inside_features(f, edges, leaves, inside, pixels_in):
    """Levels and colour steps of the edges inside: `inside` of the nodes, see `Nodes.inner`, and between them."""
    length, level, highest, step = inside[0], inside[1], inside[2], inside[3]
    for e in edges:
        length += leaves.length[e]
        level += leaves.length[e] * leaves.saliency[e]
        highest = max(highest, leaves.saliency[e])
        step += leaves.length[e] * leaves.step[e]
    f[INNER_MAX] = highest
    f[INNER_MEAN] = level / max(length, 1.0)
    f[INNER_CONTRAST] = f[SALIENCY_MEAN] / (f[INNER_MEAN] + 0.05)
    f[INNER_DENSITY] = length / pixels_in
    f[INNER_STEP] = step / max(length, 1.0)


@numba.njit(cache=True)
def _size_features(f, own, box, outer, contour, height, width):
    """Area, box, outline, and how the group touches the picture's border."""
    pixels, picture_perimeter = float(height * width), 2.0 * (height + width)
    pixels_in, sides = own[columns.AREA], own[columns.SIDE : columns.SIDE + 4]
    border = sides[0] + sides[1] + sides[2] + sides[3]
    perimeter = outer + border
    box_width, box_height = box[2] - box[0] + 1.0, box[3] - box[1] + 1.0
    f[AREA] = pixels_in / pixels
    f[PERIMETER] = perimeter / picture_perimeter
    f[CONTOUR_SUM] = contour / picture_perimeter
    f[ROUNDNESS] = perimeter * perimeter / pixels_in
    f[CONTOUR_PER_SIZE] = contour / np.sqrt(pixels_in)
    f[LEFT], f[TOP] = box[0] / width, box[1] / height
    f[RIGHT], f[BOTTOM] = (box[2] + 1) / width, (box[3] + 1) / height
    f[BOX_AREA] = box_width * box_height / pixels
    f[BOX_FILL] = pixels_in / (box_width * box_height)
    f[BOX_ASPECT] = np.log(box_width / box_height)
    f[BORDER_FRACTION] = border / perimeter
    f[BORDER_SIDES] = (sides[0] > 0) + (sides[1] > 0) + (sides[2] > 0) + (sides[3] > 0)
    f[BORDER_SIDE_SHARE] = (sides[0] + sides[2]) / (2 * height)
    f[BORDER_TOP_SHARE] = sides[1] / width
    f[BORDER_BOTTOM_SHARE] = sides[3] / width


@numba.njit(cache=True)
def _shape_features(f, own, hull, turn, height, width):
    """Convexity, moments and place. `turn`: cosine and sine of the angle between two directions of the hull."""
    pixels_in, sums = own[columns.AREA], own[columns.SUMS : columns.HISTOGRAM]
    f[SOLIDITY] = pixels_in / max(_hull_area(hull, turn[0], turn[1]), 1.0)
    mx, my = sums[6] / pixels_in, sums[7] / pixels_in
    # A pixel is a unit square: 1/12 of variance of its own, which keeps thin regions finite.
    vxx = sums[8] / pixels_in - mx * mx + 1 / 12
    vyy = sums[9] / pixels_in - my * my + 1 / 12
    vxy = sums[10] / pixels_in - mx * my
    half = 0.5 * (vxx + vyy)
    spread = np.sqrt(0.25 * (vxx - vyy) ** 2 + vxy * vxy)
    major, minor = half + spread, max(half - spread, 1 / 12)
    f[ELONGATION] = np.sqrt(minor / major)
    f[ELLIPSE_FILL] = pixels_in / (4 * np.pi * np.sqrt(major * minor))
    f[TILT] = (vyy - vxx) / (2 * spread) if spread > 1e-9 else 0.0
    f[CENTRE_X] = abs((mx + 0.5) / width - 0.5)
    f[CENTRE_Y] = (my + 0.5) / height - 0.5


@numba.njit(cache=True)
def _colour_features(f, own):
    pixels_in, sums = own[columns.AREA], own[columns.SUMS : columns.HISTOGRAM]
    for c in range(3):
        mean = sums[c] / pixels_in
        f[LIGHT + c] = mean
        f[LIGHT_SPREAD + c] = np.sqrt(max(sums[3 + c] / pixels_in - mean * mean, 0.0))
    f[EDGE_ENERGY] = sums[11] / pixels_in
    f[TEXTURE] = sums[12] / pixels_in


@numba.njit(cache=True)
def _contrast_features(f, own, ring, whole, rim, rest_histogram):
    """Against the ring of leaves around, the rest of the picture, and the leaves on its border. `rest_histogram`: scratch."""
    pixels_in, ring_pixels = own[columns.AREA], ring[columns.AREA]
    f[RING_AREA] = ring_pixels / pixels_in
    if ring_pixels <= 0:
        return
    sums, ring_sums, all_sums = own[columns.SUMS :], ring[columns.SUMS :], whole[columns.SUMS :]
    rest_pixels = max(whole[columns.AREA] - pixels_in, 1.0)
    histogram = own[columns.HISTOGRAM :]
    for b in range(len(histogram)):
        rest_histogram[b] = whole[columns.HISTOGRAM + b] - histogram[b]
    f[RING_LIGHT] = f[LIGHT] - ring_sums[0] / ring_pixels
    f[RING_CHROMA] = np.hypot(f[A] - ring_sums[1] / ring_pixels, f[B] - ring_sums[2] / ring_pixels)
    f[RING_TEXTURE] = f[TEXTURE] - ring_sums[12] / ring_pixels
    f[RING_HISTOGRAM] = _chi_square(histogram, pixels_in, ring[columns.HISTOGRAM :], ring_pixels)
    f[REST_LIGHT] = f[LIGHT] - (all_sums[0] - sums[0]) / rest_pixels
    f[REST_CHROMA] = np.hypot(
        f[A] - (all_sums[1] - sums[1]) / rest_pixels, f[B] - (all_sums[2] - sums[2]) / rest_pixels
    )
    f[REST_HISTOGRAM] = _chi_square(histogram, pixels_in, rest_histogram, whole[columns.AREA] - pixels_in)
    f[BORDER_HISTOGRAM] = _chi_square(histogram, pixels_in, rim[columns.HISTOGRAM :], rim[columns.AREA])


@numba.njit(cache=True)
def _features(groups, hole_start, holes, nodes, leaves, size, turn, out):
    """All features but those that stand in `Candidates`; nodes: `_Nodes`, leaves: `_Leaves`."""
    height, width = size
    count = leaves.additive.shape[1]
    whole, rim = np.zeros(count), np.zeros(count)
    for leaf in range(len(leaves.additive)):
        whole += leaves.additive[leaf]
        if leaves.additive[leaf, columns.SIDE : columns.SIDE + 4].sum() > 0:
            rim += leaves.additive[leaf]
    top_level = 1e-6
    for e in range(len(leaves.saliency)):
        top_level = max(top_level, leaves.saliency[e])
    own, ring, rest = np.empty(count), np.empty(count), np.empty(count - columns.HISTOGRAM)
    hull, inside, box = np.empty(nodes.support.shape[1]), np.empty(4), np.empty(4, np.int64)
    state = np.zeros(len(leaves.additive), np.int64)  # 2g + 1: in a hole of group g; 2g + 2: in its ring
    found, beyond, between = np.empty((3, len(leaves.length)), np.int32)
    for g in range(len(groups)):
        own[:], hull[:], inside[:] = 0, -np.inf, 0
        box[:2], box[2:] = 1 << 30, -1
        leaf_count = 0.0
        for k in range(PARTS):
            i = groups[g, k]
            if i < 0:
                break
            own += nodes.total[i]
            leaf_count += nodes.high[i] - nodes.low[i] + nodes.hole_start[i + 1] - nodes.hole_start[i]
            for c in range(2):
                box[c], box[c + 2] = min(box[c], nodes.box[i, c]), max(box[c + 2], nodes.box[i, c + 2])
            for c in range(len(hull)):
                hull[c] = max(hull[c], nodes.support[i, c])
            inside[0] += nodes.inner[i, 0]
            inside[1] += nodes.inner[i, 1]
            inside[2] = max(inside[2], nodes.inner[i, 2])
            inside[3] += nodes.inner[i, 3]
        around, shared = outline(
            groups[g],
            nodes.low,
            nodes.high,
            nodes.place,
            nodes.start,
            nodes.edge,
            nodes.outside,
            found,
            beyond,
            between,
        )
        filled = holes[hole_start[g] : hole_start[g + 1]]
        for leaf in filled:
            own += leaves.additive[leaf]
        leaf_count += len(filled)
        if len(filled):
            around, shared = _take_in_holes(filled, leaves, 2 * g + 1, state, found, beyond, around, between, shared)
        _add_ring(beyond[:around], leaves, 2 * g + 2, state, ring)
        f = out[g]
        outer, contour = _outline_features(f, found[:around], leaves, top_level)
        _inside_features(f, between[:shared], leaves, inside, own[columns.AREA])
        _size_features(f, own, box, outer, contour, height, width)
        _shape_features(f, own, hull, turn, height, width)
        f[LEAVES] = np.log(leaf_count)
        _colour_features(f, own)
        _contrast_features(f, own, ring, whole, rim, rest)


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
    leaves = _fields_of(_Leaves, regions)
    at = 0
    for one in lists:
        rows = out[at : at + len(one.groups)]
        nodes = _fields_of(_Nodes, one.nodes)
        _features(one.groups, one.hole_start, one.holes, nodes, leaves, (regions.height, regions.width), turn, rows)
        at += len(one.groups)
    out[:, END], out[:, BEGIN], out[:, BALANCE] = candidates.end, candidates.begin, candidates.balance
    out[:, PARTS_], out[:, TREE] = candidates.parts, candidates.tree
    out[:, ORDER] = np.log1p(candidates.order)
    return out


assert (columns.BINS, DIRECTIONS) == (8, 16)  # the shipped ranker has learnt features with these
