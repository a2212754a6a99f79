"""From components straight to COCO run-length encoding, with no label image in between.

A segment is a union of components, so its runs are unions of theirs. The components' runs are read once per picture, in
column-major order; every scale then only merges neighbouring runs of one segment and writes them (`schemas.rle` gives
the format). Segments differ from their neighbours, so a merged run ends exactly where the next one begins.
"""

import numpy as np
from numba import njit

from maskmill.masks._fh.forest import UNNUMBERED

COLUMNS = 32  # columns turned at a time: a row's share is two cache lines
MOST_GROUPS = 7  # of 5 bits, in one number: differences of runs below 2**30 have 31 bits with their sign


def text_capacity(runs: int) -> int:
    """Returns the most bytes that the counts of a segment of so many runs can take."""
    return MOST_GROUPS * (2 * runs + 1)


@njit(nogil=True, cache=True)
def find_runs(component, turned, run_components, run_starts):
    """Lists the runs of equal component in column-major order.

    Args:
        component: (height, width) uint32.
        turned: (COLUMNS, height) uint32 scratch.
        run_components, run_starts: uint32, height * width + 1 elements; receive each run's component and its
            first pixel, counted down the columns.

    Returns:
        The number of runs.
    """
    height, width = component.shape
    runs = np.uintp(0)
    previous = UNNUMBERED
    for left in range(0, width, COLUMNS):
        columns = min(COLUMNS, width - left)
        for y in range(height):
            row = component[y]
            for j in range(columns):
                turned[j, y] = row[left + j]
        for j in range(columns):
            column = turned[j]
            start = (left + j) * height
            for y in range(height):
                current = column[y]
                run_components[runs] = current
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
def _merge_runs(run_components, run_starts, runs, segment_of_component, merged_segments, merged_starts):
    """Drops the runs that only continue the segment before. Every slot is written, only new segments advance."""
    merged = np.uintp(0)
    previous = UNNUMBERED
    for i in range(runs):
        segment = segment_of_component[run_components[i]]
        merged_segments[merged] = segment
        merged_starts[merged] = run_starts[i]
        merged += np.uintp(segment != previous)
        previous = segment
    return np.int64(merged)


@njit(nogil=True, cache=True)
def group_runs(
    run_components, run_starts, segment_of_component, segments, pixels, merged_segments, merged_starts, order, bounds
):
    """Lists one scale's runs segment by segment, in column-major order within each.

    Args:
        run_components, run_starts: from `find_runs`.
        segment_of_component, segments: from `masks._fh.scales`.
        pixels: of the picture.
        merged_segments: uint32 scratch, runs + 1 elements.
        merged_starts: uint32, runs + 1 elements; receives the first pixel of each of the scale's runs, and `pixels`.
        order: uint32, runs + 1 elements; receives the runs of segment s as order[bounds[s]:bounds[s + 1]].
        bounds: uint32, segments + 1 elements; see `order`.

    Returns:
        The number of runs of the segment that has most.
    """
    runs = run_components.size
    merged = _merge_runs(run_components, run_starts, runs, segment_of_component, merged_segments, merged_starts)
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
