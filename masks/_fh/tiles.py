"""Components inside tiles: the start of the shared pass, in a neighbourhood that fits the cache.

Most joints happen here: about 0.15 nodes per pixel are left, and as many edges.

The shared pass (see `masks._fh.components`) takes the edges in order and lets a component be *tainted* by the first
edge that its threshold rejects. Whether an edge is accepted depends only on the two components it joins, so a tile may
run ahead of the rest of the picture as long as no edge from outside could have come first. Each component therefore
carries a *limit*,

    limit = min(threshold, lightest edge that leaves the tile),

and an edge is accepted while its weight is below the limits of both ends. Otherwise it is *open*: rejected, or merely
not decidable here. Both ends are closed (limit -1) and the edge is handed on to the pass over the whole picture.

Invariant: at weight w, a component that is not closed is exactly the component of the whole picture's pass at w: all
edges at its border seen so far were accepted, and none from outside was due. A closed component does not change any
more, so every edge handed on meets the component it would have met in the true order.

Of several open edges between the same two components only the first is handed on, as far as a small table remembers:
both are closed, so the others would do nothing. Where edges abound, noise at a small scale, only those of a spanning
forest are: that is enough by the same argument that lets `thinning` drop edges, and bounds how many there can be. Finding
the forest everywhere would cost more than it saves.

*Free edges.* An edge lighter than k / (pixels of the picture) is below every threshold there can be, so it is accepted
whenever it comes. It needs no place in the order, and as a leaving edge limits nothing but heavier edges. Without this
rule one flat region across a tile border would close everything it touches.
"""

import numpy as np
from numba import njit

from maskmill.masks._fh.sorting import sort_edges
from maskmill.masks._fh.thinning import (
    DOWN,
    EXACT_ROW,
    FALLING,
    FRONT,
    INFINITY,
    PITCH,
    RIGHT,
    RISING,
    ROUNDED_ROW,
    STRIP,
    TILE,
    thin_window,
)

# A tile edge's tag is direction, row and column of its block, so that tags sort like scikit-image's edges.
TAG_COLUMN_BITS = 7
TAG_BITS = 2 * TAG_COLUMN_BITS
TILE_PIXELS = 1 << TAG_BITS
TAG_MASK = TILE_PIXELS - 1
TILE_ROW = 1 << TAG_COLUMN_BITS
DIRECTION_SHIFT = 30  # an edge's identity in the picture: direction << 30 | raster index of its block
CLOSED = np.float32(-1.0)
PAIR_SLOTS = 1 << 10  # of the table of pairs, which shares the first-level cache with the labels


