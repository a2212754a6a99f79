"""Gaussian smoothing, bit for bit scikit-image's, into planes that the rest of the kernel reads.

scikit-image turns bytes into floats by one multiplication with 1/255 and then calls SciPy's separable correlation: rows
direction (axis 0) first, columns second, half-sample reflection at the borders, the kernel cut at four sigmas. The
segments hang on the last bit of every value, so the order of the additions is part of the contract:

    sum = centre * weight[0];   then for tap = radius, ..., 2, 1:   sum += (before[tap] + after[tap]) * weight[tap]

No multiply-add is ever contracted into one rounding, hence no `fastmath` anywhere in this package.
"""

import functools

import numpy as np
from numba import njit

from maskmill.masks._fh.workspace import Workspace

TRUNCATE = 4.0  # sigmas; SciPy's default cut
SMALLEST_SIGMA = 1e-15  # SciPy does not filter at or below it


@functools.lru_cache(maxsize=16)
def half_kernel(sigma: float) -> np.ndarray:
    """Returns the float64 Gaussian weights of taps 0 .. radius, as SciPy computes them; [1.0] for no smoothing."""
    if sigma <= SMALLEST_SIGMA:
        return np.ones(1)
    radius = int(TRUNCATE * sigma + 0.5)
    taps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / (sigma * sigma) * taps**2)
    weights = weights / weights.sum()
    return weights[radius:].copy()


def smooth(image: np.ndarray, sigma: float, workspace: Workspace) -> np.ndarray:
    """Smooths an image into planes.

    Args:
        image: (height, width, channels), uint8, float32 or float64, 1 to 3 channels.
        sigma: standard deviation of the Gaussian, in pixels, >= 0.
        workspace: where the planes and the scratch rows are taken from.

    Returns:
        (3, height, width) float64 in the workspace. Missing channels are planes of zeros: they add exactly 0.0 to every
        squared distance, so that grey pictures need no code of their own.
    """
    height, width, channels = image.shape
    weights = half_kernel(float(sigma))
    radius = weights.size - 1
    planes = workspace.take("planes", 3 * height * width, np.float64).reshape(3, height, width)
    rows = workspace.take("smoothing_rows", (min(2 * radius + 1, height) + 1) * width * channels, np.float64)
    padded = workspace.take("smoothing_padded", width + 2 * radius, np.float64)
    unit = 1.0 / 255.0 if image.dtype == np.uint8 else 1.0
    _smooth_planes(
        image.reshape(height, width * channels),
        channels,
        unit,
        weights,
        rows.reshape(-1, width * channels),
        padded,
        planes,
    )
    planes[channels:] = 0.0
    return planes


@njit(nogil=True, cache=True)
def _reflect(index, length):
    """Maps any index to 0 .. length-1 by half-sample reflection: ... 1 0 | 0 1 ... n-1 | n-1 n-2 ..."""
    index = index % (2 * length)
    return index if index < length else 2 * length - 1 - index


@njit(nogil=True, cache=True)
def _convert_row(values, unit, out):
    for i in range(out.size):
        out[i] = values[i] * unit


@njit(nogil=True, cache=True)
def _start_sum(centre, weight, out):
    for i in range(out.size):
        out[i] = centre[i] * weight


@njit(nogil=True, cache=True)
def _add_taps(before, after, weight, out):
    for i in range(out.size):
        out[i] += (before[i] + after[i]) * weight


@njit(nogil=True, cache=True)
def _sum_seven(x3, x2, x1, x0, y1, y2, y3, weights, out):
    """The whole sum of radius 3, which is sigma 0.8's: one pass instead of four."""
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    for i in range(out.size):
        out[i] = ((x0[i] * w0 + (x3[i] + y3[i]) * w3) + (x2[i] + y2[i]) * w2) + (x1[i] + y1[i]) * w1


@njit(nogil=True, cache=True)
def _take_channel(interleaved, channel, channels, out):
    for i in range(out.size):
        out[i] = interleaved[i * channels + channel]


@njit(nogil=True, cache=True)
def _sum_rows(rows, y, height, ring, weights, out):
    """Sums the taps above and below row y, which are rows of the ring."""
    radius = weights.size - 1
    if radius == 3:
        x3, x2, x1 = _reflect(y - 3, height), _reflect(y - 2, height), _reflect(y - 1, height)
        y1, y2, y3 = _reflect(y + 1, height), _reflect(y + 2, height), _reflect(y + 3, height)
        _sum_seven(
            rows[x3 % ring], rows[x2 % ring], rows[x1 % ring], rows[y % ring],
            rows[y1 % ring], rows[y2 % ring], rows[y3 % ring], weights, out,
        )  # fmt: skip
        return
    _start_sum(rows[y % ring], weights[0], out)
    for tap in range(radius, 0, -1):
        _add_taps(rows[_reflect(y - tap, height) % ring], rows[_reflect(y + tap, height) % ring], weights[tap], out)


@njit(nogil=True, cache=True)
def _sum_columns(padded, weights, out):
    """Sums the taps left and right of each pixel of a row that is padded by the radius on both sides."""
    radius = weights.size - 1
    n = out.size
    if radius == 3:
        _sum_seven(
            padded[0:n], padded[1 : n + 1], padded[2 : n + 2], padded[3 : n + 3],
            padded[4 : n + 4], padded[5 : n + 5], padded[6 : n + 6], weights, out,
        )  # fmt: skip
        return
    _start_sum(padded[radius : radius + n], weights[0], out)
    for tap in range(radius, 0, -1):
        _add_taps(padded[radius - tap : radius - tap + n], padded[radius + tap : radius + tap + n], weights[tap], out)


@njit(nogil=True, cache=True)
def _smooth_planes(image, channels, unit, weights, rows, padded, planes):
    """Fills planes[0:channels].

    Invariant: before output row y is summed, the ring holds the converted input rows that y's taps touch: reflection
    never leaves [max(0, y - radius), min(height - 1, y + radius)], which is at most `ring` consecutive rows.
    """
    height = image.shape[0]
    width = image.shape[1] // channels
    radius = weights.size - 1
    ring = rows.shape[0] - 1
    mixed = rows[ring]
    converted = 0
    for y in range(height):
        while converted <= min(height - 1, y + radius):
            _convert_row(image[converted], unit, rows[converted % ring])
            converted += 1
        _sum_rows(rows, y, height, ring, weights, mixed)
        for channel in range(channels):
            _take_channel(mixed, channel, channels, padded[radius : radius + width])
            for tap in range(1, radius + 1):
                padded[radius - tap] = padded[radius + _reflect(-tap, width)]
                padded[radius + width - 1 + tap] = padded[radius + _reflect(width - 1 + tap, width)]
            _sum_columns(padded, weights, planes[channel, y])
