"""Groups by pieces and segments against the same by leaves and edges."""

import numpy as np
import pytest

from maskmill.masks.mcg import candidates, nodes, outlines, pieces, rings
from maskmill.masks.mcg.grouping import list_groups

MERGES = 25


class Scene:
    """A hierarchy whose first nodes are of several leaves each; its nodes, pieces and groups."""

    def __init__(self, oracle, seed):
        self.hierarchy = oracle.small_hierarchy(seed, 40, 40, 160)
        contour = np.random.default_rng(seed).random((40, 40)).astype(np.float32)
        self.regions = oracle.regions_of(self.hierarchy, oracle.blobs(40, 40, seed), contour)
        tree, edges = self.hierarchy.trees[0], self.hierarchy.edges
        self.bare = nodes.describe_nodes(tree, edges, self.regions, 200)
        self.nodes = outlines.fill_nodes(self.bare, self.regions)
        self.top = 2 * MERGES + 1
        self.pieces = pieces.describe_pieces(self.bare, self.nodes, edges, self.regions, self.top)
        groups = list_groups(self.nodes, edges, self.regions, (0, 500, 500, 500), MERGES)
        self.groups = groups[groups[:, 1] >= 0]

    def leaves(self, node):
        return set(self.nodes.leaves[self.nodes.low[node] : self.nodes.high[node]].tolist())

    def filled(self, node):
        row = slice(self.nodes.hole_start[node], self.nodes.hole_start[node + 1])
        return self.leaves(node) | set(self.nodes.holes[row].tolist())


@pytest.fixture(scope="module", params=range(3))
def scene(request, oracle):
    return Scene(oracle, request.param)


def piece_of(scene):
    of = np.empty(len(scene.nodes.place), np.int64)
    for number, node in enumerate(scene.pieces.node):
        of[sorted(scene.leaves(node))] = number
    return of


def test_pieces_are_the_undivided_nodes_and_cover_every_leaf_once(scene):
    divided = set(scene.nodes.up[: scene.top].tolist())
    assert sorted(scene.pieces.node.tolist()) == sorted(set(range(scene.top)) - divided)
    assert sum(len(scene.leaves(node)) for node in scene.pieces.node) == len(scene.nodes.place)
    assert len(scene.pieces.node) < len(scene.nodes.place) / 2
    for node in range(scene.top):
        inside = scene.pieces.node[scene.pieces.low[node] : scene.pieces.high[node]]
        assert set().union(*(scene.leaves(i) for i in inside)) == scene.leaves(node)


def test_segments_are_the_sums_of_their_edges(scene):
    of, table = piece_of(scene), pieces.edge_table(scene.regions)
    ends = np.sort(of[scene.hierarchy.edges], axis=1)
    found = {}
    for p in range(len(scene.pieces.node)):
        for j in range(scene.pieces.start[p], scene.pieces.start[p + 1]):
            found.setdefault(int(scene.pieces.edge[j]), set()).add((p, int(scene.pieces.neighbour[j])))
    assert len(found) == len(scene.pieces.segments)
    for segment, both in found.items():
        rows = table[(ends == min(both)).all(axis=1)]
        assert len(rows) > 0
        got = scene.pieces.segments[segment]
        np.testing.assert_allclose(got[: pieces.LOWEST], rows[:, : pieces.LOWEST].sum(axis=0))
        assert got[pieces.LOWEST] == rows[:, pieces.LOWEST].min()
        assert got[pieces.HIGHEST] == rows[:, pieces.LOWEST].max()
        levels = slice(scene.pieces.level_start[segment], scene.pieces.level_start[segment + 1])
        assert scene.pieces.level[levels].tolist() == sorted(rows[:, pieces.LOWEST].tolist())
        assert scene.pieces.level_length[levels].sum() == got[pieces.LENGTH]


def test_outlines_of_filled_nodes_in_segments_have_the_length_of_those_in_edges(scene):
    holed = 0
    for node in range(1, scene.top):
        segments = scene.pieces.segment[scene.pieces.outline_start[node] : scene.pieces.outline_start[node + 1]]
        edges = scene.nodes.edge[scene.nodes.start[node] : scene.nodes.start[node + 1]]
        assert scene.pieces.segments[segments, pieces.LENGTH].sum() == scene.regions.length[edges].sum()
        row = slice(scene.pieces.hole_start[node], scene.pieces.hole_start[node + 1])
        holes = set().union(*(scene.leaves(scene.pieces.node[p]) for p in scene.pieces.holes[row]))
        assert scene.leaves(node) | holes == scene.filled(node)
        holed += bool(holes)
    assert holed


def test_holes_of_groups_by_pieces_are_those_by_leaves(scene):
    start, holes = outlines.fill_holes(scene.groups, scene.nodes, scene.regions)
    piece_start, piece_holes = outlines.fill_groups(scene.groups, scene.pieces)
    found = 0
    for g in range(len(scene.groups)):
        expected = set(holes[start[g] : start[g + 1]].tolist())
        got = [scene.leaves(scene.pieces.node[p]) for p in piece_holes[piece_start[g] : piece_start[g + 1]]]
        assert set().union(*got) == expected
        assert sum(map(len, got)) == len(expected)
        found += bool(expected)
    assert 10 < found < len(scene.groups)


def test_rings_are_the_touching_leaves_each_once(scene):
    start, holes = outlines.fill_holes(scene.groups, scene.nodes, scene.regions)
    neighbours = [set() for _ in scene.nodes.place]
    for a, b in scene.hierarchy.edges.tolist():
        neighbours[a].add(b)
        neighbours[b].add(a)
    rows = rings.ring_rows(scene.regions)
    described = rings.describe_rings(scene.nodes, rows, scene.top)
    words = described.bits.shape[1]
    sums = np.empty(rings.COLUMNS)
    singles = outlines.singletons(scene.top)
    none = np.zeros(len(singles), np.int64)
    begin = np.concatenate([none, start])
    for g, group in enumerate(np.concatenate([singles, scene.groups])):
        members = set().union(*(scene.filled(i) for i in group if i >= 0)) | set(
            holes[begin[g] : begin[g + 1]].tolist()
        )
        around = set().union(*(neighbours[leaf] for leaf in members)) - members
        row = np.zeros(words, np.uint64)
        for leaf in members:
            row[leaf // 64] |= np.uint64(1) << np.uint64(leaf % 64)
        rings.sum_ring(group, row, described, sums)
        np.testing.assert_allclose(sums, rows[sorted(around)].sum(axis=0), rtol=1e-9, atol=1e-6)


def test_first_of_equal_keys():
    random = np.random.default_rng(0)
    keys = random.integers(0, 2**64, 500, dtype=np.uint64)[random.integers(0, 500, 2000)]
    keys[:40] = (np.arange(40, dtype=np.uint64) << np.uint64(32)) + np.uint64(3)  # the same slot at first
    expected = np.zeros(len(keys), bool)
    expected[np.unique(keys, return_index=True)[1]] = True
    np.testing.assert_array_equal(candidates.first_of(keys), expected)
    assert len(candidates.first_of(keys[:0])) == 0
