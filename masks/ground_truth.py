"""People's own masks as a layer: the non-crowd instances of the annotations. Its ABO is 1 by construction, which makes it
the check of everyone else's."""

import dataclasses
from typing import ClassVar

import numpy as np

from maskmill.schemas import rle
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet


def first_pixel(counts: bytes, height: int, width: int) -> int:
    """Raster index (y * width + x) of a mask's topmost, then leftmost pixel; height * width for an empty mask."""
    ends = np.cumsum(rle.decode_counts(counts, height, width))
    starts, ends = ends[0:-1:2], ends[1::2]
    filled = ends > starts
    starts, ends = starts[filled], ends[filled]
    if not starts.size:
        return height * width
    x, y = np.divmod(starts, height)
    wraps = (ends - 1) // height > x  # a run on into the next column holds that column's top pixel
    y, x = np.where(wraps, 0, y), np.where(wraps & (y > 0), x + 1, x)
    return int((y * width + x).min())


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """Generator `gt()`: layer `gt`, no parameters."""

    bytes_per_pixel: ClassVar[int] = 24  # at most, of memory

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (
            Layer(
                "gt", "gt", {}, {"labels": "the data set's own instance annotations, crowds left out"}, disjoint=False
            ),
        )

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        gt = record.annotations
        singles = [i for i in range(len(gt)) if not gt.is_crowd[i]]
        singles.sort(key=lambda i: first_pixel(gt.counts[i], record.height, record.width))
        return (MaskSet.unranked([gt.counts[i] for i in singles], gt.area[singles]),)
