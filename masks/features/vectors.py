"""Features of cells as directions that can be compared, and how alike every two of them are; compiled, in a fixed order.

No BLAS: its sums may be split otherwise on another number of threads, and a similarity that falls on the other side of a
threshold is another mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64, UInt8

_LEAST = 1e-6  # of the largest feature: below, what is left of a cell without the mean is rounding
_ROWS = 4  # cells compared with all others at a time; each pass over the features serves them all


def directions(features: Float32[np.ndarray, "rows columns channels"]) -> Float32[np.ndarray, "cells channels"]:
    """Cells without the picture's mean, at length 1; in raster order.

    After a ReLU all features are positive and every two cells are alike; what tells them apart is how they differ from
    the mean. A cell that does not is the zero vector.
    """
    cells = features.reshape(-1, features.shape[-1]).astype(np.float64)
    apart = cells - cells.mean(0)
    length = np.sqrt((apart * apart).sum(1, keepdims=True))
    differs = length > _LEAST * max(1.0, float(np.abs(cells).max()))
    return np.ascontiguousarray(np.where(differs, apart / np.where(differs, length, 1), 0), np.float32)


def places(rows: int, columns: int) -> Float64[np.ndarray, "cells 2"]:
    """Centres of cells in raster order, (row, column), as parts of the longer side."""
    y, x = np.mgrid[:rows, :columns]
    return (np.stack([y.ravel(), x.ravel()], 1) + 0.5) / max(rows, columns)


@numba.njit(cache=True)
def _alike(unit, transposed, tau):
    cells, channels = unit.shape
    out = np.zeros((cells, cells), np.uint8)
    total = np.empty((_ROWS, cells), np.float32)
    for first in range(0, cells, _ROWS):
        rows = min(_ROWS, cells - first)
        total[:] = 0
        for channel in range(channels):
            other = transposed[channel]
            for row in range(rows):
                value = unit[first + row, channel]
                sums = total[row]
                for j in range(first, cells):
                    sums[j] += value * other[j]
        for row in range(rows):
            i = first + row
            out[i, i] = 1
            for j in range(i + 1, cells):
                if total[row, j] > tau:
                    out[i, j] = out[j, i] = 1
    return out


def alike(unit: Float32[np.ndarray, "cells channels"], tau: float) -> UInt8[np.ndarray, "cells cells"]:
    """uint8[cells, cells], symmetric: 1 where the cosine of two cells is above `tau`, and on the diagonal."""
    return _alike(unit, np.ascontiguousarray(unit.T), np.float32(tau))
