"""Contour strength to segmentation trees: watershed, ultrametric contour maps, alignment and combination.

Every tree is over the same leaf regions, those of the finest scale, so that any node of any tree, and any union of
nodes, is a set of leaves. After Arbelaez et al., TPAMI 2011 (OWT-UCM), and Pont-Tuset et al., "Multiscale Combinatorial
Grouping", TPAMI 2017, sections 3 and 4; the watershed and the merging are higra's.
"""

import dataclasses

import cv2
import numba
import numpy as np

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


def watershed_tree(contour: np.ndarray, max_leaves: int) -> tuple[np.ndarray, Tree]:
    """Watershed regions and average-linkage tree of one contour map: its ultrametric contour map, as a tree.

    The strength of a boundary is the mean contour strength along it. Weighting it by how well the contour's orientation
    agrees with the boundary's, as OWT-UCM does, gained nothing measurable here, and in higra 0.6.13 it weakens vertical
    boundaries (a step of 0.86 counts 0.22) but not horizontal ones.


    Args:
        contour: float32[h, w] in 0..1.
        max_leaves: where the watershed gives more regions, the weakest merges are made final until this many are left.

    Returns:
        Leaf labels int32[h, w] in raster order of first pixels, and the tree over them.
    """
    import higra as hg  # heavy, and not needed by anything else

    height, width = contour.shape
    if height * width == 1:
        return np.zeros((1, 1), np.int32), Tree(np.zeros(1, np.int32), np.zeros(1, np.float32))
    graph = hg.get_4_adjacency_graph((height, width))
    weights = hg.weight_graph(graph, contour.astype(np.float64), hg.WeightFunction.mean)
    rag, rag_weights = hg.oriented_watershed(graph, weights, (height, width))
    vertex_map = hg.CptRegionAdjacencyGraph.get_vertex_map(rag)
    labels = np.asarray(vertex_map, np.int64).reshape(height, width)
    if rag.num_vertices() == 1:
        return np.zeros((height, width), np.int32), Tree(np.zeros(1, np.int32), np.zeros(1, np.float32))
    crossing = hg.CptRegionAdjacencyGraph.get_edge_map(rag)
    length = np.bincount(crossing[crossing >= 0], minlength=rag.num_edges()).astype(np.float64)
    tree, altitudes = hg.binary_partition_tree_average_linkage(rag, np.asarray(rag_weights, np.float64), length)
    parent = np.asarray(tree.parents(), np.int32)
    return _cut_and_relabel(labels, parent, monotone(parent, np.asarray(altitudes, np.float64)), max_leaves)


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


