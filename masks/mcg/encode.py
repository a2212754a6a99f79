"""Candidates to RLE: the label map's column-major runs are found once, each mask merges the runs of its leaves."""

import numba
import numpy as np

from maskmill.masks.mcg.leafsets import unpack
from maskmill.schemas.mask import MaskSet
from maskmill.schemas.rle import encode_runs


@numba.njit(cache=True)
def label_runs(labels):
    """Runs of equal label in column-major order: label int32[r], length int64[r]."""
    height, width = labels.shape
    count = 0
    previous = np.int32(-1)
    for x in range(width):
        for y in range(height):
            if labels[y, x] != previous:
                count += 1
                previous = labels[y, x]
    label = np.empty(count, np.int32)
    length = np.zeros(count, np.int64)
    count = -1
    previous = np.int32(-1)
    for x in range(width):
        for y in range(height):
            if labels[y, x] != previous:
                count += 1
                previous = labels[y, x]
                label[count] = previous
            length[count] += 1
    return label, length


@numba.njit(cache=True)
def member_runs(row, leaves, label, length):
    """Alternating runs of one candidate, zeros first; int64[k].

    Args:
        row: uint64[words], the candidate; leaves: their number; label, length: from `label_runs`.
    """
    inside = np.zeros(leaves, np.bool_)
    members = np.empty(leaves, np.int32)
    for k in range(unpack(row, members)):
        inside[members[k]] = True
    out = np.zeros(len(label) + 1, np.int64)
    last = 0
    for r in range(len(label)):
        if inside[label[r]] != (last & 1 == 1):
            last += 1
        out[last] += length[r]
    return out[: last + 1]


def encode_candidates(members: np.ndarray, labels: np.ndarray, score: np.ndarray) -> MaskSet:
    """A mask set of candidates, in the order given.

    Args:
        members: uint64[k, words], sets of leaves.
        labels: int32[h, w], leaf of each pixel, in the frame of the picture.
        score: float32[k].

    Returns:
        k masks; the RLE is byte for byte what pycocotools makes of the drawn mask.
    """
    label, length = label_runs(labels)
    leaves = int(labels.max()) + 1
    runs = [member_runs(row, leaves, label, length) for row in members]
    area = np.array([r[1::2].sum() for r in runs], np.int64)
    return MaskSet(tuple(encode_runs(r) for r in runs), area, np.asarray(score, np.float32))
