"""The boundary benchmark's matching against the assignment problem, and its maps against the labels."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from benchmarks import boundaries
from maskmill.masks.mcg.hierarchy import build_hierarchy


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("radius", [0.5, 1.0, 2.3, 4.3])
def test_as_many_pixels_are_matched_as_an_assignment_matches(seed, radius):
    random = np.random.default_rng(seed)
    found, truth = random.random((2, 12, 15)) < random.uniform(0.05, 0.4)
    one, two = np.argwhere(found), np.argwhere(truth)
    near = np.hypot(*(one[:, None] - two[None]).transpose(2, 0, 1)) <= radius
    expected = int(near[linear_sum_assignment(-near.astype(int))].sum())
    matched, recalled = boundaries.match(found, truth, radius)
    assert matched.sum() == recalled == expected
    assert not (matched & ~found).any()


def test_nothing_matches_nothing():
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    for found, truth in ((empty, full), (full, empty), (empty, empty)):
        matched, recalled = boundaries.match(found, truth, 2.0)
        assert matched.sum() == recalled == 0


def test_a_boundary_has_the_level_at_which_it_vanishes():
    contour = np.random.default_rng(0).random((20, 24)).astype(np.float32)
    hierarchy = build_hierarchy([contour, contour[::2, ::2].copy()], 30)
    level = boundaries.ultrametric(hierarchy)
    labels = hierarchy.labels
    of = {tuple(pair): value for pair, value in zip(hierarchy.edges.tolist(), hierarchy.saliency, strict=True)}
    for y in range(20):
        for x in range(24):
            beside = [labels[p] for p in ((y, x + 1), (y + 1, x)) if p[0] < 20 and p[1] < 24]
            pairs = [tuple(sorted((int(labels[y, x]), int(other)))) for other in beside if other != labels[y, x]]
            assert level[y, x] == max((of[pair] for pair in pairs), default=0)


def test_the_measure_of_counts():
    counts = np.array([[[8, 10, 30, 60], [5, 5, 15, 60]], [[2, 10, 20, 40], [3, 3, 10, 40]]])
    # Summed over the pictures: P = .5, R = .5; and P = 1, R = .25. The best threshold of each picture: first, second.
    np.testing.assert_allclose(boundaries.f_measure(counts.sum(axis=0)), [0.5, 0.4])
    found = boundaries.summary(counts)
    assert found["ods"] == pytest.approx(0.5)
    precision, recall = (8 + 3) / (10 + 3), (30 + 10) / (60 + 40)
    assert found["ois"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert found["low"] <= found["ods"] <= found["high"]
