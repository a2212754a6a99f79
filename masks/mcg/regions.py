"""What is known of each leaf region: everything a candidate's features need, so that no candidate is ever drawn."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import cv2
import numba
import numpy as np

from maskmill.masks.mcg.hierarchy import Hierarchy

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int32, UInt8

DIRECTIONS = 16  # of the support function that bounds convex hulls
BINS = 8  # per Lab channel
# Columns of `Regions.additive`: pixels; boundary elements on the left, top, right, bottom side of the picture; sums over
# pixels of Lab, squared Lab, x, y, xx, yy, xy, contour strength, gradient energy; pixels per bin of L, a, b.
AREA, SIDE, SUMS = 0, 1, 5
HISTOGRAM = SUMS + 13
TEXTURE = HISTOGRAM - 1
COLUMNS = HISTOGRAM + 3 * BINS


@dataclasses.dataclass(frozen=True)
class Regions:
    """Statistics of the n leaf regions of one image, and their adjacency as compressed rows.

    Attributes:
        height, width: pixels.
        area: int64[n], pixels.
        box: int32[n, 4], first column, first row, last column, last row (inclusive).
        additive: float64[n, COLUMNS], what a union of leaves has the sum of; columns are named above.
        support: float64[n, DIRECTIONS], largest x cos t + y sin t over pixel corners.
        start: int32[n + 1], row starts of `neighbour`, `edge`.
        neighbour: int32[2m], touching leaves; edge: int32[2m], index of the edge.
        length: float64[m], boundary elements; strength: float64[m]; saliency: float64[m], as in `Hierarchy`.
        step: float64[m], distance of the mean Lab colours of an edge's two leaves.
    """

    height: int
    width: int
    area: np.ndarray
    box: np.ndarray
    additive: np.ndarray
    support: np.ndarray
    start: np.ndarray
    neighbour: np.ndarray
    edge: np.ndarray
    length: np.ndarray
    strength: np.ndarray
    saliency: np.ndarray
    step: np.ndarray


@numba.njit(cache=True)
def _accumulate(labels, count, lab, contour, cosines, sines):
    height, width = labels.shape
    box = np.empty((count, 4), np.int32)
    box[:, 0], box[:, 1], box[:, 2], box[:, 3] = width, height, -1, -1
    additive = np.zeros((count, COLUMNS), np.float64)
    support = np.full((count, len(cosines)), -np.inf)
    for y in range(height):
        for x in range(width):
            k = labels[y, x]
            box[k, 0], box[k, 1] = min(box[k, 0], x), min(box[k, 1], y)
            box[k, 2], box[k, 3] = max(box[k, 2], x), max(box[k, 3], y)
            additive[k, AREA] += 1
            additive[k, SIDE] += x == 0
            additive[k, SIDE + 1] += y == 0
            additive[k, SIDE + 2] += x == width - 1
            additive[k, SIDE + 3] += y == height - 1
            row = additive[k, SUMS:HISTOGRAM]
            for c in range(3):
                value = np.float64(lab[y, x, c])
                row[c] += value
                row[3 + c] += value * value
                # a and b rarely leave 96..160; the bins cover that range and clamp.
                b = int(lab[y, x, c]) * BINS // 256 if c == 0 else (int(lab[y, x, c]) - 96) * BINS // 64
                additive[k, HISTOGRAM + c * BINS + min(max(b, 0), BINS - 1)] += 1
            row[6] += x
            row[7] += y
            row[8] += x * x
            row[9] += y * y
            row[10] += x * y
            row[11] += contour[y, x]
            # Bytes become unsigned numbers here, so a difference below zero wraps to nearly 2**64: the sum tells how often
            # brightness falls, not by how much. The shipped ranker has learnt it so; mend it with a new ranker only.
            if x + 1 < width and y + 1 < height:
                row[12] += abs(int(lab[y, x + 1, 0]) - int(lab[y, x, 0])) + abs(
                    int(lab[y + 1, x, 0]) - int(lab[y, x, 0])
                )
            # Only pixels at the rim of their region can be extreme.
            if not (
                0 < x < width - 1
                and 0 < y < height - 1
                and labels[y, x - 1] == k
                and labels[y, x + 1] == k
                and labels[y - 1, x] == k
                and labels[y + 1, x] == k
            ):
                for t in range(len(cosines)):
                    px = x + 1 if cosines[t] > 0 else x
                    py = y + 1 if sines[t] > 0 else y
                    support[k, t] = max(support[k, t], px * cosines[t] + py * sines[t])
    return box, additive, support


def directions() -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, " d"]]:
    """Cosines and sines of the support directions, float64[DIRECTIONS] each."""
    angle = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    return np.cos(angle), np.sin(angle)


def adjacency(
    edges: Int32[np.ndarray, "m 2"], count: int
) -> tuple[Int32[np.ndarray, " {count}+1"], Int32[np.ndarray, " 2*m"], Int32[np.ndarray, " 2*m"]]:
    """Compressed rows of the region graph: start int32[n + 1], neighbour int32[2m], edge int32[2m]."""
    ends = np.concatenate([edges[:, 0], edges[:, 1]])
    others = np.concatenate([edges[:, 1], edges[:, 0]])
    order = np.argsort(ends, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=count))]).astype(np.int32)
    index = np.tile(np.arange(len(edges), dtype=np.int32), 2)
    return start, others[order].astype(np.int32), index[order]


def measure_regions(
    image: UInt8[np.ndarray, "h w 3"], hierarchy: Hierarchy, contour: Float32[np.ndarray, "h w"]
) -> Regions:
    """Leaf statistics of one image.

    Args:
        image: uint8[h, w, 3], RGB, in the frame of the labels.
        hierarchy: labels and edges.
        contour: float32[h, w], contour strength of the finest scale.
    """
    labels = hierarchy.labels
    count = int(labels.max()) + 1
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    box, additive, support = _accumulate(labels, count, lab, contour, *directions())
    start, neighbour, edge = adjacency(hierarchy.edges, count)
    height, width = labels.shape
    mean = additive[:, SUMS : SUMS + 3] / additive[:, AREA, None]
    step = np.sqrt(np.sum((mean[hierarchy.edges[:, 0]] - mean[hierarchy.edges[:, 1]]) ** 2, axis=1))
    return Regions(
        height=height,
        width=width,
        area=additive[:, AREA].astype(np.int64),
        box=box,
        additive=additive,
        support=support,
        start=start,
        neighbour=neighbour,
        edge=edge,
        length=hierarchy.length.astype(np.float64),
        strength=hierarchy.strength.astype(np.float64),
        saliency=hierarchy.saliency.astype(np.float64),
        step=step,
    )
