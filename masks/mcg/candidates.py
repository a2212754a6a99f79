"""The groups of all trees of a picture, holes filled, each leaf set once."""

import dataclasses

import numba
import numpy as np

from maskmill.masks.mcg.grouping import list_groups
from maskmill.masks.mcg.hierarchy import Hierarchy
from maskmill.masks.mcg.nodes import Nodes, describe_nodes
from maskmill.masks.mcg.outlines import PARTS, fill_groups, fill_nodes, group_rows, node_rows, row_sums
from maskmill.masks.mcg.pieces import Pieces, describe_pieces
from maskmill.masks.mcg.regions import Regions


@dataclasses.dataclass(frozen=True)
class TreeGroups:
    """Groups of nodes of one tree.

    Attributes:
        nodes: of the tree, holes filled; pieces: what the first of them, which groups of several are made of, consist of.
        groups: int32[g, 4], nodes, -1 padded; single ones first.
        order: int32[g], place among the tree's groups of that many nodes.
        hole_start: int64[g + 1], row starts of `holes` int32[...], pieces in holes of each group that are in no node's.
    """

    nodes: Nodes
    pieces: Pieces
    groups: np.ndarray
    order: np.ndarray
    hole_start: np.ndarray
    holes: np.ndarray

    def keys(self) -> np.ndarray:
        """Sum of the leaf keys of each group, holes included; uint64[g]."""
        of_nodes = np.append(self.nodes.key, np.uint64(0))  # -1 is the last, nothing
        of_holes = row_sums(self.pieces.key[self.holes], self.hole_start)
        return of_nodes[self.groups].sum(axis=1, dtype=np.uint64) + of_holes

    def take(self, index: np.ndarray) -> "TreeGroups":
        """The groups at ascending `index`."""
        size = np.diff(self.hole_start)
        kept = np.zeros(len(self.groups), bool)
        kept[index] = True
        start = np.concatenate([[0], np.cumsum(size[index])])
        holes = self.holes[np.repeat(kept, size)]
        return TreeGroups(self.nodes, self.pieces, self.groups[index], self.order[index], start, holes)

    @property
    def singles(self) -> int:
        """How many groups are of one node; they come first."""
        return int((self.groups[:, 1] < 0).sum())


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


@numba.njit(cache=True)
def first_of(keys):
    """Which of random keys uint64[n] stand in no earlier place; bool[n]."""
    size = 16
    while size < 2 * len(keys):
        size *= 2
    slots = np.full(size, -1, np.int64)  # places of the keys seen, at the first free slot from the key's last bits on
    out = np.zeros(len(keys), numba.boolean)
    for k in range(len(keys)):
        slot = np.int64(keys[k] & np.uint64(size - 1))
        while slots[slot] >= 0 and keys[slots[slot]] != keys[k]:
            slot = (slot + 1) & (size - 1)
        if slots[slot] < 0:
            slots[slot], out[k] = k, True
    return out


def distinct(lists: list[TreeGroups]) -> list[TreeGroups]:
    """Without the groups whose leaf set an earlier one has."""
    first = first_of(np.concatenate([one.keys() for one in lists]))
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
        bare = describe_nodes(tree, hierarchy.edges, regions, undone)
        nodes = fill_nodes(bare, regions)
        top = min(len(nodes.up), 2 * merges + 1)
        pieces = describe_pieces(bare, nodes, hierarchy.edges, regions, top)
        groups = list_groups(nodes, hierarchy.edges, regions, quotas[number], merges)
        parts = (groups >= 0).sum(axis=1)
        order = (np.arange(len(groups)) - np.searchsorted(parts, parts)).astype(np.int32)
        start, holes = np.zeros(len(groups) + 1, np.int64), np.zeros(0, np.int32)
        lists.append(TreeGroups(nodes, pieces, groups, order, start, holes))
    return distinct(lists)


def fill(lists: list[TreeGroups]) -> list[TreeGroups]:
    """The groups with their holes; those that have become equal to an earlier one are dropped.

    Nodes are filled already, so single ones have no more holes.
    """
    filled = []
    for one in lists:
        start, holes = fill_groups(one.groups[one.singles :], one.pieces)
        start = np.concatenate([np.zeros(one.singles, np.int64), start])
        filled.append(dataclasses.replace(one, hole_start=start, holes=holes))
    return distinct(filled)


@numba.njit(cache=True)
def _levels(groups, area, node_end, node_begin):
    """`Candidates.end`, `begin` and `balance` of groups of nodes, and of how many nodes they are."""
    end = np.full(len(groups), np.inf, np.float32)
    begin = np.full(len(groups), np.inf, np.float32)
    balance = np.empty(len(groups), np.float32)
    parts = np.zeros(len(groups), np.int32)
    for g in range(len(groups)):
        smallest, largest = np.inf, 0.0
        for k in range(PARTS):
            i = groups[g, k]
            if i < 0:
                break
            parts[g] += 1
            end[g], begin[g] = min(end[g], node_end[i]), min(begin[g], node_begin[i])
            smallest, largest = min(smallest, area[i]), max(largest, area[i])
        balance[g] = smallest / largest
    return end, begin, balance, parts


def as_candidates(lists: list[TreeGroups]) -> Candidates:
    """The groups as sets of leaves, tree by tree."""
    columns = []
    for number, one in enumerate(lists):
        nodes, groups = one.nodes, one.groups
        rows = node_rows(nodes.up, nodes.leaves, nodes.low, nodes.high, nodes.hole_start, nodes.holes)
        end, begin, balance, parts = _levels(groups, nodes.area, nodes.end, nodes.begin)
        columns.append(
            (
                group_rows(groups, rows, one.hole_start, one.pieces.node[one.holes]),
                np.full(len(groups), number, np.int32),
                parts,
                one.order,
                end,
                begin,
                balance,
            )
        )
    return Candidates(*(np.concatenate(column) for column in zip(*columns, strict=True)))
