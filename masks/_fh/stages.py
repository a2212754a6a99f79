"""The stages of one picture, in order, and the memory they work in.

    smooth -> join_tiles -> join_nodes -> number_components -> find_pairs      once: what scales share
                                                                   |
                              join_components -> paint | write_counts          once per scale

Every stage is a compiled function on plain arrays; this module only hands them their buffers. Worst-case sizes are
asked for where a picture could need them: memory that is never touched costs address space only. A buffer's name is
reused by a later stage once the earlier one is over; the comments say so.
"""

import dataclasses

import numpy as np

from maskmill.masks._fh.components import join_nodes, lookup_owners, number_components
from maskmill.masks._fh.disjoint_sets import NODE, make_sets
from maskmill.masks._fh.pairs import NO_PAIR, find_pairs, slots
from maskmill.masks._fh.scales import join_components, paint
from maskmill.masks._fh.smoothing import smooth
from maskmill.masks._fh.sorting import DIGITS, PATIENCE, sort_edges
from maskmill.masks._fh.thinning import EXACT_SIZE, ROUNDED_SIZE
from maskmill.masks._fh.tiles import PAIR_SLOTS, TILE_PIXELS, edge_capacity, join_tiles, tile_side
from maskmill.masks._fh.workspace import Workspace
from maskmill.masks.runs import (
    COLUMNS,
    TEXT_BYTES,
    TEXT_MASKS,
    find_runs,
    group_runs,
    split_text,
    text_capacity,
    write_counts,
)

BYTE_SCALE = 255.0  # scikit-image divides the scale by it, so that scales mean the same for 0..255 and 0..1


@dataclasses.dataclass(frozen=True)
class SharedComponents:
    """What is the same at every scale of a picture, and all that a scale needs. Arrays live in the workspace.

    Attributes:
        component_of_pixel: uint32[height, width], numbered from 0 in raster order.
        sizes, costs: pixels (uint32) and heaviest tree edge (float64) of each component.
        pair_weights, pair_firsts, pair_seconds: weight and components of the lightest edge between neighbours, sorted.
        rejected: uint32 scratch as long as the pairs.
    """

    component_of_pixel: np.ndarray
    sizes: np.ndarray
    costs: np.ndarray
    pair_weights: np.ndarray
    pair_firsts: np.ndarray
    pair_seconds: np.ndarray
    rejected: np.ndarray


