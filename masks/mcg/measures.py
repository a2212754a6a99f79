"""The numbers that the ranker sees of a candidate, by name, and how they come from its sums.

The first sixteen numbers are close relatives of Multiscale Combinatorial Grouping's own (Pont-Tuset et al., TPAMI 2017,
section 6); the others describe how the region differs from what surrounds it, how it touches the picture's border,
how convex and how uniform it is.
"""

import numba
import numpy as np

from maskmill.masks.mcg import regions as columns
from maskmill.masks.mcg import rings
from maskmill.masks.mcg.pieces import (
    HIGHEST,
    LENGTH,
    LEVEL,
    LOWEST,
    STEP,
    STRENGTH,
    STRONG,
    WEAK,
)
from maskmill.masks.mcg.regions import DIRECTIONS

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


@numba.njit(cache=True)
def _chi_square(one, total_one, two, total_two):
    """Half chi-square distance of three stacked histograms, in 0..3."""
    out = 0.0
    if total_one <= 0 or total_two <= 0:
        return out
    for b in range(3 * columns.BINS):
        p, q = one[b] / total_one, two[b] / total_two
        both = p + q
        out += 0.5 * (p - q) * (p - q) / (both if both > 0 else 1.0)
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
def outline_features(f, found, parts):
    """Levels and colour steps along the outline. Returns its length and its contour strength, inner borders only."""
    outer = contour = level = step = weak_step = strong = 0.0
    lowest = np.inf
    for s in found:
        row = parts.segments[s]
        outer += row[LENGTH]
        contour += row[STRENGTH]
        level += row[LEVEL]
        step += row[STEP]
        weak_step += row[WEAK]
        strong += row[STRONG]
        lowest = min(lowest, row[LOWEST])
    bounded = max(outer, 1.0)
    weak = 0.0
    third = level / bounded / 3
    for s in found:
        row = parts.segments[s]
        if row[HIGHEST] < third:
            weak += row[LENGTH]
        elif row[LOWEST] < third:
            for j in range(parts.level_start[s], parts.level_start[s + 1]):
                if parts.level[j] >= third:
                    break
                weak += parts.level_length[j]
    f[CONTOUR_MEAN] = contour / bounded
    f[SALIENCY_MEAN] = level / bounded
    f[SALIENCY_MIN] = lowest if outer > 0 else 0.0
    f[SALIENCY_WEAK] = weak / bounded
    f[SALIENCY_STRONG] = strong / bounded
    f[STEP_COLOUR] = step / bounded
    f[STEP_WEAK] = weak_step / bounded
    return outer, contour


@numba.njit(cache=True)
def inside_features(f, between, parts, inside, pixels_in):
    """Levels and colour steps of the segments inside: `inside` of the nodes, see `Nodes.inner`, and between them."""
    length, level, highest, step = inside[0], inside[1], inside[2], inside[3]
    for s in between:
        row = parts.segments[s]
        length += row[LENGTH]
        level += row[LEVEL]
        highest = max(highest, row[HIGHEST])
        step += row[STEP]
    f[INNER_MAX] = highest
    f[INNER_MEAN] = level / max(length, 1.0)
    f[INNER_CONTRAST] = f[SALIENCY_MEAN] / (f[INNER_MEAN] + 0.05)
    f[INNER_DENSITY] = length / pixels_in
    f[INNER_STEP] = step / max(length, 1.0)


@numba.njit(cache=True)
def size_features(f, own, box, outer, contour, height, width):
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
def shape_features(f, own, hull, turn, height, width):
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
def colour_features(f, own):
    pixels_in, sums = own[columns.AREA], own[columns.SUMS : columns.HISTOGRAM]
    for c in range(3):
        mean = sums[c] / pixels_in
        f[LIGHT + c] = mean
        f[LIGHT_SPREAD + c] = np.sqrt(max(sums[3 + c] / pixels_in - mean * mean, 0.0))
    f[EDGE_ENERGY] = sums[11] / pixels_in
    f[TEXTURE] = sums[12] / pixels_in


@numba.njit(cache=True)
def contrast_features(f, own, ring, whole, rim, rest_histogram):
    """Against the ring of leaves around, the rest of the picture, and the leaves on its border. `rest_histogram`: scratch."""
    pixels_in, ring_pixels = own[columns.AREA], ring[0]
    f[RING_AREA] = ring_pixels / pixels_in
    if ring_pixels <= 0:
        return
    sums, ring_lab, all_sums = own[columns.SUMS :], ring[rings.LAB :], whole[columns.SUMS :]
    rest_pixels = max(whole[columns.AREA] - pixels_in, 1.0)
    histogram = own[columns.HISTOGRAM :]
    for b in range(len(histogram)):
        rest_histogram[b] = whole[columns.HISTOGRAM + b] - histogram[b]
    f[RING_LIGHT] = f[LIGHT] - ring_lab[0] / ring_pixels
    f[RING_CHROMA] = np.hypot(f[A] - ring_lab[1] / ring_pixels, f[B] - ring_lab[2] / ring_pixels)
    f[RING_TEXTURE] = f[TEXTURE] - ring[rings.TEXTURE] / ring_pixels
    f[RING_HISTOGRAM] = _chi_square(histogram, pixels_in, ring[rings.HISTOGRAM :], ring_pixels)
    f[REST_LIGHT] = f[LIGHT] - (all_sums[0] - sums[0]) / rest_pixels
    f[REST_CHROMA] = np.hypot(
        f[A] - (all_sums[1] - sums[1]) / rest_pixels, f[B] - (all_sums[2] - sums[2]) / rest_pixels
    )
    f[REST_HISTOGRAM] = _chi_square(histogram, pixels_in, rest_histogram, whole[columns.AREA] - pixels_in)
    f[BORDER_HISTOGRAM] = _chi_square(histogram, pixels_in, rim[columns.HISTOGRAM :], rim[columns.AREA])


assert (columns.BINS, DIRECTIONS) == (8, 16)  # the shipped ranker has learnt features with these
