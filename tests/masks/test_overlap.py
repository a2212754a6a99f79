"""Overlap from runs against overlap of drawn masks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from maskmill.masks.overlap import best_iou, covered_pixels, iou_matrix
from maskmill.schemas import rle
from maskmill.schemas.image import Annotations
from maskmill.schemas.mask import MaskSet


@st.composite
def scenes(draw):
    """(masks, annotations, is_crowd) as stacks of pictures of one size; no picture is empty."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    stack = st.lists(hnp.arrays(bool, shape).filter(np.any), max_size=5)
    masks, truths = draw(stack), draw(stack)
    return shape, masks, truths, draw(st.lists(st.booleans(), min_size=len(truths), max_size=len(truths)))


def mask_set(pictures):
    return MaskSet.unranked([rle.encode_mask(p) for p in pictures], [p.sum() for p in pictures])


def annotations(pictures, crowd):
    n = len(pictures)
    return Annotations(
        tuple(rle.encode_mask(p) for p in pictures),
        np.array([p.sum() for p in pictures], np.int64),
        np.ones(n, np.int64),
        np.arange(n),
        np.array(crowd, bool),
    )


@settings(max_examples=200)
@given(scenes())
def test_best_iou_is_that_of_drawn_masks(scene):
    (height, width), masks, truths, crowd = scene
    found = best_iou(mask_set(masks), annotations(truths, crowd), height, width)
    for truth, is_crowd, value in zip(truths, crowd, found, strict=True):
        if is_crowd:
            assert value == -1
        else:
            expected = max(((m & truth).sum() / (m | truth).sum() for m in masks), default=0.0)
            assert abs(value - expected) < 1e-12


@given(scenes())
def test_coverage_is_the_area_of_the_union(scene):
    (height, width), masks, _, _ = scene
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
