"""The loops behind the contour cues: one pass over the picture per group of cues, straight into their planes.

Planes are float32[h, w]. For differences the picture is mirrored at its border without repeating the edge pixel; samples
beside a pixel see the edge pixel repeated.
"""

import numba
import numpy as np

BINS = 6  # of each local histogram


@numba.njit(inline="always")
def _difference(light, a, b, out, y, x, above, below, left, right):
    """One pixel of `differences`; `out`: its planes."""
    light_gradient, colour_gradient, strength, tensor = out
    half, four = np.float32(0.5), np.float32(4)
    lx, ly = half * (light[y, right] - light[y, left]), half * (light[below, x] - light[above, x])
    ax, ay = half * (a[y, right] - a[y, left]), half * (a[below, x] - a[above, x])
    bx, by = half * (b[y, right] - b[y, left]), half * (b[below, x] - b[above, x])
    lights = lx * lx + ly * ly
    colours = ax * ax + bx * bx + ay * ay + by * by
    light_gradient[y, x] = np.sqrt(lights)
    colour_gradient[y, x] = np.sqrt(colours)
    strength[y, x] = np.sqrt(lights + four * colours)
    tensor[0, y, x] = lx * lx + four * (ax * ax + bx * bx)
    tensor[1, y, x] = ly * ly + four * (ay * ay + by * by)
    tensor[2, y, x] = lx * ly + four * (ax * ay + bx * by)


@numba.njit(cache=True, nogil=True)
def differences(light, a, b, light_gradient, colour_gradient, strength, tensor):
    """Gradients of a smoothed Lab picture.

    Args:
        light, a, b: its planes.
        light_gradient, colour_gradient, strength: planes; receive the gradients' magnitudes and both together.
        tensor: float32[3, h, w]; receives xx, yy and xy of the structure tensor, chroma counting four times: Lab
            differences in a and b are small numbers.
    """
    height, width = light.shape
    out = light_gradient, colour_gradient, strength, tensor
    for y in range(height):
        above, below = y - 1, y + 1
        if y == 0 or y == height - 1:
            above = below = 0  # mirrored: the two are one row
        _difference(light, a, b, out, y, 0, above, below, 0, 0)
        _difference(light, a, b, out, y, width - 1, above, below, 0, 0)
        for x in range(1, width - 1):  # without a condition: LLVM makes vector code of it
            _difference(light, a, b, out, y, x, above, below, x - 1, x + 1)


@numba.njit(cache=True, nogil=True)
def tensor_axes(tensor, major, minor):
    """Square roots of the eigenvalues of a smoothed structure tensor float32[3, h, w], into two planes."""
    half, nothing = np.float32(0.5), np.float32(0)
    for y in range(major.shape[0]):
        for x in range(major.shape[1]):
            xx, yy, xy = tensor[0, y, x], tensor[1, y, x], tensor[2, y, x]
            middle, apart = half * (xx + yy), half * (xx - yy)
            spread = np.sqrt(apart * apart + xy * xy)
            major[y, x] = np.sqrt(middle + spread)
            minor[y, x] = np.sqrt(max(middle - spread, nothing))


@numba.njit(cache=True, nogil=True)
def ridges(light, out):
    """How much more a smoothed plane curves one way than both ways, from differences of differences."""
    height, width = light.shape
    half, quarter = np.float32(0.5), np.float32(0.25)
    out[:] = 0
    for y in range(height):
        for x in range(width):
            here = light[y, x]
            # A difference at the border is none, so the outermost differences of differences see it as zero.
            xx = yy = xy = np.float32(0)
            if 0 < x < width - 1:
                right = light[y, x + 2] - here if x + 2 < width else np.float32(0)
                left = here - light[y, x - 2] if x >= 2 else np.float32(0)
                xx = quarter * (right - left)
            if 0 < y < height - 1:
                below = light[y + 2, x] - here if y + 2 < height else np.float32(0)
                above = here - light[y - 2, x] if y >= 2 else np.float32(0)
                yy = quarter * (below - above)
                if 0 < x < width - 1:
                    xy = quarter * (
                        (light[y + 1, x + 1] - light[y + 1, x - 1]) - (light[y - 1, x + 1] - light[y - 1, x - 1])
                    )
            apart = half * (xx - yy)
            out[y, x] = np.sqrt(apart * apart + xy * xy) - half * np.abs(half * (xx + yy))


