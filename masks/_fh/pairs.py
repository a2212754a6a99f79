"""The lightest edge between each pair of neighbouring components: all that a scale needs of the picture.

*Pair rule.* Of all edges between two shared components only the first in order can do anything. Either it joins them,
and the others are inside; or one side rejects it, and that side is final: its threshold only changes when it grows, and
every later edge between the two is at least as heavy. The same holds for `min_size`, where sizes only grow: two
components that the first edge left apart are both large enough for ever.

Edges are found block by block (see `masks._fh.thinning`). A block with exactly two components offers only its lightest
crossing edge. What is offered goes through a small table that remembers where a pair was last written; a pair that was
pushed out of the table is simply written again, which costs a place in the list and changes nothing.
"""

import numpy as np
from numba import njit

from maskmill.masks._fh.thinning import DOWN, FALLING, RIGHT, RISING
from maskmill.masks._fh.tiles import DIRECTION_SHIFT

SLOTS_PER_COLUMN = 4  # some thirty times the pairs that a row of a photo meets: few push each other out
LEAST_SLOTS = 1 << 12
NO_PAIR = np.uint64(0xFFFFFFFFFFFFFFFF)
NO_EDGE = np.inf


def slots(width: int) -> int:
    """Returns the size of the table for pictures of that width, a power of two."""
    return max(LEAST_SLOTS, 1 << (SLOTS_PER_COLUMN * width - 1).bit_length())


@njit(nogil=True, cache=True)
def _distance(p0, p1, p2, x, q0, q1, q2, u):
    """Weight of an edge, to the bit as in `masks._fh.thinning`."""
    d0 = q0[u] - p0[x]
    d1 = q1[u] - p1[x]
    d2 = q2[u] - p2[x]
    return np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)


@njit(nogil=True, cache=True)
def _offer(a, b, weight, direction, block, slot_pairs, slot_places, weights, ids, count):
    """Writes an edge down unless the table knows an earlier one of the same pair. Returns the new number of edges."""
    low = np.uint64(min(a, b))
    high = np.uint64(max(a, b))
    pair = (low << np.uint64(32)) | high
    slot = (low * np.uint64(31) + high * np.uint64(17)) & np.uint64(slot_pairs.size - 1)
    edge_id = np.uint32((direction << DIRECTION_SHIFT) + block)
    if slot_pairs[slot] == pair:
        place = slot_places[slot]
        if weight < weights[place] or (weight == weights[place] and edge_id < ids[place]):
            weights[place] = weight
            ids[place] = edge_id
        return count
    slot_pairs[slot] = pair
    slot_places[slot] = np.uint32(count)
    weights[np.uintp(count)] = weight
    ids[np.uintp(count)] = edge_id
    return count + 1


@njit(nogil=True, cache=True)
def find_pairs(component, planes, first_row, slot_pairs, slot_places, weights, ids, count):
    """Lists the lightest edges between neighbouring components, from `first_row` on.

    Invariant: for every pair of components that rows before the current one touch, the list holds their first edge
    there.

    Args:
        component: (height, width) uint32.
        planes: (3, height, width) float64, smoothed.
        slot_pairs, slot_places: `slots(width)` uint64 and uint32, the table; `slot_pairs` all NO_PAIR at first.
        weights, ids: float64 and uint32, receive the edges from place `count` on.

    Returns:
        The row to go on from, `height` if done, else because another row's edges might not fit; number of edges.
    """
    height, width = component.shape
    for y in range(first_row, height):
        if count + 4 * width > weights.size:
            return y, count
        below = min(y + 1, height - 1)
        has_below = below > y
        upper, lower = component[y], component[below]
        p0, p1, p2 = planes[0, y], planes[1, y], planes[2, y]
        q0, q1, q2 = planes[0, below], planes[1, below], planes[2, below]
        for x in range(width):
            right = min(x + 1, width - 1)
            a, b, c, d = upper[x], upper[right], lower[x], lower[right]
            if a == b and a == c and a == d:
                continue
            # Beyond the picture's last row or column the block repeats pixels; edges to the repeated ones do not exist.
            has_right = right > x
            across = _distance(p0, p1, p2, x, p0, p1, p2, right) if a != b else NO_EDGE
            down = _distance(p0, p1, p2, x, q0, q1, q2, x) if a != c else NO_EDGE
            falling = _distance(p0, p1, p2, x, q0, q1, q2, right) if a != d and has_right and has_below else NO_EDGE
            rising = _distance(p0, p1, p2, right, q0, q1, q2, x) if b != c and has_right and has_below else NO_EDGE
            other = b if b != a else (c if c != a else d)
            block = y * width + x
            if b in (a, other) and c in (a, other) and d in (a, other):
                weight = across
                direction = RIGHT
                if down < weight:
                    weight = down
                    direction = DOWN
                if falling < weight:
                    weight = falling
                    direction = FALLING
                if rising < weight:
                    weight = rising
                    direction = RISING
                if weight < NO_EDGE:
                    count = _offer(a, other, weight, direction, block, slot_pairs, slot_places, weights, ids, count)
                continue
            if across < NO_EDGE:
                count = _offer(a, b, across, RIGHT, block, slot_pairs, slot_places, weights, ids, count)
            if down < NO_EDGE:
                count = _offer(a, c, down, DOWN, block, slot_pairs, slot_places, weights, ids, count)
            if falling < NO_EDGE:
                count = _offer(a, d, falling, FALLING, block, slot_pairs, slot_places, weights, ids, count)
            if rising < NO_EDGE:
                count = _offer(b, c, rising, RISING, block, slot_pairs, slot_places, weights, ids, count)
    return height, count
