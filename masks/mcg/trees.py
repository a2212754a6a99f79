"""Tree ensembles as plain arrays, walked by our own kernel: no pickle, no training library at run time.

A tree is stored as its inner nodes in one row of arrays: `feature`, `threshold`, `left`, `right`. A row of features goes
left where `row[feature] <= threshold`. A child index >= 0 is another inner node of the same tree, a negative one, -1 - k,
is the tree's leaf k. The ensemble's prediction is the sum of the leaf values.
"""

import dataclasses

import numba
import numpy as np

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

    def predict(self, rows: np.ndarray, early: int = 0, floor: float = 0.0, stretch: float = 1.0) -> np.ndarray:
        """Sums of leaf values.

        Args:
            rows: float32[n, features], C order, finite.
            early: after this many trees rows whose sum is below `floor` are settled: they get that sum times `stretch`,
                which stands for what the other trees would have added. 0: never.
            floor, stretch: see `early`.

        Returns:
            float32[n].
        """
        rows = np.ascontiguousarray(rows, np.float32)
        return _walk(
            rows,
            self.feature,
            self.threshold,
            self.left,
            self.right,
            self.value,
            self.node_start,
            self.leaf_start,
            early,
            np.float32(floor),
            np.float32(stretch),
        )

    def check(self, features: int) -> None:
        """ValueError unless every walk over rows of `features` columns stays in bounds and ends."""
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


@numba.njit(cache=True)
def _walk(rows, feature, threshold, left, right, value, node_start, leaf_start, early, floor, stretch):
    out = np.empty(len(rows), np.float32)
    trees = len(node_start) - 1
    for i in range(len(rows)):
        row = rows[i]
        total = np.float32(0)
        for t in range(trees):
            if t == early and t > 0 and total < floor:
                total *= stretch
                break
            base = node_start[t]
            node = 0
            while node >= 0:
                k = base + node
                node = left[k] if row[feature[k]] <= threshold[k] else right[k]
            total += value[leaf_start[t] - 1 - node]
        out[i] = total
    return out


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
