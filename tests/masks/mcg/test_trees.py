import dataclasses

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from maskmill.masks.mcg.trees import TreeModel, pack_trees
from maskmill.pipelines.mcg_training import fit as ranker_fit
from maskmill.pipelines.mcg_training.fit import nested_lightgbm


def leaf(value):
    return {"value": value}


def split(feature, threshold, left, right):
    return {"feature": feature, "threshold": threshold, "left": left, "right": right}


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(1)
    rows = random.standard_normal((600, 5)).astype(np.float32)
    rows[:, 4] = random.integers(0, 3, 600)  # ties with thresholds
    return rows, (np.sin(3 * rows[:, 0]) + rows[:, 1] * (rows[:, 4] > 1)).astype(np.float64)


def test_walk_agrees_with_lightgbm(problem):
    lightgbm = pytest.importorskip("lightgbm")
    rows, target = problem
    booster = lightgbm.train({"verbose": -1, "num_leaves": 7, "num_threads": 1}, lightgbm.Dataset(rows, target), 20)
    model = pack_trees(nested_lightgbm(booster))
    model.check(5)
    np.testing.assert_allclose(model.predict(rows), booster.predict(rows), atol=1e-5)


def test_the_ranker_is_the_mean_of_boosted_trees_and_forest(problem, monkeypatch):
    lightgbm = pytest.importorskip("lightgbm")
    for params in (ranker_fit.RANKER, ranker_fit.FOREST):
        monkeypatch.setitem(params, "min_data_in_leaf", 10)
    rows, target = problem
    halves = [
        lightgbm.train(params, lightgbm.Dataset(rows, target), trees).predict(rows)
        for params, trees in (
            (ranker_fit.RANKER, ranker_fit.RANKER_TREES),
            (ranker_fit.FOREST, ranker_fit.FOREST_TREES),
        )
    ]
    assert np.abs(halves[0] - halves[1]).max() > 0.1
    model = ranker_fit.fit_ranker(rows, target)
    model.check(5)
    np.testing.assert_allclose(model.predict(rows), np.mean(halves, axis=0), atol=1e-4)


def test_walk_agrees_with_sklearn(problem):
    rows, target = problem
    fitted = DecisionTreeRegressor(max_depth=5, random_state=0).fit(rows, target)
    arrays = fitted.tree_

    def nest(node):
        if arrays.children_left[node] < 0:
            return leaf(float(arrays.value[node].item()))
        return split(
            int(arrays.feature[node]),
            float(arrays.threshold[node]),
            nest(arrays.children_left[node]),
            nest(arrays.children_right[node]),
        )

    np.testing.assert_allclose(pack_trees([nest(0)]).predict(rows), fitted.predict(rows), atol=1e-6)


def test_thresholds_round_down_so_that_float32_rows_go_the_exact_way():
    one_third = 1 / 3  # its nearest float32 is above it
    model = pack_trees([split(0, one_third, leaf(1.0), leaf(2.0))])
    above = np.float32(one_third)
    assert float(above) > one_third
    assert model.predict(np.array([[above], [np.nextafter(above, np.float32(0))]])).tolist() == [2.0, 1.0]


def test_a_single_leaf_is_a_tree():
    model = pack_trees([leaf(0.25), leaf(0.5)])
    model.check(1)
    assert model.predict(np.zeros((3, 1), np.float32)).tolist() == [0.75] * 3


def walk(model, row):
    """One row from the root of each tree to its leaf, in float32 and in the order of the trees."""
    total = np.float32(0)
    for t in range(len(model.node_start) - 1):
        node = 0
        while node >= 0:
            k = model.node_start[t] + node
            node = int(model.left[k] if row[model.feature[k]] <= model.threshold[k] else model.right[k])
        total += model.value[model.leaf_start[t] - 1 - node]
    return total


def grow(random, leaves, features):
    """A random tree; thresholds are whole so that rows meet them exactly."""
    if leaves == 1:
        return leaf(float(random.standard_normal()))
    left = int(random.integers(1, leaves))
    parts = grow(random, left, features), grow(random, leaves - left, features)
    return split(int(random.integers(features)), float(random.integers(-3, 4)), *parts)


@pytest.mark.parametrize("sizes", [(1, 2), (31,), (32,), (9, 31, 62, 63, 127, 3), (500,)])
@pytest.mark.parametrize("rows", [1, 513])
def test_scores_are_those_of_a_walk_to_the_last_bit(sizes, rows):
    """Trees of one word, of exactly one and of several; rows on thresholds; more rows than are scored at a time."""
    random = np.random.default_rng(sum(sizes))
    model = pack_trees([grow(random, size, 5) for size in sizes])
    model.check(5)
    table = random.integers(-4, 5, (rows, 5)).astype(np.float32) + random.choice([0, 0, 0.5], (rows, 5))
    table = table.astype(np.float32)
    expected = np.array([walk(model, row) for row in table])
    np.testing.assert_array_equal(model.predict(table), expected)
    np.testing.assert_array_equal(model.predict_planes(np.ascontiguousarray(table.T)[:, None]), expected[None])
    early = model.predict_planes(np.ascontiguousarray(table.T)[:, None], 1, 0.0, 2.0)[0]
    first = dataclasses.replace(model, node_start=model.node_start[:2], leaf_start=model.leaf_start[:2])
    if len(sizes) > 1:
        begun = np.array([walk(first, row) for row in table])
        np.testing.assert_array_equal(early, np.where(begun < 0, begun * np.float32(2), expected))


def test_settled_rows_skip_the_other_trees():
    trees = [split(0, 0.0, leaf(-1.0), leaf(1.0)), leaf(10.0)]
    model = pack_trees(trees)
    plane = np.array([[[-1.0, 1.0]]], np.float32)
    assert model.predict_planes(plane).tolist() == [[9.0, 11.0]]
    assert model.predict_planes(plane, early=1, floor=0.0, stretch=2.0).tolist() == [[-2.0, 11.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"left": np.array([5], np.int16)}, "leaves its tree"),
        ({"left": np.array([0], np.int16)}, "goes back"),
        ({"right": np.array([-4], np.int16)}, "leaves its tree"),
        ({"feature": np.array([3], np.int16)}, "column 3"),
        ({"feature": np.array([-1], np.int16)}, "column"),
        ({"threshold": np.array([np.nan], np.float32)}, "finite"),
        ({"value": np.array([np.inf, 0], np.float32)}, "finite"),
        ({"value": np.zeros(3, np.float32)}, "n \\+ 1 leaves"),
        ({"node_start": np.array([0, 2], np.int32)}, "follow one another"),
        ({"leaf_start": np.array([0], np.int32)}, "leaf starts"),
        ({"threshold": np.zeros(2, np.float32)}, "differ in length"),
        ({"left": np.array([-2], np.int16)}, "more than one"),
        ({"threshold": np.zeros((1, 1), np.float32)}, "flat float32"),
        ({"feature": np.zeros(1, np.float64)}, "flat int16"),
    ],
)
def test_arrays_that_would_read_out_of_bounds_or_never_end_are_refused(change, message):
    model = pack_trees([split(2, 0.5, leaf(1.0), leaf(2.0))])
    model.check(3)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(model, **change).check(3)


def test_an_empty_ensemble_is_refused():
    nothing = TreeModel(
        *(np.zeros(0, t) for t in (np.int16, np.float32, np.int16, np.int16, np.float32)),
        np.zeros(1, np.int32),
        np.zeros(1, np.int32),
    )
    with pytest.raises(ValueError, match="0 trees"):
        nothing.check(1)
