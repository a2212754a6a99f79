"""What the ranker knows of a candidate, from its nodes, its holes and its outline: no raster, no walk through its inside.

The first sixteen numbers are close relatives of Multiscale Combinatorial Grouping's own (Pont-Tuset et al., TPAMI 2017,
section 6); the others describe how the region differs from what surrounds it, how it touches the picture's border,
how convex and how uniform it is.
"""

import numba
import numpy as np

from maskmill.masks.mcg.candidates import Candidates, TreeGroups
from maskmill.masks.mcg.outlines import PARTS, outline
from maskmill.masks.mcg.regions import AREA, BINS, DIRECTIONS, HISTOGRAM, SIDE, SUMS, Regions, directions

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
    groups,
    hole_start,
    holes,
    own_start,
    walk,
    total,
    support,
    inside,
    size,
    additive,
    neighbour_start,
    neighbour,
    neighbour_edge,
    length,
    strength,
    saliency,
    step,
    cosines,
    sines,
    out,
):
    low, high, place, box, start, edge, outside = walk
    height, width = size
    picture_perimeter = 2.0 * (height + width)
    pixels = float(height * width)
    columns = additive.shape[1]
    whole, rim = np.zeros(columns), np.zeros(columns)
    for leaf in range(len(additive)):
        whole += additive[leaf]
        if additive[leaf, SIDE : SIDE + 4].sum() > 0:
            rim += additive[leaf]
    own, ring = np.empty(columns), np.empty(columns)
    hull = np.empty(len(cosines))
    state = np.zeros(len(additive), np.int64)  # 2g + 1: in a hole of group g; 2g + 2: in its ring
    found, beyond = np.empty(len(length), np.int32), np.empty(len(length), np.int32)
    between = np.empty(len(length), np.int32)
    top_level = 1e-6
    for e in range(len(saliency)):
        top_level = max(top_level, saliency[e])
    for g in range(len(groups)):
        group = groups[g]
        in_hole, in_ring = 2 * g + 1, 2 * g + 2
        own[:] = 0
        ring[:] = 0
        hull[:] = -np.inf
        x0, y0, x1, y1 = width, height, -1, -1
        inner, inner_level, inner_max, inner_step = 0.0, 0.0, 0.0, 0.0
        leaves = 0.0
        for k in range(PARTS):
            i = group[k]
            if i < 0:
                break
            own += total[i]
            leaves += high[i] - low[i] + own_start[i + 1] - own_start[i]
            x0, y0 = min(x0, box[i, 0]), min(y0, box[i, 1])
            x1, y1 = max(x1, box[i, 2]), max(y1, box[i, 3])
            for c in range(len(hull)):
                hull[c] = max(hull[c], support[i, c])
            inner += inside[i, 0]
            inner_level += inside[i, 1]
            inner_max = max(inner_max, inside[i, 2])
            inner_step += inside[i, 3]
        around, shared = outline(group, low, high, place, start, edge, outside, found, beyond, between)
        for h in range(hole_start[g], hole_start[g + 1]):
            state[holes[h]] = in_hole
            own += additive[holes[h]]
            leaves += 1
        # Edges within holes, and around them, are inside now.
        for h in range(hole_start[g], hole_start[g + 1]):
            for j in range(neighbour_start[holes[h]], neighbour_start[holes[h] + 1]):
                if neighbour[j] > holes[h] and state[neighbour[j]] == in_hole:
                    between[shared] = neighbour_edge[j]
                    shared += 1
        outer, outer_contour, outer_level, level_min = 0.0, 0.0, 0.0, np.inf
        outer_step, weak_step, strong = 0.0, 0.0, 0.0
        kept = 0
        for j in range(around):
            e, other = found[j], beyond[j]
            if state[other] == in_hole:
                between[shared] = e
                shared += 1
                continue
            found[kept] = e
            kept += 1
            here = length[e]
            outer += here
            outer_contour += here * strength[e]
            outer_level += here * saliency[e]
            level_min = min(level_min, saliency[e])
            outer_step += here * step[e]
            if step[e] < 10:
                weak_step += here
            if saliency[e] > 0.5 * top_level:
                strong += here
            if state[other] != in_ring:
                state[other] = in_ring
                ring += additive[other]
        for j in range(shared):
            e = between[j]
            inner += length[e]
            inner_level += length[e] * saliency[e]
            inner_max = max(inner_max, saliency[e])
            inner_step += length[e] * step[e]
        weak = 0.0
        third = outer_level / max(outer, 1.0) / 3
        for j in range(kept):
            if saliency[found[j]] < third:
                weak += length[found[j]]
        pixels_in, ring_pixels = own[AREA], ring[AREA]
        sides = own[SIDE : SIDE + 4]
        sums, ring_sums = own[SUMS:HISTOGRAM], ring[SUMS:HISTOGRAM]
        border = sides.sum()
        perimeter = outer + border
        bounded = max(outer, 1.0)
        box_width, box_height = x1 - x0 + 1.0, y1 - y0 + 1.0
        f = out[g]
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
        mx, my = sums[6] / pixels_in, sums[7] / pixels_in
        # A pixel is a unit square: 1/12 of variance of its own, which keeps thin regions finite.
        vxx = sums[8] / pixels_in - mx * mx + 1 / 12
        vyy = sums[9] / pixels_in - my * my + 1 / 12
        vxy = sums[10] / pixels_in - mx * my
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
        f[38] = np.log(leaves)
        rest_pixels = max(pixels - pixels_in, 1.0)
        ringed_pixels = max(ring_pixels, 1.0)
        for c in range(3):
            mean = sums[c] / pixels_in
            f[39 + c] = mean
            f[42 + c] = np.sqrt(max(sums[3 + c] / pixels_in - mean * mean, 0.0))
        f[45] = sums[11] / pixels_in
        f[46] = sums[12] / pixels_in
        f[47] = ring_pixels / pixels_in
        if ring_pixels > 0:
            f[48] = f[39] - ring_sums[0] / ringed_pixels
            f[49] = np.hypot(f[40] - ring_sums[1] / ringed_pixels, f[41] - ring_sums[2] / ringed_pixels)
            f[50] = f[46] - ring_sums[12] / ringed_pixels
            hist = own[HISTOGRAM:]
            f[51] = _chi_square(hist, pixels_in, ring[HISTOGRAM:], ring_pixels)
            f[52] = f[39] - (whole[SUMS] - sums[0]) / rest_pixels
            f[53] = np.hypot(
                f[40] - (whole[SUMS + 1] - sums[1]) / rest_pixels, f[41] - (whole[SUMS + 2] - sums[2]) / rest_pixels
            )
            f[54] = _chi_square(hist, pixels_in, whole[HISTOGRAM:] - hist, pixels - pixels_in)
            f[55] = _chi_square(hist, pixels_in, rim[HISTOGRAM:], rim[AREA])
        f[56] = outer_step / bounded
        f[57] = weak_step / bounded
        f[58] = inner_step / max(inner, 1.0)


