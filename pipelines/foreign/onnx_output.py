"""What a segmenter gives back, as masks of its picture."""

import cv2
import numpy as np

from maskmill.masks.ground_truth import first_pixel
from maskmill.schemas import rle
from maskmill.schemas.errors import ImageError
from maskmill.schemas.mask import MaskSet

TASKS = ("instance", "semantic")
MAX_MASKS = 10_000  # that a model may give for one picture, before any is left out


def instance_masks(
    masks: np.ndarray,
    scores: np.ndarray | None,
    height: int,
    width: int,
    mask_threshold: float,
    score_threshold: float,
    top: int,
) -> MaskSet:
    """Masks and scores of an instance segmenter.

    Args:
        masks: [N, h, w], also with a batch of one before it, or [N, 1, h, w]; numbers, or bool.
        scores: [N], with any axes of one; None where the model has none.
        height, width: the picture's size.
        mask_threshold: pixels above it belong to the mask, after resizing to the picture.
        score_threshold, top: which masks are kept.

    Returns:
        Best first, equal scores in the model's order; without scores by first pixel. Empty masks are left out, before
        `top` counts.

    Raises:
        ImageError: other shapes, values that are no numbers, too many masks.
    """
    stack = masks
    if stack.ndim == 4 and 1 in stack.shape[:2]:
        stack = stack[0] if stack.shape[0] == 1 else stack[:, 0]
    if stack.ndim != 3 or not stack.shape[1] * stack.shape[2]:
        raise _wrong(f"its masks are {list(masks.shape)}, not [N, height, width]")
    if len(stack) > MAX_MASKS:
        raise _wrong(f"it gave {len(stack)} masks; at most {MAX_MASKS} are taken")
    order = np.arange(len(stack))
    if scores is not None:
        flat = np.asarray(scores, np.float32).reshape(-1)
        if flat.size != len(stack):
            raise _wrong(f"it gave {len(stack)} masks and {flat.size} scores")
        if not np.isfinite(flat).all():
            raise _wrong("its scores are not all finite numbers")
        order = np.argsort(-flat, kind="stable")
        order = order[flat[order] >= score_threshold]
    kept: list[tuple[int, bytes, int]] = []
    for i in order.tolist():
        if scores is not None and len(kept) == top:
            break
        mask = _resized(stack[i], height, width) > mask_threshold
        if area := int(np.count_nonzero(mask)):
            kept.append((i, rle.encode_mask(mask), area))
    if scores is None:
        kept = sorted(kept, key=lambda k: first_pixel(k[1], height, width))[:top]
        return MaskSet.unranked([c for _, c, _ in kept], [a for _, _, a in kept])
    areas = np.array([a for _, _, a in kept], np.int64)
    return MaskSet(tuple(c for _, c, _ in kept), areas, flat[[i for i, _, _ in kept]].astype(np.float32))


def semantic_masks(output: np.ndarray, height: int, width: int, mask_threshold: float, top: int, void: int) -> MaskSet:
    """Logits or labels of a semantic segmenter; one mask per class.

    Args:
        output: [C, h, w] logits or probabilities (resized, then the best class; of one class: above `mask_threshold`),
            or [h, w] labels (whole numbers; resized to the nearest); also with a batch of one before it.
        height, width: the picture's size.
        mask_threshold: for a single map of numbers.
        top: the largest so many classes are kept, earlier ones of equal size.
        void: class that is no mask; -1: none.

    Returns:
        By first pixel, disjoint, score 1.0.

    Raises:
        ImageError: another shape, values that are no numbers, too many classes.
    """
    maps = output
    while maps.ndim > 2 and maps.shape[0] == 1:
        maps = maps[0]
    if maps.ndim not in (2, 3) or 0 in maps.shape:
        raise _wrong(f"its output is {list(output.shape)}, not logits [C, height, width] or labels [height, width]")
    if maps.ndim == 3:
        if len(maps) > MAX_MASKS:
            raise _wrong(f"it has {len(maps)} classes; at most {MAX_MASKS} are taken")
        best, labels = _resized(maps[0], height, width), np.zeros((height, width), np.int64)
        for i in range(1, len(maps)):  # class by class: all of them at the picture's size would be gigabytes
            one = _resized(maps[i], height, width)
            better = one > best
            best[better], labels[better] = one[better], i
    elif maps.dtype.kind == "f":
        labels = (_resized(maps, height, width) > mask_threshold).astype(np.int64)
    else:
        labels = maps.astype(np.int64)[_nearest(height, maps.shape[0])[:, None], _nearest(width, maps.shape[1])]
    binary = maps.ndim == 2 and maps.dtype.kind in "fb"
    values, areas = np.unique(labels, return_counts=True)
    if len(values) > MAX_MASKS:
        raise _wrong(f"it gave {len(values)} labels; at most {MAX_MASKS} are taken")
    wanted = values != void if not binary else values == 1  # what a single map does not mark is no class
    values, areas = values[wanted], areas[wanted]
    chosen = np.sort(np.argsort(-areas, kind="stable")[:top])
    kept = [(rle.encode_mask(labels == values[i]), int(areas[i])) for i in chosen]
    kept.sort(key=lambda k: first_pixel(k[0], height, width))
    return MaskSet.unranked([c for c, _ in kept], [a for _, a in kept])


def _nearest(size: int, source: int) -> np.ndarray:
    """Index of the source pixel whose square holds the centre of each of `size` pixels."""
    return (2 * np.arange(size) + 1) * source // (2 * size)


def _resized(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """A new float32[height, width], bilinear between the centres of pixels."""
    plane = np.array(plane, np.float32)
    if not np.isfinite(plane).all():
        raise _wrong("its output has values that are not finite numbers")
    if plane.shape == (height, width):
        return plane
    return cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)


def _wrong(text: str) -> ImageError:
    return ImageError("generator_error", "onnx", f"the model's answer cannot be read: {text}")
