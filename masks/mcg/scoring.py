"""Sums of leaf values of tree ensembles, many rows at a time, without a branch that the data decide.

A walk from the root takes a branch per level that the processor cannot foresee. Here every node of a tree is compared
for every row instead, which for trees of a few dozen leaves is far less work than it sounds: the leaves of a tree,
numbered from left to right, are bits of a word that starts full; a node that sends the row right clears the bits of its
left subtree; at the end the lowest bit left is the row's leaf. All rows of a chunk meet the same node at the same time,
so the loops run over columns of floats and LLVM makes vector code of them. Trees of more than `WORD` leaves take several
words, each with the nodes whose left subtree reaches into it.

After Lucchese et al., "QuickScorer: a fast algorithm to rank documents with additive ensembles of regression trees",
SIGIR 2015, with chunks of rows in the place of its order of features. The sums are those of a walk to the last bit: leaf
values are added in float32, tree by tree.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Integer

WORD = 31  # leaves; the sign is not used
ALL = (1 << WORD) - 1
UNROLLED = 4  # nodes compared per pass over a chunk
CHUNK = 512  # rows: their columns stay in the second-level cache, the words in the first
_EXPONENT, _BIAS = 23, 127  # of float32: a power of two's exponent is the number of its bit


@dataclasses.dataclass(frozen=True)
class Layout:
    """An ensemble as words of comparisons.

    Attributes:
        feature: int32[C], column compared; threshold: float32[C]; mask: int32[C], bits kept where the column is above
            the threshold. C is a multiple of `UNROLLED`: comparisons that keep every bit fill up.
        word_start: int32[W + 1], where the comparisons of each word begin.
        tree_start: int32[T + 1], where the words of each tree begin.
        value: float32[...], leaf values, `WORD` places per word.
    """

    feature: np.ndarray
    threshold: np.ndarray
    mask: np.ndarray
    word_start: np.ndarray
    tree_start: np.ndarray
    value: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return self.feature, self.threshold, self.mask, self.word_start, self.tree_start, self.value


def lay_out(
    feature: Integer[np.ndarray, " nodes"],
    threshold: Float[np.ndarray, " nodes"],
    left: Integer[np.ndarray, " nodes"],
    right: Integer[np.ndarray, " nodes"],
    value: Float[np.ndarray, " leaves"],
    node_start: Integer[np.ndarray, " starts"],
    leaf_start: Integer[np.ndarray, " starts"],
) -> Layout:
    """Puts checked arrays of a `masks.mcg.trees.TreeModel` into words."""
    comparisons: list[tuple[int, float, int]] = []
    values: list[float] = []
    word_start, tree_start = [0], [0]
    for t in range(len(node_start) - 1):
        nodes = slice(node_start[t], node_start[t + 1])
        lefts, rights = left[nodes].tolist(), right[nodes].tolist()
        columns, thresholds = feature[nodes].tolist(), threshold[nodes].tolist()
        leaves = [1] * len(lefts)  # below each node; children come after their parents
        for k in range(len(lefts) - 1, -1, -1):
            leaves[k] = sum(leaves[child] if child >= 0 else 1 for child in (lefts[k], rights[k]))
        first = [0] * len(lefts)  # leftmost leaf below each node
        split = [0] * len(lefts)  # leftmost leaf of its right child
        tree_values = [0.0] * leaves[0]
        for k in range(len(lefts)):
            split[k] = first[k] + (leaves[lefts[k]] if lefts[k] >= 0 else 1)
            for child, place in ((lefts[k], first[k]), (rights[k], split[k])):
                if child >= 0:
                    first[child] = place
                else:
                    tree_values[place] = value[leaf_start[t] - 1 - child]
        for low in range(0, leaves[0], WORD):
            for k in range(len(lefts)):
                start, stop = max(first[k], low), min(split[k], low + WORD)
                if start < stop:
                    cleared = ((1 << (stop - start)) - 1) << (start - low)
                    comparisons.append((columns[k], thresholds[k], ALL & ~cleared))
            while len(comparisons) % UNROLLED:
                comparisons.append((0, np.inf, ALL))
            word_start.append(len(comparisons))
        values += tree_values + [0.0] * (-len(tree_values) % WORD)
        tree_start.append(len(word_start) - 1)
    columns, thresholds, masks = zip(*comparisons, strict=True)
    return Layout(
        feature=np.array(columns, np.int32),
        threshold=np.array(thresholds, np.float32),
        mask=np.array(masks, np.int32),
        word_start=np.array(word_start, np.int32),
        tree_start=np.array(tree_start, np.int32),
        value=np.array(values, np.float32),
    )


@numba.njit(cache=True, nogil=True)
def _add_trees(columns, layout, first, last, total):
    """Adds the leaf values of trees `first` .. `last` - 1 to `total`.

    Args:
        columns: float32[features, CHUNK], C order, of which the first n count: LLVM makes vector code only of columns
            without gaps. layout: `Layout.arrays`. total: float32[n].
    """
    feature, threshold, mask, word_start, tree_start, value = layout
    n = np.uintp(len(total))
    kept = np.empty(len(total), np.int32)  # bits
    lowest = np.empty(len(total), np.float32)  # bit kept, as a power of two
    bits = lowest.view(np.int32)
    leaf = np.zeros(len(total), np.int32)
    nothing = np.int32(ALL)
    for t in range(first, last):
        # From the last word to the first: the lowest bit of the first word with any is the row's leaf.
        for w in range(tree_start[t + 1] - 1, tree_start[t] - 1, -1):
            for i in range(n):
                kept[i] = nothing
            for c in range(word_start[w], word_start[w + 1], UNROLLED):
                one, two, three, four = (
                    columns[feature[c]],
                    columns[feature[c + 1]],
                    columns[feature[c + 2]],
                    columns[feature[c + 3]],
                )
                above_one, above_two, above_three, above_four = (
                    threshold[c],
                    threshold[c + 1],
                    threshold[c + 2],
                    threshold[c + 3],
                )
                mask_one, mask_two, mask_three, mask_four = mask[c], mask[c + 1], mask[c + 2], mask[c + 3]
                for i in range(n):
                    kept[i] &= (
                        (mask_one if one[i] > above_one else nothing)
                        & (mask_two if two[i] > above_two else nothing)
                        & (mask_three if three[i] > above_three else nothing)
                        & (mask_four if four[i] > above_four else nothing)
                    )
            for i in range(n):
                lowest[i] = np.float32(kept[i] & -kept[i])
            offset = np.int32(w * WORD - _BIAS)
            for i in range(n):
                leaf[i] = (bits[i] >> np.int32(_EXPONENT)) + offset if kept[i] != 0 else leaf[i]
        for i in range(n):
            total[i] += value[np.uintp(leaf[i])]


@numba.njit(cache=True, nogil=True)
def _keep_columns(columns, kept):
    """Moves the rows `kept`, ascending, to the front of every column, in place."""
    for f in range(len(columns)):
        column = columns[f]
        for i in range(len(kept)):
            column[i] = column[kept[i]]


@numba.njit(cache=True, nogil=True)
def _score_chunk(columns, layout, early, floor, stretch, total):
    """`score_planes` of the first len(total) rows of a chunk; `columns` is overwritten."""
    trees = len(layout[4]) - 1
    total[:] = 0
    if early <= 0 or early >= trees:
        _add_trees(columns, layout, 0, trees, total)
        return
    _add_trees(columns, layout, 0, early, total)
    rest = np.flatnonzero(total >= floor)
    _keep_columns(columns, rest)
    open_total = total[rest]
    _add_trees(columns, layout, early, trees, open_total)
    for i in range(len(total)):
        total[i] *= stretch
    for i in range(len(rest)):
        total[rest[i]] = open_total[i]


@numba.njit(cache=True, nogil=True)
def score_planes(planes, layout, early, floor, stretch):
    """Sums of leaf values; float32[n].

    Args:
        planes: float32[features, n], finite, C order.
        layout: `Layout.arrays`.
        early: after this many trees rows whose sum is below `floor` are settled: they get that sum times `stretch`, which
            stands for what the other trees would have added. 0: never.
        floor, stretch: float32, see `early`.
    """
    features, n = planes.shape
    out = np.empty(n, np.float32)
    columns = np.empty((features, CHUNK), np.float32)  # a chunk of its own: the kernel needs columns without gaps
    for start in range(0, n, CHUNK):
        count = min(CHUNK, n - start)
        for f in range(features):
            columns[f, :count] = planes[f, start : start + count]
        _score_chunk(columns, layout, early, floor, stretch, out[start : start + count])
    return out


@numba.njit(cache=True, nogil=True)
def score_rows(rows, layout):
    """Sums of leaf values of rows float32[n, features], finite, C order; float32[n]."""
    n, features = rows.shape
    out = np.empty(n, np.float32)
    columns = np.empty((features, CHUNK), np.float32)
    for start in range(0, n, CHUNK):
        count = min(CHUNK, n - start)
        for i in range(count):
            for f in range(features):
                columns[f, i] = rows[start + i, f]
        _score_chunk(columns, layout, 0, np.float32(0), np.float32(1), out[start : start + count])
    return out
