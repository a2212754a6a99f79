import numpy as np
import pytest

from maskmill.masks.mcg.selection import DUPLICATE, select, shared_pixels
from maskmill.masks.mcg.selection import _byte_areas as byte_areas


@pytest.fixture(params=range(5))
def pool(request, oracle):
    random = np.random.default_rng(request.param)
    leaves = 90
    sets = [set(np.flatnonzero(random.random(leaves) < random.random()).tolist()) | {0} for _ in range(60)]
    sets += [set(range(40)), set(range(39)), set(range(41))]  # near duplicates
    area = random.integers(1, 30, leaves).astype(np.int64)
    score = np.round(random.random(len(sets)), 1).astype(np.float32)  # with ties
    pixels = np.repeat(np.arange(leaves), area)
    masks = np.array([np.isin(pixels, sorted(s)) for s in sets])
    return oracle.rows_of(sets, leaves), area, score, masks


def test_shared_pixels_against_drawn_masks(pool):
    rows, area, _, masks = pool
    table = byte_areas(area)
    for p in range(0, len(rows), 7):
        found = [shared_pixels(row, rows[p], table) for row in rows]
        assert found == (masks & masks[p]).sum(axis=1).tolist()


@pytest.mark.parametrize("weight", [0.3, 0.7, 1.0])
def test_order_is_maximum_marginal_relevance_by_its_definition(pool, oracle, weight):
    rows, area, score, masks = pool
    assert select(rows, area, score, 20, weight).tolist() == oracle.mmr(masks, score, 20, weight, DUPLICATE)


def test_the_largest_scores_are_another_list(pool, oracle):
    """The control: were marginal relevance not computed, the test above would notice."""
    _, _, score, masks = pool
    assert oracle.mmr(masks, score, 20, 0.7, DUPLICATE) != np.argsort(-score, kind="stable")[:20].tolist()


def test_no_two_are_near_duplicates(pool):
    rows, area, score, masks = pool
    chosen = select(rows, area, score, len(rows))
    for i, p in enumerate(chosen):
        for q in chosen[:i]:
            assert (masks[p] & masks[q]).sum() / (masks[p] | masks[q]).sum() < DUPLICATE
    assert len(set(chosen.tolist())) == len(chosen) < len(rows)


def test_a_longer_list_begins_with_the_shorter(pool):
    rows, area, score, _ = pool
    np.testing.assert_array_equal(select(rows, area, score, 30)[:8], select(rows, area, score, 8))