@numba.njit(cache=True, nogil=True)
def half_angles(cosine, sine, normal_x, normal_y):
    """Unit vectors at half the angle of (cosine, sine), of any length; of none at all, along x."""
    half, one, nothing = np.float32(0.5), np.float32(1), np.float32(0)
    for y in range(cosine.shape[0]):
        for x in range(cosine.shape[1]):
            c, s = cosine[y, x], sine[y, x]
            length = np.sqrt(c * c + s * s)
            if length == nothing:
                normal_x[y, x], normal_y[y, x] = one, nothing
            elif c >= nothing:
                u = np.sqrt(half * (one + c / length))
                normal_x[y, x], normal_y[y, x] = u, half * s / (length * u)
            else:
                v = np.sqrt(half * (one - c / length))
                normal_x[y, x], normal_y[y, x] = half * np.abs(s) / (length * v), v if s >= nothing else -v


@numba.njit(cache=True, nogil=True)
def doubled_angles(tensor, cosine, sine):
    """Cosine and sine of twice the angle of a structure tensor's main axis; (1, 0) where it has none."""
    two, one, nothing = np.float32(2), np.float32(1), np.float32(0)
    for y in range(cosine.shape[0]):
        for x in range(cosine.shape[1]):
            c, s = tensor[0, y, x] - tensor[1, y, x], two * tensor[2, y, x]
            length = np.sqrt(c * c + s * s)
            cosine[y, x] = c / length if length > nothing else one
            sine[y, x] = s / length if length > nothing else nothing


@numba.njit(inline="always")
def _corners(x, y, dx, dy, height, width):
    """The four pixels around (x + dx, y + dy), clamped to the picture, and the fractions between them."""
    across, down = np.float32(x) + dx, np.float32(y) + dy
    column, row = np.floor(across), np.floor(down)
    left, top, u, v = np.int64(column), np.int64(row), across - column, down - row
    right, bottom = min(max(left + 1, 0), width - 1), min(max(top + 1, 0), height - 1)
    return min(max(left, 0), width - 1), right, min(max(top, 0), height - 1), bottom, u, v


@numba.njit(inline="always")
def _at(plane, corners):
    left, right, top, bottom, u, v = corners
    upper = plane[top, left] + u * (plane[top, right] - plane[top, left])
    lower = plane[bottom, left] + u * (plane[bottom, right] - plane[bottom, left])
    return upper + v * (lower - upper)


@numba.njit(cache=True, nogil=True)
def side_differences(picture, normal_x, normal_y, distance, out_light, out_colour, out_texture):
    """Differences between the two points `distance` pixels beside each pixel, across the edge.

    Args:
        picture: float32[h, w, 4], L, a, b and texture side by side: one look-up for all.
        normal_x, normal_y: unit vectors across the edge; out_light, out_colour, out_texture: planes that get the result.
    """
    height, width = normal_x.shape
    apart = np.empty(4, np.float32)
    for y in range(height):
        for x in range(width):
            dx, dy = np.float32(distance) * normal_x[y, x], np.float32(distance) * normal_y[y, x]
            left, right, top, bottom, u, v = _corners(x, y, dx, dy, height, width)
            other_left, other_right, other_top, other_bottom, s, t = _corners(x, y, -dx, -dy, height, width)
            for k in range(4):
                one, two = picture[top, left, k], picture[top, right, k]
                three, four = picture[bottom, left, k], picture[bottom, right, k]
                upper, lower = one + u * (two - one), three + u * (four - three)
                one, two = picture[other_top, other_left, k], picture[other_top, other_right, k]
                three, four = picture[other_bottom, other_left, k], picture[other_bottom, other_right, k]
                other_upper, other_lower = one + s * (two - one), three + s * (four - three)
                apart[k] = (upper + v * (lower - upper)) - (other_upper + t * (other_lower - other_upper))
            out_light[y, x] = np.abs(apart[0])
            out_colour[y, x] = np.sqrt(apart[1] * apart[1] + apart[2] * apart[2])
            out_texture[y, x] = np.abs(apart[3])


