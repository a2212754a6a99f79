"""Clusters and cuts of cells against slow readings of their equations, and what must hold of any."""

import itertools

import numpy as np
import pytest
import scipy.linalg

from maskmill.masks.features import cuts
from maskmill.masks.features.cuts import CORNERS, EPSILON, cut_cells, foreground, second_eigenvector
from maskmill.masks.features.kmeans import cluster_cells
from maskmill.masks.features.vectors import alike, directions, places


def cells_of(rows, columns, channels=6, seed=0, objects=3):
    """Features of a picture with so many rectangles of an own kind, in noise; float32[rows, columns, channels]."""
    random = np.random.default_rng(seed)
    features = 2 + 0.25 * random.standard_normal((rows, columns, channels), np.float32)
    for _ in range(objects):
        top, left = random.integers(0, rows - 2), random.integers(0, columns - 2)
        features[top : top + rows // 3, left : left + columns // 3] += random.standard_normal(channels).astype(
            np.float32
        )
    return features


def slow_clusters(unit, place, count, weight, iterations):
    """The module's equation, one number at a time, without its arrays or order of sums."""
    z, p = unit.astype(np.longdouble), place.astype(np.longdouble)

    def cost(cell, mean, centre):
        return 1 - z[cell] @ mean + weight * ((p[cell] - centre) ** 2).sum()

    def mean_of(members):
        total = z[members].sum(0)
        return (total / np.linalg.norm(total.astype(float)) if total.any() else total), p[members].mean(0)

    everything = mean_of(np.arange(len(z)))
    chosen = [min(range(len(z)), key=lambda i: cost(i, *everything))]
    while len(chosen) < count:
        chosen.append(max(range(len(z)), key=lambda i: min(cost(i, z[c], p[c]) for c in chosen)))
    clusters = [(z[c], p[c]) for c in chosen]
    labels = None
    for _ in range(iterations):
        labels = np.array([min(range(count), key=lambda c: cost(i, *clusters[c])) for i in range(len(z))])
        clusters = [mean_of(np.flatnonzero(labels == c)) if (labels == c).any() else clusters[c] for c in range(count)]
    return labels


def objective(unit, place, labels, weight):
    total = 0.0
    for c in np.unique(labels):
        z, p = unit[labels == c].astype(float), place[labels == c]
        total += len(z) - np.linalg.norm(z.sum(0)) + weight * ((p - p.mean(0)) ** 2).sum()
    return total


