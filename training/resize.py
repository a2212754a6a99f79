"""Crops of a picture resized with the cubic kernel of the paper's framework, from bytes to bytes.

Keys' kernel with a = -1/2, half-pixel centres, taps outside the crop left out and the rest scaled to sum to one: what
`tf.image.resize(crop, size, "bicubic", antialias)` computes, rounded to bytes. (OpenCV's and torch's kernel has a =
-3/4.) The two agree to one level of 255; where they differ, TensorFlow looks its weights up in a table of 1024 steps.

One output row at a time, down the columns first: that pass runs over bytes that lie side by side, which compilers turn
into vector instructions, and its result stays in the nearest cache. No fused multiply-add, so that every machine gives
the same bytes. Python's lock is released.
"""

import numba
import numpy as np

_TAPS = 4  # of a cubic kernel that does not average


@numba.njit(nogil=True, cache=True)
def _cubic(x):
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    if x < 2:
        return ((-0.5 * x + 2.5) * x - 4) * x + 2
    return 0.0


@numba.njit(nogil=True, cache=True)
def taps(length, size, antialias):
    """Where along a side of `length` pixels the `size` results read, and with which weights.

    Returns:
        first int64[size], and weights float32[size, K]: result i is the sum of weights[i, k] x pixel first[i] + k. All
        pixels read lie inside.
    """
    scale = length / size
    stretch = max(scale, 1.0) if antialias else 1.0
    count = min(int(np.ceil(2 * 2 * stretch)) + 1 if antialias and stretch > 1 else _TAPS, length)
    first = np.empty(size, np.int64)
    weights = np.zeros((size, count), np.float32)
    for i in range(size):
        centre = (i + 0.5) * scale - 0.5
        begin = min(max(int(np.floor(centre - 2 * stretch)) + 1, 0), length - count)
        first[i] = begin
        total = 0.0
        for k in range(count):
            total += _cubic((begin + k - centre) / stretch)
        for k in range(count):
            weights[i, k] = _cubic((begin + k - centre) / stretch) / total
    return first, weights


@numba.njit(nogil=True, cache=True)
def _down(rows, weights, row):
    # Slices, not offsets: an index that might be negative would be looked at every time, and forbid vectors.
    if len(weights) == _TAPS:
        a, b, c, d = rows[0], rows[1], rows[2], rows[3]
        w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
        for x in range(a.size):
            row[x] = w0 * a[x] + w1 * b[x] + w2 * c[x] + w3 * d[x]
        return
    row[:] = 0
    for k in range(len(weights)):
        source, weight = rows[k], weights[k]
        for x in range(source.size):
            row[x] += weight * source[x]


@numba.njit(nogil=True, cache=True)
def _across(row, first, weights, flip, mixed):
    # Four lanes for three channels: the fourth is written over by the next pixel. So pixels are made in the order in
    # which they lie, and both rows have one number to spare.
    size, count = weights.shape
    for i in range(size):
        j = size - 1 - i if flip else i
        source, to = row[3 * first[j] : 3 * (first[j] + count) + 1], mixed[3 * i : 3 * i + 4]
        if count == _TAPS:
            w0, w1, w2, w3 = weights[j, 0], weights[j, 1], weights[j, 2], weights[j, 3]
            for c in range(4):
                to[c] = w0 * source[c] + w1 * source[c + 3] + w2 * source[c + 6] + w3 * source[c + 9]
        else:
            r, g, b = np.float32(0), np.float32(0), np.float32(0)
            for k in range(count):
                weight = weights[j, k]
                r += weight * source[3 * k]
                g += weight * source[3 * k + 1]
                b += weight * source[3 * k + 2]
            to[0], to[1], to[2] = r, g, b


@numba.njit(nogil=True, cache=True)
def resize_crop(image, box, antialias, out):
    """A crop, bicubically resized and flipped (paper, A.1).

    Args:
        image: uint8[height, width, 3], contiguous.
        box: int64[5]: top, left, height, width, flip; inside the image.
        antialias: whether shrinking averages over all pixels.
        out: uint8[size, size, 3], contiguous; filled in place, rounded.
    """
    top, left, height, width, flip = box[0], box[1], box[2], box[3], box[4] > 0
    size = out.shape[0]
    rows = image.reshape(image.shape[0], -1)
    result = out.reshape(size, -1)
    first_y, weights_y = taps(height, size, antialias)
    first_x, weights_x = taps(width, size, antialias)
    row, mixed = np.zeros(3 * width + 1, np.float32), np.empty(3 * size + 1, np.float32)
    for y in range(size):
        begin = top + first_y[y]
        _down(rows[begin : begin + weights_y.shape[1], 3 * left : 3 * (left + width)], weights_y[y], row)
        _across(row, first_x, weights_x, flip, mixed)
        line = result[y]
        for x in range(line.size):
            line[x] = np.uint8(min(max(mixed[x] + np.float32(0.5), np.float32(0)), np.float32(255)))
