"""Masks on pictures, for people: overlays of layers and ground truth."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from maskmill.pipelines.dataset.stored_picture import decode_picture
from maskmill.schemas import rle
from maskmill.schemas.errors import ImageError
from maskmill.schemas.example import ImageExample

if TYPE_CHECKING:
    from jaxtyping import Bool, UInt8

_BACKGROUND, _INK = (24, 24, 27), (240, 240, 240)
_GOLDEN = 0.61803398875  # steps of the hue by the golden ratio keep neighbours in a list apart in colour


def palette(count: int) -> UInt8[np.ndarray, "{count} 3"]:
    """`count` well separated colours, always the same: uint8[count, 3] RGB."""
    hues = [(0.08 + i * _GOLDEN) % 1.0 for i in range(count)]
    rgb = [colorsys.hsv_to_rgb(h, 0.55 + 0.35 * (i % 2), 0.95) for i, h in enumerate(hues)]
    return (np.asarray(rgb).reshape(count, 3) * 255).round().astype(np.uint8)


def picture_of(example: ImageExample) -> UInt8[np.ndarray, "{example.height} {example.width} 3"]:
    """The record's picture, uint8[height, width, 3]; flat grey where the shard holds masks only."""
    if example.encoded is None:
        return np.full((example.height, example.width, 3), 128, np.uint8)
    return decode_picture(example)


def overlay(
    image: UInt8[np.ndarray, "h w 3"], masks: Iterable[Bool[np.ndarray, "h w"]], *, opacity: float = 0.45
) -> UInt8[np.ndarray, "h w 3"]:
    """Tints each mask in a colour of its own and draws its outline.

    Args:
        image: uint8[height, width, 3] RGB.
        masks: iterable of bool[height, width]; later ones lie on top.
        opacity: of the tint, 0..1.

    Returns:
        uint8[height, width, 3] RGB, a new array.
    """
    masks = list(masks)
    result = image.copy()
    thickness = max(1, round(min(image.shape[:2]) / 300))
    for mask, colour in zip(masks, palette(len(masks)), strict=True):
        tinted = result[mask].astype(np.float32) * (1 - opacity) + colour.astype(np.float32) * opacity
        result[mask] = tinted.round().astype(np.uint8)
    for mask, colour in zip(masks, palette(len(masks)), strict=True):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(result, outlines, -1, colour.tolist(), thickness)
    return result


def layer_masks(example: ImageExample, index: int, limit: int = 500) -> Iterator[Bool[np.ndarray, "h w"]]:
    """The first `limit` masks of a layer, drawn: bool[height, width] each."""
    for counts in example.masks[index].counts[:limit]:
        yield rle.decode_mask(counts, example.height, example.width)


def draw_example(
    example: ImageExample, layer_names: list[str], categories: dict[str, str], panel_px: int = 480
) -> Image.Image:
    """One record as a sheet: picture, ground truth, then every layer with its number of masks and mean best IoU.

    Args:
        example: the record.
        layer_names: the manifest's, in order.
        categories: category id as text -> name.
        panel_px: longer side of a panel, pixels.
    """
    try:
        image = picture_of(example)
    except ImageError as error:
        raise ImageError(error.reason, "view", f"{example.filename}: {error}") from error
    panels = [(f"{example.filename}  {example.width} x {example.height}", image)]
    gt = example.annotations
    singles = np.flatnonzero(~gt.is_crowd)
    if len(gt):
        drawn = [rle.decode_mask(gt.counts[i], example.height, example.width) for i in range(len(gt))]
        names = ", ".join(dict.fromkeys(categories.get(str(c), str(c)) for c in gt.category_id.tolist()))
        crowds = f" + {len(gt) - singles.size} crowd" if singles.size < len(gt) else ""
        panels.append((f"ground truth: {singles.size}{crowds} ({names})", overlay(image, drawn)))
    for index, name in enumerate(layer_names):
        masks = example.masks[index]
        mean = f", mean best IoU {example.best_iou[index, singles].mean():.3f}" if singles.size else ""
        panels.append((f"{name}: {len(masks)} masks{mean}", overlay(image, layer_masks(example, index))))
    return _sheet(panels, panel_px)


def _sheet(panels: list[tuple[str, np.ndarray]], panel_px: int) -> Image.Image:
    height, width = panels[0][1].shape[:2]
    scale = panel_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    columns = min(len(panels), 3 if size[0] >= size[1] else 4)
    rows = -(-len(panels) // columns)
    gap, caption = 8, 22
    cell = (max(size[0], 160) + gap, size[1] + caption + gap)
    sheet = Image.new("RGB", (columns * cell[0] + gap, rows * cell[1] + gap), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    for i, (text, pixels) in enumerate(panels):
        x, y = gap + (i % columns) * cell[0], gap + (i // columns) * cell[1]
        text = "".join(c if c.isprintable() else "?" for c in text)
        while len(text) > 4 and draw.textlength(text, font=font) > cell[0] - gap:
            text = text[:-4] + "..."
        draw.text((x, y), text, fill=_INK, font=font)
        sheet.paste(Image.fromarray(pixels).resize(size, method), (x, y + caption))
    return sheet
