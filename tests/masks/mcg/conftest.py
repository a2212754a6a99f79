"""Slow, obvious versions of what `masks.mcg` computes, and small pictures to compare on."""

import itertools
import sys

import numpy as np
import pytest
from scipy import ndimage

from maskmill.masks.mcg.hierarchy import Hierarchy, build_hierarchy
from maskmill.masks.mcg.regions import Regions, measure_regions


@pytest.fixture(scope="session")
def oracle():
    """This module: test files cannot import their neighbours."""
    return sys.modules[__name__]


FOUR = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]


def small_hierarchy(seed: int, height: int = 9, width: int = 11, max_leaves: int = 12) -> Hierarchy:
    contours = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    return build_hierarchy([contours], max_leaves)


def regions_of(hierarchy: Hierarchy, picture: np.ndarray | None = None, contour: np.ndarray | None = None) -> Regions:
    """Leaf statistics; of a grey picture without contours unless given."""
    shape = hierarchy.labels.shape
    picture = np.full((*shape, 3), 90, np.uint8) if picture is None else picture
    return measure_regions(picture, hierarchy, np.zeros(shape, np.float32) if contour is None else contour)


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture of smooth random colour patches; uint8[height, width, 3]."""
    noise = np.random.default_rng(seed).standard_normal((height, width, 3))
    smooth = ndimage.gaussian_filter(noise, (4, 4, 0))
    picture = np.where(smooth > 0, 190.0, 60.0) + 20 * noise / noise.std()
    return np.clip(picture, 0, 255).astype(np.uint8)


def node_leaves(parent: np.ndarray) -> list[set[int]]:
    """Leaves below each node, by climbing from every leaf."""
    out: list[set[int]] = [set() for _ in parent]
    for leaf in range((len(parent) + 1) // 2):
        node = leaf
        out[node].add(leaf)
        while parent[node] != node:
            node = parent[node]
            out[node].add(leaf)
    return out


def rows_of(sets: list[set[int]], leaves: int) -> np.ndarray:
    """Sets of leaves as bit rows uint64[k, words]."""
    rows = np.zeros((len(sets), -(-leaves // 64)), np.uint64)
    for row, members in zip(rows, sets, strict=True):
        for leaf in members:
            row[leaf // 64] |= np.uint64(1) << np.uint64(leaf % 64)
    return rows


def sets_of(rows: np.ndarray) -> list[set[int]]:
    """Bit rows as sets of leaves."""
    return [{64 * w + b for w, word in enumerate(row.tolist()) for b in range(64) if word >> b & 1} for row in rows]


def draw(members: set[int], labels: np.ndarray) -> np.ndarray:
    return np.isin(labels, sorted(members))


def without_holes(mask: np.ndarray) -> np.ndarray:
    """Fills 4-connected parts of the background that do not touch the picture's border."""
    parts, count = ndimage.label(~mask, FOUR)
    border = set(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]).tolist())
    return mask | np.isin(parts, [p for p in range(1, count + 1) if p not in border])


def connected_groups(sets: list[set[int]], siblings: list[int], touching, size: int) -> set[frozenset[int]]:
    """Every connected, pairwise disjoint group of `size` nodes without two siblings (equal entries of `siblings`)."""
    out = set()
    for group in itertools.combinations(range(len(sets)), size):
        pairs = list(itertools.combinations(group, 2))
        if any(sets[i] & sets[j] or siblings[i] == siblings[j] for i, j in pairs):
            continue
        reached, queue = {group[0]}, [group[0]]
        while queue:
            here = queue.pop()
            for other in group:
                if other not in reached and touching(here, other):
                    reached.add(other)
                    queue.append(other)
        if len(reached) == size:
            out.add(frozenset(group))
    return out


def mmr(masks: np.ndarray, score: np.ndarray, top: int, weight: float, duplicate: float) -> list[int]:
    """Maximum marginal relevance from drawn masks bool[P, pixels], by its definition."""
    taken: list[int] = []
    while len(taken) < top:
        best, best_value = -1, -np.inf
        for p in range(len(masks)):
            overlap = max((iou(masks[p], masks[t]) for t in taken), default=0.0)
            value = weight * float(score[p]) - (1 - weight) * overlap
            if overlap < duplicate and value > best_value:
                best, best_value = p, value
        if best < 0:
            break
        taken.append(best)
    return taken


def iou(one: np.ndarray, two: np.ndarray) -> float:
    return np.logical_and(one, two).sum() / np.logical_or(one, two).sum()
