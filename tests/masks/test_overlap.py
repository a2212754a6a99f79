"""Overlap from runs against overlap of drawn masks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskmill.masks.overlap import covered_pixels, iou_matrix
from maskmill.schemas import rle
from maskmill.schemas.mask import MaskSet


@st.composite
def scenes(draw):
    """(shape, masks, truths) as stacks of pictures of one size; no picture is empty."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    stack = st.lists(hnp.arrays(bool, shape).filter(np.any), max_size=5)
    return shape, draw(stack), draw(stack)


def mask_set(pictures):
    return MaskSet.unranked([rle.encode_mask(p) for p in pictures], [p.sum() for p in pictures])


@settings(max_examples=200, deadline=None)
@given(scenes())
def test_iou_is_that_of_drawn_masks(scene):
    (height, width), masks, truths = scene
    found = iou_matrix(tuple(map(rle.encode_mask, masks)), tuple(map(rle.encode_mask, truths)), height, width)
    assert found.shape == (len(masks), len(truths))
    for i, mask in enumerate(masks):
        for j, truth in enumerate(truths):
            assert abs(found[i, j] - (mask & truth).sum() / (mask | truth).sum()) < 1e-12


@settings(deadline=None)
@given(scenes())
def test_coverage_is_the_area_of_the_union(scene):
    (height, width), masks, _ = scene
    union = np.any(masks, axis=0).sum() if masks else 0
    assert covered_pixels(mask_set(masks), height, width, disjoint=False) == union


def test_disjoint_masks_need_no_union():
    halves = [np.zeros((4, 4), bool), np.zeros((4, 4), bool)]
    halves[0][:2], halves[1][2:] = True, True
    assert covered_pixels(mask_set(halves), 4, 4, disjoint=True) == 16


def test_cocos_crowd_rule_is_not_ours():
    small, large = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    small[:2] = True
    counts = (rle.encode_mask(small),), (rle.encode_mask(large),)
    assert iou_matrix(*counts, 4, 4).tolist() == [[0.5]]  # under the crowd rule it would be 1.0