@numba.njit(cache=True, nogil=True)
def peaks(strength, normal_x, normal_y, distance, out):
    """By how much a pixel is stronger than the two points beside it, across the edge."""
    height, width = strength.shape
    for y in range(height):
        for x in range(width):
            dx, dy = np.float32(distance) * normal_x[y, x], np.float32(distance) * normal_y[y, x]
            one, two = _corners(x, y, dx, dy, height, width), _corners(x, y, -dx, -dy, height, width)
            out[y, x] = strength[y, x] - max(_at(strength, one), _at(strength, two))


@numba.njit(cache=True, nogil=True)
def continuations(strength, normal_x, normal_y, distance, out):
    """The weaker of the two points `distance` pixels along the edge."""
    height, width = strength.shape
    for y in range(height):
        for x in range(width):
            dx, dy = np.float32(distance) * -normal_y[y, x], np.float32(distance) * normal_x[y, x]
            one, two = _corners(x, y, dx, dy, height, width), _corners(x, y, -dx, -dy, height, width)
            out[y, x] = min(_at(strength, one), _at(strength, two))


@numba.njit(cache=True, nogil=True)
def soft_histograms(picture, ranges):
    """Triangular membership of each pixel in evenly spaced bins, channel after channel.

    Args:
        picture: float32[h, w, c]; ranges: float32[c, 2], centres of the first and the last bin.

    Returns:
        float32[h, w, c * BINS]; the bins of a channel sum to 1.
    """
    height, width, channels = picture.shape
    out = np.zeros((height, width, channels * BINS), np.float32)
    last = np.float32(BINS - 1)
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                place = (picture[y, x, c] - ranges[c, 0]) * (last / (ranges[c, 1] - ranges[c, 0]))
                place = min(max(place, np.float32(0)), last)
                low = min(int(place), BINS - 2)
                share = place - np.float32(low)
                out[y, x, c * BINS + low] = np.float32(1) - share
                out[y, x, c * BINS + low + 1] = share
    return out


@numba.njit(cache=True, nogil=True)
def histogram_differences(bins, normal_x, normal_y, distance):
    """Sums over each channel's bins of the differences between the two points beside a pixel; float32[channels, h, w]."""
    height, width, columns = bins.shape
    out = np.empty((columns // BINS, height, width), np.float32)
    apart = np.empty(columns, np.float32)
    for y in range(height):
        for x in range(width):
            dx, dy = np.float32(distance) * normal_x[y, x], np.float32(distance) * normal_y[y, x]
            left, right, top, bottom, u, v = _corners(x, y, dx, dy, height, width)
            other_left, other_right, other_top, other_bottom, s, t = _corners(x, y, -dx, -dy, height, width)
            one, two, three, four = bins[top, left], bins[top, right], bins[bottom, left], bins[bottom, right]
            five, six = bins[other_top, other_left], bins[other_top, other_right]
            seven, eight = bins[other_bottom, other_left], bins[other_bottom, other_right]
            for k in range(columns):
                upper, lower = one[k] + u * (two[k] - one[k]), three[k] + u * (four[k] - three[k])
                other_upper, other_lower = five[k] + s * (six[k] - five[k]), seven[k] + s * (eight[k] - seven[k])
                apart[k] = np.abs(upper + v * (lower - upper) - other_upper - t * (other_lower - other_upper))
            for c in range(len(out)):
                total = np.float32(0)
                for k in range(c * BINS, (c + 1) * BINS):
                    total += apart[k]
                out[c, y, x] = total
    return out
