"""The spatial heuristic: an n x n grid of segments (paper, section 3.2). n = 1 is the one global mask of SimCLR and BYOL."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from maskmill.masks.runs import encode_label_map
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

if TYPE_CHECKING:
    from jaxtyping import Int32


def grid_label_map(height: int, width: int, n: int) -> Int32[np.ndarray, "{height} {width}"]:
    """Divides the image plane into a grid of n x n segments.

    Pixel (y, x) belongs to row floor(y * n / height) and column floor(x * n / width), so the sides of cells differ by at
    most one pixel. A side shorter than n pixels gives as many rows or columns as it has pixels.

    Args:
        height, width: image size, pixels, at least 1.
        n: cells per side, at least 1. Higher means smaller segments.

    Returns:
        int32[height, width], dense labels in raster order.
    """
    rows = np.unique(np.arange(height, dtype=np.int64) * n // height, return_inverse=True)[1]
    columns = np.unique(np.arange(width, dtype=np.int64) * n // width, return_inverse=True)[1]
    return (rows[:, None] * (columns[-1] + 1) + columns[None, :]).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Grid:
    """Generator `grid(n=5)`: layers `grid-N`.

    Attributes:
        n: cells per side, 1..1000, or several: `grid(n=(1, 2, 5, 10))` makes a layer of each.
    """

    n: int | tuple[int, ...] = 5

    bytes_per_pixel: ClassVar[int] = 24  # at most, of memory

    def __post_init__(self) -> None:
        sizes = self.n if isinstance(self.n, tuple | list) else (self.n,)
        for n in sizes:
            if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= 1000:
                raise ValueError(f"grid n must be whole numbers in 1..1000, got {self.n!r}")
        if not sizes or len(set(sizes)) != len(sizes):
            raise ValueError(f"grid n must name each size once, got {self.n!r}")
        if isinstance(self.n, list):
            object.__setattr__(self, "n", tuple(self.n))

    @property
    def _sizes(self) -> tuple[int, ...]:
        return self.n if isinstance(self.n, tuple) else (self.n,)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(Layer(f"grid-{n}", "grid", {"n": n}) for n in self._sizes)

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        return tuple(encode_label_map(grid_label_map(record.height, record.width, n)) for n in self._sizes)
