"""Spherical k-means with position: cells that look alike and lie together.

Minimises, over clusters c with direction m_c (length 1) and centre q_c, the sum over cells of

    1 - z . m_c  +  weight |p - q_c|^2

where z is a cell's direction and p its place. Both steps of Lloyd's iteration minimise it exactly (m_c is the normalised
sum of its cells, q_c their mean place), so it never rises. The start is farthest-first, from the most typical cell, which
needs no random numbers and gives fewer clusters the same first centres as more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, Int32

ITERATIONS = 25


@numba.njit(cache=True)
def _costs(unit, place, mean, centre, weight, out):
    # Cost of every cell with every cluster, float64[cells, clusters]; mean is [channels, clusters].
    cells, channels = unit.shape
    clusters = mean.shape[1]
    for i in range(cells):
        cosine = np.zeros(clusters)
        for channel in range(channels):
            value = np.float64(unit[i, channel])
            for c in range(clusters):
                cosine[c] += value * mean[channel, c]
        for c in range(clusters):
            dy, dx = place[i, 0] - centre[c, 0], place[i, 1] - centre[c, 1]
            out[i, c] = 1.0 - cosine[c] + weight * (dy * dy + dx * dx)


@numba.njit(cache=True)
def _means(unit, place, labels, mean, centre):
    # Directions and centres of the clusters that have cells; others keep theirs.
    channels, clusters = mean.shape
    size = np.zeros(clusters)
    sums = np.zeros((clusters, channels))
    where = np.zeros((clusters, 2))
    for i in range(len(labels)):
        c = labels[i]
        size[c] += 1
        where[c] += place[i]
        for channel in range(channels):
            sums[c, channel] += unit[i, channel]
    for c in range(clusters):
        if size[c] > 0:
            centre[c] = where[c] / size[c]
            square = 0.0
            for channel in range(channels):
                square += sums[c, channel] * sums[c, channel]
            factor = 1 / np.sqrt(square) if square > 0 else 0.0
            for channel in range(channels):
                mean[channel, c] = sums[c, channel] * factor


@numba.njit(cache=True)
def _start(unit, place, count, weight, mean, centre):
    # Farthest-first: the cell nearest to the mean of all, then always the one farthest from all chosen.
    cells = len(unit)
    _means(unit, place, np.zeros(cells, np.int32), mean, centre)
    cost = np.empty((cells, 1))
    _costs(unit, place, mean[:, :1].copy(), centre[:1].copy(), weight, cost)
    chosen, nearest = np.argmin(cost[:, 0]), np.full(cells, np.inf)
    for c in range(count):
        mean[:, c], centre[c] = unit[chosen], place[chosen]
        _costs(unit, place, mean[:, c : c + 1].copy(), centre[c : c + 1].copy(), weight, cost)
        nearest = np.minimum(nearest, cost[:, 0])
        chosen = np.argmax(nearest)


@numba.njit(cache=True)
def _clusters(unit, place, count, weight, iterations):
    cells, channels = unit.shape
    mean, centre = np.zeros((channels, count)), np.zeros((count, 2))
    _start(unit, place, count, weight, mean, centre)
    cost = np.empty((cells, count))
    labels = np.full(cells, -1, np.int32)
    for _ in range(iterations):
        _costs(unit, place, mean, centre, weight, cost)
        changed = False
        for i in range(cells):
            best = np.argmin(cost[i])
            changed |= labels[i] != best
            labels[i] = best
        if not changed:
            break
        _means(unit, place, labels, mean, centre)
    return labels


def cluster_cells(
    unit: Float32[np.ndarray, "cells channels"],
    place: Float64[np.ndarray, "cells 2"],
    count: int,
    weight: float,
    iterations: int = ITERATIONS,
) -> Int32[np.ndarray, " cells"]:
    """Clusters of one picture's cells.

    Args:
        unit, place: directions and places of the cells (see `masks.features.vectors`).
        count: of clusters, at least 1; some may stay without cells.
        weight: of the squared distance, in longer sides of the picture, against the cosine.
        iterations: of Lloyd's at most.

    Returns:
        int32[cells], 0 .. count - 1.
    """
    return _clusters(unit, place, count, float(weight), iterations)
