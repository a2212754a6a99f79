"""Disjoint sets of nodes, with what FH knows of each set in one place.

Quick-find: every node carries the label of its set, which is one of its nodes, and a joint relabels the set with fewer
pixels. Each relabelling at least doubles the pixels of a node's set, so there are at most log2(pixels) of them, in
practice one or two; finding is one look-up with no loop. The nodes of a set hang together in a ring; two rings become
one when two of their links are swapped.

What is known of a set stands in the record of its label's node. A record is a quarter of a cache line, and never lies
across two: on a large picture it is the number of lines, not arithmetic, that decides the time. The heaviest edge
inside, needed only when sets join, lies in an array of its own.
"""

import numpy as np
from numba import njit

NODE = np.dtype(
    [
        ("label", np.uint32),  # the node whose record speaks for the set
        ("following", np.uint32),  # the next node of the ring; once all is joined, the number given to a label's set
        ("limit", np.float32),  # of a label: edges of at least this weight are rejected; below zero: the set is tainted
        ("size", np.uint32),  # of a label: pixels
    ]
)
TAINTED = np.float32(-1.0)
UNNUMBERED = np.uint32(0xFFFFFFFF)
AHEAD = 32  # edges


@njit(nogil=True, cache=True)
def prefetch(nodes, firsts, seconds, start):
    """Reads the sets of the AHEAD edges from `start` on, so that their cache misses overlap instead of queueing.

    Returns the lowest limit seen: a use for what was read, without which the compiler would drop the reading.
    """
    lowest = np.float32(np.inf)
    for i in range(start, min(start + AHEAD, firsts.size)):
        lowest = min(lowest, min(nodes[nodes[firsts[i]].label].limit, nodes[nodes[seconds[i]].label].limit))
    return lowest


@njit(nogil=True, cache=True)
def make_sets(nodes, costs, k):
    """Makes every node a set of its own; its `size` is given, and the heaviest edge inside in `costs`."""
    for i in range(nodes.size):
        node = nodes[i]
        node.label = i
        node.following = i
        node.limit = np.float32(costs[i] + k / node.size)


@njit(nogil=True, cache=True)
def union(nodes, a, b):
    """Joins two different sets, given by their labels, in all but limit and cost. Returns the label of both.

    The smaller set is relabelled by walking its ring; then swapping two links makes one ring of two.
    """
    if nodes[a].size < nodes[b].size:
        a, b = b, a
    i = b
    while True:
        node = nodes[i]
        node.label = a
        i = node.following
        if i == b:
            break
    kept = nodes[a]
    lost = nodes[b]
    link = kept.following
    kept.following = lost.following
    lost.following = link
    kept.size += lost.size
    return a


@njit(nogil=True, cache=True)
def clear_links(nodes):
    """Makes room for the sets' numbers: none is given yet."""
    for i in range(nodes.size):
        nodes[i].following = UNNUMBERED
