"""Normalised cuts, one object after another: MaskCut (Wang et al., Cut and Learn, CVPR 2023, section 3.2).

Cells are the nodes of a graph, with an edge of 1 between two whose cosine is above tau and of 1e-5 between all others
(TokenCut, Wang et al., CVPR 2022). The second smallest solution of (D - W) y = lambda D y splits it at the mean of y (Shi
and Malik, PAMI 2000). The side with the cell of largest magnitude is the object, unless it holds three corners of the
picture or more; of it, the connected piece around its most extreme cell is the mask. Then the same again without the
cells of that mask: MaskCut blanks their features, here they leave the graph, so masks never overlap.

W is never written out: with B for "alike", W = 1e-5 + (1 - 1e-5) B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np
import scipy.linalg
import scipy.ndimage
import scipy.sparse.linalg

from maskmill.masks.features.vectors import alike

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int32, UInt8

EPSILON = 1e-5  # an edge between cells that are not alike: every graph is connected
CORNERS = 3  # of the picture: an object does not hold so many
_DENSE = 40  # cells of a graph that is solved whole: Lanczos needs room
_TOLERANCE = 1e-6


@numba.njit(cache=True)
def _times(near, x):
    # B x, column by column: elementwise sums, which keep their order however they are vectorised.
    out = np.zeros(len(x))
    for j in range(len(x)):
        value, row = x[j], near[j]
        for i in range(len(x)):
            out[i] += row[i] * value
    return out


def second_eigenvector(near: UInt8[np.ndarray, "n n"]) -> Float64[np.ndarray, " n"] | None:
    """y of the second smallest lambda in (D - W) y = lambda D y, up to its sign and length.

    Args:
        near: 1 where two cells are alike, symmetric, with 1 on the diagonal; n at least 2.

    Returns:
        The vector; None where Lanczos' iteration does not converge.
    """
    n = len(near)

    def times(x: np.ndarray) -> np.ndarray:
        x = x.reshape(-1)
        return EPSILON * x.sum() + (1 - EPSILON) * _times(near, x)

    root = np.sqrt(times(np.ones(n)))
    if n <= _DENSE:
        w = EPSILON + (1 - EPSILON) * near
        _, vectors = scipy.linalg.eigh(w / np.outer(root, root), subset_by_index=[n - 2, n - 1])
        return vectors[:, 0] / root
    # The largest eigenvector of D^-1/2 W D^-1/2 is known, its value 1 is made -1: what is wanted is then the largest.
    first = root / np.sqrt((root * root).sum())

    def deflated(x: np.ndarray) -> np.ndarray:
        x = x.reshape(-1)
        return times(x / root) / root - 2 * first * (first * x).sum()

    # A start without symmetries, the same on every machine.
    start = np.cos(np.arange(n, dtype=np.float64) * 2.399963)
    operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=deflated, dtype=np.float64)
    try:
        _, vectors = scipy.sparse.linalg.eigsh(operator, k=1, which="LA", v0=start, tol=_TOLERANCE)
    except scipy.sparse.linalg.ArpackNoConvergence:
        return None
    return vectors[:, 0] / root


def foreground(
    vector: Float64[np.ndarray, " n"], free: Bool[np.ndarray, "rows columns"]
) -> Bool[np.ndarray, "rows columns"]:
    """The object that a graph's eigenvector shows.

    Args:
        vector: of the cells that are free, in raster order.
        free: which cells the graph has.
    """
    side = vector > vector.mean()
    seed = int(np.abs(vector).argmax())
    side = side if side[seed] else ~side
    held = np.zeros(free.shape, bool)
    held[free] = side
    if held[[0, 0, -1, -1], [0, -1, 0, -1]].sum() >= CORNERS and not side.all():
        side = ~side
        held[free] = side
        seed = int(np.where(side, np.abs(vector), -1).argmax())
    pieces, _ = scipy.ndimage.label(held)
    return pieces == pieces[free][seed]


def cut_cells(
    unit: Float32[np.ndarray, "cells channels"], shape: tuple[int, int], count: int, tau: float
) -> Int32[np.ndarray, "rows columns"]:
    """Objects among one picture's cells, the most prominent first.

    Args:
        unit: directions of the cells (see `masks.features.vectors`).
        shape: rows and columns of cells.
        count: objects at most; a picture has fewer where nothing is alike any more.
        tau: cosine above which two cells are alike.

    Returns:
        int32[rows, columns]: number of the object from 0, in the order in which they were found; -1 for no object.
    """
    near = alike(unit, tau)
    labels = np.full(shape, -1, np.int32)
    for number in range(count):
        free = labels < 0
        index = np.flatnonzero(free)
        graph = np.ascontiguousarray(near[np.ix_(index, index)])
        if len(index) < 2 or int(graph.sum()) == len(index):  # no two cells are alike
            break
        vector = second_eigenvector(graph)
        if vector is None:
            break
        labels[foreground(vector, free)] = number
    return labels
