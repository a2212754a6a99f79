"""Labelled pixels for the contour model, from instance masks alone.

Positives lie on instance outlines. COCO outlines only *some* things, so an edge elsewhere may still be an object's:
negatives are taken only well inside instances, or far from every outline, and never in crowd regions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from maskmill.masks.mcg.contours import contour_features, shrink

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int8, UInt8

POSITIVE, INSIDE, FAR = 0, 1, 2
# Pixels sampled per picture at full scale, by kind; half as many per halving of the scale.
COUNTS = (500, 700, 350)
ON_OUTLINE_PX, INSIDE_PX, FAR_PX = 1, 5, 20
SMALLEST_PX = 40  # instances of fewer pixels at a scale have no outline there worth learning


def outlines(
    masks: list[Bool[np.ndarray, "{height} {width}"]], height: int, width: int
) -> Bool[np.ndarray, "{height} {width}"]:
    """Pixels of a mask that touch its outside within the picture, for any of the masks; bool[height, width]."""
    out = np.zeros((height, width), bool)
    for mask in masks:
        padded = np.pad(mask, 1, mode="edge")  # where a mask meets the picture's border there is no outline
        around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        out |= mask & ~around
    return out


def contour_samples(
    image: UInt8[np.ndarray, "h w 3"],
    masks: list[Bool[np.ndarray, "h w"]],
    crowds: list[Bool[np.ndarray, "h w"]],
    scale: float,
    seed: int,
) -> tuple[Float32[np.ndarray, "n features"], Int8[np.ndarray, " n"]]:
    """Sampled pixels of one picture at one scale.

    Args:
        image: uint8[h, w, 3], RGB.
        masks: instances, bool[h, w] each; crowds: regions to leave out, likewise.
        scale: 1, 0.5 or 0.25: picture and masks are reduced by it first.
        seed: of the sampling.

    Returns:
        rows float32[n, features] and kinds int8[n]: POSITIVE, INSIDE or FAR.
    """
    image = shrink(image, scale)
    height, width = image.shape[:2]

    def reduce(mask: np.ndarray) -> np.ndarray:
        if scale == 1:
            return mask
        return (
            cv2.resize(mask.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_AREA).reshape(
                height, width
            )
            > 127
        )

    masks = [m for m in map(reduce, masks) if m.sum() >= SMALLEST_PX]
    edge = outlines(masks, height, width)
    distance: np.ndarray = np.full((height, width), np.inf, np.float32)
    if edge.any():
        distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 5)
    inside = np.logical_or.reduce([np.zeros((height, width), bool), *masks])
    usable = ~np.logical_or.reduce([np.zeros((height, width), bool), *map(reduce, crowds)])
    places = (
        (distance <= ON_OUTLINE_PX) & usable,
        (distance > INSIDE_PX) & inside & usable,
        (distance > FAR_PX) & ~inside & usable,
    )
    random = np.random.default_rng(seed)
    chosen, kinds = [], []
    for kind, place in enumerate(places):
        index = np.flatnonzero(place)
        index = random.choice(index, min(len(index), round(COUNTS[kind] * scale)), replace=False)
        chosen.append(np.sort(index))
        kinds.append(np.full(len(index), kind, np.int8))
    rows = contour_features(image)
    rows = rows.reshape(-1, rows.shape[2])
    return rows[np.concatenate(chosen)], np.concatenate(kinds)
