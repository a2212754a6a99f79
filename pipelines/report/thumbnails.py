"""Example images for the page: the objects as annotated beside what the best masks hit, miss and add."""

import base64
import dataclasses
import io
from collections.abc import Callable, Mapping

import cv2
import numpy as np
from PIL import Image

from maskmill.masks.overlap import iou_matrix
from maskmill.pipelines.report.drawing import picture_of
from maskmill.schemas import rle
from maskmill.schemas.example import ImageExample
from maskmill.schemas.image import Annotations
from maskmill.schemas.mask import MaskSet

# Okabe and Ito's colours, which people with any colour vision can tell apart, plus hatching that says the same without any.
HIT, MISS, EXCESS = (0, 158, 115), (213, 94, 0), (86, 180, 233)
_OUTLINE = (240, 228, 66)


Panels = tuple[Image.Image, Image.Image]


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

    def __init__(self, masks: list[MaskSet], annotations: Annotations, height: int, width: int):
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


def draw_match(example: ImageExample, annotations: Annotations, masks: list[MaskSet], longer_px: int) -> Panels:
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
    image = picture_of(example)
    scale = longer_px / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
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
    for area, colour, rising in ((excess & ~truth, EXCESS, True), (miss & ~hit, MISS, False), (hit, HIT, None)):
        _tint(right, area, colour, 0.62)
        if rising is not None:
            _tint(right, area & _hatch(area.shape, rising), (255, 255, 255) if rising else (0, 0, 0), 0.55)
    return Image.fromarray(left), Image.fromarray(right)


def _tint(image: np.ndarray, area: np.ndarray, colour: tuple[int, int, int], opacity: float) -> None:
    image[area] = (image[area] * (1 - opacity) + np.asarray(colour) * opacity).astype(np.uint8)


def draw_plain(example: ImageExample, masks: MaskSet, longer_px: int) -> Panels:
    """The panels of an example without ground truth: the picture, and one layer's masks on it."""
    from maskmill.pipelines.report.drawing import overlay

    image = picture_of(example)
    scale = longer_px / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    picture = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    drawn = [_scaled(rle.decode_mask(c, example.height, example.width), size) for c in masks.counts[:200]]
    return Image.fromarray(picture), Image.fromarray(overlay(picture, drawn))


def encode_pair(panels: Panels, quality: int) -> str:
    """Two panels of one size side by side as a data: URL."""
    width, height = panels[0].size
    both = Image.new("RGB", (2 * width + 2, height), (128, 128, 128))
    both.paste(panels[0], (0, 0))
    both.paste(panels[1], (width + 2, 0))
    buffer = io.BytesIO()
    both.save(buffer, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def encode_within(
    panels: Mapping[str, Callable[[int], Panels]], uses: Mapping[str, int], budget_bytes: int
) -> dict[str, Thumbnail]:
    """Every example as an image, smaller and coarser until all together fit.

    Args:
        panels: id -> function that draws its panels at a given longer side.
        uses: id -> how often the page shows it; every use repeats its bytes.
        budget_bytes: of all data: URLs on the page together.

    Returns:
        id -> the pair; empty where not even the smallest fit.
    """
    for longer_px, quality in ((220, 80), (180, 72), (140, 64), (100, 56), (64, 48)):
        encoded: dict[str, Thumbnail] = {}
        total = 0
        for identity, draw in panels.items():
            pair = draw(longer_px)
            url = encode_pair(pair, quality)
            total += len(url) * uses[identity]
            if total > budget_bytes:
                break
            encoded[identity] = Thumbnail(url, 2 * pair[0].size[0] + 2, pair[0].size[1])
        else:
            return encoded
    return {}
