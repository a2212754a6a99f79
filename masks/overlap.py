"""How well masks cover ground truth: IoU and coverage, all from runs.

pycocotools does the arithmetic (in C, from runs, skipping pairs whose boxes are apart). It trusts its input, so every
RLE that comes here has been checked or made by us (`schemas.rle`). IoU is plain intersection over union: COCO's crowd
rule (intersection over the mask's own area) is not used; whoever measures leaves crowds out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pycocotools import mask as coco_mask

from maskmill.schemas.mask import MaskSet

if TYPE_CHECKING:
    from jaxtyping import Float64


def _coco(counts: tuple[bytes, ...], height: int, width: int) -> list[dict]:
    return [{"size": [height, width], "counts": c} for c in counts]


def iou_matrix(
    masks: tuple[bytes, ...], others: tuple[bytes, ...], height: int, width: int
) -> Float64[np.ndarray, "{len(masks)} {len(others)}"]:
    """IoU of every mask with every other: float64[len(masks), len(others)]."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    pairs = coco_mask.iou(_coco(masks, height, width), _coco(others, height, width), [0] * len(others))
    return np.asarray(pairs, np.float64).reshape(len(masks), len(others))


def covered_pixels(masks: MaskSet, height: int, width: int, *, disjoint: bool) -> int:
    """Pixels that lie in at least one mask; `disjoint` says that none overlap, which saves drawing the union."""
    if disjoint or len(masks) < 2:
        return int(masks.area.sum())
    return int(coco_mask.area(coco_mask.merge(_coco(masks.counts, height, width))))


def boxes(masks: tuple[bytes, ...], height: int, width: int) -> Float64[np.ndarray, "{len(masks)} 4"]:
    """Bounding boxes of masks: float64[len(masks), 4], COCO's x, y, width, height in pixels."""
    if not masks:
        return np.zeros((0, 4))
    return np.asarray(coco_mask.toBbox(_coco(masks, height, width)), np.float64).reshape(-1, 4)
