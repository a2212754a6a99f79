"""Label maps to COCO run-length encoding: the one place that scans pixels for runs and writes compressed counts.

A mask is a union of labels (FH: components; MCG and imported proposals: leaf regions; a grid: cells), so its runs are
unions of theirs. A label map's runs are read once, in column-major order; what a mask needs is to merge neighbouring
runs and write them (`schemas.rle` gives the format). Disjoint masks are grouped and written all at once (`group_runs`,
`write_counts`), overlapping ones one after the other (`write_sets`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from maskmill.schemas.mask import MaskSet

if TYPE_CHECKING:
    from jaxtyping import Integer, Num, UInt8, UInt64

NO_LABEL = np.uint32(0xFFFFFFFF)
COLUMNS = 32  # columns transposed at a time: a row's share is two cache lines
MOST_GROUPS = 7  # of 5 bits, in one number: differences of runs below 2**30 have 31 bits with their sign
TEXT_BYTES = 1 << 20  # of counts written at a time, or one mask's
TEXT_MASKS = 1 << 12  # whose counts are written at a time


def text_capacity(runs: int) -> int:
    """Returns the most bytes that the counts of a mask of so many runs can take."""
    return MOST_GROUPS * (2 * runs + 1)


@njit(nogil=True, cache=True)
def find_runs(label_map, transposed, run_labels, run_starts):
    """Lists the runs of equal label in column-major order.

    Args:
        label_map: (height, width) uint32.
        transposed: (COLUMNS, height) uint32 scratch.
        run_labels, run_starts: uint32, height * width + 1 elements; receive each run's label and its first pixel,
            counted down the columns.

    Returns:
        The number of runs.
    """
    height, width = label_map.shape
    runs = np.uintp(0)
    previous = NO_LABEL
    for left in range(0, width, COLUMNS):
        columns = min(COLUMNS, width - left)
        # Reading down a column touches a new cache line per pixel; a block of columns is transposed first.
        for y in range(height):
            row = label_map[y]
            for j in range(columns):
                transposed[j, y] = row[left + j]
        for j in range(columns):
            column = transposed[j]
            start = (left + j) * height
            for y in range(height):
                current = column[y]
                # Every slot is written and only a change advances: no branch to mispredict.
                run_labels[runs] = current
                run_starts[runs] = np.uint32(start + y)
                runs += np.uintp(current != previous)
                previous = current
    return np.int64(runs)


@njit(nogil=True, cache=True)
def _put_number(text, at, value):
    """Writes one number in groups of 5 bits, lowest first; returns the next free byte."""
    while True:
        group = value & 31
        value >>= 5
        more = value != (-1 if group & 16 else 0)
        text[at] = np.uint8(48 + group + (32 if more else 0))
        at += 1
        if not more:
            return at


@njit(nogil=True, cache=True)
def _merge_runs(run_labels, run_starts, runs, segment_of_label, merged_segments, merged_starts):
    """Drops the runs that only continue the segment before. Every slot is written, only new segments advance."""
    merged = np.uintp(0)
    previous = NO_LABEL
    for i in range(runs):
        segment = segment_of_label[run_labels[i]]
        merged_segments[merged] = segment
        merged_starts[merged] = run_starts[i]
        merged += np.uintp(segment != previous)
        previous = segment
    return np.int64(merged)


@njit(nogil=True, cache=True)
def group_runs(
    run_labels, run_starts, segment_of_label, segments, pixels, merged_segments, merged_starts, order, bounds
):
    """Lists one scale's runs segment by segment, in column-major order within each.

    Args:
        run_labels, run_starts: from `find_runs`.
        segment_of_label, segments: segment of each label, and their number.
        pixels: of the picture.
        merged_segments: uint32 scratch, runs + 1 elements.
        merged_starts: uint32, runs + 1 elements; receives the first pixel of each of the scale's runs, and `pixels`.
        order: uint32, runs + 1 elements; receives the runs of segment s as order[bounds[s]:bounds[s + 1]].
        bounds: uint32, segments + 1 elements; see `order`.

    Returns:
        The number of runs of the segment that has most.
    """
    runs = run_labels.size
    merged = _merge_runs(run_labels, run_starts, runs, segment_of_label, merged_segments, merged_starts)
    merged_starts[merged] = pixels
    for s in range(segments + 1):
        bounds[s] = 0
    for i in range(merged):
        bounds[np.int64(merged_segments[i]) + 1] += 1
    most = np.int64(0)
    for s in range(segments):
        most = max(most, np.int64(bounds[s + 1]))
        bounds[s + 1] += bounds[s]
    for i in range(merged):
        s = merged_segments[i]
        order[np.uintp(bounds[s])] = i
        bounds[s] += 1
    for s in range(segments, 0, -1):  # each bound has moved to its segment's end
        bounds[s] = bounds[s - 1]
    bounds[0] = 0
    return most


@njit(nogil=True, cache=True)
def write_counts(merged_starts, order, bounds, first, pixels, text, ends, areas):
    """Writes the compressed counts of segments `first`, first + 1, ..., one after the other, while they surely fit.

    Invariant within a segment: its runs up to pixel `position` are written; `zeros` and `ones` are the last run of each
    kind.

    Args:
        merged_starts, order, bounds: from `group_runs`.
        first: the segment to begin with.
        pixels: of the picture.
        text: uint8, `text_capacity` of the segment with most runs or more; receives the counts.
        ends: int64, at least one element; receives where in `text` the counts of each segment end.
        areas: int64[segments]; receives the pixels of each segment.

    Returns:
        The segment to go on with.
    """
    at = np.int64(0)
    segment = first
    while segment < areas.size and segment - first < ends.size:
        low = np.int64(bounds[segment])
        high = np.int64(bounds[segment + 1])
        if at + MOST_GROUPS * (2 * (high - low) + 1) > text.size:
            break
        position = np.int64(0)
        zeros = np.int64(0)
        ones = np.int64(0)
        area = np.int64(0)
        for i in range(low, high):
            start = np.int64(merged_starts[order[i]])
            end = np.int64(merged_starts[order[i] + 1])
            gap = start - position
            length = end - start
            # The first three numbers stand for themselves: zeros, ones, zeros.
            at = _put_number(text, at, gap - zeros if i > low + 1 else gap)
            at = _put_number(text, at, length - ones if i > low else length)
            zeros = gap
            ones = length
            area += length
            position = end
        if position < pixels:
            gap = pixels - position
            at = _put_number(text, at, gap - zeros if high > low + 1 else gap)
        ends[segment - first] = at
        areas[segment] = area
        segment += 1
    return segment


@njit(nogil=True, cache=True)
def write_sets(members, first, labels, run_labels, run_starts, pixels, text, ends, areas):
    """Writes the compressed counts of unions of labels `first`, first + 1, ..., while they surely fit.

    Args:
        members: uint64[k, words], bit l % 64 of word l // 64 says whether label l belongs.
        first: the union to begin with.
        labels: number of labels, at most 64 * words.
        run_labels, run_starts: from `find_runs`. pixels: of the picture.
        text: uint8, `text_capacity` of the runs or more; receives the counts.
        ends: int64, at least one element; receives where in `text` the counts of each union end.
        areas: int64[k]; receives the pixels of each union.

    Returns:
        The union to go on with.
    """
    at = np.int64(0)
    inside = np.zeros(labels, np.bool_)
    m = first
    while m < len(members) and m - first < ends.size:
        if at + MOST_GROUPS * (2 * run_labels.size + 1) > text.size:
            break
        for label in range(labels):
            inside[label] = (members[m, label >> 6] >> np.uint64(label & 63)) & np.uint64(1) == np.uint64(1)
        # `latest` and `other` are the last two runs written: a number is stored as the difference to the one two before.
        latest, other = np.int64(0), np.int64(0)
        start = np.int64(0)
        area = np.int64(0)
        written = 0
        is_set = False
        for i in range(run_labels.size + 1):
            at_end = i == run_labels.size
            if not at_end and inside[run_labels[i]] == is_set:
                continue
            stop = np.int64(pixels) if at_end else np.int64(run_starts[i])
            length = stop - start
            # The first three numbers stand for themselves.
            at = _put_number(text, at, length - other if written > 2 else length)
            area += length if is_set else 0
            latest, other = length, latest
            start = stop
            written += 1
            is_set = not is_set
        ends[m - first], areas[m] = at, area
        m += 1
    return m


def split_text(text: UInt8[np.ndarray, " bytes"], ends: Integer[np.ndarray, " masks"]) -> list[bytes]:
    """Returns the counts that `ends` delimit in `text`."""
    bounds = ends.tolist()
    data = text[: bounds[-1]].tobytes() if bounds else b""
    return [data[start:end] for start, end in zip([0, *bounds], bounds, strict=False)]


def _runs_of(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns label and start (uint32) of a label map's runs, and one more than the highest label."""
    if label_map.ndim != 2 or label_map.size == 0 or label_map.dtype.kind not in "iu":
        raise ValueError(
            f"a label map is a non-empty int array [height, width], got {label_map.dtype}{list(label_map.shape)}"
        )
    low, high = int(label_map.min()), int(label_map.max())
    if low < 0 or high >= label_map.size:  # out of these bounds the kernels would write out of theirs
        raise ValueError(f"labels must be dense from 0, got {low} .. {high} on {label_map.size} pixels")
    run_labels, run_starts = np.empty((2, label_map.size + 1), np.uint32)
    transposed = np.empty((COLUMNS, len(label_map)), np.uint32)
    runs = find_runs(np.ascontiguousarray(label_map, np.uint32), transposed, run_labels, run_starts)
    return run_labels[:runs], run_starts[:runs], high + 1


