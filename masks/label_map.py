"""Label maps and how they become masks.

A label map is int32[height, width] with labels from 0; -1 means unlabelled. There is no background label: label 0 is a
segment like any other. The masks of a label map are disjoint, and no number of segments is too many (no 255).
"""

import numba
import numpy as np

from maskmill.schemas.mask import MaskSet

# A run is at most 2**31 pixels: 7 groups of 5 bits hold it with its sign.
_MAX_GROUPS = 7


@numba.njit(cache=True, nogil=True)
def _column_runs(label_map, count):
    """Runs of equal label in column-major order.

    Returns label int32[r], start int64[r] (column-major pixel index), end int64[r], runs per label int64[count],
    and the first pixel of each label in raster order int64[count] (height * width where a label is absent).
    """
    height, width = label_map.shape
    changes = 1
    previous = label_map[0, 0]
    for x in range(width):
        for y in range(height):
            if label_map[y, x] != previous:
                changes += 1
                previous = label_map[y, x]
    labels = np.empty(changes, np.int32)
    starts = np.empty(changes, np.int64)
    ends = np.empty(changes, np.int64)
    per_label = np.zeros(count, np.int64)
    first = np.full(count, np.int64(height) * width, np.int64)
    r = -1
    previous = np.int32(-2)  # no label: the first pixel opens a run
    for x in range(width):
        for y in range(height):
            label = label_map[y, x]
            if label != previous:
                position = np.int64(x) * height + y
                if r >= 0:
                    ends[r] = position
                r += 1
                labels[r] = label
                starts[r] = position
                previous = label
                if label >= 0:
                    per_label[label] += 1
            # A run may wrap to the top of the next column, so every pixel is asked, not just the run's first.
            if label >= 0:
                raster = np.int64(y) * width + x
                if raster < first[label]:
                    first[label] = raster
    ends[r] = np.int64(height) * width
    return labels, starts, ends, per_label, first


@numba.njit(cache=True, nogil=True)
def _put(buffer, at, value):
    """Writes one signed base-32 varint at `at` and returns where the next goes (see `schemas.rle`)."""
    more = True
    while more:
        code = value & 31
        value >>= 5
        if code & 16:
            more = value != -1
        else:
            more = value != 0
        buffer[at] = 48 + (code | 32 if more else code)
        at += 1
    return at


@numba.njit(cache=True, nogil=True)
def _compress(labels, starts, ends, per_label, total, buffer, bounds, areas):
    """Writes the compressed counts of every label; label k's bytes are buffer[bounds[k]:bounds[k + 1]].

    Invariant of the inner loop: the mask's runs up to `position` are written, the last two of each parity are known, and
    the next run of the label starts at or after `position`.
    """
    count = per_label.size
    order = np.empty(labels.size, np.int64)  # runs grouped by label, in column-major order within each
    cursor = np.zeros(count + 1, np.int64)
    for k in range(count):
        cursor[k + 1] = cursor[k] + per_label[k]
    place = cursor[:-1].copy()
    for r in range(labels.size):
        if labels[r] >= 0:
            order[place[labels[r]]] = r
            place[labels[r]] += 1
    at = 0
    for k in range(count):
        bounds[k] = at
        position = np.int64(0)
        written = 0
        before = np.int64(0)  # the run two places back of the next zeros-run, and of the next ones-run
        before_ones = np.int64(0)
        area = np.int64(0)
        for i in range(cursor[k], cursor[k + 1]):
            r = order[i]
            zeros = starts[r] - position
            ones = ends[r] - starts[r]
            # Runs 0, 1 and 2 are written as they are, later ones as the difference to the run two before.
            at = _put(buffer, at, zeros - before if written > 2 else zeros)
            written += 1
            at = _put(buffer, at, ones - before_ones if written > 2 else ones)
            written += 1
            before = zeros
            before_ones = ones
            area += ones
            position = ends[r]
        if position < total:
            zeros = total - position
            at = _put(buffer, at, zeros - before if written > 2 else zeros)
        areas[k] = area
    bounds[count] = at


def encode_label_map(label_map: np.ndarray) -> MaskSet:
    """Every segment of a label map as compressed RLE, in one pass over the pixels.

    Args:
        label_map: int32[height, width], labels from 0, -1 = unlabelled. Labels may have gaps.

    Returns:
        The non-empty segments, ordered by their first pixel in raster order; score 1.0.

    Raises:
        ValueError: not a two-dimensional, non-empty integer array, or labels below -1.
    """
    label_map = np.ascontiguousarray(label_map)
    if label_map.ndim != 2 or label_map.size == 0 or label_map.dtype.kind not in "iu":
        raise ValueError(
            f"a label map is a non-empty int array [height, width], got {label_map.dtype}{label_map.shape}"
        )
    if int(label_map.min()) < -1:
        raise ValueError(f"labels must be -1 or more, got {int(label_map.min())}")
    if int(label_map.max()) >= label_map.size:  # large names with gaps would make the tables below large
        label_map = relabel_dense(label_map)
    label_map = label_map.astype(np.int32, copy=False)
    top = int(label_map.max())
    labels, starts, ends, per_label, first = _column_runs(label_map, top + 1)
    buffer = np.empty(_MAX_GROUPS * (2 * labels.size + top + 1), np.uint8)
    bounds = np.empty(top + 2, np.int64)
    areas = np.zeros(top + 1, np.int64)
    _compress(labels, starts, ends, per_label, label_map.size, buffer, bounds, areas)
    data = buffer[: bounds[-1]].tobytes()
    order = [k for k in np.argsort(first, kind="stable").tolist() if per_label[k]]
    return MaskSet.unranked((data[bounds[k] : bounds[k + 1]] for k in order), areas[order])


def relabel_dense(label_map: np.ndarray) -> np.ndarray:
    """The same segments with labels 0, 1, 2, ... in raster order of their first pixels; -1 stays -1. int32."""
    values, first, inverse = np.unique(label_map, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    order = order[values[order] != -1]
    names = np.full(values.size, -1, np.int32)
    names[order] = np.arange(order.size, dtype=np.int32)
    return names[inverse].reshape(label_map.shape)
