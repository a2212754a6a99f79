"""Edge weights of a window of pixels, and the removal of edges that cannot matter.

The four pixels of a 2 x 2 block form a complete graph:

    a --- b         right: a-b      down:   a-c       (the block's own four edges)
    | \\ / |         falling: a-d    rising: c-b
    | / \\ |         the bottom c-d and the right side b-d are owned by the blocks below and to the right
    c --- d

An edge that is strictly the heaviest of some cycle is outside the minimum spanning tree, and the tree is all that
`masks._fh.tiles` and `masks._fh.components` need (the proof is there). So an edge goes when a detour inside a block has
only lighter edges. The first sweep looks at each block alone and keeps, per edge, the bottleneck of its best way round
(its "reduced" weight, never above its own). The second sweep looks again with reduced weights, that is at cycles of up
to 3 x 3 blocks. 4 edges per pixel become about 1.2.

The sweeps compare weights rounded to float32: rounding is monotone, so a strict "greater" there is a strict "greater"
of the exact weights, and a near tie merely keeps an edge too many.

A window has a halo of one pixel on each side; row 0 and column 0 of its lattice are the halo. What lies outside the
picture is cut off by infinite weights. All lattice rows live in two flat arrays at constant distances, so that LLVM can
prove the loops free of aliasing and vectorise them.
"""

import numpy as np
from numba import njit

TILE = 126  # the widest window, without its halo
STRIP = 16  # the highest window, without its halo
LANES = 128  # elements that every row loop runs over, whatever the window's width: a constant count vectorises whole
FRONT = 16  # elements before the first row, so that lane 0 may look one to the left
PITCH = LANES + 8  # from one row of values to the next; whole cache lines, and room to look one to the right
RIGHT, DOWN, FALLING, RISING = 0, 1, 2, 3
PIXELS = 4 * PITCH  # in a lattice row of `exact`: four rows of weights, then three of pixel values
EXACT_ROW = 7 * PITCH
REDUCED = 4 * PITCH  # in a lattice row of `rounded`: four rows of weights, then four of reduced weights
ROUNDED_ROW = 8 * PITCH
EXACT_SIZE = FRONT + (STRIP + 3) * EXACT_ROW
ROUNDED_SIZE = FRONT + (STRIP + 3) * ROUNDED_ROW
INFINITY = np.float32(np.inf)


@njit(nogil=True, cache=True, inline="always")
def _less(x, y):
    return x if x < y else y


@njit(nogil=True, cache=True, inline="always")
def _more(x, y):
    return x if x > y else y


@njit(nogil=True, cache=True, inline="always")
def _detour(ux, vy, xy, uy, vx):
    """Bottleneck of the best way from u to v round the edge u-v, in the complete graph on u, v, x, y."""
    past_one = _less(_more(ux, vx), _more(uy, vy))
    past_both = _more(xy, _less(_more(ux, vy), _more(uy, vx)))
    return _less(past_one, past_both)


@njit(nogil=True, cache=True)
def _load(planes, top, left, rows, columns, exact):
    """Copies a window of pixels; pixels outside the picture repeat the nearest one inside and are cut off later."""
    height, width = planes.shape[1], planes.shape[2]
    first = 1 if left < 0 else 0
    last = columns - 1 if left + columns > width else columns
    for i in range(rows):
        y = min(max(top + i, 0), height - 1)
        start = FRONT + i * EXACT_ROW + PIXELS
        # The three planes side by side: a short stretch of each is waited for, and these waits overlap.
        source_0 = planes[0, y, left + first : left + last]
        source_1 = planes[1, y, left + first : left + last]
        source_2 = planes[2, y, left + first : left + last]
        row_0 = exact[start + first : start + last]
        row_1 = exact[start + first + PITCH : start + last + PITCH]
        row_2 = exact[start + first + 2 * PITCH : start + last + 2 * PITCH]
        for j in range(source_0.size):
            row_0[j] = source_0[j]
            row_1[j] = source_1[j]
            row_2[j] = source_2[j]
        for channel in range(3):
            edge = start + channel * PITCH
            if first > 0:
                exact[edge] = exact[edge + 1]
            if last < columns:
                exact[edge + last] = exact[edge + last - 1]


