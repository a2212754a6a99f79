"""One image on its way to becoming a record: its pixels, and what people annotated on it."""

import dataclasses

import numpy as np
import numpy.typing as npt


def _empty(dtype: npt.DTypeLike) -> np.ndarray:
    return np.zeros(0, dtype)


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The ground truth of one image: G instances, crowds included and flagged.

    Attributes:
        counts: G compressed COCO RLEs in the image's frame (see `schemas.rle`), each already checked.
        area: int64[G], pixels of the mask (not the file's own `area` field, which for crowds can be larger).
        category_id: int64[G], COCO ids as they are (1..90 with gaps).
        annotation_id: int64[G], 64-bit: crowds of COCO exceed 32 bits.
        is_crowd: bool[G].
    """

    counts: tuple[bytes, ...] = ()
    area: np.ndarray = dataclasses.field(default_factory=lambda: _empty(np.int64))
    category_id: np.ndarray = dataclasses.field(default_factory=lambda: _empty(np.int64))
    annotation_id: np.ndarray = dataclasses.field(default_factory=lambda: _empty(np.int64))
    is_crowd: np.ndarray = dataclasses.field(default_factory=lambda: _empty(bool))

    def __len__(self) -> int:
        return len(self.counts)


@dataclasses.dataclass(frozen=True)
class ImageRecord:
    """What a mask generator is given.

    Attributes:
        key: unique id of the image within its data set (path relative to the dataset root), never absolute.
        image: uint8[height, width, 3], RGB, in the frame of the stored bytes (EXIF rotation not applied).
        annotations: the image's ground truth; empty where there is none.
    """

    key: str
    image: np.ndarray
    annotations: Annotations = dataclasses.field(default_factory=Annotations)

    @property
    def height(self) -> int:
        return self.image.shape[0]

    @property
    def width(self) -> int:
        return self.image.shape[1]
