import numpy as np
import pytest
from pycocotools import mask as coco_mask

from maskmill.masks.mcg.encode import encode_candidates, label_runs
from maskmill.masks.mcg.proposals import labels_in_frame
from maskmill.schemas.rle import decode_mask


@pytest.mark.parametrize(("height", "width", "leaves"), [(1, 1, 1), (1, 17, 4), (13, 1, 3), (20, 33, 70)])
def test_bytes_are_those_of_pycocotools(height, width, leaves, oracle):
    random = np.random.default_rng(height)
    labels = random.integers(0, leaves, (height, width)).astype(np.int32)
    labels.flat[-1] = leaves - 1
    present = np.unique(labels).tolist()
    sets = [set(random.choice(present, random.integers(1, len(present) + 1), replace=False)) for _ in range(30)]
    sets.append(set(range(leaves)))  # the whole picture
    masks = encode_candidates(oracle.rows_of(sets, leaves), labels, np.arange(31))
    for counts, area, members in zip(masks.counts, masks.area, sets, strict=True):
        drawn = np.isin(labels, sorted(members))
        assert counts == coco_mask.encode(np.asfortranarray(drawn.astype(np.uint8)))["counts"]
        assert area == drawn.sum()
    assert masks.score.tolist() == list(range(31))


def test_runs_wrap_from_column_to_column():
    label, length = label_runs(np.array([[0, 1], [1, 1]], np.int32))
    assert (label.tolist(), length.tolist()) == ([0, 1], [1, 3])


def test_masks_of_a_reduced_picture_come_back_in_its_own_frame(oracle):
    labels = np.array([[0, 1], [2, 3]], np.int32)
    full = labels_in_frame(labels, 6, 4)
    masks = encode_candidates(oracle.rows_of([{1, 3}], 4), full, np.ones(1))
    np.testing.assert_array_equal(
        decode_mask(masks.counts[0], 6, 4), np.repeat([[False, False, True, True]], 6, axis=0)
    )
