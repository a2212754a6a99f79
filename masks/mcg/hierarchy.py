"""Contour strength to segmentation trees: watershed, ultrametric contour maps, alignment and combination.

Every tree is over the same leaf regions, those of the finest scale, so that any node of any tree, and any union of
nodes, is a set of leaves. After Arbelaez et al., TPAMI 2011 (OWT-UCM), and Pont-Tuset et al., "Multiscale Combinatorial
Grouping", TPAMI 2017, sections 3 and 4; the merging is higra's.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import cv2
import numba
import numpy as np

from maskmill.masks.mcg.watershed import merge_edges, relabel, touching_regions, watershed_labels

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int32

CUT_POWER = 0.25


@dataclasses.dataclass(frozen=True)
class Tree:
    """A binary merge tree over n leaf regions.

    Attributes:
        parent: int32[2n - 1]; leaves are 0 .. n-1, the root is the last node and its own parent; parent[i] > i else.
        level: float32[2n - 1]; 0 for leaves, never above the parent's: the contour strength at which a node forms.
    """

    parent: np.ndarray
    level: np.ndarray


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """Leaf regions of one image, who touches whom, and the trees over them.

    Attributes:
        labels: int32[h, w], leaf of each pixel, 0 .. n-1 by first pixel in raster order.
        edges: int32[m, 2], pairs of touching leaves, first < second, sorted.
        length: int32[m], number of 4-neighbour pixel pairs across each edge.
        strength: float32[m], mean contour strength along each edge, of the finest scale.
        saliency: float32[m], level at which the edge vanishes in the first (combined) tree.
        trees: the combined tree, then one per scale from fine to coarse; just one where there is one scale.
    """

    labels: np.ndarray
    edges: np.ndarray
    length: np.ndarray
    strength: np.ndarray
    saliency: np.ndarray
    trees: tuple[Tree, ...]


@dataclasses.dataclass(frozen=True)
class Partition:
    """The regions of one contour map, who touches whom, and the tree over them; as in `Hierarchy`."""

    labels: np.ndarray
    edges: np.ndarray
    length: np.ndarray
    strength: np.ndarray
    tree: Tree


def watershed_tree(contour: Float32[np.ndarray, "h w"], max_leaves: int) -> Partition:
    """Watershed regions and average-linkage tree of one contour map: its ultrametric contour map, as a tree.

    The strength of a boundary is the mean contour strength along it. Weighting it by how well the contour's orientation
    agrees with the boundary's, as OWT-UCM does, gained nothing measurable here.

    Args:
        contour: float32[h, w] in 0..1.
        max_leaves: where the watershed gives more regions, the weakest merges are made final until this many are left.

    Returns:
        The regions that are left, in raster order of first pixels.
    """
    labels = watershed_labels(contour)
    edges, length, total = touching_regions(labels, contour)
    tree = average_linkage(int(labels.max()) + 1, edges, total / length, length)
    labels, tree, new_of = _cut_and_relabel(labels, tree.parent, tree.level, max_leaves)
    edges, length, total = merge_edges(new_of[edges[:, 0]], new_of[edges[:, 1]], length, total)
    return Partition(labels, edges, length, (total / length).astype(np.float32), tree)


@numba.njit(cache=True)
def monotone(parent, altitude):
    """Levels that never fall towards the root (average linkage can invert); float32[nodes]."""
    level = np.zeros(len(parent), np.float64)
    n = (len(parent) + 1) // 2
    level[n:] = np.maximum(altitude[n:], 0)
    for node in range(len(parent) - 1):
        up = parent[node]
        if level[node] > level[up]:
            level[up] = level[node]
    return level.astype(np.float32)


@numba.njit(cache=True)
def merge_worth(labels, parent, level, power):
    """How much is lost by making a merge final: level * (area of the smaller child) ** power, or a child's if larger.

    Args:
        labels: int32[h, w], leaves; parent, level: see `Tree`; power: at least 0.

    Returns:
        float64[merges], never above the parent's.
    """
    n = (len(parent) + 1) // 2
    area = np.zeros(len(parent))
    for label in labels.ravel():
        area[label] += 1
    smaller = np.full(len(parent), np.inf)
    worth = np.zeros(len(parent))
    for i in range(len(parent)):
        if i >= n:
            worth[i] = max(worth[i], level[i] * smaller[i] ** power)
        up = parent[i]
        if up != i:
            area[up] += area[i]
            smaller[up] = min(smaller[up], area[i])
            worth[up] = max(worth[up], worth[i])
    return worth[n:]


@numba.njit(cache=True)
def _highest_final(parent, final):
    """The highest node that each one has become, where the merges in `final` bool[nodes] are; int64[nodes]."""
    top = np.arange(len(parent))
    for node in range(len(parent) - 2, -1, -1):  # parents first
        if final[parent[node]]:
            top[node] = top[parent[node]]
    return top


def _cut_and_relabel(
    labels: np.ndarray, parent: np.ndarray, level: np.ndarray, max_leaves: int
) -> tuple[np.ndarray, Tree, np.ndarray]:
    """Merges below the leaf cap, renames leaves by first pixel in raster order, and renumbers the tree by worth.

    Returns the new labels and tree, and the new name of each old leaf; int32[leaves].
    """
    leaves = (len(parent) + 1) // 2
    worth = merge_worth(labels, parent, level, CUT_POWER)
    merges = leaves + np.argsort(worth, kind="stable")
    final = np.zeros(len(parent), bool)
    final[merges[: max(0, leaves - max_leaves)]] = True
    top = _highest_final(parent, final)[:leaves]
    labels, position = relabel(labels, np.append(top, len(parent) - 1))  # the last is no leaf's: room for every node
    kept = merges[max(0, leaves - max_leaves) :]
    names = np.flatnonzero(position >= 0)
    position[kept] = len(names) + np.arange(len(kept))
    nodes = np.concatenate([names, kept])
    new_parent = np.empty(2 * len(names) - 1, np.int32)
    new_parent[position[nodes]] = position[parent[nodes]]
    new_level = np.zeros(2 * len(names) - 1, np.float32)
    new_level[position[kept]] = level[kept]
    # Kept merges were renumbered by worth; their order by level is what the walk from the root needs only locally.
    return labels, Tree(new_parent, new_level), position[top]


@numba.njit(cache=True)
def edge_saliency(edges, leaf_of, parent, level):
    """Level of the lowest common ancestor of the two ends; float32[m].

    Args:
        edges: int32[m, 2], pairs of fine leaves.
        leaf_of: int32[n], leaf of the tree that stands for each fine leaf.
    """
    out = np.zeros(len(edges), np.float32)
    for e in range(len(edges)):
        a, b = leaf_of[edges[e, 0]], leaf_of[edges[e, 1]]
        while a != b:
            if a < b:
                a = parent[a]
            else:
                b = parent[b]
        out[e] = level[a]
    return out


@numba.njit(cache=True)
def majority_leaf(fine, coarse, count):
    """For each of `count` fine regions the coarse label on most of its pixels, the smallest on a tie; int32[count]."""
    keys = np.empty(fine.size, np.int64)  # of runs of pixels that are in one region of both
    pixels = np.empty(fine.size, np.int64)
    runs = 0
    for i in range(fine.size):
        key = (np.int64(fine.flat[i]) << 32) | coarse.flat[i]
        if runs > 0 and keys[runs - 1] == key:
            pixels[runs - 1] += 1
        else:
            keys[runs], pixels[runs] = key, 1
            runs += 1
    best = np.zeros(count, np.int32)
    most = np.zeros(count, np.int64)
    last, shared = np.int64(-1), np.int64(0)
    for i in np.argsort(keys[:runs], kind="mergesort"):
        shared = pixels[i] + (shared if keys[i] == last else 0)
        last = keys[i]
        region = last >> 32
        if shared > most[region]:
            most[region] = shared
            best[region] = last & 0xFFFFFFFF
    return best


def average_linkage(
    leaves: int, edges: Int32[np.ndarray, "m 2"], weight: Float[np.ndarray, " m"], length: Int32[np.ndarray, " m"]
) -> Tree:
    """Tree over the leaf graph that merges, again and again, the two regions with the lowest mean weight between them."""
    import higra as hg  # heavy, and not needed by anything else

    if leaves == 1:
        return Tree(np.zeros(1, np.int32), np.zeros(1, np.float32))
    graph = hg.UndirectedGraph(leaves)
    graph.add_edges(edges[:, 0].astype(np.int64), edges[:, 1].astype(np.int64))
    tree, altitude = hg.binary_partition_tree_average_linkage(
        graph, weight.astype(np.float64), length.astype(np.float64)
    )
    parent = np.asarray(tree.parents(), np.int32)
    return Tree(parent, monotone(parent, np.asarray(altitude, np.float64)))


@numba.njit(cache=True)
def _single_linkage(leaves, edges, order):
    """Parents of the tree that Kruskal's algorithm builds, and the edge of each merge."""
    parent = np.arange(2 * leaves - 1).astype(np.int32)
    up = np.arange(leaves)  # union-find over the leaves
    node = np.arange(leaves)  # of each set's representative, the node that the set has become
    merged = np.empty(leaves - 1, np.int64)
    count = 0
    for e in order:
        a, b = edges[e, 0], edges[e, 1]
        while up[a] != a:
            up[a] = up[up[a]]
            a = up[a]
        while up[b] != b:
            up[b] = up[up[b]]
            b = up[b]
        if a == b:
            continue
        parent[node[a]] = parent[node[b]] = leaves + count
        up[b] = a
        node[a] = leaves + count
        merged[count] = e
        count += 1
        if count == leaves - 1:
            break
    return parent, merged


