"""Hole filling, and what the ranker knows of a candidate: one pass over its leaf regions, no raster.

The first sixteen numbers are close relatives of Multiscale Combinatorial Grouping's own (Pont-Tuset et al., TPAMI 2017,
section 6); the others describe how the region differs from what surrounds it, how it touches the picture's border,
how convex and how uniform it is.
"""

import dataclasses

import numba
import numpy as np

from masks.mcg.grouping import Candidates, leaf_keys
from masks.mcg.leafsets import fill_holes, unpack
from masks.mcg.regions import BINS, DIRECTIONS, Regions, directions

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
    "green",  # mean a
    "blue",  # mean b
    "light_spread",
    "green_spread",
    "blue_spread",
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
_F = len(CANDIDATE_FEATURES)


@numba.njit(cache=True)
def member_keys(members, keys):
    """Sum of the leaf keys of each candidate; uint64[P]."""
    out = np.zeros(len(members), np.uint64)
    leaves = np.empty(len(keys), np.int32)
    for p in range(len(members)):
        for k in range(unpack(members[p], leaves)):
            out[p] += keys[leaves[k]]
    return out


def filled(candidates: Candidates, regions: Regions) -> Candidates:
    """The candidates without holes; those that have become equal to an earlier one are dropped."""
    members = candidates.members.copy()
    fill_holes(members, regions.box, regions.start, regions.neighbour)
    keys = member_keys(members, leaf_keys(len(regions.area)))
    first = np.sort(np.unique(keys, return_index=True)[1])
    columns = {
        f.name: getattr(candidates, f.name)[first] for f in dataclasses.fields(candidates) if f.name != "members"
    }
    return Candidates(members=members[first], **columns)


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
def _hull_area(support, cosines, sines):
    """Area of the polygon whose support function is `support`: at least the convex hull's, tight for DIRECTIONS sides."""
    count = len(cosines)
    turn = 2 * np.pi / count
    area = 0.0
    for t in range(count):
        before, after = support[t - 1], support[(t + 1) % count]
        side = (before + after - 2 * support[t] * np.cos(turn)) / np.sin(turn)
        area += 0.5 * support[t] * max(side, 0.0)
    return area


