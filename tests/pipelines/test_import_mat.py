"""MCG's .mat files: as published, and as `save(file, 'proposals')` writes what im2mcg returns."""

import io

import numpy as np
import pytest
from scipy.io import savemat

from maskmill.pipelines.foreign.mat import read_mat
from maskmill.schemas.rle import decode_mask

SUPERPIXELS = np.array([[1, 1, 2], [3, 3, 2], [3, 7, 7]], np.uint16)  # names may have gaps


def mat(proposals=((1, 3), (2,), (7, 2)), scores=(0.2, 0.9, 0.5), superpixels=SUPERPIXELS, **change) -> bytes:
    cells = np.empty((len(proposals), 1), object)
    for k, members in enumerate(proposals):
        cells[k, 0] = np.array([members], np.float64)
    content = {"superpixels": superpixels, "labels": cells, "scores": np.array(scores)[:, None], **change}
    out = io.BytesIO()
    savemat(out, {name: value for name, value in content.items() if value is not None}, do_compression=True)
    return out.getvalue()


def test_mat_proposals_are_the_unions_of_their_superpixels_in_the_files_order():
    masks = read_mat(mat(), 3, 3, 16)
    for counts, members in zip(masks.counts, ((1, 3), (2,), (7, 2)), strict=True):
        np.testing.assert_array_equal(decode_mask(counts, 3, 3), np.isin(SUPERPIXELS, members))
    assert masks.area.tolist() == [5, 2, 4]
    np.testing.assert_allclose(masks.score, [0.2, 0.9, 0.5])
    assert len(read_mat(mat(), 3, 3, 2)) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable"),
        (mat()[:150], "not a readable"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "version 7.3"),
        (b"MATLAB 7.3 MAT-file" + bytes(600), "version 7.3"),
        (mat(labels=None), "holds no labels"),
        (mat(superpixels=SUPERPIXELS[:2]), r"superpixels are \[2, 3\], the picture is \[3, 3\]"),
        (mat(proposals=((1, 4), (2,), (3,))), "does not have"),
        (mat(proposals=((), (2,), (3,))), "is empty"),
        (mat(proposals=((np.nan,), (2,), (3,))), "finite numbers"),
        (mat(scores=(0.1,)), "3 proposals but 1 scores"),
        (mat(scores=np.array(["a", "b", "c"])), "scores holds"),
    ],
)
def test_mat_files_that_are_not_proposals_say_why(data, message):
    with pytest.raises(ValueError, match=message):
        read_mat(data, 3, 3, 16)


def struct(change=()) -> bytes:
    """`save(file, 'proposals')`: every field that im2mcg sets."""
    cells = np.empty((3, 1), object)
    for k, members in enumerate(((1, 3), (2,), (7, 2))):
        cells[k, 0] = np.array([members], np.float64)
    fields = {
        "scores": np.array([[0.2], [0.9], [0.5]]),
        "bboxes_scores": np.zeros((2, 1)),
        "bboxes": np.zeros((2, 4)),
        "superpixels": SUPERPIXELS,
        "labels": cells,
    } | dict(change)
    out = io.BytesIO()
    savemat(out, {"proposals": {k: v for k, v in fields.items() if v is not None}}, do_compression=True)
    return out.getvalue()


def test_the_struct_of_im2mcg_holds_the_same_proposals():
    plain, saved = read_mat(mat(), 3, 3, 16), read_mat(struct(), 3, 3, 16)
    assert saved.counts == plain.counts
    np.testing.assert_array_equal(saved.score, plain.score)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct({"labels": None}), "holds no labels"),
        (struct({"superpixels": SUPERPIXELS.T[:2]}), r"superpixels are \[2, 3\]"),
        (mat(proposals=((1,),), labels=None, superpixels=None, extra=1), "holds no superpixels and no labels"),
    ],
)
def test_structs_that_are_not_proposals_say_why(data, message):
    with pytest.raises(ValueError, match=message):
        read_mat(data, 3, 3, 16)


def test_a_file_that_would_fill_the_memory_is_refused_before_it_does(monkeypatch):
    from maskmill.pipelines.foreign import mat as module

    data = mat(extra=np.zeros((1000, 300)))
    assert len(data) < 100_000
    assert len(read_mat(data, 3, 3, 16)) == 3
    monkeypatch.setattr(module, "MAX_INFLATED", 1 << 20)
    with pytest.raises(ValueError, match="inflates to more than"):
        read_mat(data, 3, 3, 16)


def test_damaged_mat_files_never_raise_anything_else():
    data = bytearray(mat())
    for at in range(100, len(data), 5):
        data[at] ^= 0x5A
        try:
            masks = read_mat(bytes(data), 3, 3, 16)
        except ValueError:
            pass
        else:
            assert all(decode_mask(c, 3, 3).any() for c in masks.counts)
        data[at] ^= 0x5A
