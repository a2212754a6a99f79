"""The FH kernel against a slow stable reference, where ties count, and its promises on RLE, threads and memory."""

import itertools
import pickle
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask
from skimage.segmentation import felzenszwalb as skimage_felzenszwalb

from maskmill.masks._fh import stages
from maskmill.masks._fh.workspace import thread_workspace
from maskmill.masks.felzenszwalb import Felzenszwalb, segment, segment_to_rle, warmup
from maskmill.schemas.image import ImageRecord


def _grey(values) -> np.ndarray:
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, axis=2)


def _pictures(height: int, width: int) -> dict[str, np.ndarray]:
    y, x = np.mgrid[:height, :width]
    rng = np.random.default_rng(height * 1000 + width)
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    waves = 128 + 60 * np.sin(x / 5.0) + 60 * np.cos(y / 7.0)
    return {
        "flat": _grey(np.full((height, width), 77)),
        "ramp x": _grey(x * 255 // max(width - 1, 1)),
        "ramp y": _grey(y * 255 // max(height - 1, 1)),
        "ramp both": np.stack([x % 256, y % 256, (x + y) % 256], axis=2).astype(np.uint8),
        "checkers": _grey((x + y) % 2 * 255),
        "large checkers": _grey((x // 8 + y // 8) % 2 * 200),
        "stripes": _grey(x // 3 % 2 * 90),
        "posterised": noise // 64 * 64,
        "saturated": np.where(noise < 200, 255, noise).astype(np.uint8),
        "noise": noise,
        "waves": _grey(waves),
        "quantised waves": _grey(waves // 16 * 16),
        "disc": _grey(((x - width / 2) ** 2 + (y - height / 2) ** 2 < (height / 3) ** 2) * 180),
    }


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 40), (33, 34)])
@pytest.mark.parametrize("sigma", [0, 0.8])
def test_equals_reference_on_pictures_full_of_ties(shape, sigma, reference_segments):
    scales, sizes = (20, 1000, 1, 10**6), (20, 0, 1, 10**6)
    for name, image in _pictures(*shape).items():
        for scale, size, found in zip(scales, sizes, segment(image, scales, sizes, sigma), strict=True):
            expected = reference_segments(image, scale, size, sigma)
            np.testing.assert_array_equal(found, expected, f"{name} {shape} scale={scale} min_size={size}")


@pytest.mark.parametrize("shape", [(127, 128), (260, 3), (3, 260), (1, 400)])
def test_equals_reference_across_tiles(shape, reference_segments):
    for name, scale in (("ramp both", 30), ("noise", 500), ("quantised waves", 100), ("large checkers", 30)):
        image = _pictures(*shape)[name]
        (found,) = segment(image, (scale,), 10)
        np.testing.assert_array_equal(found, reference_segments(image, scale, 10, 0.8), f"{name} {shape}")


_images = arrays.arrays(
    np.uint8,
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3])),
    elements=st.sampled_from([0, 1, 2, 3, 100, 101, 128, 254, 255]),
)


# `pytest --hypothesis-profile thorough` tries twenty thousand.
@settings(
    max_examples=max(300, settings.default.max_examples),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    image=_images,
    scale=st.sampled_from([0, 0.5, 1, 7, 100, 500, 1500, 10**6]),
    min_size=st.sampled_from([0, 1, 2, 5, 30, 1000]),
    sigma=st.sampled_from([0.0, 0.1, 0.3, 0.8, 1.7, 9.0]),
    divisor=st.sampled_from([None, 1.0, 255.0, 3e-30, 1e30, 1e100]),
)
def test_equals_reference_on_small_pictures(image, scale, min_size, sigma, divisor, reference_segments):
    if divisor is not None:
        image = image / divisor
    expected = reference_segments(image, scale, min_size, sigma)
    (found,) = segment(image, (scale,), (min_size,), sigma)
    np.testing.assert_array_equal(found, expected)


def test_comparison_can_fail(reference_segments):
    """A control: another scale, or ties in another order (the transposed picture's), do give other segments."""
    image = _pictures(33, 34)["ramp both"]
    (found,) = segment(image, (1,), 20, 0)
    np.testing.assert_array_equal(found, reference_segments(image, 1, 20, 0))
    transposed = reference_segments(np.ascontiguousarray(image.transpose(1, 0, 2)), 1, 20, 0)
    assert found.max() != transposed.max()
    noise = _pictures(33, 34)["noise"]
    assert not np.array_equal(segment(noise, (300,), 0)[0], reference_segments(noise, 200, 0, 0.8))


def test_scales_in_any_order_do_not_touch_each_other():
    image = _pictures(90, 140)["waves"] // 2 + _pictures(90, 140)["noise"] // 8
    alone = {scale: segment(image, (scale,))[0] for scale in (50, 300, 2000)}
    for order in itertools.permutations(alone):
        for scale, found in zip(order, segment(image, order), strict=True):
            np.testing.assert_array_equal(found, alone[scale])


