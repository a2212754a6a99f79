"""One record as arrays: what a training loop takes, whatever its framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from maskmill.pipelines.dataset.stored_picture import decode_picture
from maskmill.schemas import rle
from maskmill.schemas.errors import DamageError, ImageError, InputError, UsageError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.manifest import Manifest

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32


@dataclasses.dataclass(frozen=True)
class Arrays:
    """A picture of H x W pixels and M masks.

    Attributes:
        image: uint8[H, W, 3], RGB.
        masks: bool[M, H, W].
        boxes: float32[M, 4]: left, top, right, bottom; right and bottom are the first pixels outside.
        labels: int64[M], a mask's place among the layers chosen, or an annotation's category id.
        scores: float32[M]; 1.0 for annotations.
        label: the picture's class, -1 where unknown.
        filename: the record's key.
    """

    image: np.ndarray
    masks: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    label: int
    filename: str


def choose_layers(manifest: Manifest, names: Sequence[str] | None, *, ground_truth: bool) -> tuple[int, ...] | None:
    """Indices of layers by name, all where `names` is None; None for ground truth.

    Raises:
        UsageError: both, or text where a list is needed. InputError: no such layer, or shards without pictures.
    """
    if isinstance(names, str):
        raise UsageError(f"layers should be a list of names, is the text {names!r}; write layers=[{names!r}]")
    if manifest.config.get("masks_only"):
        raise InputError(f"{manifest.dataset} was built with --masks-only: its records hold no pictures to load")
    if ground_truth:
        if names is not None:
            raise UsageError("layers and ground_truth exclude one another: targets are masks or annotations")
        return None
    if names is None:
        return tuple(range(len(manifest.layers)))
    return tuple(manifest.layer_index(name) for name in names)


def to_arrays(example: ImageExample, layers: Sequence[int] | None) -> Arrays:
    """A record's picture, decoded as the build decoded it, and its masks.

    Args:
        example: a record with its picture.
        layers: indices of layers whose masks are wanted, in this order; None for the annotations that are no crowds.

    Raises:
        DamageError: the picture or a mask is not what the record says.
    """
    if layers is None:
        truth, kept = example.annotations, ~example.annotations.is_crowd
        counts = [c for c, keep in zip(truth.counts, kept.tolist(), strict=True) if keep]
        labels, scores = truth.category_id[kept], np.ones(len(counts), np.float32)
    else:
        chosen = [example.masks[i] for i in layers]
        counts = [c for masks in chosen for c in masks.counts]
        labels = np.repeat(np.arange(len(chosen)), [len(masks) for masks in chosen])
        scores = np.concatenate([np.empty(0, np.float32), *(masks.score for masks in chosen)])
    try:
        image = decode_picture(example)
        masks, boxes = draw_masks(counts, example.height, example.width)
    except (ImageError, rle.RleError) as error:
        raise DamageError(f"the record of {example.filename!r} is damaged: {error}") from error
    return Arrays(
        image, masks, boxes, labels.astype(np.int64), scores.astype(np.float32), example.label, example.filename
    )


def draw_masks(
    counts: Sequence[bytes], height: int, width: int
) -> tuple[Bool[np.ndarray, "masks {height} {width}"], Float32[np.ndarray, "masks 4"]]:
    """Masks and their boxes, as `Arrays` has them. Raises RleError."""
    masks = np.zeros((len(counts), height, width), bool)
    boxes = np.zeros((len(counts), 4), np.float32)
    for i, one in enumerate(counts):
        runs = rle.decode_counts(one, height, width)
        # Run lengths go down the columns; OpenCV turns a picture in blocks that fit the cache, NumPy pixel by pixel.
        columns = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs).reshape(width, height)
        masks[i] = cv2.transpose(columns).reshape(height, width)
        left, top, across, down = rle.box_of_runs(runs, height)
        boxes[i] = left, top, left + across, top + down
    return masks, boxes
