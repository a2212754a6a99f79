"""Tree ensembles as plain arrays, scored by our own kernel: no pickle, no training library at run time.

A tree is stored as its inner nodes in one row of arrays: `feature`, `threshold`, `left`, `right`. A row of features goes
left where `row[feature] <= threshold`. A child index >= 0 is another inner node of the same tree, a negative one, -1 - k,
is the tree's leaf k. The ensemble's prediction is the sum of the leaf values.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from maskmill.masks.mcg.scoring import lay_out, score_planes, score_rows

if TYPE_CHECKING:
    from jaxtyping import Float32

ARRAYS = {
    "feature": np.int16,
    "threshold": np.float32,
    "left": np.int16,
    "right": np.int16,
    "value": np.float32,
    "node_start": np.int32,
    "leaf_start": np.int32,
}


@dataclasses.dataclass(frozen=True)
class TreeModel:
    """An ensemble of T trees with N inner nodes and N + T leaves in all.

    Attributes:
        feature: int16[N], column compared; threshold: float32[N].
        left, right: int16[N], children within the tree, see the module's header.
        value: float32[N + T], leaf values.
        node_start: int32[T + 1], where each tree's inner nodes begin; leaf_start: int32[T + 1].
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    node_start: np.ndarray
    leaf_start: np.ndarray

    @functools.cached_property
    def _layout(self) -> tuple[np.ndarray, ...]:
        return lay_out(*(getattr(self, name) for name in ARRAYS)).arrays

    def predict(self, rows: Float32[np.ndarray, "n features"]) -> Float32[np.ndarray, " n"]:
        """Sums of leaf values.

        Args:
            rows: float32[n, features], finite.

        Returns:
            float32[n].
        """
        return score_rows(np.ascontiguousarray(rows, np.float32), self._layout)

    def predict_planes(
        self, planes: Float32[np.ndarray, "features h w"], early: int = 0, floor: float = 0.0, stretch: float = 1.0
    ) -> Float32[np.ndarray, "h w"]:
        """Sums of leaf values of every pixel.

        Args:
            planes: float32[features, h, w], C order, finite.
            early: after this many trees pixels whose sum is below `floor` are settled: they get that sum times `stretch`,
                which stands for what the other trees would have added. 0: never.
            floor, stretch: see `early`.

        Returns:
            float32[h, w].
        """
        columns = planes.reshape(len(planes), -1)
        total = score_planes(columns, self._layout, early, np.float32(floor), np.float32(stretch))
        return total.reshape(planes.shape[1:])

    def check(self, features: int) -> None:
        """ValueError unless these are trees over rows of `features` columns."""
        for name, dtype in ARRAYS.items():
            array = getattr(self, name)
            if array.ndim != 1 or array.dtype != dtype:
                raise ValueError(
                    f"array {name!r} is {array.dtype}{list(array.shape)}, expected a flat {np.dtype(dtype)}"
                )
        nodes, trees = len(self.feature), len(self.node_start) - 1
        if trees < 1 or len(self.leaf_start) != trees + 1:
            raise ValueError(f"{trees} trees, but {len(self.leaf_start)} leaf starts")
        if not len(self.threshold) == len(self.left) == len(self.right) == nodes:
            raise ValueError("the arrays of inner nodes differ in length")
        if self.node_start[0] != 0 or self.node_start[-1] != nodes or (np.diff(self.node_start) < 1).any():
            raise ValueError("trees do not follow one another in the node arrays")
        if (self.leaf_start != self.node_start + np.arange(trees + 1)).any() or len(self.value) != nodes + trees:
            raise ValueError("a tree of n inner nodes must have n + 1 leaves")
        if nodes and not (self.feature.min() >= 0 and self.feature.max() < features):
            raise ValueError(f"compares column {int(self.feature.max())}, but there are {features} features")
        if not (np.isfinite(self.threshold).all() and np.isfinite(self.value).all()):
            raise ValueError("thresholds and leaf values must be finite")
        sizes = np.diff(self.node_start)
        own = np.repeat(sizes, sizes)
        index = np.arange(nodes) - np.repeat(self.node_start[:-1], sizes)
        for child in (self.left.astype(np.int64), self.right.astype(np.int64)):
            # Children after their parents: no cycles, so every walk ends.
            if (child >= own).any() or (-1 - child > own).any() or ((child >= 0) & (child <= index)).any():
                raise ValueError("a child index leaves its tree or goes back in it")
        children = np.concatenate([self.left, self.right]).astype(np.int64)
        tree = np.tile(np.repeat(np.arange(trees), sizes), 2)
        inner = children >= 0
        parents_of_node = np.bincount(self.node_start[tree[inner]] + children[inner], minlength=nodes)
        parents_of_node[self.node_start[:-1]] += 1  # roots have none
        parents_of_leaf = np.bincount(self.leaf_start[tree[~inner]] - 1 - children[~inner], minlength=nodes + trees)
        if (parents_of_node != 1).any() or (parents_of_leaf != 1).any():
            raise ValueError("a node or leaf has no parent in its tree, or more than one")


def pack_trees(trees: list[dict]) -> TreeModel:
    """Puts nested trees into arrays.

    Args:
        trees: one nested dict per tree; an inner node has `feature`, `threshold`, `left`, `right`, a leaf has `value`.
            A tree that is one leaf becomes an inner node with two equal leaves.

    Returns:
        The model. Thresholds are rounded down to float32, so float32 rows go the way the exact threshold sends them.
    """
    nodes: list[tuple[int, float, int, int]] = []
    values: list[float] = []
    node_start, leaf_start = [0], [0]
    for tree in trees:
        if "value" in tree:
            tree = {"feature": 0, "threshold": 0.0, "left": tree, "right": tree}
        own: list[tuple[int, float, int, int]] = [(0, 0.0, 0, 0)]
        leaves: list[float] = []
        queue = [(tree, 0)]
        while queue:
            node, place = queue.pop(0)
            children = []
            for name in ("left", "right"):
                child = node[name]
                if "value" in child:
                    leaves.append(child["value"])
                    children.append(-len(leaves))
                else:
                    own.append((0, 0.0, 0, 0))
                    children.append(len(own) - 1)
                    queue.append((child, len(own) - 1))
            own[place] = (node["feature"], node["threshold"], children[0], children[1])
        nodes += own
        values += leaves
        node_start.append(len(nodes))
        leaf_start.append(len(values))
    exact = np.array([node[1] for node in nodes], np.float64)
    threshold = exact.astype(np.float32)
    threshold = np.where(threshold > exact, np.nextafter(threshold, np.float32(-np.inf)), threshold)
    return TreeModel(
        np.array([node[0] for node in nodes], np.int16),
        threshold.astype(np.float32),
        np.array([node[2] for node in nodes], np.int16),
        np.array([node[3] for node in nodes], np.int16),
        np.array(values, np.float32),
        np.array(node_start, np.int32),
        np.array(leaf_start, np.int32),
    )