def single_linkage(leaves: int, edges: Int32[np.ndarray, "m 2"], weight: Float[np.ndarray, " m"]) -> Tree:
    """Tree over the leaf graph, connected, that merges along the edges by rising weight, equal ones in their order."""
    if leaves == 1:
        return Tree(np.zeros(1, np.int32), np.zeros(1, np.float32))
    parent, merged = _single_linkage(leaves, edges, np.argsort(weight, kind="stable"))
    level = np.zeros(2 * leaves - 1, np.float32)
    level[leaves:] = np.maximum(weight[merged], 0)
    return Tree(parent, level)


def build_hierarchy(contours: list[Float32[np.ndarray, "_ _"]], max_leaves: int) -> Hierarchy:
    """Trees of one image from its contour maps.

    Args:
        contours: float32[h_s, w_s] in 0..1 from the finest scale, whose frame is the result's, to the coarsest.
        max_leaves: bound on the number of leaf regions, and so on everything after.

    Returns:
        The hierarchy; the first tree combines the scales (mean of the aligned contour maps, then linkage again).
    """
    finest = watershed_tree(contours[0], max_leaves)
    labels, edges, length, strength = finest.labels, finest.edges, finest.length, finest.strength
    leaves = (len(finest.tree.parent) + 1) // 2
    own = np.arange(leaves, dtype=np.int32)
    saliencies = [edge_saliency(edges, own, finest.tree.parent, finest.tree.level)]
    trees = [finest.tree]
    for contour in contours[1:]:
        coarse = watershed_tree(contour, max_leaves)
        enlarged = cv2.resize(coarse.labels, labels.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        leaf_of = majority_leaf(labels, enlarged.reshape(labels.shape), leaves)
        saliencies.append(edge_saliency(edges, leaf_of, coarse.tree.parent, coarse.tree.level))
        trees.append(single_linkage(leaves, edges, saliencies[-1]))
    if leaves == 1 or len(contours) == 1:
        return Hierarchy(labels, edges, length, strength, saliencies[0], tuple(trees[:1]))
    mean = np.mean(saliencies, axis=0).astype(np.float32)
    combined = average_linkage(leaves, edges, mean, length)
    saliency = edge_saliency(edges, own, combined.parent, combined.level)
    return Hierarchy(labels, edges, length, strength, saliency, (combined, *trees))
