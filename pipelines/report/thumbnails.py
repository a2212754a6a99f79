"""Pictures for the page: a layer's masks, and the objects as annotated beside what the best masks hit, miss and add."""

import base64
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image

from maskmill.masks.overlap import iou_matrix
from maskmill.pipelines.report.drawing import overlay, picture_of
from maskmill.schemas import rle
from maskmill.schemas.example import ImageExample
from maskmill.schemas.image import Annotations
from maskmill.schemas.mask import MaskSet

# Okabe and Ito's colours, which people with any colour vision can tell apart, plus hatching that says the same without any.
HIT, MISS, EXCESS = (0, 158, 115), (213, 94, 0), (86, 180, 233)
_OUTLINE = (240, 228, 66)


MASKS_DRAWN = 100
_MARGIN, _LEAST_PX = 0.25, 48  # around an object that is cut out, a share of its longer side; and of the cut
Panels = Sequence[Image.Image]  # of one size
Key = TypeVar("Key")


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A picture of the page: a data: URL, and its size in pixels."""

    url: str
    width: int
    height: int


class BestMasks:
    """For each instance of an image, the mask that covers it best.

    Attributes:
        instances: indices of the annotations that are no crowds.
        counts: per instance, the best mask's RLE, or None where no mask overlaps it.
        iou: per instance, its IoU; 0 where there is none.
    """

    def __init__(self, masks: Sequence[MaskSet], annotations: Annotations, height: int, width: int):
        self.instances = np.flatnonzero(~annotations.is_crowd).tolist()
        every = tuple(c for layer in masks for c in layer.counts)
        truth = tuple(annotations.counts[i] for i in self.instances)
        matrix = iou_matrix(every, truth, height, width)
        self.iou: list[float] = matrix.max(axis=0, initial=0.0).tolist()
        best = matrix.argmax(axis=0).tolist() if matrix.size else [0] * len(truth)
        self.counts = [every[b] if iou > 0 else None for b, iou in zip(best, self.iou, strict=True)]


def _scaled(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask at another size; one too small to fill half a pixel there still shows."""
    levels = mask.astype(np.uint8) * 255
    half = cv2.resize(levels, size, interpolation=cv2.INTER_LINEAR) > 127
    if half.any() or not mask.any():
        return half
    share = cv2.resize(levels, size, interpolation=cv2.INTER_AREA)  # 20 times slower, but no pixel goes uncounted
    return share >= max(1, int(share.max()))


def _hatch(shape: tuple[int, ...], rising: bool, pitch: int = 6) -> np.ndarray:
    y, x = np.indices(shape[:2])
    return ((x + y if rising else x - y) % pitch) < 2


