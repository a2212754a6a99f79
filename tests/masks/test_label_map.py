"""One-pass RLE of label maps against pycocotools, mask by mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from maskmill.masks.label_map import encode_label_map, relabel_dense

label_maps = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.integers(-1, 5))


def slow_encode(label_map):
    """Every label as its own picture, in order of first pixel."""
    seen = list(dict.fromkeys(label_map.ravel().tolist()))
    pictures = [label_map == label for label in seen if label >= 0]
    return [(coco_mask.encode(np.asfortranarray(p.astype(np.uint8)))["counts"], int(p.sum())) for p in pictures]


@settings(max_examples=300)
@given(label_maps)
def test_equal_to_pycocotools_mask_by_mask(label_map):
    masks = encode_label_map(label_map)
    assert list(zip(masks.counts, masks.area.tolist(), strict=True)) == slow_encode(label_map)
    assert masks.score.tolist() == [1.0] * len(masks)


def test_more_than_255_segments_stay_apart():
    label_map = np.arange(40 * 50, dtype=np.int32).reshape(40, 50)
    masks = encode_label_map(label_map)
    assert len(set(masks.counts)) == len(masks) == 2000
    wrapped = encode_label_map(label_map.astype(np.uint8))  # what storing labels in bytes would do: must differ
    assert len(wrapped) == 256


def test_layout_and_type_do_not_matter():
    label_map = np.random.default_rng(0).integers(0, 4, (9, 7))
    expected = encode_label_map(label_map).counts
    for other in (np.asfortranarray(label_map), label_map.astype(np.uint8), label_map * 1000 + 7):
        assert encode_label_map(other).counts == expected


def test_the_argument_is_not_modified():
    label_map = np.array([[5, 5], [2, -1]], np.int32)
    before = label_map.copy()
    encode_label_map(label_map)
    assert np.array_equal(label_map, before)


@given(label_maps)
def test_dense_labels_are_the_same_segments_in_raster_order(label_map):
    dense = relabel_dense(label_map)
    pairs = set(zip(label_map.ravel().tolist(), dense.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    firsts = [v for v in dict.fromkeys(dense.ravel().tolist()) if v >= 0]
    assert firsts == list(range(len(firsts)))
    assert np.array_equal(dense == -1, label_map == -1)


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (np.zeros((0, 4), np.int32), "non-empty int array"),
        (np.zeros((4, 4)), "non-empty int array"),
        (np.zeros((4, 4, 1), np.int32), "non-empty int array"),
        (np.full((2, 2), -2, np.int32), "labels must be -1 or more, got -2"),
    ],
)
def test_what_is_no_label_map_is_refused(label_map, message):
    with pytest.raises(ValueError, match=message):
        encode_label_map(label_map)


def test_all_unlabelled_is_no_mask():
    assert len(encode_label_map(np.full((3, 3), -1, np.int32))) == 0
