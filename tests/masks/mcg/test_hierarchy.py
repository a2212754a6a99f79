import numpy as np
import pytest

from maskmill.masks.mcg.hierarchy import (
    average_linkage,
    build_hierarchy,
    edge_saliency,
    majority_leaf,
    merge_worth,
    monotone,
    single_linkage,
    watershed_tree,
)
from maskmill.masks.mcg.watershed import merge_edges, relabel, touching_regions, watershed_labels


def check_tree(tree, leaves):
    assert len(tree.parent) == len(tree.level) == 2 * leaves - 1
    nodes = np.arange(2 * leaves - 2)
    assert (tree.parent[:-1] > nodes).all()
    assert tree.parent[-1] == 2 * leaves - 2
    assert (np.bincount(tree.parent[:-1], minlength=2 * leaves - 1)[leaves:] == 2).all()
    assert (tree.level <= tree.level[tree.parent]).all()
    assert (tree.level[:leaves] == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_trees_are_binary_rise_to_the_root_and_share_the_leaves(seed):
    random = np.random.default_rng(seed)
    contours = [random.random((40, 50)), random.random((20, 25)), random.random((10, 12))]
    hierarchy = build_hierarchy([c.astype(np.float32) for c in contours], 60)
    leaves = hierarchy.labels.max() + 1
    assert leaves == 60
    assert len(hierarchy.trees) == 4
    for tree in hierarchy.trees:
        check_tree(tree, leaves)
    first = np.unique(hierarchy.labels, return_index=True)[1]
    assert (np.diff(first) > 0).all()  # named by first pixel


def test_leaves_are_connected(oracle):
    labels = oracle.small_hierarchy(3, 30, 30, 25).labels
    for leaf in range(labels.max() + 1):
        assert oracle.ndimage.label(labels == leaf, oracle.FOUR)[1] == 1


def test_edges_lengths_and_strengths_against_pixel_pairs():
    random = np.random.default_rng(5)
    labels = random.integers(0, 4, (7, 8)).astype(np.int32)
    contour = random.random((7, 8)).astype(np.float32)
    pairs = {}
    for y in range(7):
        for x in range(8):
            for yy, xx in ((y + 1, x), (y, x + 1)):
                if yy < 7 and xx < 8 and labels[y, x] != labels[yy, xx]:
                    key = tuple(sorted((int(labels[y, x]), int(labels[yy, xx]))))
                    pairs.setdefault(key, []).append((contour[y, x] + contour[yy, xx]) / 2)
    edges, length, total = touching_regions(labels, contour)
    assert [tuple(e) for e in edges.tolist()] == sorted(pairs)
    assert length.tolist() == [len(pairs[k]) for k in sorted(pairs)]
    np.testing.assert_allclose(total, [np.sum(pairs[k]) for k in sorted(pairs)], rtol=1e-6)


@pytest.mark.parametrize("levels", [1, 2, 4, 30, 1 << 12])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1), (13, 29), (40, 31)])
def test_the_watershed_is_higras(shape, levels):
    """Few levels make plateaus and ties, where the order of looking decides."""
    import higra as hg

    contour = (np.random.default_rng(levels).integers(0, levels, shape) / 4096).astype(np.float32)
    graph = hg.get_4_adjacency_graph(shape)
    weights = hg.weight_graph(graph, contour.astype(np.float64), hg.WeightFunction.mean)
    expected = hg.labelisation_watershed(graph, weights) if contour.size > 1 else np.zeros(shape, int)
    first = np.unique(expected, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first[1]))
    np.testing.assert_array_equal(watershed_labels(contour), rank[first[2]].reshape(shape))


def test_merged_regions_have_the_edges_of_the_relabelled_map():
    random = np.random.default_rng(6)
    labels = random.integers(0, 9, (20, 30)).astype(np.int32)
    contour = random.random((20, 30)).astype(np.float32)
    edges, length, total = touching_regions(labels, contour)
    merged, name = relabel(labels, np.array([4, 1, 4, 3, 1, 5, 4, 0, 0]))
    assert merged.max() == 4
    assert name[2] == -1
    new_of = name[np.array([4, 1, 4, 3, 1, 5, 4, 0, 0])]
    np.testing.assert_array_equal(merged, new_of[labels])
    assert (np.diff(np.unique(merged, return_index=True)[1]) > 0).all()
    found = merge_edges(new_of[edges[:, 0]], new_of[edges[:, 1]], length, total)
    for one, other in zip(found, touching_regions(merged, contour), strict=True):
        np.testing.assert_allclose(one, other)


def test_saliency_is_the_level_at_which_both_ends_first_share_a_node(oracle):
    hierarchy = oracle.small_hierarchy(2)
    tree = hierarchy.trees[0]
    below = oracle.node_leaves(tree.parent)
    for (a, b), level in zip(hierarchy.edges.tolist(), hierarchy.saliency, strict=True):
        assert level == min(tree.level[k] for k, leaves in enumerate(below) if {a, b} <= leaves)