def encode_label_map(label_map: np.ndarray) -> MaskSet:
    """Every segment of a label map as compressed RLE.

    Args:
        label_map: int[height, width], labels dense from 0 in raster order of their first pixels. There is no background
            label, and no number of segments is too many (no 255).

    Returns:
        The segments in the order of their labels; score 1.0.

    Raises:
        ValueError: not a two-dimensional, non-empty integer array, or labels with gaps.
    """
    run_labels, run_starts, segments = _runs_of(label_map)
    merged, order, scratch = np.empty((3, run_labels.size + 1), np.uint32)
    bounds, own = np.empty(segments + 1, np.uint32), np.arange(segments, dtype=np.uint32)
    group_runs(run_labels, run_starts, own, segments, label_map.size, scratch, merged, order, bounds)
    text = np.empty(MOST_GROUPS * (2 * run_labels.size + segments), np.uint8)
    ends, areas = np.empty((2, segments), np.int64)
    write_counts(merged, order, bounds, 0, label_map.size, text, ends, areas)
    if not areas.all():
        raise ValueError(f"labels must be dense from 0, got none of label {int(areas.argmin())}")
    return MaskSet.unranked(split_text(text, ends), areas)


def encode_sets(members: UInt64[np.ndarray, "k words"], label_map: np.ndarray, score: Num[np.ndarray, " k"]) -> MaskSet:
    """Unions of labels as masks, in the order given.

    Args:
        members: uint64[k, words], see `write_sets`.
        label_map: int[height, width], labels dense from 0.
        score: float32[k].

    Returns:
        k masks; the RLE is byte for byte what pycocotools makes of the drawn mask.

    Raises:
        ValueError: no label map, or rows too short for its labels.
    """
    run_labels, run_starts, labels = _runs_of(label_map)
    if members.shape[1] * 64 < labels:
        raise ValueError(f"rows of {members.shape[1]} words cannot name {labels} labels")
    text = np.empty(max(TEXT_BYTES, text_capacity(run_labels.size)), np.uint8)
    ends = np.empty(TEXT_MASKS, np.int64)
    areas = np.empty(len(members), np.int64)
    counts: list[bytes] = []
    while len(counts) < len(members):
        first = len(counts)
        done = write_sets(members, first, labels, run_labels, run_starts, label_map.size, text, ends, areas)
        counts += split_text(text, ends[: done - first])
    return MaskSet(tuple(counts), areas, np.asarray(score, np.float32))