def _tile_scratch(workspace: Workspace) -> tuple[np.ndarray, ...]:
    take = workspace.take
    slots = 4 * TILE_PIXELS
    return (
        take("window_exact", EXACT_SIZE, np.float64),
        take("window_rounded", ROUNDED_SIZE, np.float32),
        take("tile_weights", slots, np.float64),
        take("tile_tags", slots, np.uint32),
        take("tile_spare_weights", slots, np.float64),
        take("tile_spare_tags", slots, np.uint32),
        take("sort_starts", 2 * DIGITS, np.uint32).reshape(2, DIGITS),
        take("tile_pending", 2 * (slots // PATIENCE + 2), np.int64).reshape(-1, 2),
        take("tile_bounds", TILE_PIXELS, np.float32),
        take("tile_limits", TILE_PIXELS, np.float32),
        take("tile_labels", TILE_PIXELS, np.uint16),
        take("tile_following", TILE_PIXELS, np.uint16),
        take("tile_sizes", TILE_PIXELS, np.uint16),
        take("tile_costs", TILE_PIXELS, np.float64),
        take("tile_parents", TILE_PIXELS, np.uint16),
        take("tile_numbers", TILE_PIXELS, np.uint32),
        take("tile_pairs", PAIR_SLOTS, np.uint32),
    )


def _sort(weights: np.ndarray, ids: np.ndarray, workspace: Workspace) -> None:
    count = weights.size
    sort_edges(
        weights,
        ids,
        workspace.take("spare_weights", count, np.float64),
        workspace.take("spare_ids", count, np.uint32),
        workspace.take("sort_starts", 2 * DIGITS, np.uint32).reshape(2, DIGITS),
        workspace.take("sort_pending", 2 * (count // PATIENCE + 2), np.int64).reshape(-1, 2),
    )


def _lookup_owners(
    ids: np.ndarray, owner_of_pixel: np.ndarray, width: int, workspace: Workspace
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the owners of each edge's ends, in the memory that the sort of the edges has left."""
    ends = workspace.take("spare_weights", ids.size, np.float64).view(np.uint32)
    firsts, seconds = ends[: ids.size], ends[ids.size :]
    lookup_owners(ids, owner_of_pixel, width, firsts, seconds)
    return firsts, seconds


def _join_everywhere(planes: np.ndarray, k: float, workspace: Workspace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs the shared pass, tiles first. Returns component of pixel (flat), sizes and costs of the components."""
    take = workspace.take
    height, width = planes.shape[1:]
    pixels = height * width
    component = take("component_of_pixel", pixels, np.uint32)  # of nodes first, in the same place
    nodes = take("nodes", pixels + 1, NODE)
    costs = take("node_costs", pixels + 1, np.float64)
    capacity = edge_capacity(height, width)
    weights = take("edge_weights", capacity, np.float64)
    ids = take("edge_ids", capacity, np.uint32)
    node_count, edge_count = join_tiles(
        planes, k, np.float32(k / pixels), tile_side(height), tile_side(width), _tile_scratch(workspace),
        component.reshape(height, width), nodes, costs, weights, ids,
    )  # fmt: skip
    nodes, costs = nodes[:node_count], costs[:node_count]
    weights, ids = weights[:edge_count], ids[:edge_count]
    _sort(weights, ids, workspace)
    firsts, seconds = _lookup_owners(ids, component, width, workspace)
    make_sets(nodes, costs, k)
    join_nodes(weights, firsts, seconds, k, nodes, costs)
    sizes = take("component_sizes", node_count, np.uint32)
    component_costs = take("component_costs", node_count, np.float64)
    count = number_components(component, nodes, costs, sizes, component_costs)
    return component, sizes[:count], component_costs[:count]


def _find_pairs(planes: np.ndarray, component: np.ndarray, workspace: Workspace) -> tuple[np.ndarray, np.ndarray]:
    """Returns weight and id of the lightest edges between neighbouring components, in no order."""
    take = workspace.take
    height, width = planes.shape[1:]
    image = component.reshape(height, width)
    slot_pairs = take("slot_pairs", slots(width), np.uint64)
    slot_pairs[:] = NO_PAIR
    slot_places = take("slot_places", slots(width), np.uint32)
    capacity = edge_capacity(height, width)
    weights = take("edge_weights", capacity, np.float64)  # the tiles' edges are done with
    ids = take("edge_ids", capacity, np.uint32)
    row, count = find_pairs(image, planes, 0, slot_pairs, slot_places, weights, ids, 0)
    if row < height:
        # Nearly every pixel is a component of its own: there are up to four pairs per pixel, and no room to waste.
        workspace.drop("nodes", "node_costs", "spare_weights", "spare_ids")
        weights = workspace.grow("edge_weights", count, 4 * height * width, np.float64)
        ids = workspace.grow("edge_ids", count, 4 * height * width, np.uint32)
        row, count = find_pairs(image, planes, row, slot_pairs, slot_places, weights, ids, count)
    return weights[:count], ids[:count]


def share_components(image: np.ndarray, smallest_scale: float, sigma: float, workspace: Workspace) -> SharedComponents:
    """Runs everything that does not depend on the scale.

    Args:
        image: (height, width, channels), uint8, float32 or float64, C-contiguous, finite.
        smallest_scale: the smallest of the scales to come.
        sigma: of the smoothing, in pixels.
        workspace: this thread's buffers; the result lives in them.
    """
    height, width = image.shape[:2]
    planes = smooth(image, sigma, workspace)
    component, sizes, costs = _join_everywhere(planes, smallest_scale / BYTE_SCALE, workspace)
    weights, ids = _find_pairs(planes, component, workspace)
    crowded = weights.size > height * width
    del planes
    if crowded:
        workspace.drop("planes")
    _sort(weights, ids, workspace)
    if crowded:
        workspace.drop("spare_ids", "sort_pending")
    firsts, seconds = _lookup_owners(ids, component, width, workspace)
    return SharedComponents(component.reshape(height, width), sizes, costs, weights, firsts, seconds, rejected=ids)


def join_scale(shared: SharedComponents, scale: float, min_size: int, workspace: Workspace) -> tuple[np.ndarray, int]:
    """Joins components into one scale's segments.

    Returns:
        uint32 segment of each component, numbered from 0 in raster order of their first pixels, and their number.
    """
    take = workspace.take
    count = shared.sizes.size
    segment_of_component = take("segment_of_component", count, np.uint32)
    segments = join_components(
        shared.pair_weights, shared.pair_firsts, shared.pair_seconds, scale / BYTE_SCALE, min_size, shared.sizes,
        shared.costs, take("nodes", count, NODE), shared.rejected, segment_of_component,
    )  # fmt: skip
    return segment_of_component, segments


def paint_segments(shared: SharedComponents, segment_of_component: np.ndarray) -> np.ndarray:
    """Returns an int32 label map of its own memory."""
    label_map = np.empty(shared.component_of_pixel.shape, np.int32)
    paint(shared.component_of_pixel.reshape(-1), segment_of_component, label_map.reshape(-1))
    return label_map


def list_runs(shared: SharedComponents, workspace: Workspace) -> tuple[np.ndarray, np.ndarray]:
    """Returns component (uint32) and first pixel (uint32, down the columns) of each run of the components."""
    height, width = shared.component_of_pixel.shape
    components = workspace.take("run_components", height * width + 1, np.uint32)
    starts = workspace.take("run_starts", height * width + 1, np.uint32)
    transposed = workspace.take("transposed_columns", COLUMNS * height, np.uint32).reshape(COLUMNS, height)
    runs = find_runs(shared.component_of_pixel, transposed, components, starts)
    return components[:runs], starts[:runs]


def encode_segments(
    shared: SharedComponents,
    runs: tuple[np.ndarray, np.ndarray],
    segment_of_component: np.ndarray,
    segments: int,
    workspace: Workspace,
) -> tuple[list[bytes], np.ndarray]:
    """Returns compressed RLE counts and area (int64) of each segment, in the order of their numbers."""
    take = workspace.take
    components, starts = runs
    count = components.size
    pixels = shared.component_of_pixel.size
    # The scale's sets and rejections are done with.
    merged, order, scratch = take("nodes", 3 * (count + 1), np.uint32).reshape(3, count + 1)
    bounds = take("edge_ids", segments + 1, np.uint32)
    most = group_runs(components, starts, segment_of_component, segments, pixels, scratch, merged, order, bounds)
    text = take("text", max(TEXT_BYTES, text_capacity(most)), np.uint8)
    ends = take("text_ends", TEXT_MASKS, np.int64)
    counts: list[bytes] = []
    areas = np.empty(segments, np.int64)
    while len(counts) < segments:
        done = write_counts(merged, order, bounds, len(counts), pixels, text, ends, areas)
        counts += split_text(text, ends[: done - len(counts)])
    return counts, areas