@njit(nogil=True, cache=True)
def _weigh(exact, rounded, rows):
    """Distances in colour space; the channels' squares are added from first to last, as scikit-image adds them."""
    for i in range(rows):
        a = FRONT + i * EXACT_ROW
        out = FRONT + i * ROUNDED_ROW
        for j in range(LANES):
            p = a + PIXELS + j
            q = p + EXACT_ROW
            a0, b0, c0, d0 = exact[p], exact[p + 1], exact[q], exact[q + 1]
            a1, b1, c1, d1 = exact[p + PITCH], exact[p + PITCH + 1], exact[q + PITCH], exact[q + PITCH + 1]
            a2, b2 = exact[p + 2 * PITCH], exact[p + 2 * PITCH + 1]
            c2, d2 = exact[q + 2 * PITCH], exact[q + 2 * PITCH + 1]
            right = np.sqrt((b0 - a0) * (b0 - a0) + (b1 - a1) * (b1 - a1) + (b2 - a2) * (b2 - a2))
            down = np.sqrt((c0 - a0) * (c0 - a0) + (c1 - a1) * (c1 - a1) + (c2 - a2) * (c2 - a2))
            falling = np.sqrt((d0 - a0) * (d0 - a0) + (d1 - a1) * (d1 - a1) + (d2 - a2) * (d2 - a2))
            rising = np.sqrt((c0 - b0) * (c0 - b0) + (c1 - b1) * (c1 - b1) + (c2 - b2) * (c2 - b2))
            exact[a + j] = right
            exact[a + PITCH + j] = down
            exact[a + 2 * PITCH + j] = falling
            exact[a + 3 * PITCH + j] = rising
            rounded[out + j] = np.float32(right)
            rounded[out + PITCH + j] = np.float32(down)
            rounded[out + 2 * PITCH + j] = np.float32(falling)
            rounded[out + 3 * PITCH + j] = np.float32(rising)


@njit(nogil=True, cache=True)
def _cut_row(rounded, i, direction):
    start = FRONT + i * ROUNDED_ROW + direction * PITCH
    for j in range(LANES):
        rounded[start + j] = INFINITY


@njit(nogil=True, cache=True)
def _cut_column(rounded, rows, j, direction):
    for i in range(rows):
        rounded[FRONT + i * ROUNDED_ROW + direction * PITCH + j] = INFINITY


@njit(nogil=True, cache=True)
def _cut_border(rounded, rows, columns, above, below, before, after):
    """Makes the edges to pixels outside the picture infinite. The flags say on which sides the picture ends."""
    if above:
        for direction in range(4):
            _cut_row(rounded, 0, direction)
    if below:
        _cut_row(rounded, rows - 1, RIGHT)
        for direction in range(DOWN, RISING + 1):
            _cut_row(rounded, rows - 2, direction)
    if before:
        for direction in range(4):
            _cut_column(rounded, rows, 0, direction)
    if after:
        _cut_column(rounded, rows, columns - 1, DOWN)
        _cut_column(rounded, rows, columns - 2, RIGHT)
        _cut_column(rounded, rows, columns - 2, FALLING)
        _cut_column(rounded, rows, columns - 2, RISING)