@numba.njit(cache=True)
def _features(
    members,
    size,
    area,
    box,
    side,
    sums,
    histogram,
    support,
    start,
    neighbour,
    edge,
    length,
    strength,
    saliency,
    step,
    cosines,
    sines,
    out,
):
    height, width = size
    n = len(area)
    leaves = np.empty(n, np.int32)
    state = np.zeros(n, np.int32)
    picture_perimeter = 2.0 * (height + width)
    pixels = float(height * width)
    whole = np.zeros(sums.shape[1])
    whole_histogram = np.zeros(histogram.shape[1])
    border_histogram = np.zeros(histogram.shape[1])
    border_area = 0.0
    for leaf in range(n):
        whole += sums[leaf]
        whole_histogram += histogram[leaf]
        if side[leaf].sum() > 0:
            border_histogram += histogram[leaf]
            border_area += area[leaf]
    total = np.empty(sums.shape[1])
    ring = np.empty(sums.shape[1])
    hist = np.empty(histogram.shape[1])
    ring_hist = np.empty(histogram.shape[1])
    hull = np.empty(len(cosines))
    sides = np.empty(4)
    top_level = 1e-6
    for e in range(len(saliency)):
        top_level = max(top_level, saliency[e])
    for p in range(len(members)):
        count = unpack(members[p], leaves)
        inside, ringed = 2 * p + 1, 2 * p + 2
        total[:] = 0
        ring[:] = 0
        hist[:] = 0
        ring_hist[:] = 0
        hull[:] = -np.inf
        sides[:] = 0
        pixels_in, ring_pixels = 0.0, 0.0
        x0, y0, x1, y1 = width, height, -1, -1
        for k in range(count):
            leaf = leaves[k]
            state[leaf] = inside
            pixels_in += area[leaf]
            x0, y0 = min(x0, box[leaf, 0]), min(y0, box[leaf, 1])
            x1, y1 = max(x1, box[leaf, 2]), max(y1, box[leaf, 3])
            for c in range(len(total)):
                total[c] += sums[leaf, c]
            for c in range(len(hist)):
                hist[c] += histogram[leaf, c]
            for c in range(len(hull)):
                hull[c] = max(hull[c], support[leaf, c])
            for c in range(4):
                sides[c] += side[leaf, c]
        outer, outer_contour, outer_level, level_min = 0.0, 0.0, 0.0, np.inf
        inner, inner_level, inner_max = 0.0, 0.0, 0.0
        outer_step, inner_step, weak_step, strong = 0.0, 0.0, 0.0, 0.0
        for k in range(count):
            leaf = leaves[k]
            for j in range(start[leaf], start[leaf + 1]):
                other, e = neighbour[j], edge[j]
                here = length[e]
                if state[other] == inside:
                    if other > leaf:
                        inner += here
                        inner_level += here * saliency[e]
                        inner_max = max(inner_max, saliency[e])
                        inner_step += here * step[e]
                    continue
                outer += here
                outer_contour += here * strength[e]
                outer_level += here * saliency[e]
                level_min = min(level_min, saliency[e])
                outer_step += here * step[e]
                if step[e] < 10:
                    weak_step += here
                if saliency[e] > 0.5 * top_level:
                    strong += here
                if state[other] != ringed:
                    state[other] = ringed
                    ring_pixels += area[other]
                    for c in range(len(ring)):
                        ring[c] += sums[other, c]
                    for c in range(len(ring_hist)):
                        ring_hist[c] += histogram[other, c]
        weak = 0.0
        third = outer_level / max(outer, 1.0) / 3
        for k in range(count):
            for j in range(start[leaves[k]], start[leaves[k] + 1]):
                if state[neighbour[j]] != inside and saliency[edge[j]] < third:
                    weak += length[edge[j]]
        border = sides.sum()
        perimeter = outer + border
        bounded = max(outer, 1.0)
        box_width, box_height = x1 - x0 + 1.0, y1 - y0 + 1.0
        f = out[p]
        f[3] = pixels_in / pixels
        f[4] = perimeter / picture_perimeter
        f[5] = outer_contour / picture_perimeter
        f[6] = outer_contour / bounded
        f[7] = perimeter * perimeter / pixels_in
        f[8] = outer_contour / np.sqrt(pixels_in)
        f[9], f[10] = x0 / width, y0 / height
        f[11], f[12] = (x1 + 1) / width, (y1 + 1) / height
        f[13] = box_width * box_height / pixels
        f[14] = pixels_in / (box_width * box_height)
        f[15] = np.log(box_width / box_height)
        f[19] = border / perimeter
        f[20] = (sides[0] > 0) + (sides[1] > 0) + (sides[2] > 0) + (sides[3] > 0)
        f[21] = (sides[0] + sides[2]) / (2 * height)
        f[22] = sides[1] / width
        f[23] = sides[3] / width
        f[24] = pixels_in / max(_hull_area(hull, cosines, sines), 1.0)
        mx, my = total[6] / pixels_in, total[7] / pixels_in
        # A pixel is a unit square: 1/12 of variance of its own, which keeps thin regions finite.
        vxx = total[8] / pixels_in - mx * mx + 1 / 12
        vyy = total[9] / pixels_in - my * my + 1 / 12
        vxy = total[10] / pixels_in - mx * my
        half = 0.5 * (vxx + vyy)
        spread = np.sqrt(0.25 * (vxx - vyy) ** 2 + vxy * vxy)
        major, minor = half + spread, max(half - spread, 1 / 12)
        f[25] = np.sqrt(minor / major)
        f[26] = pixels_in / (4 * np.pi * np.sqrt(major * minor))
        f[27] = (vyy - vxx) / (2 * spread) if spread > 1e-9 else 0.0
        f[28] = abs((mx + 0.5) / width - 0.5)
        f[29] = (my + 0.5) / height - 0.5
        f[30] = outer_level / bounded
        f[31] = level_min if outer > 0 else 0.0
        f[32] = weak / bounded
        f[33] = strong / bounded
        f[34] = inner_max
        f[35] = inner_level / max(inner, 1.0)
        f[36] = f[30] / (f[35] + 0.05)
        f[37] = inner / pixels_in
        f[38] = np.log(count)
        rest_pixels = max(pixels - pixels_in, 1.0)
        ringed_pixels = max(ring_pixels, 1.0)
        for c in range(3):
            mean = total[c] / pixels_in
            f[39 + c] = mean
            f[42 + c] = np.sqrt(max(total[3 + c] / pixels_in - mean * mean, 0.0))
        f[45] = total[11] / pixels_in
        f[46] = total[12] / pixels_in
        f[47] = ring_pixels / pixels_in
        if ring_pixels > 0:
            f[48] = f[39] - ring[0] / ringed_pixels
            f[49] = np.hypot(f[40] - ring[1] / ringed_pixels, f[41] - ring[2] / ringed_pixels)
            f[50] = f[46] - ring[12] / ringed_pixels
            f[51] = _chi_square(hist, pixels_in, ring_hist, ring_pixels)
            f[52] = f[39] - (whole[0] - total[0]) / rest_pixels
            f[53] = np.hypot(f[40] - (whole[1] - total[1]) / rest_pixels, f[41] - (whole[2] - total[2]) / rest_pixels)
            f[54] = _chi_square(hist, pixels_in, whole_histogram - hist, pixels - pixels_in)
            f[55] = _chi_square(hist, pixels_in, border_histogram, border_area)
        f[56] = outer_step / bounded
        f[57] = weak_step / bounded
        f[58] = inner_step / max(inner, 1.0)


def leaf_steps(regions: Regions, edges: np.ndarray) -> np.ndarray:
    """Distance of the mean Lab colours of the two leaves of each edge; float64[m]."""
    mean = regions.sums[:, :3] / regions.area[:, None]
    return np.sqrt(np.sum((mean[edges[:, 0]] - mean[edges[:, 1]]) ** 2, axis=1))


def candidate_features(candidates: Candidates, regions: Regions, edges: np.ndarray) -> np.ndarray:
    """The ranker's view of each candidate.

    Args:
        candidates: P sets of leaves, holes filled.
        regions: leaf statistics; edges: int32[m, 2].

    Returns:
        float32[P, len(CANDIDATE_FEATURES)], finite.
    """
    out = np.zeros((len(candidates), _F), np.float32)
    _features(
        candidates.members,
        (regions.height, regions.width),
        regions.area,
        regions.box,
        regions.side,
        regions.sums,
        regions.histogram,
        regions.support,
        regions.start,
        regions.neighbour,
        regions.edge,
        regions.length,
        regions.strength,
        regions.saliency,
        leaf_steps(regions, edges),
        *directions(),
        out,
    )
    out[:, 0], out[:, 1], out[:, 2] = candidates.end, candidates.begin, candidates.balance
    out[:, 16], out[:, 17] = candidates.parts, candidates.tree
    out[:, 18] = np.log1p(candidates.order)
    return out


assert (BINS, DIRECTIONS) == (8, 16)  # the shipped ranker has learnt features with these
