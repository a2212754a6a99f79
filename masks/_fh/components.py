"""Components that all scales share."""

import numpy as np
from numba import njit

from masks._fh.thinning import FALLING, RIGHT, RISING
from masks._fh.tiles import CLOSED, DIRECTION_SHIFT

UNNUMBERED = np.uint32(0xFFFFFFFF)
BLOCK_MASK = (1 << DIRECTION_SHIFT) - 1


@njit(nogil=True, cache=True)
def _ends_of(edge_id, width):
    """Returns the raster indices of an edge's two pixels."""
    direction = np.int64(edge_id) >> DIRECTION_SHIFT
    block = np.int64(edge_id) & BLOCK_MASK
    first = block + np.int64(direction == RISING)
    second = block + np.int64(direction in (RIGHT, FALLING)) + width * np.int64(direction != RIGHT)
    return np.uintp(first), np.uintp(second)


@njit(nogil=True, cache=True)
def name_ends(ids, owner_of_pixel, width, firsts, seconds):
    """Looks up to whom the two pixels of each edge belong.

    A loop of its own: the look-ups all over the picture are independent of each other, and so overlap in time.
    """
    for i in range(ids.size):
        first, second = _ends_of(ids[i], width)
        firsts[i] = owner_of_pixel[first]
        seconds[i] = owner_of_pixel[second]


@njit(nogil=True, cache=True)
def join_nodes(weights, firsts, seconds, k, sizes, costs, limits, labels, following, members, nodes):
    """The shared pass over the whole picture, on the tiles' nodes.

    Invariant: an untainted component is the component that FH has built at every scale >= 255 k.
    """
    for node in range(nodes):
        labels[node] = node
        following[node] = node
        members[node] = 1
        limits[node] = np.float32(costs[node] + k / sizes[node])
    for i in range(weights.size):
        a = labels[firsts[i]]
        b = labels[seconds[i]]
        if a == b:
            continue
        weight = weights[i]
        if weight < min(limits[a], limits[b]):
            if members[a] < members[b]:
                a, b = b, a
            node = b
            while True:
                labels[node] = a
                node = following[node]
                if node == b:
                    break
            following[a], following[b] = following[b], following[a]
            members[a] += members[b]
            size = sizes[a] + sizes[b]
            cost = max(weight, max(costs[a], costs[b]))
            sizes[a] = size
            costs[a] = cost
            limits[a] = np.float32(cost + k / size)
        else:
            limits[a] = CLOSED
            limits[b] = CLOSED


@njit(nogil=True, cache=True)
def number_components(node_of_pixel, labels, sizes, costs, numbers, nodes, component_sizes, component_costs):
    """Turns nodes into components, numbered from 0 in raster order, in place. Returns how many there are."""
    for node in range(nodes):
        numbers[node] = UNNUMBERED
    count = 0
    for i in range(node_of_pixel.size):
        label = labels[node_of_pixel[i]]
        number = numbers[label]
        if number == UNNUMBERED:
            number = np.uint32(count)
            numbers[label] = number
            component_sizes[number] = sizes[label]
            component_costs[number] = costs[label]
            count += 1
        node_of_pixel[i] = number
    return count