def draw_match(example: ImageExample, annotations: Annotations, masks: Sequence[MaskSet], longer_px: int) -> Panels:
    """The two panels of an example.

    Hit: pixels of an object that its best mask covers. Miss: pixels of an object that its best mask leaves out. Excess:
    pixels of a best mask outside every object.

    Args:
        example: the record.
        annotations: its ground truth, or what stands in for it.
        masks: the layers that may match.
        longer_px: longer side of a panel.

    Returns:
        The picture with the objects' outlines, and the match on the greyed picture.

    Raises:
        ImageError: the stored picture cannot be decoded.
    """
    picture = _small(example, longer_px)
    size = (picture.shape[1], picture.shape[0])
    best = BestMasks(masks, annotations, example.height, example.width)
    left, grey = picture.copy(), cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    right = np.repeat((grey * 0.6 + 96).astype(np.uint8)[:, :, None], 3, axis=2)
    hit, miss, excess = (np.zeros((size[1], size[0]), bool) for _ in range(3))
    truth = np.zeros_like(hit)
    for index, counts in zip(best.instances, best.counts, strict=True):
        own = _scaled(rle.decode_mask(annotations.counts[index], example.height, example.width), size)
        outlines, _ = cv2.findContours(own.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(left, outlines, -1, (0, 0, 0), 2)
        cv2.drawContours(left, outlines, -1, _OUTLINE, 1)
        truth |= own
        if counts is None:
            miss |= own
            continue
        mask = _scaled(rle.decode_mask(counts, example.height, example.width), size)
        hit |= own & mask
        miss |= own & ~mask
        excess |= mask & ~own
    _tint_match(right, hit, miss & ~hit, excess & ~truth)
    return [Image.fromarray(left), Image.fromarray(right)]


def draw_object(
    example: ImageExample, annotations: Annotations, index: int, masks: MaskSet, longer_px: int
) -> Image.Image:
    """One object and the mask that fits it best, cut out of the picture: colours as in `draw_match`.

    Raises:
        ImageError: the stored picture cannot be decoded.
    """
    own = rle.decode_mask(annotations.counts[index], example.height, example.width)
    ious = iou_matrix(masks.counts, (annotations.counts[index],), example.height, example.width)[:, 0]
    best = np.zeros_like(own)
    if ious.max(initial=0.0) > 0:
        best = rle.decode_mask(masks.counts[int(ious.argmax())], example.height, example.width)
    rows, columns = _box_around(own, _MARGIN, _LEAST_PX)
    picture, own, best = picture_of(example)[rows, columns], own[rows, columns], best[rows, columns]
    scale = longer_px / max(own.shape)
    size = (max(1, round(own.shape[1] * scale)), max(1, round(own.shape[0] * scale)))
    small = np.array(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    own, best = _scaled(own, size), _scaled(best, size)
    _tint_match(small, own & best, own & ~best, best & ~own)
    return Image.fromarray(small)


def _box_around(mask: np.ndarray, margin: float, least: int) -> tuple[slice, slice]:
    """Rows and columns of a mask with a margin, a share of its longer side, and at least `least` pixels if there are as many."""
    sides = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    extents = [(int(side[0]), int(side[-1]) + 1) for side in sides]
    around = round(margin * max(high - low for low, high in extents))
    cut = []
    for (low, high), size in zip(extents, mask.shape, strict=True):
        pad = max(around, (least - (high - low) + 1) // 2)
        cut.append(slice(max(0, low - pad), min(size, high + pad)))
    return cut[0], cut[1]


def _tint_match(image: np.ndarray, hit: np.ndarray, miss: np.ndarray, excess: np.ndarray) -> None:
    for area, colour, rising in ((excess, EXCESS, True), (miss, MISS, False), (hit, HIT, None)):
        _tint(image, area, colour, 0.62)
        if rising is not None:
            _tint(image, area & _hatch(area.shape, rising), (255, 255, 255) if rising else (0, 0, 0), 0.55)


def _small(example: ImageExample, longer_px: int) -> np.ndarray:
    """The record's picture at a longer side of `longer_px`: uint8[height, width, 3], writable."""
    image = picture_of(example)
    scale = longer_px / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _tint(image: np.ndarray, area: np.ndarray, colour: tuple[int, int, int], opacity: float) -> None:
    image[area] = (image[area] * (1 - opacity) + np.asarray(colour) * opacity).astype(np.uint8)


def draw_objects(example: ImageExample, annotations: Annotations, longer_px: int) -> Image.Image:
    """The picture with the outlines of its objects, those that are no crowds."""
    picture = _small(example, longer_px)
    size = (picture.shape[1], picture.shape[0])
    for index in np.flatnonzero(~annotations.is_crowd).tolist():
        own = _scaled(rle.decode_mask(annotations.counts[index], example.height, example.width), size)
        lines, _ = cv2.findContours(own.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, lines, -1, (0, 0, 0), 2)
        cv2.drawContours(picture, lines, -1, _OUTLINE, 1)
    return Image.fromarray(picture)


def draw_masks(example: ImageExample, masks: MaskSet, longer_px: int) -> Image.Image:
    """The picture with one layer's masks on it, the first `MASKS_DRAWN` of them."""
    picture = _small(example, longer_px)
    size = (picture.shape[1], picture.shape[0])
    drawn = [_scaled(rle.decode_mask(c, example.height, example.width), size) for c in masks.counts[:MASKS_DRAWN]]
    return Image.fromarray(overlay(picture, drawn))


def blank(longer_px: int) -> Image.Image:
    """What stands in for a picture whose stored bytes no longer decode, which is for `validate` to report."""
    return Image.new("RGB", (longer_px, longer_px * 3 // 4), (128, 128, 128))


def encode_panels(panels: Panels, quality: int) -> Thumbnail:
    """Panels of one size side by side, as a JPEG in a data: URL."""
    width, height = panels[0].size
    sheet = Image.new("RGB", ((width + 2) * len(panels) - 2, height), (128, 128, 128))
    for i, panel in enumerate(panels):
        sheet.paste(panel, (i * (width + 2), 0))
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=quality, optimize=True)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Thumbnail(url, *sheet.size)


def encode_within(drawings: Mapping[Key, Callable[[int], Panels]], budget_bytes: int) -> dict[Key, Thumbnail]:
    """Every drawing as a picture of the page, smaller and coarser until all together fit.

    Args:
        drawings: functions that draw panels at a given longer side.
        budget_bytes: of all data: URLs together.

    Returns:
        A thumbnail per drawing; empty where not even the smallest fit.
    """
    for longer_px, quality in ((240, 78), (180, 72), (140, 64), (100, 56), (64, 48)):
        encoded: dict[Key, Thumbnail] = {}
        total = 0
        for key, draw in drawings.items():
            encoded[key] = encode_panels(draw(longer_px), quality)
            total += len(encoded[key].url)
            if total > budget_bytes:
                break
        else:
            return encoded
    return {}
