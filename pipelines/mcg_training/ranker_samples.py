"""What the ranker learns from: candidates of annotated pictures with their overlap, chosen so that all kinds occur."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from maskmill.masks.mcg.proposals import Proposals

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64, Integer

SAMPLES = 1200  # candidates per picture
# Shares of them by overlap with the nearest instance; good candidates are rare and are what the ranking is about.
GOOD, GOOD_SHARE = 0.5, 0.25
STRATA = ((0.0, 0.05, 0.25), (0.05, 0.2, 0.25), (0.2, 0.5, 0.3))


def overlaps(
    proposals: Proposals, masks: list[Bool[np.ndarray, "h w"]]
) -> Float32[np.ndarray, "candidates {len(masks)}"]:
    """IoU of every candidate with every instance, from leaf counts: no candidate is drawn.

    Args:
        proposals: P candidates.
        masks: bool[h, w], in the picture's own frame; reduced to the working frame where that is smaller.

    Returns:
        float32[P, instances].
    """
    labels, area = proposals.hierarchy.labels, proposals.regions.area
    frame = labels.shape
    if masks and masks[0].shape != frame:
        masks = [
            cv2.resize(m.astype(np.uint8) * 255, frame[::-1], interpolation=cv2.INTER_AREA).reshape(frame) > 127
            for m in masks
        ]
    bits = np.unpackbits(proposals.candidates.members.view(np.uint8), axis=1, bitorder="little")[:, : len(area)]
    # float32 holds counts up to 2**24 exactly; working frames are far smaller.
    inside = np.array([np.bincount(labels[m], minlength=len(area)) for m in masks], np.float32)
    out = np.zeros((len(bits), len(masks)), np.float32)
    for at in range(0, len(bits), 4096):
        members = bits[at : at + 4096].astype(np.float32)
        shared = members @ inside.reshape(len(masks), -1).T
        total = (members @ area.astype(np.float32))[:, None] + inside.sum(axis=1) - shared
        out[at : at + 4096] = shared / total
    return out


def candidate_samples(
    iou: Float32[np.ndarray, "candidates instances"], seed: int, count: int = SAMPLES
) -> Integer[np.ndarray, " sampled"]:
    """Chooses candidates to learn from.

    Args:
        iou: float32[P, instances], at least one instance.
        seed: of the choice.
        count: about how many.

    Returns:
        Sorted indices: the best candidate of every instance, of the good ones (above `GOOD`) up to `GOOD_SHARE` of the
        count, and of each stratum of the others its share.
    """
    random = np.random.default_rng(seed)
    nearest = iou.max(axis=1)

    def some(where: np.ndarray, share: float) -> np.ndarray:
        index = np.flatnonzero(where)
        return random.choice(index, min(len(index), int(count * share)), replace=False)

    chosen = [iou.argmax(axis=0), some(nearest > GOOD, GOOD_SHARE)]
    chosen += [some((nearest >= low) & (nearest < high), share) for low, high, share in STRATA]
    return np.unique(np.concatenate(chosen))


def best_overlaps(
    iou: Float32[np.ndarray, "candidates instances"], order: Int64[np.ndarray, " ranked"], counts: tuple[int, ...]
) -> Float32[np.ndarray, "instances {len(counts)+1}"]:
    """Best IoU of each instance among the first so many of a ranked list, and in the whole pool.

    Args:
        iou: float32[P, instances]; order: int64[k], ranked candidates; counts: list lengths.

    Returns:
        float32[instances, len(counts) + 1], the last column for all P.
    """
    running = np.maximum.accumulate(iou[order], axis=0)
    columns = [running[min(n, len(order)) - 1] for n in counts]
    return np.stack([*columns, iou.max(axis=0)], axis=1)