def test_average_linkage_merges_the_pair_with_the_smallest_mean_boundary():
    edges, length = np.array([[0, 1], [1, 2], [2, 3]], np.int32), np.array([5, 5, 5], np.int32)

    tree = average_linkage(4, edges, np.array([0.3, 0.1, 0.2]), length)
    # 1 and 2 first, then 3 joins at 0.2, then 0 at 0.3.
    assert {int(tree.parent[1]), int(tree.parent[2])} == {4}
    assert tree.parent[3] == tree.parent[4] == 5
    np.testing.assert_allclose(tree.level, [0, 0, 0, 0, 0.1, 0.2, 0.3], atol=1e-7)


@pytest.mark.parametrize("levels", [1, 2, 5, 1 << 20])
@pytest.mark.parametrize("seed", range(3))
def test_single_linkage_is_higras_canonical_tree(seed, levels):
    """Few levels make ties, where the order of the edges decides."""
    import higra as hg

    random = np.random.default_rng(seed)
    labels = np.arange(63, dtype=np.int32).reshape(7, 9)
    edges, _, _ = touching_regions(labels, np.zeros(labels.shape, np.float32))
    weight = (random.integers(0, levels, len(edges)) / levels).astype(np.float32)
    graph = hg.UndirectedGraph(63)
    graph.add_edges(edges[:, 0].astype(np.int64), edges[:, 1].astype(np.int64))
    expected, altitude = hg.bpt_canonical(graph, weight.astype(np.float64))
    tree = single_linkage(63, edges, weight)
    check_tree(tree, 63)
    np.testing.assert_array_equal(tree.parent, expected.parents())
    np.testing.assert_array_equal(tree.level, altitude.astype(np.float32))


def test_monotone_lifts_inversions():
    parent = np.array([3, 3, 4, 4, 4], np.int32)
    assert monotone(parent, np.array([0, 0, 0, 0.5, 0.4])).tolist() == [0, 0, 0, 0.5, 0.5]


def test_worth_of_a_merge_counts_the_smaller_side():
    labels = np.array([[0, 0, 0, 0, 1, 2]], np.int32)
    parent = np.array([4, 3, 3, 4, 4], np.int32)
    level = np.array([0, 0, 0, 0.4, 0.5], np.float32)
    np.testing.assert_allclose(merge_worth(labels, parent, level, 1.0), [0.4, 1.0], rtol=1e-6)
    np.testing.assert_allclose(merge_worth(labels, parent, level, 0.0), [0.4, 0.5], rtol=1e-6)


def test_majority_takes_the_smallest_label_on_a_tie():
    fine = np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.int32)
    coarse = np.array([[7, 7, 5, 3], [2, 7, 3, 5]], np.int32)
    assert majority_leaf(fine, coarse, 2).tolist() == [7, 3]


@pytest.mark.parametrize("degrees", [0, 30, 60, 90, 135])
def test_a_boundary_counts_with_its_mean_strength_in_every_direction(degrees):
    ys, xs = np.mgrid[-20:20, -20:20] + 0.5
    angle = np.deg2rad(degrees)
    ridge = 0.9 * np.exp(-((xs * np.cos(angle) + ys * np.sin(angle)) ** 2) / 4)
    noise = np.random.default_rng(0).random((40, 40)) * 0.02
    tree = watershed_tree((ridge + noise).astype(np.float32), 500).tree
    assert tree.level[-1] > 0.8


def test_the_leaf_cap_keeps_strong_boundaries():
    noise = np.random.default_rng(0).random((40, 40)) * 0.05
    contour = (noise + 0.9 * np.exp(-((np.arange(40) - 19.5) ** 2) / 4)).astype(np.float32)
    found = watershed_tree(contour, 2)
    labels = found.labels
    check_tree(found.tree, 2)
    edges, length, total = touching_regions(labels, contour)
    np.testing.assert_array_equal(found.edges, edges)
    np.testing.assert_array_equal(found.length, length)
    np.testing.assert_allclose(found.strength, total / length, rtol=1e-6)
    assert len(np.unique(labels[:, :19])) == 1
    assert len(np.unique(labels[:, 22:])) == 1
    assert labels[5, 5] != labels[5, 35]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (40, 30)])
def test_flat_pictures_are_one_region(shape):
    halves = tuple(max(1, side // 2) for side in shape)
    hierarchy = build_hierarchy([np.zeros(shape, np.float32), np.zeros(halves, np.float32)], 100)
    assert (hierarchy.labels == 0).all()
    assert [len(t.parent) for t in hierarchy.trees] == [1]
    assert len(hierarchy.edges) == 0


def test_coarse_levels_reach_the_fine_edges():
    fine = np.zeros((40, 40), np.float32)
    fine[:, 19:21] = 0.2
    fine[19:21, :] = 0.2
    coarse = np.zeros((20, 20), np.float32)
    coarse[:, 9:11] = 0.9  # only the vertical boundary exists at the coarse scale
    hierarchy = build_hierarchy([fine, coarse], 100)
    vertical = [i for i, (a, b) in enumerate(hierarchy.edges.tolist()) if b == a + 1]
    own = np.arange(hierarchy.labels.max() + 1, dtype=np.int32)
    levels = edge_saliency(hierarchy.edges, own, hierarchy.trees[2].parent, hierarchy.trees[2].level)
    assert levels[vertical].min() > 0.5
    assert levels[[i for i in range(len(levels)) if i not in vertical]].max() < 0.1
