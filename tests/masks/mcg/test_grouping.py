import numpy as np
import pytest

from maskmill.masks.mcg import candidates, grouping, nodes, outlines
from maskmill.masks.mcg.hierarchy import Hierarchy, Tree

MANY = (10**4,) * 4


@pytest.fixture(params=range(6))
def hierarchy(request, oracle):
    return oracle.small_hierarchy(request.param)


def groups_of(hierarchy, oracle, quotas=MANY, merges=100):
    """Groups of the first tree as places in its walk, and the tree's nodes in that order."""
    tree, regions = hierarchy.trees[0], oracle.regions_of(hierarchy)
    found = nodes.describe_nodes(tree, hierarchy.edges, regions, max(merges, -(-quotas[0] // 2)))
    groups = grouping.list_groups(outlines.fill_nodes(found, regions), hierarchy.edges, regions, quotas, merges)
    return groups, nodes.appearance(tree.parent, tree.level, max(merges, -(-quotas[0] // 2)))[0]


def test_groups_are_exactly_those_of_brute_force(hierarchy, oracle):
    """Connected, disjoint, without siblings, without parts in another's holes, without specks."""
    labels, tree = hierarchy.labels, hierarchy.trees[0]
    groups, node = groups_of(hierarchy, oracle)
    below = oracle.node_leaves(tree.parent)
    sets = [below[i] for i in node]
    root = [i for i, leaves in enumerate(sets) if len(leaves) == labels.max() + 1]
    masks = [oracle.draw(s, labels) for s in sets]
    filled = [oracle.without_holes(m) for m in masks]

    def touching(i, j):
        enclosed = (filled[i] & masks[j]).any() or (filled[j] & masks[i]).any()
        return (oracle.ndimage.binary_dilation(masks[i], oracle.FOUR) & masks[j]).any() and not enclosed

    siblings = [int(tree.parent[i]) for i in node]
    found = {k: set() for k in (1, 2, 3, 4)}
    for group in groups:
        members = frozenset(int(i) for i in group if i >= 0)
        assert members not in found[len(members)]
        found[len(members)].add(members)
    assert found[1] == {frozenset([i]) for i in range(len(node))}
    total = labels.size
    for size in (2, 3, 4):
        expected = set()
        for group in oracle.connected_groups(sets, siblings, touching, size):
            areas = [filled[i].sum() for i in group]
            heavy = min(areas) >= grouping.MIN_SHARE * sum(areas) and sum(areas) <= grouping.MAX_SHARE * total
            if heavy and not group & set(root):
                expected.add(group)
        assert found[size] == expected
        assert size > 3 or expected


def test_lists_are_in_order_of_appearance_and_quotas_cut_their_tails(hierarchy, oracle):
    groups = groups_of(hierarchy, oracle)[0]
    parts = (groups >= 0).sum(axis=1)
    for size in (2, 3, 4):
        last = groups[parts == size].max(axis=1)
        assert (np.diff(last) >= 0).all()
    few = groups_of(hierarchy, oracle, (5, 4, 3, 2))[0]
    for size, quota in ((2, 4), (3, 3), (4, 2)):
        np.testing.assert_array_equal(few[(few >= 0).sum(axis=1) == size], groups[parts == size][:quota])


def test_nodes_appear_after_their_parents_by_falling_level(hierarchy):
    tree = hierarchy.trees[0]
    node, up = nodes.appearance(tree.parent, tree.level, 1000)
    assert node[0] == len(tree.parent) - 1
    assert sorted(node.tolist()) == list(range(len(tree.parent)))
    assert (tree.parent[node[1:]] == node[up[1:]]).all()
    levels = tree.level[node[up[1:]]]
    assert (np.diff(levels) <= 0).all()
    assert len(nodes.appearance(tree.parent, tree.level, 2)[0]) == 5


def test_merges_at_level_zero_are_not_undone():
    parent = np.array([3, 3, 4, 4, 4], np.int32)
    node, _ = nodes.appearance(parent, np.array([0, 0, 0, 0, 0.5], np.float32), 10)
    assert node.tolist() == [4, 2, 3]


def test_leaf_intervals_cover_the_leaves_below_each_node(hierarchy, oracle):
    parent = hierarchy.trees[0].parent
    leaves, low, high = nodes.leaf_intervals(parent)
    for node, below in enumerate(oracle.node_leaves(parent)):
        assert set(leaves[low[node] : high[node]].tolist()) == below


def test_candidates_are_the_leaf_sets_of_the_groups_each_once(hierarchy, oracle):
    area = np.bincount(hierarchy.labels.ravel())
    found = candidates.as_candidates(candidates.propose(hierarchy, oracle.regions_of(hierarchy), (MANY,), 100))
    groups, node = groups_of(hierarchy, oracle)
    below = oracle.node_leaves(hierarchy.trees[0].parent)
    unions = [frozenset().union(*(below[node[i]] for i in group if i >= 0)) for group in groups]
    assert [frozenset(s) for s in oracle.sets_of(found.members)] == list(dict.fromkeys(unions))
    first = [unions.index(frozenset(s)) for s in oracle.sets_of(found.members)]
    tree = hierarchy.trees[0]
    for row, index in enumerate(first):
        parts = [node[i] for i in groups[index] if i >= 0]
        sizes = [area[sorted(below[p])].sum() for p in parts]
        ends = [tree.level[tree.parent[p]] if tree.parent[p] != p else 1.0 for p in parts]
        assert found.parts[row] == len(parts)
        assert found.end[row] == min(ends)
        assert found.begin[row] == min(tree.level[p] for p in parts)
        assert found.balance[row] == pytest.approx(min(sizes) / max(sizes))


def test_the_number_of_attempts_is_bounded(hierarchy, monkeypatch, oracle):
    monkeypatch.setattr(grouping, "ATTEMPT_LIMIT", 50)
    groups = groups_of(hierarchy, oracle)[0]
    assert (groups[:, 1] >= 0).sum() <= 50


def test_a_chain_of_thousands_of_leaves_ends(oracle):
    """A comb: every merge adds one leaf, so everything touches the growing rest."""
    n = 1500
    parent = np.empty(2 * n - 1, np.int32)
    parent[:2] = n
    parent[2:n] = np.arange(n + 1, 2 * n - 1)
    parent[n:] = np.minimum(np.arange(n + 1, 2 * n), 2 * n - 2)
    level = np.concatenate([np.zeros(n), np.linspace(0.1, 0.9, n - 1)]).astype(np.float32)
    edges = np.stack([np.zeros(n - 1), np.arange(1, n)], axis=1).astype(np.int32)
    one = np.ones(n - 1, np.float32)
    comb = Hierarchy(np.arange(n, dtype=np.int32)[None], edges, one, one, one, (Tree(parent, level),))
    groups = groups_of(comb, oracle, MANY, 600)[0]
    assert len(groups) >= n