def test_labels_are_dense_int32_in_raster_order(relabel):
    for found in segment(_pictures(64, 200)["noise"], (5, 100), (0, 50)):
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, relabel(found, found.shape))


def test_grey_shapes_agree_and_strides_do_not_matter():
    grey = _pictures(40, 60)["noise"][..., 0]
    expected = segment(grey, (100,), 10)[0]
    np.testing.assert_array_equal(segment(grey[..., None], (100,), 10)[0], expected)
    np.testing.assert_array_equal(segment(np.asfortranarray(grey), (100,), 10)[0], expected)
    np.testing.assert_array_equal(segment(np.repeat(grey, 2, axis=1)[:, ::2], (100,), 10)[0], expected)
    np.testing.assert_array_equal(segment(np.ascontiguousarray(grey[::-1])[::-1], (100,), 10)[0], expected)


def test_float_images_count_as_they_are():
    image = _pictures(40, 60)["noise"]
    expected = segment(image, (300,), 10)[0]
    np.testing.assert_array_equal(segment(image * (1 / 255.0), (300,), 10)[0], expected)
    for short in (np.float16, np.float32):
        rounded = (image / 255.0).astype(short)
        np.testing.assert_array_equal(
            segment(rounded, (300,), 10)[0], segment(rounded.astype(np.float64), (300,), 10)[0], str(short)
        )


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.uint32, np.int32, np.int64, np.int8, bool])
def test_integers_and_bool_count_as_scikit_image_reads_them(dtype, monkeypatch, relabel):
    """Against scikit-image with its sort made stable: images of few values are full of ties."""
    waves = _pictures(40, 60)["waves"] // 2 + _pictures(40, 60)["noise"] // 8
    if dtype is bool:
        image = waves > 80
    else:
        low = 0 if dtype(0).dtype.kind == "u" else np.iinfo(dtype).min
        image = (waves / 255 * (np.iinfo(dtype).max - low) * 0.999 + low).astype(dtype)
    unstable = np.argsort
    monkeypatch.setattr(np, "argsort", lambda a, *args, **kwargs: unstable(a, kind="stable"))
    for sigma in (0, 0.8):
        expected = skimage_felzenszwalb(image, scale=100, sigma=sigma, min_size=10)
        (found,) = segment(image, (100,), 10, sigma)
        np.testing.assert_array_equal(found, relabel(expected, expected.shape), f"sigma {sigma}")
    if dtype is not bool:  # a control: the same values as plain floats are another picture
        assert not np.array_equal(segment(image.astype(np.float64), (100,), 10)[0], found)


def test_image_is_left_alone():
    image = _pictures(40, 60)["noise"]
    image.setflags(write=False)
    before = image.copy()
    segment(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (70, 33), (130, 300)])
def test_rle_is_that_of_pycocotools(shape):
    for name, image in _pictures(*shape).items():
        scales, sizes = (20, 500, 10**6), (0, 30, 10)
        encoded = segment_to_rle(image, scales, sizes)
        for (counts, areas), label_map in zip(encoded, segment(image, scales, sizes), strict=True):
            labels = range(label_map.max() + 1)
            masks = [np.asfortranarray(label_map == label, np.uint8) for label in labels if label < 200]
            assert counts[:200] == [coco_mask.encode(mask)["counts"] for mask in masks], f"{name} {shape}"
            np.testing.assert_array_equal(areas, np.bincount(label_map.ravel()))