def tile_side(length: int) -> int:
    """Returns the side of the tiles that cut a picture's side into equal parts, pixels."""
    return -(-length // -(-length // TILE))


def edge_capacity(height: int, width: int) -> int:
    """Returns how many edges the tiles of a picture can hand on at most.

    Within the tiles it is a forest's worth, fewer than pixels; three per pixel of each tile's right and bottom side
    leave it.
    """
    tile_columns = -(-width // TILE)
    tile_rows = -(-height // TILE)
    return height * width + 3 * (height * tile_columns + width * tile_rows) + 4


@njit(nogil=True, cache=True)
def round_down(weight):
    """A float32 that is not above the weight: no edge is taken for lighter than a leaving edge that it ties with."""
    return np.float32(weight * (1.0 - 2.0**-22)) if weight > 1e-30 else np.float32(0.0)


@njit(nogil=True, cache=True)
def _collect_row(exact, rounded, i, direction, first, last, tag, list_weights, list_tags, place):
    """Appends a lattice row's kept edges: every slot is written, only kept ones advance. Returns the next place."""
    weights = np.uintp(FRONT + i * EXACT_ROW + direction * PITCH)
    flags = np.uintp(FRONT + i * ROUNDED_ROW + direction * PITCH)
    slot = np.uintp(place)
    for j in range(np.uintp(first), np.uintp(last)):
        list_weights[slot] = exact[weights + j]
        list_tags[slot] = np.uint32(tag + np.int64(j))
        slot += np.uintp(rounded[flags + j] < INFINITY)
    return np.int64(slot)


@njit(nogil=True, cache=True)
def _collect_strip(exact, rounded, rows, columns, row_in_tile, at_bottom, list_weights, list_tags, places):
    """Appends the strip's kept edges with both ends in the tile: one list per direction, each in raster order."""
    for direction in range(4):
        last_row = rows if at_bottom and direction != RIGHT else rows + 1
        last_column = columns + 1 if direction == DOWN else columns
        place = places[direction]
        for i in range(1, last_row):
            tag = (direction << TAG_BITS) + ((row_in_tile + i - 1) << TAG_COLUMN_BITS) - 1
            place = _collect_row(exact, rounded, i, direction, 1, last_column, tag, list_weights, list_tags, place)
        places[direction] = place


@njit(nogil=True, cache=True)
def _note_block(exact, rounded, i, j, row, shape, corner, width, free, bounds, edge_weights, edge_ids, edge_count):
    """Looks at one block on the tile's border: kept edges that leave the tile bound their inner ends.

    `row` is the block's row in the tile, `shape` the tile's size, `corner` the raster index of its first pixel. The
    tile that owns the block hands the edge on. Returns the new number of edges handed on.
    """
    column = j - 1
    for direction in range(4):
        if not rounded[FRONT + i * ROUNDED_ROW + direction * PITCH + j] < INFINITY:
            continue
        first_column = column + 1 if direction == RISING else column
        second_row = row if direction == RIGHT else row + 1
        second_column = column + 1 if direction in (RIGHT, FALLING) else column
        first_inside = 0 <= row < shape[0] and 0 <= first_column < shape[1]
        second_inside = 0 <= second_row < shape[0] and 0 <= second_column < shape[1]
        if first_inside and second_inside:
            continue
        weight = exact[FRONT + i * EXACT_ROW + direction * PITCH + j]
        bound = max(round_down(weight), free)
        if first_inside:
            pixel = row * TILE_ROW + first_column
            bounds[pixel] = min(bounds[pixel], bound)
        if second_inside:
            pixel = second_row * TILE_ROW + second_column
            bounds[pixel] = min(bounds[pixel], bound)
        if row >= 0 and column >= 0:
            edge_weights[edge_count] = weight
            edge_ids[edge_count] = np.uint32((direction << DIRECTION_SHIFT) + corner + row * width + column)
            edge_count += 1
    return edge_count


@njit(nogil=True, cache=True)
def _note_leaving(
    exact, rounded, rows, row_in_tile, shape, corner, width, free, bounds, edge_weights, edge_ids, edge_count
):
    """Notes every edge that leaves the tile at one strip; see `_note_block`."""
    columns = shape[1]
    for i in range(0 if row_in_tile == 0 else 1, rows + 1):
        row = row_in_tile + i - 1
        step = 1 if row == -1 or row == shape[0] - 1 else columns
        for j in range(0, columns + 1, step):
            edge_count = _note_block(
                exact, rounded, i, j, row, shape, corner, width, free, bounds, edge_weights, edge_ids, edge_count
            )
    return edge_count


@njit(nogil=True, cache=True)
def _gather_lists(list_weights, list_tags, places):
    """Closes the gaps between the four lists. Returns the number of edges."""
    count = np.uintp(places[0])
    for direction in range(1, 4):
        start = direction << TAG_BITS
        for place in range(np.uintp(start), np.uintp(places[direction])):
            list_weights[count] = list_weights[place]
            list_tags[count] = list_tags[place]
            count += np.uintp(1)
    return np.int64(count)


@njit(nogil=True, cache=True, inline="always")
def _ends(tag):
    """Returns the two pixels of a tile's edge."""
    direction = tag >> np.uintp(TAG_BITS)
    block = tag & np.uintp(TAG_MASK)
    below = np.uintp(direction != np.uintp(RIGHT)) << np.uintp(TAG_COLUMN_BITS)
    beside = np.uintp(direction == np.uintp(RIGHT)) | np.uintp(direction == np.uintp(FALLING))
    return block + np.uintp(direction == np.uintp(RISING)), block + beside + below


@njit(nogil=True, cache=True)
def _join_tile(weights, tags, count, k, bounds, limits, labels, following, sizes, costs, rejected):
    """Runs the shared pass inside one tile; see the module's text for the invariant.

    Components are found by looking up a pixel's label and joined by relabelling the smaller one, whose pixels
    `following` strings into a ring. `rejected` receives the places of the open edges. Returns how many there are.
    """
    rejections = np.uintp(0)
    for i in range(np.uintp(count)):
        first, second = _ends(np.uintp(tags[i]))
        a = np.uintp(labels[first])
        b = np.uintp(labels[second])
        if a == b:
            continue
        weight = weights[i]
        if weight < min(limits[a], limits[b]):
            if sizes[a] < sizes[b]:
                a, b = b, a
            pixel = b
            while True:
                labels[pixel] = np.uint16(a)
                pixel = np.uintp(following[pixel])
                if pixel == b:
                    break
            link = following[a]
            following[a] = following[b]
            following[b] = link
            size = np.int64(sizes[a]) + np.int64(sizes[b])
            sizes[a] = np.uint16(size)
            costs[a] = weight
            bound = min(bounds[a], bounds[b])
            bounds[a] = bound
            limits[a] = min(np.float32(weight + k / size), bound)
        else:
            limits[a] = CLOSED
            limits[b] = CLOSED
            rejected[rejections] = np.uint32(i)
            rejections += np.uintp(1)
    return np.int64(rejections)


@njit(nogil=True, cache=True)
def _find(parents, node):
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@njit(nogil=True, cache=True)
def _keep_forest(rejected, rejections, tags, labels, parents):
    """Keeps the open edges of a spanning forest of the components. Returns how many there are."""
    for pixel in range(parents.size):
        parents[pixel] = pixel
    kept = 0
    for r in range(rejections):
        first, second = _ends(np.uintp(tags[rejected[r]]))
        a = _find(parents, np.int64(labels[first]))
        b = _find(parents, np.int64(labels[second]))
        if a != b:
            parents[a] = b
            rejected[kept] = rejected[r]
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def _hand_on(weights, tags, rejected, rejections, labels, pairs, corner, width, edge_weights, edge_ids, edge_count):
    """Hands open edges on, but for those whose pair of components the table remembers. Returns the new number of edges.

    Every slot is written and only a new pair advances: no branch to mispredict.
    """
    pairs[:] = 0  # no pair: a label and itself
    place = np.uintp(edge_count)
    for r in range(np.uintp(rejections)):
        i = np.uintp(rejected[r])
        tag = np.uintp(tags[i])
        first, second = _ends(tag)
        low = np.uintp(min(labels[first], labels[second]))
        high = np.uintp(max(labels[first], labels[second]))
        pair = np.uint32(low | (high << np.uintp(16)))
        slot = (low * np.uintp(31) + high * np.uintp(17)) & np.uintp(PAIR_SLOTS - 1)
        block = tag & np.uintp(TAG_MASK)
        pixel = (block >> np.uintp(TAG_COLUMN_BITS)) * np.uintp(width) + (block & np.uintp(TILE_ROW - 1))
        edge_weights[place] = weights[i]
        edge_ids[place] = np.uint32(
            ((tag >> np.uintp(TAG_BITS)) << np.uintp(DIRECTION_SHIFT)) + np.uintp(corner) + pixel
        )
        place += np.uintp(pairs[slot] != pair)
        pairs[slot] = pair
    return np.int64(place)


@njit(nogil=True, cache=True)
def _number_nodes(labels, sizes, costs, shape, numbers, node_of_pixel, top, left, nodes, node_costs, node_count):
    """Gives the tile's components the next node numbers. Returns the new number of nodes."""
    node = np.uintp(node_count)
    for row in range(shape[0]):
        for pixel in range(np.uintp(row * TILE_ROW), np.uintp(row * TILE_ROW + shape[1])):
            numbers[pixel] = np.uint32(node)
            nodes[node].size = np.uint32(sizes[pixel])
            node_costs[node] = costs[pixel]
            node += np.uintp(labels[pixel] == pixel)
    for row in range(shape[0]):
        out = node_of_pixel[top + row, left : left + shape[1]]
        names = labels[row * TILE_ROW : row * TILE_ROW + shape[1]]
        for column in range(out.size):
            out[column] = numbers[names[column]]
    return np.int64(node)


@njit(nogil=True, cache=True)
def join_tiles(
    planes, k, free, tile_rows, tile_columns, scratch, node_of_pixel, nodes, node_costs, edge_weights, edge_ids
):  # fmt: skip
    """Runs the shared pass inside every tile of a picture.

    Args:
        planes: (3, height, width) float64, smoothed.
        k: the smallest scale / 255. free: float32(k / (height * width)), see the module's text.
        tile_rows, tile_columns: size of a tile, at most TILE each.
        scratch: see `masks._fh.stages`.
        node_of_pixel: (height, width) uint32; receives the node of each pixel.
        nodes: disjoint_sets.NODE, height * width + 1 records; receive the size of each node.
        node_costs: float64, as many; receive the heaviest accepted edge of each node.
        edge_weights, edge_ids: receive the edges handed on; `edge_capacity(height, width)` elements.

    Returns:
        The number of nodes and of edges handed on.
    """
    (exact, rounded, list_weights, list_tags, spare_weights, spare_tags, starts, pending,
     bounds, limits, labels, following, sizes, costs, parents, numbers, pairs) = scratch  # fmt: skip
    height, width = node_of_pixel.shape
    node_count = edge_count = np.int64(0)
    places = np.empty(4, np.int64)
    for top in range(0, height, tile_rows):
        for left in range(0, width, tile_columns):
            shape = (min(tile_rows, height - top), min(tile_columns, width - left))
            corner = top * width + left
            bounds[:] = INFINITY
            for direction in range(4):
                places[direction] = direction << TAG_BITS
            for row in range(0, shape[0], STRIP):
                rows = min(STRIP, shape[0] - row)
                thin_window(planes, top + row, left, rows, shape[1], exact, rounded)
                at_bottom = row + rows == shape[0]
                _collect_strip(exact, rounded, rows, shape[1], row, at_bottom, list_weights, list_tags, places)
                edge_count = _note_leaving(
                    exact, rounded, rows, row, shape, corner, width, free, bounds, edge_weights, edge_ids, edge_count
                )
            count = _gather_lists(list_weights, list_tags, places)
            sort_edges(list_weights[:count], list_tags[:count], spare_weights, spare_tags, starts, pending)
            for pixel in range(shape[0] * TILE_ROW):
                labels[pixel] = pixel
                following[pixel] = pixel
                sizes[pixel] = 1
                costs[pixel] = 0.0
                limits[pixel] = min(np.float32(k), bounds[pixel])
            rejected = spare_tags  # the sort is over
            rejections = _join_tile(
                list_weights, list_tags, count, k, bounds, limits, labels, following, sizes, costs, rejected
            )
            if 2 * rejections > shape[0] * shape[1]:  # else they are fewer than `edge_capacity` has room for
                rejections = _keep_forest(rejected, rejections, list_tags, labels, parents)
            edge_count = _hand_on(
                list_weights, list_tags, rejected, rejections, labels, pairs, corner, width,
                edge_weights, edge_ids, edge_count,
            )  # fmt: skip
            node_count = _number_nodes(
                labels, sizes, costs, shape, numbers, node_of_pixel, top, left, nodes, node_costs, node_count
            )
    return node_count, edge_count
