"""COCO RLE against pycocotools, and against everything that is not RLE."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask

from maskmill.schemas import rle

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


def test_the_header_comments_example():
    runs = np.array([6, 1, 40, 4, 5, 4, 5, 4, 21])
    assert rle.encode_runs(runs) == b"61X13mN000`0"
    assert rle.decode_counts(b"61X13mN000`0", 9, 10).tolist() == runs.tolist()


@given(masks)
def test_bytes_and_pixels_are_pycocotools(mask):
    counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert rle.encode_mask(mask) == counts
    assert np.array_equal(rle.decode_mask(counts, *mask.shape), mask)
    assert rle.area_of_runs(rle.mask_to_runs(mask)) == mask.sum()


def test_a_row_major_reading_would_be_found():
    mask = np.zeros((3, 5), bool)
    mask[0] = True
    counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    assert rle.encode_mask(mask.T) != counts


@settings(max_examples=20)
@given(st.integers(0, 2**31 - 2))
def test_runs_of_any_length(first):
    runs = np.array([first, 2**31 - 1 - first])
    assert rle.decode_counts(rle.encode_runs(runs), 1, 2**31 - 1).tolist() == runs.tolist()


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (b"", "empty"),
        (b"0\x7f", r"byte 1 .* 127, outside 48\.\.111"),
        (b"/0", "byte 0 .* 47"),
        (b"`", "end in the middle of a number"),
        (b"`" * 40 + b"0", "41 groups is longer"),
        (b"3", r"runs sum to 3, but 3 x 4 has 12 pixels"),
        (b"O", "negative"),
        (b"=", "runs sum to 13"),
    ],
)
def test_malformed_counts_are_refused_in_words(counts, message):
    with pytest.raises(rle.RleError, match=message):
        rle.decode_counts(counts, 3, 4)


@given(st.binary(max_size=60), st.integers(1, 50), st.integers(1, 50))
def test_random_bytes_decode_to_the_picture_or_are_refused(data, height, width):
    try:
        runs = rle.decode_counts(data, height, width)
    except rle.RleError:
        return
    assert runs.min() >= 0
    assert runs.sum() == height * width


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([5, -1, 8], "run 1 is negative"),
        ([2.5, 9.5], "must be integers"),
        ([[12]], "flat list"),
        ([], "non-empty"),
        ([2**62, 2**62], "runs sum to"),
        ([2**63], "negative|integers"),
        ([10**30], "integers"),
        ([11], "sum to 11"),
    ],
)
def test_bad_runs_are_refused(runs, message):
    with pytest.raises(rle.RleError, match=message):
        rle.check_runs(np.array(runs), 3, 4)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, 4), (10**6, 10**6)])
def test_absurd_sizes_are_refused(size):
    with pytest.raises(rle.RleError, match="mask size"):
        rle.check_runs(np.array([1]), *size)


def test_counts_longer_than_any_mask_take_no_memory():
    """Tracing is told of every array; there is none."""
    long = b"0" * 5_000_000
    tracemalloc.start()
    with pytest.raises(rle.RleError, match="5000000 bytes are longer than any mask of 300 x 400 needs"):
        rle.decode_counts(long, 300, 400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    with pytest.raises(rle.RleError, match="runs sum to"):  # the control: as long, for a picture that could need it
        rle.decode_counts(long, 1000, 1000)


@pytest.mark.parametrize("block", [7, 8, 9, 64])
def test_blocks_of_any_size_make_the_same_runs(block, monkeypatch):
    """As `test_long_counts...` needs them: numbers lie across their borders."""
    rng = np.random.default_rng(block)
    runs = rng.integers(0, 2 ** rng.integers(1, 22, 300))
    total = int(runs.sum())
    whole = rle.encode_runs(runs)
    monkeypatch.setattr(rle, "_BLOCK", block)
    assert rle.encode_runs(runs) == whole
    assert np.array_equal(rle.decode_counts(whole, total, 1), runs)
    with pytest.raises(rle.RleError, match="longer than any run"):
        rle.decode_counts(b"P" * 200 + b"0", total, 1)


def test_long_counts_cost_their_runs_and_little_more():
    """Of 64 bits each; it was sixty times the text."""
    runs = np.ones(3 << 20, np.int64)
    runs[0], text = 0, b""
    tracemalloc.start()
    text = rle.encode_runs(runs)
    encoding = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    found = rle.decode_counts(text, (3 << 20) - 1, 1)
    decoding = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.size == runs.size
    assert encoding < 26 * runs.size, encoding
    assert decoding < 36 * runs.size, decoding


def test_counts_must_be_bytes():
    with pytest.raises(rle.RleError, match="must be bytes, got str"):
        rle.decode_counts("61X13mN000`0", 9, 10)


def test_boxes_are_pycocotools():
    from pycocotools import mask as coco

    rng = np.random.default_rng(3)
    for density in (0.002, 0.02, 0.2, 0.9, 1.0):
        for height, width in ((7, 9), (1, 20), (20, 1), (33, 18)):
            mask = rng.random((height, width)) < density
            box = rle.box_of_runs(rle.mask_to_runs(mask), height)
            assert list(box) == coco.toBbox({"size": [height, width], "counts": rle.encode_mask(mask)}).tolist()