@njit(nogil=True, cache=True)
def _first_sweep(w, rows, columns):
    """Writes the reduced weights; those of the halo's rows and columns stay the edges' own."""
    for i in (0, rows - 1):
        a = FRONT + i * ROUNDED_ROW
        for k in range(REDUCED):
            w[a + REDUCED + k] = w[a + k]
    for i in range(1, rows - 1):
        a = FRONT + i * ROUNDED_ROW
        for j in range(LANES):
            q = a + j
            u = q - ROUNDED_ROW
            c = q + ROUNDED_ROW
            ab, ac, ad, bc, bd, cd = w[q], w[q + PITCH], w[q + 2 * PITCH], w[q + 3 * PITCH], w[q + PITCH + 1], w[c]
            below = _detour(ac, bd, cd, ad, bc)
            above = _detour(w[u + PITCH], w[u + PITCH + 1], w[u], w[u + 3 * PITCH], w[u + 2 * PITCH])
            after = _detour(ab, cd, bd, ad, bc)
            before = _detour(w[q - 1], w[c - 1], w[q + PITCH - 1], w[q + 3 * PITCH - 1], w[q + 2 * PITCH - 1])
            w[q + REDUCED] = _less(ab, _less(below, above))
            w[q + PITCH + REDUCED] = _less(ac, _less(after, before))
            w[q + 2 * PITCH + REDUCED] = _less(ad, _detour(ab, cd, bc, ac, bd))
            w[q + 3 * PITCH + REDUCED] = _less(bc, _detour(ab, cd, ad, bd, ac))
        for j in (0, columns - 1):
            w[a + PITCH + j + REDUCED] = w[a + PITCH + j]


@njit(nogil=True, cache=True, inline="always")
def _keep(weight, reduced, detour):
    """The weight, or infinity where a way round is strictly lighter."""
    return weight if weight <= _less(reduced, detour) else INFINITY


@njit(nogil=True, cache=True)
def _second_sweep(w, rows):
    """Makes the weights of dropped edges infinite. Detours read reduced weights, where nothing is ever dropped."""
    for i in range(1, rows - 1):
        a = FRONT + i * ROUNDED_ROW
        for j in range(LANES):
            q = a + j
            r = q + REDUCED
            u = r - ROUNDED_ROW
            c = r + ROUNDED_ROW
            ab, ac, ad, bc, bd, cd = w[r], w[r + PITCH], w[r + 2 * PITCH], w[r + 3 * PITCH], w[r + PITCH + 1], w[c]
            below = _detour(ac, bd, cd, ad, bc)
            above = _detour(w[u + PITCH], w[u + PITCH + 1], w[u], w[u + 3 * PITCH], w[u + 2 * PITCH])
            after = _detour(ab, cd, bd, ad, bc)
            before = _detour(w[r - 1], w[c - 1], w[r + PITCH - 1], w[r + 3 * PITCH - 1], w[r + 2 * PITCH - 1])
            w[q] = _keep(w[q], ab, _less(below, above))
            w[q + PITCH] = _keep(w[q + PITCH], ac, _less(after, before))
            w[q + 2 * PITCH] = _keep(w[q + 2 * PITCH], ad, _detour(ab, cd, bc, ac, bd))
            w[q + 3 * PITCH] = _keep(w[q + 3 * PITCH], bc, _detour(ab, cd, ad, bd, ac))


@njit(nogil=True, cache=True)
def thin_window(planes, top, left, rows, columns, exact, rounded):
    """Weighs the edges of a window and drops those that are heaviest on a short cycle.

    The edge of direction d owned by lattice block (i, j) is element i * ROW + d * PITCH + j past FRONT, where ROW is
    the array's own row length; block (i, j) has picture pixel (top - 1 + i, left - 1 + j) as its corner a.

    Args:
        planes: (3, height, width) float64, smoothed.
        top, left: picture coordinates of the window's first pixel.
        rows, columns: the window's size, at most STRIP x TILE.
        exact: float64 scratch of EXACT_SIZE elements; receives the weights.
        rounded: float32 scratch of ROUNDED_SIZE elements; infinite afterwards where an edge was dropped or leaves the
            picture. Right for every edge with an end in the window; edges of the upper halo row are never dropped.
    """
    height, width = planes.shape[1], planes.shape[2]
    _load(planes, top - 1, left - 1, rows + 2, columns + 2, exact)
    _weigh(exact, rounded, rows + 2)
    _cut_border(rounded, rows + 2, columns + 2, top == 0, top + rows == height, left == 0, left + columns == width)
    _first_sweep(rounded, rows + 2, columns + 2)
    _second_sweep(rounded, rows + 2)
