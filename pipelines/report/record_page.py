"""One record as a page: the picture, and over it every layer of masks, to be switched on and off.

Checkboxes and CSS do the switching, so it works with scripts forbidden, as they are.
"""

import base64
import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from maskmill.pipelines.report.drawing import palette, picture_of
from maskmill.pipelines.report.templating import MAX_BYTES, environment, resource
from maskmill.schemas import rle
from maskmill.schemas.example import ImageExample

MASKS_SHOWN = 1000
_SIDES = (1280, 960, 640, 400, 240, 120)
_OPACITY = 110  # of 255


def _url(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def draw_overlay(counts: tuple[bytes, ...], height: int, width: int, size: tuple[int, int]) -> Image.Image:
    """Masks as a transparent picture: tints, and outlines on top.

    Args:
        counts: checked RLEs of `height` x `width` pixels; the first `MASKS_SHOWN` are drawn.
        height, width: of the record.
        size: (width, height) of the result.
    """
    shown = counts[:MASKS_SHOWN]
    rgba = np.zeros((size[1], size[0], 4), np.uint8)
    colours = palette(len(shown))
    outlines = []
    for one, colour in zip(shown, colours, strict=True):
        mask = cv2.resize(rle.decode_mask(one, height, width).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        rgba[mask > 0] = (*colour.tolist(), _OPACITY)
        outlines.append(cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0])
    for lines, colour in zip(outlines, colours, strict=True):
        cv2.drawContours(rgba, lines, -1, (*colour.tolist(), 255), 1)
    return Image.fromarray(rgba)


def render_layers(example: ImageExample, names: list[str], categories: dict[str, str]) -> bytes:
    """A record to the page's bytes, under `MAX_BYTES`: the picture shrinks until it fits.

    Args:
        example: the record; its RLEs were checked.
        names: of its layers, in order.
        categories: category id as text -> name.

    Raises:
        ImageError: the stored picture cannot be decoded.
    """
    image = picture_of(example)
    gt = example.annotations
    singles = np.flatnonzero(~gt.is_crowd)
    labels = list(dict.fromkeys(categories.get(str(c), str(c)) for c in gt.category_id.tolist()))
    rows: list[dict[str, Any]] = []
    for i, (name, masks) in enumerate(zip(names, example.masks, strict=True)):
        mean = float(example.best_iou[i, singles].mean()) if singles.size else None
        rows.append({"name": name, "counts": masks.counts, "mean": mean, "note": ""})
    if len(gt):
        crowds = len(gt) - singles.size
        note = ", ".join(labels[:20]) + (f"; {crowds} crowd" if crowds else "")
        rows.append({"name": "annotations", "counts": gt.counts, "mean": None, "note": note})
    # Shown at first: the layer that fits best, ground truth's own aside.
    fits = [-1.0 if row["mean"] is None or row["mean"] > 0.9999 else row["mean"] for row in rows]
    first = fits.index(max(fits)) if fits else 0
    page = b""
    for side in _SIDES:
        scale = min(1.0, side / max(image.shape[:2]))
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        base = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
        layers = [
            {
                "name": row["name"],
                "note": row["note"],
                "mean": row["mean"],
                "masks": len(row["counts"]),
                "url": _url(draw_overlay(row["counts"], example.height, example.width, size), "PNG", optimize=True),
            }
            for row in rows
        ]
        page = (
            environment()
            .get_template("layers.html.j2")
            .render(
                title=example.filename,
                example=example,
                picture=_url(base, "JPEG", quality=88),
                width=size[0],
                height=size[1],
                layers=layers,
                first=first,
                masks_shown=MASKS_SHOWN,
                css=resource("report.css"),
            )
            .encode("utf-8", "backslashreplace")
        )
        if len(page) <= MAX_BYTES:
            break
    return page