def test_rle_of_many_segments_is_written_piece_by_piece(monkeypatch):
    """First more segments than are written at a time, then room for no more than the longest."""
    noise = _pictures(100, 100)["noise"]
    ((counts, areas),) = segment_to_rle(noise, (0.01,), 0)
    (label_map,) = segment(noise, (0.01,), 0)
    assert len(counts) == label_map.max() + 1 > 2 * stages.TEXT_MASKS
    masks = (np.asfortranarray(label_map == label, np.uint8) for label in range(len(counts)))
    assert counts == [coco_mask.encode(mask)["counts"] for mask in masks]
    np.testing.assert_array_equal(areas, np.bincount(label_map.ravel()))

    stripes = _grey(np.arange(200)[:, None] // 2 % 2 * np.full((1, 100), 200))
    whole = [segment_to_rle(image, (20,), 0)[0] for image in (noise, stripes)]
    monkeypatch.setattr(stages, "TEXT_BYTES", 1)
    monkeypatch.setattr(stages, "TEXT_MASKS", 3)
    for image, (counts, areas) in zip((noise, stripes), whole, strict=True):
        ((pieces, piece_areas),) = segment_to_rle(image, (20,), 0)
        assert pieces == counts
        np.testing.assert_array_equal(piece_areas, areas)


def test_generator_encodes_its_segments():
    image = _pictures(80, 70)["waves"]
    record = ImageRecord(key="a", image=image)
    generator = Felzenszwalb(scales=(100, 400), min_sizes=20)
    for masks, label_map in zip(generator(record), segment(image, (100, 400), 20), strict=True):
        np.testing.assert_array_equal(masks.area, np.bincount(label_map.ravel()))
        decoded = coco_mask.decode({"size": list(label_map.shape), "counts": masks.counts[0]})
        np.testing.assert_array_equal(decoded, label_map == 0)


def test_eight_threads_at_once_give_what_one_gives():
    pictures = [picture for shape in ((90, 140), (30, 300)) for picture in _pictures(*shape).values()]
    expected = [segment_to_rle(picture) for picture in pictures]
    start = threading.Barrier(8)

    def work(offset):
        start.wait()
        order = [(i + offset) % len(pictures) for i in range(len(pictures))]
        return all(segment_to_rle(pictures[i])[2][0] == expected[i][2][0] for i in order)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


@pytest.mark.parametrize("work", [segment, segment_to_rle])
@pytest.mark.parametrize(
    ("name", "scale", "dtype"),
    [("waves", 500, np.uint8), ("noise", 500, np.uint8), ("noise", 0.01, np.uint8), ("noise", 2, np.float32)],
)
def test_memory_is_bounded(name, scale, dtype, work):
    """At most 120 bytes per pixel beside a constant and the result. The last two make every pixel a component."""
    image = _pictures(1100, 1000)[name].astype(dtype)
    workspace = thread_workspace()
    workspace.clear()
    tracemalloc.start()
    result = work(image, (scale,), 0)
    left, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = left - workspace.nbytes
    workspace.clear()
    assert len(result) == 1
    assert kept > 0
    assert peak - kept < 120 * 1100 * 1000 + 8 * 2**20


def test_large_buffers_are_given_back():
    workspace = thread_workspace()
    workspace.clear()
    segment(np.zeros((300, 300), np.uint8))
    kept = workspace.nbytes
    segment(np.zeros((100, 100), np.uint8))
    assert workspace.nbytes == kept
    workspace.limit = kept - 1
    segment(np.zeros((300, 300), np.uint8))
    assert workspace.nbytes == 0
    del workspace.limit


def test_label_maps_behave_like_any_array():
    maps = segment(_pictures(40, 50)["noise"], (10, 20), 0)
    kept = [m.copy() for m in maps]
    maps[0][:] = -1  # is the caller's
    for _ in range(5):
        segment(_pictures(40, 50)["waves"])
    np.testing.assert_array_equal(maps[1], kept[1])
    assert (maps[0] == -1).all()
    assert all(m.flags.c_contiguous and m.flags.writeable and m.dtype == np.int32 for m in maps)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(maps[1])), kept[1])


def test_warmup_returns_seconds():
    assert 0 <= warmup() < 300


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([[1, 2]], "NumPy array"),
        (np.zeros((0, 5), np.uint8), r"no pixels: shape \(0, 5\)"),
        (np.zeros((5, 0, 3), np.uint8), "no pixels"),
        (np.zeros(5, np.uint8), r"got shape \(5,\)"),
        (np.zeros((5, 5, 4), np.uint8), r"got shape \(5, 5, 4\)"),
        (np.zeros((5, 5, 2), np.uint8), r"got shape \(5, 5, 2\)"),
        (np.zeros((1, 5, 5, 3), np.uint8), "got shape"),
        (np.zeros((5, 5), object), "got object"),
        (np.zeros((5, 5), np.longdouble), "got float128"),
        (np.zeros((5, 5), complex), "got complex128"),
        (np.full((5, 5), np.nan), "finite"),
        (np.array([[0.0, np.inf]]), "finite"),
        (np.array([[0.0, -1e200]]), "finite"),
    ],
)
def test_bad_images_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        segment(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": ()}, "scales must be one or more"),
        ({"scales": (-1,)}, "scales must be .* got"),
        ({"scales": (500, float("nan"))}, "scales must be"),
        ({"scales": (float("inf"),)}, "scales must be"),
        ({"scales": ("500",)}, "scales must be"),
        ({"min_sizes": (1, 2)}, "one per scale"),
        ({"min_sizes": -1}, "min_sizes must be"),
        ({"min_sizes": 1.5}, "min_sizes must be"),
        ({"sigma": -0.1}, "sigma must be"),
        ({"sigma": float("nan")}, "sigma must be"),
        ({"sigma": "0.8"}, "sigma must be"),
    ],
)
def test_bad_parameters_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        segment(np.zeros((4, 4), np.uint8), **arguments)
