"""Instances of photographs, each cut out with its surroundings at the size of a training view."""

import dataclasses

import cv2
import numpy as np

from maskmill.schemas import rle
from maskmill.schemas.reader import Dataset
from maskmill.training.record import decode_image

CONTEXT = 1.5  # side of the cut over the longer side of the instance's box
LEAST_SIDE = 32  # pixels of a photograph, of a cut
LEAST_AREA = 600  # pixels of an instance


@dataclasses.dataclass(frozen=True)
class Regions:
    """Cuts around instances.

    Attributes:
        images: uint8[n, size, size, 3], RGB.
        cells: float32[n, (size / cell)**2], what part of each cell the instance covers.
        category: int64[n], COCO's ids.
    """

    images: np.ndarray
    cells: np.ndarray
    category: np.ndarray


def cut_regions(folder: str, *, size: int, cell: int) -> Regions:
    """All instances of a build's annotations that are large enough, no crowds, in the order of its records."""
    images, cells, categories = [], [], []
    for record in Dataset.open(folder):
        assert record.encoded is not None
        image = decode_image(record.encoded)
        assert image is not None
        own = record.annotations
        for counts, area, category, crowd in zip(
            own.counts, own.area.tolist(), own.category_id.tolist(), own.is_crowd.tolist(), strict=True
        ):
            if crowd or area < LEAST_AREA:
                continue
            mask = rle.decode_mask(counts, record.height, record.width)
            place = _square_around(mask)
            images.append(cv2.resize(image[place], (size, size), interpolation=cv2.INTER_AREA))
            part = mask[place].astype(np.float32)
            cells.append(cv2.resize(part, (size // cell, size // cell), interpolation=cv2.INTER_AREA).reshape(-1))
            categories.append(category)
    return Regions(np.stack(images), np.stack(cells), np.array(categories, np.int64))


def _square_around(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    length = CONTEXT * max(rows[-1] - rows[0], columns[-1] - columns[0])
    length = int(min(max(length, LEAST_SIDE), *mask.shape))
    top, left = (
        int(np.clip((of[0] + of[-1] + 1) / 2 - length / 2, 0, side - length))
        for of, side in zip((rows, columns), mask.shape, strict=True)
    )
    return slice(top, top + length), slice(left, left + length)
