"""From cells to pixels: labels of cells are given to the picture's own small regions, whose edges the masks then have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskmill.masks.runs import encode_label_map
from maskmill.schemas.mask import MaskSet

if TYPE_CHECKING:
    from jaxtyping import Int32


def cells_in_frame(
    cells: Int32[np.ndarray, "rows columns"], height: int, width: int, extent: tuple[float, float], shift: float = 0.5
) -> Int32[np.ndarray, "{height} {width}"]:
    """Labels of cells as a picture int32[height, width]: every pixel has that of the nearest cell.

    Args:
        extent: height and width of a cell, in pixels of the picture; the last cells may reach beyond it.
        shift: where a cell's field of view has its centre, in cells before the middle of its own pixels. A network
            padded like torchvision looks at the first pixel of its cell (0.5), one padded like the release at the last (-0.5).
    """
    at = [
        np.clip(np.floor((np.arange(side) + 0.5) / size + shift).astype(np.int64), 0, count - 1)
        for side, size, count in zip((height, width), extent, cells.shape, strict=True)
    ]
    return cells[np.ix_(*at)]


def snap(
    labels: Int32[np.ndarray, "height width"], regions: Int32[np.ndarray, "height width"]
) -> Int32[np.ndarray, "height width"]:
    """Gives every region the label of most of its pixels, of equally many the smallest.

    Args:
        labels: from 0.
        regions: dense from 0.
    """
    most = int(labels.max()) + 1
    shared = np.bincount((regions.astype(np.int64) * most + labels).ravel(), minlength=(int(regions.max()) + 1) * most)
    return shared.reshape(-1, most).argmax(1).astype(np.int32)[regions]


def masks_of(labels: Int32[np.ndarray, "height width"]) -> MaskSet:
    """One mask for each label from 0 on that occurs, by first pixel; -1 is no mask. The whole picture where there is none."""
    names, first, where = np.unique(labels, return_index=True, return_inverse=True)
    if names[-1] < 0:
        return encode_label_map(np.zeros_like(labels))
    rank = np.empty(len(names), np.int32)
    rank[np.argsort(first)] = np.arange(len(names))
    masks = encode_label_map(rank[where.reshape(labels.shape)])
    if names[0] >= 0:
        return masks
    kept = [i for i in range(len(names)) if i != rank[0]]
    return MaskSet(tuple(masks.counts[i] for i in kept), masks.area[kept], masks.score[kept])