def test_directions_are_differences_from_the_mean_at_length_one():
    features = cells_of(5, 7)
    unit = directions(features)
    expected = features.reshape(35, -1) - features.reshape(35, -1).mean(0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert unit.dtype == np.float32
    assert np.allclose(unit, expected, atol=1e-5)
    assert not directions(np.full((3, 4, 2), 7.1, np.float32)).any()


def test_places_are_centres_in_longer_sides():
    place = places(2, 4)
    assert place[0].tolist() == [0.125, 0.125]
    assert place[-1].tolist() == [0.375, 0.875]


@pytest.mark.parametrize(
    ("seed", "weight", "count"), [(0, 1.0, 4), (1, 0.0, 3), (2, 20.0, 5), (3, 0.3, 1), (4, 2.0, 9)]
)
def test_clusters_are_those_of_the_equation(seed, weight, count):
    unit, place = directions(cells_of(7, 9, seed=seed)), places(7, 9)
    found = cluster_cells(unit, place, count, weight)
    assert np.array_equal(found, slow_clusters(unit, place, count, weight, 25))


def test_the_comparison_sees_another_weight_and_start():
    """The control."""
    unit, place = directions(cells_of(7, 9)), places(7, 9)
    expected = slow_clusters(unit, place, 4, 1.0, 25)
    assert not np.array_equal(cluster_cells(unit, place, 4, 3.0), expected)
    unit, place = directions(cells_of(8, 10, seed=6, objects=6)), places(8, 10)
    ends = [cluster_cells(unit, place, 6, 1.0, iterations=n) for n in (1, 3, 25)]
    assert np.array_equal(ends[1], slow_clusters(unit, place, 6, 1.0, 3))
    assert not np.array_equal(ends[0], ends[1])
    assert not np.array_equal(ends[1], ends[2])


def test_iterations_never_raise_the_objective():
    unit, place = directions(cells_of(12, 16, seed=5, objects=6)), places(12, 16)
    values = [objective(unit, place, cluster_cells(unit, place, 6, 1.0, iterations=n), 1.0) for n in range(1, 12)]
    assert all(later <= before + 1e-9 for before, later in itertools.pairwise(values))
    assert values[-1] < values[0] - 1e-3


def test_flat_features_are_shared_out_by_place():
    unit, place = directions(np.ones((8, 8, 3), np.float32)), places(8, 8)
    labels = cluster_cells(unit, place, 4, 1.0).reshape(8, 8)
    assert sorted(np.bincount(labels.ravel())) == [16, 16, 16, 16]
    assert len({labels[0, 0], labels[0, -1], labels[-1, 0], labels[-1, -1]}) == 4


@pytest.mark.parametrize("n", [7, 130])
def test_cells_are_alike_above_tau(n):
    unit = directions(np.random.default_rng(n).standard_normal((1, n, 5), np.float32))
    cosine = unit.astype(float) @ unit.T.astype(float)
    np.fill_diagonal(cosine, 1)
    clear = np.abs(cosine - 0.15) > 1e-6
    assert np.array_equal(alike(unit, 0.15)[clear] == 1, (cosine > 0.15)[clear])
    assert alike(unit, 2.0).sum() == n


def dense(near):
    """All solutions of (D - W) y = lambda D y, smallest first."""
    w = np.where(near, 1.0, EPSILON)
    d = np.diag(w.sum(1))
    return scipy.linalg.eigh(d - w, d)


def cosine_of(one, other):
    return abs(one @ other) / np.linalg.norm(one) / np.linalg.norm(other)


@pytest.mark.parametrize("side", [4, 11])  # solved whole, and by Lanczos
def test_the_cut_is_the_second_smallest_solution(side):
    for seed in range(3):
        near = alike(directions(cells_of(side, side, seed=seed)), 0.15)
        values, vectors = dense(near)
        assert values[2] - values[1] > 1e-3
        found = second_eigenvector(near)
        assert cosine_of(found, vectors[:, 1]) > 1 - 1e-8
        assert cosine_of(found, vectors[:, 2]) < 0.9  # the control
        assert cosine_of(found, vectors[:, 0]) < 0.9


def test_the_object_holds_the_most_extreme_cell_and_few_corners():
    free = np.ones((4, 5), bool)
    vector = np.full(20, -0.1)
    vector[[6, 7, 11, 12]] = 0.4
    expected = np.isin(np.arange(20), [6, 7, 11, 12]).reshape(4, 5)
    assert np.array_equal(foreground(vector, free), expected)
    assert np.array_equal(foreground(-vector, free), expected)
    vector[19] = 0.3  # of the same kind, but elsewhere
    assert np.array_equal(foreground(vector, free), expected)
    extreme = np.full(20, -0.4)  # the larger values are the background's: three corners and more
    extreme[[6, 7, 11, 12]] = 0.2
    assert np.array_equal(foreground(extreme, free), expected)
    assert CORNERS == 3
    less = free.copy()
    less[1, 1] = False  # a cell that is not in the graph any more
    assert not foreground(np.delete(vector, 6), less)[1, 1]


def slow_cuts(unit, shape, count, tau):
    """MaskCut with dense matrices and a flood fill, without what has been found."""
    labels = np.full(shape, -1)
    cosine = unit.astype(float) @ unit.T.astype(float)
    for number in range(count):
        free = np.argwhere(labels < 0)
        flat = free[:, 0] * shape[1] + free[:, 1]
        near = cosine[np.ix_(flat, flat)] > tau
        np.fill_diagonal(near, True)
        if near.sum() == len(flat):
            break
        y = dense(near)[1][:, 1]
        side = y > y.mean()
        seed = np.abs(y).argmax()
        if not side[seed]:
            side = ~side
        corners = {(i, j) for i in (0, shape[0] - 1) for j in (0, shape[1] - 1)}
        if sum(tuple(cell) in corners for cell in free[side].tolist()) >= 3 and not side.all():
            side = ~side
            seed = max(np.flatnonzero(side), key=lambda i: abs(y[i]))
        members = {tuple(cell) for cell in free[side].tolist()}
        reached, edge = set(), [tuple(free[seed].tolist())]
        while edge:
            cell = edge.pop()
            if cell in members and cell not in reached:
                reached.add(cell)
                edge += [(cell[0] + dy, cell[1] + dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        for cell in reached:
            labels[cell] = number
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_objects_are_those_of_the_slow_reading(seed):
    unit = directions(cells_of(9, 11, seed=seed, objects=4))
    found = cut_cells(unit, (9, 11), 5, 0.15)
    assert np.array_equal(found, slow_cuts(unit, (9, 11), 5, 0.15))
    assert np.array_equal(cut_cells(unit, (9, 11), 2, 0.15), np.where(found < 2, found, -1))
    assert not np.array_equal(found, slow_cuts(unit, (9, 11), 5, 0.6))  # the control


def test_a_planted_object_is_the_first():
    features = np.zeros((10, 12, 2), np.float32)
    features[..., 0] = 1
    features[3:7, 4:9] = (0, 1)
    assert np.array_equal(cut_cells(directions(features), (10, 12), 1, 0.15) == 0, features[..., 1] == 1)


def test_where_nothing_is_alike_there_is_no_object():
    assert (cut_cells(directions(np.ones((6, 6, 3), np.float32)), (6, 6), 4, 0.15) == -1).all()
    assert (cut_cells(np.zeros((1, 3), np.float32), (1, 1), 4, 0.15) == -1).all()


def test_a_graph_that_does_not_converge_ends_the_search(monkeypatch):
    monkeypatch.setattr(cuts, "second_eigenvector", lambda near: None)
    assert (cut_cells(directions(cells_of(6, 6)), (6, 6), 4, 0.15) == -1).all()