def candidate_features(lists: list[TreeGroups], candidates: Candidates, regions: Regions) -> np.ndarray:
    """The ranker's view of each candidate.

    Args:
        lists: groups of each tree, holes filled.
        candidates: the same as sets of leaves, P in all.
        regions: leaf statistics.

    Returns:
        float32[P, len(CANDIDATE_FEATURES)], finite.
    """
    out = np.zeros((len(candidates), _F), np.float32)
    at = 0
    for one in lists:
        _features(
            one.groups,
            one.hole_start,
            one.holes,
            one.nodes.hole_start,
            one.nodes.walk,
            one.nodes.total,
            one.nodes.support,
            one.nodes.inner,
            (regions.height, regions.width),
            regions.additive,
            regions.start,
            regions.neighbour,
            regions.edge,
            regions.length,
            regions.strength,
            regions.saliency,
            regions.step,
            *directions(),
            out[at : at + len(one.groups)],
        )
        at += len(one.groups)
    out[:, 0], out[:, 1], out[:, 2] = candidates.end, candidates.begin, candidates.balance
    out[:, 16], out[:, 17] = candidates.parts, candidates.tree
    out[:, 18] = np.log1p(candidates.order)
    return out


assert (BINS, DIRECTIONS) == (8, 16)  # the shipped ranker has learnt features with these
