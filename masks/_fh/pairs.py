"""Lightest edges between neighbouring components."""

import numpy as np
from numba import njit

from masks._fh.tiles import DIRECTION_SHIFT

SLOTS = 1 << 12


@njit(nogil=True, cache=True)
def _distance(planes, y, x, v, u):
    d0 = planes[0, y, x] - planes[0, v, u]
    d1 = planes[1, y, x] - planes[1, v, u]
    d2 = planes[2, y, x] - planes[2, v, u]
    return np.sqrt(d0 * d0 + d1 * d1 + d2 * d2)


@njit(nogil=True, cache=True)
def _offer(a, b, weight, edge_id, slot_pairs, slot_places, weights, ids, count):
    low = np.int64(min(a, b))
    high = np.int64(max(a, b))
    pair = (low << 32) | high
    slot = (low * 31 + high * 17) & (SLOTS - 1)
    if slot_pairs[slot] == pair:
        place = slot_places[slot]
        if weight < weights[place] or (weight == weights[place] and edge_id < ids[place]):
            weights[place] = weight
            ids[place] = edge_id
        return count
    slot_pairs[slot] = pair
    slot_places[slot] = count
    weights[count] = weight
    ids[count] = edge_id
    return count + 1


@njit(nogil=True, cache=True)
def find_pairs(component, planes, first_row, slot_pairs, slot_places, weights, ids, count):
    """Scans rows until done or the buffers might overflow. Returns next row, count."""
    height, width = component.shape
    capacity = weights.size
    for y in range(first_row, height):
        if count + 4 * width > capacity:
            return y, count
        row = component[y]
        if y + 1 == height:
            for x in range(width - 1):
                if row[x] != row[x + 1]:
                    w = _distance(planes, y, x, y, x + 1)
                    count = _offer(
                        row[x], row[x + 1], w, np.uint32(y * width + x), slot_pairs, slot_places, weights, ids, count
                    )
            continue
        under = component[y + 1]
        for x in range(width):
            a = row[x]
            c = under[x]
            block = y * width + x
            if x + 1 == width:
                if a != c:
                    w = _distance(planes, y, x, y + 1, x)
                    count = _offer(
                        a, c, w, np.uint32((1 << DIRECTION_SHIFT) + block), slot_pairs, slot_places, weights, ids, count
                    )
                continue
            b = row[x + 1]
            d = under[x + 1]
            if a == b and a == c and a == d:
                continue
            if a != b:
                w = _distance(planes, y, x, y, x + 1)
                count = _offer(a, b, w, np.uint32(block), slot_pairs, slot_places, weights, ids, count)
            if a != c:
                w = _distance(planes, y, x, y + 1, x)
                count = _offer(
                    a, c, w, np.uint32((1 << DIRECTION_SHIFT) + block), slot_pairs, slot_places, weights, ids, count
                )
            if a != d:
                w = _distance(planes, y, x, y + 1, x + 1)
                count = _offer(
                    a, d, w, np.uint32((2 << DIRECTION_SHIFT) + block), slot_pairs, slot_places, weights, ids, count
                )
            if b != c:
                w = _distance(planes, y + 1, x, y, x + 1)
                count = _offer(
                    b, c, w, np.uint32((3 << DIRECTION_SHIFT) + block), slot_pairs, slot_places, weights, ids, count
                )
    return height, count
