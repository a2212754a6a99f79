"""Label maps and unions of labels to RLE, against pycocotools, mask by mask."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from maskmill.masks import runs
from maskmill.masks.mcg.proposals import labels_in_frame
from maskmill.masks.runs import encode_label_map, encode_sets
from maskmill.schemas.rle import decode_mask

label_maps = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=16), elements=st.integers(0, 6))


def dense(label_map):
    names = {label: i for i, label in enumerate(dict.fromkeys(label_map.ravel().tolist()))}
    return np.vectorize(names.get, otypes=[np.int32])(label_map)


def counts_of(picture):
    return coco_mask.encode(np.asfortranarray(picture.astype(np.uint8)))["counts"]


@settings(max_examples=300, deadline=None)  # the first example loads or compiles kernels
@given(label_maps.map(dense))
def test_equal_to_pycocotools_mask_by_mask(label_map):
    masks = encode_label_map(label_map)
    pictures = [label_map == k for k in range(int(label_map.max()) + 1)]
    assert list(masks.counts) == [counts_of(p) for p in pictures]
    assert masks.area.tolist() == [int(p.sum()) for p in pictures]
    assert masks.score.tolist() == [1.0] * len(masks)


def test_more_than_255_segments_stay_apart():
    label_map = np.arange(40 * 50, dtype=np.int32).reshape(40, 50)
    masks = encode_label_map(label_map)
    assert len(set(masks.counts)) == len(masks) == 2000
    wrapped = encode_label_map(label_map.astype(np.uint8))  # what storing labels in bytes would do: must differ
    assert len(wrapped) == 256


def test_layout_and_type_do_not_matter_and_the_argument_is_not_modified():
    label_map = dense(np.random.default_rng(0).integers(0, 4, (9, 70)))
    before, expected = label_map.copy(), encode_label_map(label_map).counts
    for other in (np.asfortranarray(label_map), label_map.astype(np.uint8), np.repeat(label_map, 2, axis=1)[:, ::2]):
        assert encode_label_map(other).counts == expected
    np.testing.assert_array_equal(label_map, before)


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (np.zeros((0, 4), np.int32), "non-empty int array"),
        (np.zeros((4, 4)), r"non-empty int array \[height, width\], got float64\[4, 4\]"),
        (np.zeros((4, 4, 1), np.int32), "non-empty int array"),
        (np.full((2, 2), -1, np.int32), r"dense from 0, got -1 \.\. -1"),
        (np.array([[0, 4]]), r"dense from 0, got 0 \.\. 4 on 2 pixels"),
        (np.array([[0, 2, 2]]), "dense from 0, got none of label 1"),
    ],
)
def test_what_is_no_label_map_is_refused(label_map, message):
    with pytest.raises(ValueError, match=message):
        encode_label_map(label_map)


def test_rows_that_cannot_name_every_label_are_refused():
    label_map = np.arange(65, dtype=np.int32)[None]
    with pytest.raises(ValueError, match="rows of 1 words cannot name 65 labels"):
        encode_sets(np.ones((1, 1), np.uint64), label_map, np.ones(1))
    assert len(encode_sets(np.ones((0, 2), np.uint64), label_map, np.ones(0))) == 0


@pytest.mark.parametrize(("height", "width", "labels"), [(1, 1, 1), (1, 17, 4), (13, 1, 3), (20, 33, 70)])
@pytest.mark.parametrize("pieces", [False, True])
def test_unions_are_those_of_pycocotools(height, width, labels, pieces, monkeypatch):
    if pieces:  # a text that holds one mask, and fewer masks at a time than there are
        monkeypatch.setattr(runs, "TEXT_BYTES", 1)
        monkeypatch.setattr(runs, "TEXT_MASKS", 7)
    random = np.random.default_rng(height)
    label_map = random.integers(0, labels, (height, width)).astype(np.int32)
    label_map.flat[-1] = labels - 1
    present = np.unique(label_map).tolist()
    sets = [
        set(random.choice(present, random.integers(1, len(present) + 1), replace=False).tolist()) for _ in range(30)
    ]
    sets.append(set(range(labels)))  # the whole picture
    rows = np.zeros((len(sets), -(-labels // 64)), np.uint64)
    for row, members in zip(rows, sets, strict=True):
        for label in members:
            row[label // 64] |= np.uint64(1) << np.uint64(label % 64)
    masks = encode_sets(rows, label_map, np.arange(31))
    for counts, area, members in zip(masks.counts, masks.area, sets, strict=True):
        drawn = np.isin(label_map, sorted(members))
        assert (counts, area) == (counts_of(drawn), drawn.sum())
    assert masks.score.tolist() == list(range(31))


def test_masks_of_a_reduced_picture_come_back_in_its_own_frame():
    full = labels_in_frame(np.array([[0, 1], [2, 3]], np.int32), 6, 4)
    masks = encode_sets(np.array([[0b1010]], np.uint64), full, np.ones(1))
    np.testing.assert_array_equal(
        decode_mask(masks.counts[0], 6, 4), np.repeat([[False, False, True, True]], 6, axis=0)
    )