def _cut_and_relabel(labels, parent, level, max_leaves) -> tuple[np.ndarray, Tree]:
    """Merges below the leaf cap, renames leaves by first pixel in raster order, and renumbers the tree by level."""
    leaves = (len(parent) + 1) // 2
    worth = merge_worth(labels, parent, level, CUT_POWER)
    merges = leaves + np.argsort(worth, kind="stable")
    final = np.zeros(len(parent), bool)
    final[merges[: max(0, leaves - max_leaves)]] = True
    top = np.arange(len(parent))
    for node in range(len(parent) - 2, -1, -1):  # parents first
        if final[parent[node]]:
            top[node] = top[parent[node]]
    flat = top[labels.reshape(-1)]
    names, first, inverse = np.unique(flat, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    renamed = rank[inverse].reshape(labels.shape).astype(np.int32)
    position = np.full(len(parent), -1, np.int64)
    position[names] = rank
    kept = merges[max(0, leaves - max_leaves) :]
    position[kept] = len(names) + np.arange(len(kept))
    new_parent = np.empty(2 * len(names) - 1, np.int32)
    new_level = np.zeros(2 * len(names) - 1, np.float32)
    for node in np.concatenate([names, kept]):
        new_parent[position[node]] = position[parent[node]]
    new_level[position[kept]] = level[kept]
    # Kept merges were renumbered by worth; their order by level is what the walk from the root needs only locally.
    return renamed, Tree(new_parent, new_level)


@numba.njit(cache=True)
def region_edges(labels, contour):
    """Edges of the region adjacency graph of a label map, with lengths and mean strengths.

    Args:
        labels: int32[h, w], 0 .. n-1.
        contour: float32[h, w].

    Returns:
        edges int32[m, 2] sorted, length int32[m] in pixel pairs, strength float32[m]: mean over the pairs of the mean of
        the two pixels' strengths.
    """
    height, width = labels.shape
    count = 0
    for y in range(height):
        for x in range(width):
            if x + 1 < width and labels[y, x] != labels[y, x + 1]:
                count += 1
            if y + 1 < height and labels[y, x] != labels[y + 1, x]:
                count += 1
    keys = np.empty(count, np.int64)
    values = np.empty(count, np.float64)
    k = 0
    for y in range(height):
        for x in range(width):
            for step in range(2):
                yy, xx = y + step, x + 1 - step
                if yy < height and xx < width and labels[y, x] != labels[yy, xx]:
                    a, b = labels[y, x], labels[yy, xx]
                    keys[k] = (np.int64(min(a, b)) << 32) | max(a, b)
                    values[k] = 0.5 * (contour[y, x] + contour[yy, xx])
                    k += 1
    order = np.argsort(keys, kind="mergesort")
    edges = np.empty((count, 2), np.int32)
    length = np.zeros(count, np.int32)
    total = np.zeros(count, np.float64)
    m = -1
    for i in order:
        if m < 0 or edges[m, 0] != keys[i] >> 32 or edges[m, 1] != keys[i] & 0xFFFFFFFF:
            m += 1
            edges[m, 0] = keys[i] >> 32
            edges[m, 1] = keys[i] & 0xFFFFFFFF
        length[m] += 1
        total[m] += values[i]
    m += 1
    return edges[:m].copy(), length[:m].copy(), (total[:m] / length[:m]).astype(np.float32)


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
    keys = np.sort((fine.ravel().astype(np.int64) << 32) | coarse.ravel().astype(np.int64))
    best = np.zeros(count, np.int32)
    most = np.zeros(count, np.int64)
    i = 0
    while i < len(keys):
        j = i
        while j < len(keys) and keys[j] == keys[i]:
            j += 1
        region = keys[i] >> 32
        if j - i > most[region]:
            most[region] = j - i
            best[region] = keys[i] & 0xFFFFFFFF
        i = j
    return best


def _linkage(leaves: int, edges: np.ndarray, weight: np.ndarray, length: np.ndarray | None) -> Tree:
    """Tree over the leaf graph: average linkage with `length`, single linkage without."""
    import higra as hg

    graph = hg.UndirectedGraph(leaves)
    graph.add_edges(edges[:, 0].astype(np.int64), edges[:, 1].astype(np.int64))
    if length is None:
        tree, altitude = hg.bpt_canonical(graph, weight.astype(np.float64))
    else:
        tree, altitude = hg.binary_partition_tree_average_linkage(
            graph, weight.astype(np.float64), length.astype(np.float64)
        )
    parent = np.asarray(tree.parents(), np.int32)
    return Tree(parent, monotone(parent, np.asarray(altitude, np.float64)))


def build_hierarchy(contours: list[np.ndarray], max_leaves: int) -> Hierarchy:
    """Trees of one image from its contour maps.

    Args:
        contours: float32[h_s, w_s] in 0..1 from the finest scale, whose frame is the result's, to the coarsest.
        max_leaves: bound on the number of leaf regions, and so on everything after.

    Returns:
        The hierarchy; the first tree combines the scales (mean of the aligned contour maps, then linkage again).
    """
    fine = contours[0]
    labels, tree = watershed_tree(fine, max_leaves)
    edges, length, strength = region_edges(labels, fine)
    leaves = (len(tree.parent) + 1) // 2
    own = np.arange(leaves, dtype=np.int32)
    saliencies = [edge_saliency(edges, own, tree.parent, tree.level)]
    trees = [tree]
    for contour in contours[1:]:
        coarse_labels, coarse = watershed_tree(contour, max_leaves)
        enlarged = cv2.resize(coarse_labels, labels.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        leaf_of = majority_leaf(labels, enlarged.reshape(labels.shape), leaves)
        saliencies.append(edge_saliency(edges, leaf_of, coarse.parent, coarse.level))
        trees.append(_linkage(leaves, edges, saliencies[-1], None))
    if leaves == 1 or len(contours) == 1:
        return Hierarchy(labels, edges, length, strength, saliencies[0], tuple(trees[:1]))
    mean = np.mean(saliencies, axis=0).astype(np.float32)
    combined = _linkage(leaves, edges, mean, length)
    saliency = edge_saliency(edges, own, combined.parent, combined.level)
    return Hierarchy(labels, edges, length, strength, saliency, (combined, *trees))
