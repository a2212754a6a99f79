"""The groups of all trees of a picture, holes filled, each leaf set once."""

import dataclasses

import numpy as np

from maskmill.masks.mcg.grouping import list_groups
from maskmill.masks.mcg.hierarchy import Hierarchy
from maskmill.masks.mcg.nodes import Nodes, describe_nodes, leaf_keys
from maskmill.masks.mcg.outlines import bit_rows, fill_holes, fill_nodes, row_sums
from maskmill.masks.mcg.regions import Regions


@dataclasses.dataclass(frozen=True)
class TreeGroups:
    """Groups of nodes of one tree.

    Attributes:
        nodes: of the tree, holes filled.
        groups: int32[g, 4], nodes, -1 padded.
        order: int32[g], place among the tree's groups of that many nodes.
        hole_start: int64[g + 1], row starts of `holes` int32[...], leaves in holes of each group that are in no node's.
    """

    nodes: Nodes
    groups: np.ndarray
    order: np.ndarray
    hole_start: np.ndarray
    holes: np.ndarray

    def keys(self) -> np.ndarray:
        """Sum of the leaf keys of each group, holes included; uint64[g]."""
        of_nodes = np.append(self.nodes.key, np.uint64(0))  # -1 is the last, nothing
        of_holes = row_sums(leaf_keys(len(self.nodes.place))[self.holes], self.hole_start)
        return of_nodes[self.groups].sum(axis=1, dtype=np.uint64) + of_holes

    def take(self, index: np.ndarray) -> "TreeGroups":
        """The groups at ascending `index`."""
        size = np.diff(self.hole_start)
        kept = np.zeros(len(self.groups), bool)
        kept[index] = True
        start = np.concatenate([[0], np.cumsum(size[index])])
        return TreeGroups(self.nodes, self.groups[index], self.order[index], start, self.holes[np.repeat(kept, size)])


@dataclasses.dataclass(frozen=True)
class Candidates:
    """P distinct sets of leaf regions of one image.

    Attributes:
        members: uint64[P, ceil(n / 64)], bit l % 64 of word l // 64 says whether leaf l belongs.
        tree: int32[P], the tree (index into `Hierarchy.trees`) that proposed it first.
        parts: int32[P], 1 .. 4 nodes.
        order: int32[P], its place among the tree's groups of that many parts.
        end: float32[P], lowest level at which one of its nodes disappears (MCG's end_th).
        begin: float32[P], lowest level at which one of its nodes forms (start_th).
        balance: float32[P], area of the smallest node over the largest, holes not counted.
    """

    members: np.ndarray
    tree: np.ndarray
    parts: np.ndarray
    order: np.ndarray
    end: np.ndarray
    begin: np.ndarray
    balance: np.ndarray

    def __len__(self) -> int:
        return len(self.members)


def distinct(lists: list[TreeGroups]) -> list[TreeGroups]:
    """Without the groups whose leaf set an earlier one has."""
    keys = np.concatenate([one.keys() for one in lists])
    first = np.zeros(len(keys), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    bounds = np.cumsum([0, *(len(one.groups) for one in lists)])
    return [one.take(np.flatnonzero(first[a:b])) for one, a, b in zip(lists, bounds, bounds[1:], strict=False)]


def propose(
    hierarchy: Hierarchy, regions: Regions, quotas: tuple[tuple[int, int, int, int], ...], merges: int
) -> list[TreeGroups]:
    """All groups of an image, tree by tree; equal leaf sets are listed once, where they come first.

    Args:
        hierarchy: trees over n leaves.
        regions: what is known of them.
        quotas: singletons, pairs, triplets, 4-tuples for each tree; as many rows as there may be trees.
        merges: merges undone per tree for pairs and larger.

    Returns:
        A list per tree: singletons first, each number of parts in order of appearance; holes between nodes not filled yet.
    """
    lists = []
    for number, tree in enumerate(hierarchy.trees):
        undone = max(merges, -(-quotas[number][0] // 2))
        nodes = fill_nodes(describe_nodes(tree, hierarchy.edges, regions, undone), regions)
        groups = list_groups(nodes, hierarchy.edges, regions, quotas[number], merges)
        parts = (groups >= 0).sum(axis=1)
        order = (np.arange(len(groups)) - np.searchsorted(parts, parts)).astype(np.int32)
        lists.append(TreeGroups(nodes, groups, order, np.zeros(len(groups) + 1, np.int64), np.zeros(0, np.int32)))
    return distinct(lists)


def fill(lists: list[TreeGroups], regions: Regions) -> list[TreeGroups]:
    """The groups with their holes; those that have become equal to an earlier one are dropped.

    Nodes are filled already, so single ones have no more holes; they come first in each list.
    """
    filled = []
    for one in lists:
        singles = int((one.groups[:, 1] < 0).sum())
        start, holes = fill_holes(one.groups[singles:], one.nodes, regions)
        start = np.concatenate([np.zeros(singles, np.int64), start])
        filled.append(dataclasses.replace(one, hole_start=start, holes=holes))
    return distinct(filled)


def as_candidates(lists: list[TreeGroups]) -> Candidates:
    """The groups as sets of leaves, tree by tree."""
    columns = []
    for number, one in enumerate(lists):
        nodes, groups = one.nodes, one.groups
        absent = groups < 0
        area = np.where(absent, np.nan, nodes.area[groups])
        columns.append(
            (
                bit_rows(
                    groups,
                    one.hole_start,
                    one.holes,
                    nodes.hole_start,
                    nodes.holes,
                    nodes.low,
                    nodes.high,
                    nodes.leaves,
                ),
                np.full(len(groups), number, np.int32),
                (~absent).sum(axis=1).astype(np.int32),
                one.order,
                np.where(absent, np.float32(np.inf), nodes.end[groups]).min(axis=1),
                np.where(absent, np.float32(np.inf), nodes.begin[groups]).min(axis=1),
                (np.nanmin(area, axis=1) / np.nanmax(area, axis=1)).astype(np.float32),
            )
        )
    return Candidates(*(np.concatenate(column) for column in zip(*columns, strict=True)))
