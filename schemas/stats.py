"""Average best overlap as integers, so that sums merge to the same result in whatever order parts arrive.

ABO of a layer (paper, section 4.3) = mean over all non-crowd ground-truth instances of all images of the best IoU with
any mask of the layer. IoUs are counted in units of 2**-40: each is rounded by at most 5e-13, far below any digit shown,
and sums of integers neither round nor depend on their order.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int64

IOU_UNIT = 1 << 40


def to_units(iou: Float[np.ndarray, "*any"]) -> Int64[np.ndarray, "*any"]:
    """IoUs (float64, 0..1) in units of 1 / `IOU_UNIT`, each rounded to the nearest: int64 of the same shape."""
    return np.rint(np.asarray(iou, np.float64) * IOU_UNIT).astype(np.int64)


def iou_units(iou: Float[np.ndarray, "*any"]) -> int:
    """Sum of IoUs in units; see `to_units`."""
    return int(to_units(iou).sum())


@dataclasses.dataclass(frozen=True)
class LayerSums:
    """What one layer adds up to over some images; `+` merges disjoint parts.

    Attributes:
        images: images counted, with or without ground truth.
        masks: masks of the layer in them.
        instances: non-crowd ground-truth instances in them.
        iou: sum over instances of the best IoU, in units of 1 / `IOU_UNIT`.
        covered_px, image_px: pixels in any mask of the layer, and in all.
    """

    images: int = 0
    masks: int = 0
    instances: int = 0
    iou: int = 0
    covered_px: int = 0
    image_px: int = 0

    def __add__(self, other: LayerSums) -> LayerSums:
        return LayerSums(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    @property
    def abo(self) -> float | None:
        """Average best overlap, or None without instances."""
        return self.iou / IOU_UNIT / self.instances if self.instances else None

    @property
    def masks_per_image(self) -> float | None:
        """Mean number of masks, or None without images."""
        return self.masks / self.images if self.images else None

    @property
    def coverage(self) -> float | None:
        """Share of all pixels that lie in some mask, or None without pixels."""
        return self.covered_px / self.image_px if self.image_px else None
