"""Disjoint sets of nodes, with what FH knows of each set in one place.

Quick-find: every node carries the label of its set, which is one of its nodes, and a joint relabels the set with fewer
nodes. A node is relabelled at most log2(nodes) times, in practice once or twice, and finding is one look-up with no
loop. The nodes of a set hang together in a ring; two rings become one when two of their links are swapped.

What is known of a set stands in the record of its label's node. One record is one cache line or two: on a large picture
that, not arithmetic, decides the time.
"""

import numpy as np
from numba import njit

NODE = np.dtype(
    [
        ("cost", np.float64),  # weight of the heaviest edge inside
        ("limit", np.float32),  # edges of at least this weight are rejected; below zero: the set is tainted
        ("size", np.uint32),  # pixels
        ("members", np.uint32),  # nodes; once all is joined, the number given to the set
        ("following", np.uint32),  # the next node of the ring; this one is every node's, not its label's
    ]
)
TAINTED = np.float32(-1.0)
UNNUMBERED = np.uint32(0xFFFFFFFF)
AHEAD = 32  # edges


@njit(nogil=True, cache=True)
def look_ahead(nodes, labels, firsts, seconds, start):
    """Reads the sets of the AHEAD edges from `start` on, so that their cache misses overlap instead of queueing.

    On a large picture this halves the time of a walk over the edges. Returns the lowest limit seen: a use for what was
    read, without which the compiler would drop the reading.
    """
    lowest = np.float32(np.inf)
    for i in range(start, min(start + AHEAD, firsts.size)):
        lowest = min(lowest, min(nodes[labels[firsts[i]]].limit, nodes[labels[seconds[i]]].limit))
    return lowest


@njit(nogil=True, cache=True)
def plant(nodes, labels, k):
    """Makes every node a set of its own; its `cost` and `size` are given."""
    for i in range(labels.size):
        labels[i] = i
        node = nodes[i]
        node.members = 1
        node.following = i
        node.limit = np.float32(node.cost + k / node.size)


@njit(nogil=True, cache=True)
def join(nodes, labels, a, b):
    """Joins two different sets, given by their labels, in all but cost and limit. Returns the label of both."""
    if nodes[a].members < nodes[b].members:
        a, b = b, a
    kept = nodes[a]
    lost = nodes[b]
    i = b
    while True:
        labels[i] = a
        i = nodes[i].following
        if i == b:
            break
    link = kept.following
    kept.following = lost.following
    lost.following = link
    kept.members += lost.members
    kept.size += lost.size
    return a


@njit(nogil=True, cache=True)
def forget_numbers(nodes, labels):
    """Turns every set's `members` into its number, not given yet."""
    for i in range(labels.size):
        nodes[i].members = UNNUMBERED
