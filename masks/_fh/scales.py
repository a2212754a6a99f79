"""One scale's segments from shared components."""

import numpy as np
from numba import njit

from masks._fh.components import UNNUMBERED


@njit(nogil=True, cache=True)
def _join(a, b, labels, following, members, sizes):
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
    sizes[a] += sizes[b]
    return a


@njit(nogil=True, cache=True)
def join_components(
    weights, firsts, seconds, k, min_size, component_sizes, component_costs,
    labels, following, members, sizes, limits, rejected,
):  # fmt: skip
    components = component_sizes.size
    for c in range(components):
        labels[c] = c
        following[c] = c
        members[c] = 1
        sizes[c] = component_sizes[c]
        limits[c] = np.float32(component_costs[c] + k / component_sizes[c])
    rejections = 0
    for i in range(weights.size):
        a = labels[firsts[i]]
        b = labels[seconds[i]]
        if a == b:
            continue
        if weights[i] < min(limits[a], limits[b]):
            a = _join(a, b, labels, following, members, sizes)
            limits[a] = np.float32(weights[i] + k / sizes[a])
        else:
            rejected[np.uintp(rejections)] = np.uint32(i)
            rejections += 1
    for i in range(rejections):
        a = labels[firsts[rejected[i]]]
        b = labels[seconds[rejected[i]]]
        if a != b and (sizes[a] < min_size or sizes[b] < min_size):
            _join(a, b, labels, following, members, sizes)
    segments = 0
    numbers = members
    for c in range(components):
        numbers[c] = UNNUMBERED
    for c in range(components):
        label = labels[c]
        if numbers[label] == UNNUMBERED:
            numbers[label] = np.uint32(segments)
            segments += 1
        labels[c] = numbers[label]  # no later component asks for this one's label
    return segments


@njit(nogil=True, cache=True)
def paint(component, segment_of_component, out):
    for i in range(component.size):
        out[i] = segment_of_component[component[i]]
