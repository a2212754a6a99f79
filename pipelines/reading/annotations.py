"""COCO annotations to checked ground truth: polygons, uncompressed and compressed RLE.

Nothing reaches pycocotools before it was checked here: it trusts sizes, coordinates and run lengths.
"""

import math

import numpy as np
from pycocotools import mask as coco_mask

from maskmill.schemas import rle
from maskmill.schemas.errors import ImageError
from maskmill.schemas.image import Annotations

MARGIN_PX = (
    2.0  # how far polygons may lie outside the picture; people's drawing tools overshoot by fractions of a pixel
)
MAX_POINTS = 100_000


class AnnotationError(ValueError):
    """One annotation that cannot become a mask; `reason` is a ledger reason."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def _polygons(parts: list, height: int, width: int) -> bytes:
    if not parts:
        raise AnnotationError("bad_annotation", "its segmentation is empty")
    polygons = []
    for part in parts:
        if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
            length = len(part) if isinstance(part, list) else type(part).__name__
            raise AnnotationError(
                "bad_annotation", f"a polygon needs at least 3 points (6 numbers, an even count), got {length}"
            )
        if len(part) > 2 * MAX_POINTS:
            raise AnnotationError(
                "bad_annotation", f"a polygon of {len(part) // 2} points is over the limit of {MAX_POINTS}"
            )
        if any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in part):
            raise AnnotationError("bad_annotation", "a polygon holds something other than finite numbers")
        for values, side, axis in ((part[0::2], width, "x"), (part[1::2], height, "y")):
            if min(values) < -MARGIN_PX or max(values) > side + MARGIN_PX:
                raise AnnotationError(
                    "bad_annotation",
                    f"a polygon's {axis} spans {min(values):g} .. {max(values):g}, the picture 0 .. {side}",
                )
        polygons.append([float(v) for v in part])
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))["counts"]


def _run_lengths(segmentation: dict, height: int, width: int) -> bytes:
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise AnnotationError("bad_rle", f"its RLE is of size {str(size)[:40]}, the picture of [{height}, {width}]")
    try:
        if isinstance(counts, str):
            return rle.encode_runs(rle.decode_counts(counts.encode("ascii"), height, width))
        if isinstance(counts, list):
            if len(counts) > 2 * (height * width + 1):  # every other run may be empty, if somebody insists
                raise rle.RleError(f"{len(counts)} runs are more than {height} x {width} pixels can have")
            if any(isinstance(v, bool) or not isinstance(v, int) or abs(v) > rle.MAX_PIXELS for v in counts):
                raise rle.RleError("runs must be whole numbers within the picture")
            return rle.encode_runs(rle.check_runs(np.asarray(counts, np.int64), height, width))
    except (rle.RleError, UnicodeEncodeError) as error:
        raise AnnotationError("bad_rle", f"its RLE is broken: {error}") from error
    raise AnnotationError("bad_rle", f"RLE counts must be text or a list, got {type(counts).__name__}")


def segmentation_counts(segmentation: object, height: int, width: int) -> bytes:
    """A COCO segmentation (polygons, run lengths or compressed counts) to compressed counts; checked, may be empty.

    Raises:
        AnnotationError: it is none of the three, or not one of a picture of this size.
    """
    if isinstance(segmentation, list):
        return _polygons(segmentation, height, width)
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    raise AnnotationError("bad_annotation", "it has no segmentation")


def parse_annotation(annotation: dict, height: int, width: int) -> tuple[bytes, int, int, int, bool]:
    """One raw annotation to (counts, area in pixels, category id, annotation id, is crowd).

    Raises:
        AnnotationError: anything in it that is not as COCO defines it, or a mask without pixels.
    """
    numbers = []
    for name, default in (("category_id", None), ("id", None), ("iscrowd", 0)):
        value = annotation.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
            raise AnnotationError("bad_annotation", f"its {name} is {str(value)[:40]!r}, not an integer of 64 bits")
        numbers.append(value)
    counts = segmentation_counts(annotation.get("segmentation"), height, width)
    area = rle.area_of_runs(rle.decode_counts(counts, height, width))
    if area == 0:
        raise AnnotationError("bad_annotation", "its mask has no pixel")
    return counts, area, numbers[0], numbers[1], bool(numbers[2])


def parse_annotations(
    annotations: tuple[dict, ...], height: int, width: int, *, drop_bad: bool = False
) -> tuple[Annotations, int]:
    """An image's raw annotations to ground truth, ordered by annotation id.

    Args:
        annotations: as they stand in the instances file.
        height, width: of the decoded picture, pixels.
        drop_bad: leave annotations out that cannot become a mask, instead of failing the image.

    Returns:
        The ground truth and how many annotations were left out.

    Raises:
        ImageError: bad_annotation, bad_rle or duplicate_id, naming the annotation, unless `drop_bad`.
    """
    rows, dropped, seen = [], 0, set()
    for annotation in annotations:
        try:
            row = parse_annotation(annotation, height, width)
            if row[3] in seen:
                raise AnnotationError("duplicate_id", "its id was used before in this image")
            seen.add(row[3])
            rows.append(row)
        except AnnotationError as error:
            if not drop_bad:
                name = str(annotation.get("id"))[:40]
                raise ImageError(error.reason, "annotate", f"annotation {name}: {error}") from error
            dropped += 1
    rows.sort(key=lambda row: row[3])
    counts, area, category, identity, crowd = zip(*rows, strict=True) if rows else ((),) * 5
    return (
        Annotations(
            tuple(counts),
            np.asarray(area, np.int64),
            np.asarray(category, np.int64),
            np.asarray(identity, np.int64),
            np.asarray(crowd, bool),
        ),
        dropped,
    )
