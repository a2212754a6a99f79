"""The shared pass inside districts: a level between tiles and picture, for pictures of several megapixels.

The nodes that tiles leave behind are 2.5 MB per megapixel, and edges in order of their weights meet them in no order of
place. So a picture of more than a megapixel is cut into districts of some tiles each, whose nodes a core's own cache
nearly holds, and the shared pass runs in each before it runs over what is left: on photos a third of the sets and of the
edges. A district is to its nodes what a tile is to its pixels (see `masks._fh.tiles`): a set of nodes carries a limit,
the smaller of its threshold and the lightest edge that leaves the district, an edge between two sets is accepted while
it is below both limits, and otherwise closes both and is handed on. The invariant and its argument are the tiles'.
"""

import dataclasses

import numpy as np
from numba import njit

from maskmill.masks._fh.components import BLOCK_MASK, ends_of
from maskmill.masks._fh.forest import AHEAD, TAINTED, join, look_ahead
from maskmill.masks._fh.thinning import DOWN, RIGHT, TILE
from maskmill.masks._fh.tiles import DIRECTION_SHIFT, round_down

DISTRICT = 8  # tiles per side at most


def tile_side(length: int) -> int:
    """Returns the side of the tiles that cut a picture's side into equal parts, pixels."""
    return -(-length // -(-length // TILE))


@dataclasses.dataclass(frozen=True)
class District:
    """What the tiles of a district have left to do.

    Attributes:
        bottom, right: where it ends in the picture, pixels.
        nodes, edges: which of the picture's nodes and edges are its own.
    """

    bottom: int
    right: int
    nodes: slice
    edges: slice


def cut(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Returns top, left, bottom and right, pixels, of a picture's districts; up to DISTRICT tiles a side are one."""
    rows, columns = _spans(height), _spans(width)
    return [(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def _spans(length: int) -> list[tuple[int, int]]:
    tiles = -(-length // tile_side(length))
    parts = -(-tiles // DISTRICT)
    side = -(-tiles // parts) * tile_side(length)
    return [(start, min(start + side, length)) for start in range(0, length, side)]


@njit(nogil=True, cache=True)
def note_crossings(weights, ids, node_of_pixel, width, bottom, right, free, bounds):
    """Notes which edges of a district leave it, below or to the right: each bounds the nodes at both its ends.

    Those that leave it above or to the left belong to its neighbours.

    Args:
        weights, ids: the edges that the district's tiles have handed on.
        node_of_pixel: uint32, flat, of the whole picture. width: of the picture.
        bottom, right: where the district ends, pixels.
        free: see `masks._fh.tiles`.
        bounds: float32, of every node of the picture; receive the lightest edge that leaves the node's district.
    """
    for i in range(weights.size):
        block = ids[i] & np.uint32(BLOCK_MASK)
        row = block // np.uint32(width)
        column = block - row * np.uint32(width)
        direction = ids[i] >> np.uint32(DIRECTION_SHIFT)
        below = row == bottom - 1 and direction != RIGHT
        beside = column == right - 1 and direction != DOWN
        if below or beside:
            first, second = ends_of(ids[i], width)
            bound = max(round_down(weights[i]), free)
            for end in (first, second):
                node = node_of_pixel[end]
                bounds[node] = min(bounds[node], bound)


@njit(nogil=True, cache=True)
def join_inside(
    weights, ids, firsts, seconds, k, first_node, last_node, bounds, nodes, costs, open_weights, open_ids, open_count
):
    """Runs the shared pass inside one district; see the module's text for the invariant.

    Args:
        weights, ids, firsts, seconds: the district's edges in order, and the nodes at their ends.
        k: the smallest scale / 255.
        first_node, last_node: the district's nodes, the last excluded.
        bounds: float32, of the nodes; become those of the sets.
        nodes: forest.NODE records of the picture, all planted. costs: float64, of each node. Both become those of the
            sets, with thresholds as limits.
        open_weights, open_ids: receive the edges handed on, from place `open_count` on. They may be the memory that
            holds `weights` and `ids`, as long as the place is not behind theirs.

    Returns:
        The new number of edges handed on.
    """
    for i in range(first_node, last_node):
        nodes[i].limit = min(nodes[i].limit, bounds[i])
    for i in range(weights.size):
        if i % AHEAD == 0 and look_ahead(nodes, firsts, seconds, i) < TAINTED:
            break  # never: no limit is below TAINTED
        weight = weights[i]
        if first_node <= firsts[i] < last_node and first_node <= seconds[i] < last_node:
            a = nodes[firsts[i]].label
            b = nodes[seconds[i]].label
            if a == b:
                continue
            if weight < min(nodes[a].limit, nodes[b].limit):
                cost = max(weight, max(costs[a], costs[b]))
                bound = min(bounds[a], bounds[b])
                label = join(nodes, a, b)
                costs[label] = cost
                bounds[label] = bound
                nodes[label].limit = min(np.float32(cost + k / nodes[label].size), bound)
                continue
            nodes[a].limit = TAINTED
            nodes[b].limit = TAINTED
        open_ids[open_count] = ids[i]
        open_weights[open_count] = weight
        open_count += 1
    for i in range(first_node, last_node):
        if nodes[i].label == i:
            nodes[i].limit = np.float32(costs[i] + k / nodes[i].size)
    return open_count
