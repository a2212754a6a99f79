"""One scale's segments, from the components and pairs that all scales share.

FH goes on from the shared components (see `masks._fh.components`), with the first edge of each pair (see
`masks._fh.pairs`). `min_size` is a second walk over the edges in order, joining while one side is too small; only edges
that the first walk rejected can do anything there, because all others ended up inside a component.
"""

import numpy as np
from numba import njit

from maskmill.masks._fh.disjoint_sets import AHEAD, TAINTED, UNNUMBERED, clear_links, make_sets, prefetch, union


@njit(nogil=True, cache=True)
def join_components(weights, firsts, seconds, k, min_size, sizes, costs, nodes, rejected, segment_of_component):
    """Joins components into the segments of one scale.

    Invariants: before edge i of the first walk, the sets are FH's components at the weight of edge i. In the second,
    every edge before the current one is inside a set, or both its sides have at least `min_size` pixels.

    Args:
        weights, firsts, seconds: the pairs, in order.
        k: scale / 255, at least that of the shared components.
        min_size: in pixels.
        sizes, costs: of the components.
        nodes: disjoint_sets.NODE scratch, one per component. rejected: uint32 scratch, one per pair.
        segment_of_component: uint32; receives the segments, numbered from 0 in order of the components.

    Returns:
        The number of segments.
    """
    for c in range(sizes.size):
        nodes[c].size = sizes[c]
    make_sets(nodes, costs, k)
    rejections = 0
    for i in range(weights.size):
        if i % AHEAD == 0 and prefetch(nodes, firsts, seconds, i) < TAINTED:
            break  # never: no limit is below TAINTED
        a = nodes[firsts[i]].label
        b = nodes[seconds[i]].label
        if a == b:
            continue
        weight = weights[i]
        if weight < min(nodes[a].limit, nodes[b].limit):
            node = nodes[union(nodes, a, b)]
            node.limit = np.float32(weight + k / node.size)
        else:
            rejected[np.uintp(rejections)] = np.uint32(i)
            rejections += 1
    for r in range(rejections):
        a = nodes[firsts[rejected[r]]].label
        b = nodes[seconds[rejected[r]]].label
        if a != b and (nodes[a].size < min_size or nodes[b].size < min_size):
            union(nodes, a, b)
    clear_links(nodes)
    segments = 0
    for c in range(sizes.size):
        node = nodes[nodes[c].label]
        if node.following == UNNUMBERED:
            node.following = np.uint32(segments)
            segments += 1
        segment_of_component[c] = node.following
    return segments


@njit(nogil=True, cache=True)
def paint(component_of_pixel, segment_of_component, label_map):
    """Writes each pixel's segment; all arrays flat."""
    for i in range(component_of_pixel.size):
        label_map[i] = segment_of_component[component_of_pixel[i]]
