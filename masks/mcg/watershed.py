"""Contour strength to regions: the watershed cut of the picture's 4-neighbour graph, and who touches whom.

A drop of water on a pixel runs across the edge of least strength, and on, until it cannot fall further; pixels whose
drops end in the same basin are one region. Every edge weighs the mean of its two pixels' strengths, and each is looked at
a few times only: the time is linear in the pixels, plateaus included.

Source: Cousty, Bertrand, Najman, Couprie, "Watershed cuts: minimum spanning forests and the drop of water principle",
PAMI 2009, algorithm 1. Where paths of steepest descent tie, the first one found counts, as in the paper.
"""

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def _lowest_edges(contour):
    """Sum of the strengths of each pixel and its weakest 4-neighbour; float64[h, w], infinite for a lone pixel."""
    height, width = contour.shape
    out = np.full((height, width), np.inf)
    for y in range(height):
        for x in range(width):
            here = np.float64(contour[y, x])
            if x + 1 < width:
                edge = here + contour[y, x + 1]
                out[y, x], out[y, x + 1] = min(out[y, x], edge), min(out[y, x + 1], edge)
            if y + 1 < height:
                edge = here + contour[y + 1, x]
                out[y, x], out[y + 1, x] = min(out[y, x], edge), min(out[y + 1, x], edge)
    return out


@numba.njit(cache=True, nogil=True)
def watershed_labels(contour):
    """The region of each pixel.

    Args:
        contour: float32[h, w], finite.

    Returns:
        int32[h, w], dense labels in raster order of the regions' first pixels; every region is 4-connected.
    """
    height, width = contour.shape
    strength = contour.ravel()
    lowest = _lowest_edges(contour).ravel()
    labels = np.full(height * width, -1, np.int32)
    stream = np.full(height * width, -1, np.int32)  # the start of the stream that a pixel was last part of
    members = np.empty(height * width, np.int32)  # of the current stream
    waiting = np.empty(height * width, np.int32)  # of them, those whose neighbours are still to be looked at
    regions = 0
    for start in range(height * width):
        if labels[start] >= 0:
            continue
        members[0], waiting[0] = start, start
        count, left = 1, 1
        stream[start] = start
        found = -1
        while left > 0 and found < 0:
            left -= 1
            here = waiting[left]
            y, x = here // width, here % width
            for side in range(4):
                if side == 0:
                    other, inside = here - width, y > 0
                elif side == 1:
                    other, inside = here - 1, x > 0
                elif side == 2:
                    other, inside = here + 1, x + 1 < width
                else:
                    other, inside = here + width, y + 1 < height
                if not inside or stream[other] == start:
                    continue
                if np.float64(strength[here]) + strength[other] != lowest[here]:
                    continue  # not a way down
                if labels[other] >= 0:  # the stream runs into a known region
                    found = labels[other]
                    break
                stream[other] = start
                members[count] = other
                count += 1
                waiting[left] = other
                left += 1
                if lowest[other] < lowest[here]:  # a way further down: what is higher need not be looked at
                    waiting[0] = other
                    left = 1
                    break
        if found < 0:
            found = regions
            regions += 1
        for i in range(count):
            labels[members[i]] = found
    return labels.reshape(height, width)


@numba.njit(cache=True, nogil=True)
def _sorted_by(keys, order, count):
    """`order` sorted by its keys, all below `count`; equal keys stay in order."""
    start = np.zeros(count + 1, np.int64)
    for key in keys:
        start[key + 1] += 1
    for key in range(count):
        start[key + 1] += start[key]
    out = np.empty_like(order)
    for i in order:
        out[start[keys[i]]] = i
        start[keys[i]] += 1
    return out


@numba.njit(cache=True, nogil=True)
def merge_edges(first, second, length, total):
    """Puts edges between the same two regions together.

    Args:
        first, second: int32[k], regions; edges with both ends in one are dropped.
        length: int32[k]; total: float64[k], strength summed over the length.

    Returns:
        edges int32[m, 2], first < second, sorted; length int32[m]; total float64[m].
    """
    low, high = np.minimum(first, second), np.maximum(first, second)
    count = high.max() + 1 if len(high) else 0
    order = _sorted_by(low, _sorted_by(high, np.arange(len(high)), count), count)
    edges = np.empty((len(first), 2), np.int32)
    lengths = np.zeros(len(first), np.int32)
    totals = np.zeros(len(first), np.float64)
    m = -1
    for k in order:
        if low[k] == high[k]:
            continue
        if m < 0 or edges[m, 0] != low[k] or edges[m, 1] != high[k]:
            m += 1
            edges[m, 0], edges[m, 1] = low[k], high[k]
        lengths[m] += length[k]
        totals[m] += total[k]
    m += 1
    return edges[:m].copy(), lengths[:m].copy(), totals[:m].copy()


@numba.njit(cache=True, nogil=True)
def touching_regions(labels, contour):
    """Edges of the region adjacency graph of a label map.

    Args:
        labels: int32[h, w], 0 .. n-1.
        contour: float32[h, w].

    Returns:
        edges int32[m, 2] sorted, length int32[m] in pixel pairs, total float64[m]: sum over the pairs of the mean of the two
        pixels' strengths.
    """
    height, width = labels.shape
    first = np.empty(2 * labels.size, np.int32)
    second = np.empty(2 * labels.size, np.int32)
    length = np.empty(2 * labels.size, np.int32)
    total = np.empty(2 * labels.size, np.float64)
    count = 0
    for step in range(2):  # the right neighbours, then the lower ones
        for y in range(height - step):
            for x in range(width - 1 + step):
                a, b = labels[y, x], labels[y + step, x + 1 - step]
                if a == b:
                    continue
                strength = 0.5 * (contour[y, x] + contour[y + step, x + 1 - step])
                if count > 0 and first[count - 1] == a and second[count - 1] == b:
                    length[count - 1] += 1
                    total[count - 1] += strength
                else:
                    first[count], second[count], length[count], total[count] = a, b, 1, strength
                    count += 1
    return merge_edges(first[:count], second[:count], length[:count], total[:count])


@numba.njit(cache=True, nogil=True)
def relabel(labels, new_of):
    """The label map with each label's new name, those renamed once more to be dense in raster order of first pixels.

    Args:
        labels: int32[h, w]; new_of: int64[k], any names 0 .. r-1 of the old labels.

    Returns:
        int32[h, w], and the dense name of each of the r names, -1 where none of its pixels is there; int32[r].
    """
    dense = np.full(new_of.max() + 1, -1, np.int32)
    out = np.empty_like(labels)
    count = 0
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            name = new_of[labels[y, x]]
            if dense[name] < 0:
                dense[name] = count
                count += 1
            out[y, x] = dense[name]
    return out, dense
