"""Pooled masks against drawn ones, exactly; crops and samples against what they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.schemas import rle
from maskmill.training import geometry
from maskmill.training.config import DataConfig
from maskmill.training.geometry import Geometry, crop_box, decode_runs, make_views, pool_runs


def runs_of(counts: bytes, pixels: int) -> tuple[np.ndarray, int]:
    runs = np.empty(max(len(counts), 1), np.int64)
    return runs, decode_runs(np.frombuffer(counts, np.uint8), 0, len(counts), pixels, runs)


def pool(mask: np.ndarray, box: tuple, size: int, nearest: bool = False, cell: int = 32) -> tuple[np.ndarray, bool]:
    runs, number = runs_of(rle.encode_mask(mask), mask.size)
    out = np.full((size // cell) ** 2, np.nan)
    return out, pool_runs(runs, number, mask.shape[0], (*map(int, box[:4]), bool(box[4])), size, cell, nearest, out)


def crop(mask: np.ndarray, box: tuple) -> np.ndarray:
    top, left, height, width, flip = box
    part = mask[top : top + height, left : left + width]
    return part[:, ::-1] if flip else part


def draw_average(mask: np.ndarray, box: tuple, grid: int) -> np.ndarray:
    """The oracle: crop, flip, blow every pixel up to grid x grid so that cells hold whole pixels, average."""
    part = np.kron(crop(mask, box), np.ones((grid, grid)))
    height, width = box[2:4]
    return part.reshape(grid, height, grid, width).mean((1, 3)).reshape(-1)


def random_mask(random, height, width) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    kind = random.integers(5)
    if kind == 0:
        mask = random.random((height, width)) < random.random()
    elif kind == 1:
        mask[random.integers(height), random.integers(width)] = True
    elif kind == 2:
        mask[:] = True
    elif kind == 3:
        mask[random.integers(height) :, random.integers(width) :] = True
    else:
        y, x = np.mgrid[:height, :width]
        mask = np.hypot(y - height * random.random(), x - width * random.random()) < random.random() * height
    mask[0, 0] |= not mask.any()
    return mask


def random_box(random, height, width) -> tuple:
    h, w = int(random.integers(1, height + 1)), int(random.integers(1, width + 1))
    return int(random.integers(height - h + 1)), int(random.integers(width - w + 1)), h, w, bool(random.integers(2))


@pytest.mark.parametrize(("size", "cell"), [(32, 32), (64, 32), (224, 32), (48, 16), (64, 8)])
def test_soft_pooling_is_the_drawn_average(size, cell):
    random = np.random.default_rng(size)
    for trial in range(150):
        sides = random.integers(1, (9, 40, 90)[trial % 3], 2)
        mask, box = random_mask(random, *sides), random_box(random, *sides)
        got, seen = pool(mask, box, size, cell=cell)
        np.testing.assert_allclose(got, draw_average(mask, box, size // cell), rtol=0, atol=1e-14)
        assert seen == crop(mask, box).any()


def test_a_mask_of_one_pixel_is_seen_exactly_where_it_is():
    mask = np.zeros((50, 30), bool)
    mask[20, 11] = True
    got, seen = pool(mask, (20, 11, 7, 7, True), 224)
    assert seen
    assert got.tolist() == [1.0 if i == 6 else 0.0 for i in range(49)]  # mirrored to the end of the first row
    assert pool(mask, (21, 11, 7, 7, True), 224) == (pytest.approx(np.zeros(49), abs=0), False)


def test_large_masks_are_exact():
    mask = np.ones((3001, 4003), bool)
    got, _ = pool(mask, (1, 2, 2999, 4001, False), 512)
    assert (got == 1).all()


def test_nearest_pooling_is_literal_resize_and_average_pool():
    import tensorflow as tf

    random = np.random.default_rng(1)
    for _ in range(40):
        sides = random.integers(1, 300, 2)
        mask, box = random_mask(random, *sides), random_box(random, *sides)
        drawn = tf.image.resize(crop(mask, box)[..., None].astype(np.float32), (224, 224), "nearest")
        for cell in (32, 8):
            cells = tf.nn.avg_pool2d(drawn[None], cell, cell, "VALID").numpy().reshape(-1)
            np.testing.assert_array_equal(pool(mask, box, 224, nearest=True, cell=cell)[0], cells)


def views_of(label_maps, config, keys=None, layers=1):
    """`make_views` of label maps [height, width], each a partition that is one layer (repeated `layers` times)."""
    counts, image, layer = [], [], []
    for i, labels in enumerate(label_maps):
        for k in range(layers):
            masks = [rle.encode_mask(labels == value) for value in range(labels.max() + 1)]
            counts, image, layer = counts + masks, image + [i] * len(masks), layer + [k] * len(masks)
    keys = np.arange(len(label_maps), dtype=np.uint64) if keys is None else keys
    return make_views(
        keys,
        np.array([labels.shape[0] for labels in label_maps]),
        np.array([labels.shape[1] for labels in label_maps]),
        np.frombuffer(b"".join(counts), np.uint8),
        np.cumsum([len(c) for c in counts], dtype=np.int64),
        np.array(image, np.int64),
        np.array(layer, np.int64),
        Geometry.of(config),
    )


def blobs(random, height, width, number) -> np.ndarray:
    """A random partition, all labels 0..number-1 present."""
    y, x = np.mgrid[:height, :width]
    centres = random.random((number, 2)) * (height, width)
    labels = np.argmin(np.hypot(y[..., None] - centres[:, 0], x[..., None] - centres[:, 1]), -1)
    return np.unique(labels, return_inverse=True)[1].reshape(height, width)


def test_release_mode_is_literal_nearest_one_hot_pool_argmax():
    import tensorflow as tf

    random = np.random.default_rng(2)
    maps = [blobs(random, *random.integers(40, 260, 2), number=12) for _ in range(4)]
    boxes, weights, ids, broken = views_of(maps, DataConfig(pool="argmax", sample="without_replacement"), layers=2)
    assert broken == -1
    for i, labels in enumerate(maps):
        for view in range(2):
            part = crop(labels, boxes[i, view])[..., None].astype(np.int32)
            small = tf.image.resize(part, (224, 224), "nearest")[..., 0]
            shares = tf.nn.avg_pool2d(tf.one_hot(small, 256)[None], 32, 32, "VALID")[0]
            winner = tf.one_hot(tf.argmax(shares, -1), 256).numpy().reshape(49, 256).T
            number = labels.max() + 1
            seen = {int(v) + k * number for v in np.flatnonzero(winner.any(1)) for k in range(2)}
            assert set(ids[i, view][ids[i, view] >= 0]) == (seen if len(seen) <= 16 else set(ids[i, view]) & seen)
            for m, region in enumerate(ids[i, view]):
                expected = winner[region % number] if region >= 0 else np.zeros(49)
                np.testing.assert_array_equal(weights[i, view, m], expected)


def test_release_mode_leaves_a_cell_empty_where_no_mask_leads():
    labels = np.ones((224, 224), int)
    labels[:10, :32] = 0
    config = DataConfig(pool="argmax", min_area=1.0, aspect=(1.0, 1.0), flip=False)
    counts = rle.encode_mask(labels == 0)
    one = np.zeros(1, np.int64)
    sides = np.array([224])
    boxes, weights, ids, _ = make_views(
        np.zeros(1, np.uint64), sides, sides, np.frombuffer(counts, np.uint8), one + len(counts), one, one,
        Geometry.of(config),
    )  # fmt: skip
    assert tuple(boxes[0, 0]) == (0, 0, 224, 224, 0)
    assert (weights == 0).all()
    assert (ids == -1).all()


def test_weights_belong_to_their_ids_and_are_seen():
    random = np.random.default_rng(3)
    maps = [blobs(random, 61, 83, 9), blobs(random, 200, 40, 30)]
    boxes, weights, ids, _ = views_of(maps, DataConfig())
    for i, labels in enumerate(maps):
        for view in range(2):
            for m, region in enumerate(ids[i, view]):
                expected = draw_average(labels == region, tuple(boxes[i, view]), 7)
                np.testing.assert_allclose(weights[i, view, m], expected, atol=1e-6)
                assert weights[i, view, m].max() > 0


def test_masks_are_drawn_uniformly_among_those_present():
    labels = np.zeros((70, 70), int)
    labels[:, 10:], labels[:, 40:], labels[:, 55:] = 1, 2, 3  # of very unequal areas
    config = DataConfig(min_area=1.0, aspect=(1.0, 1.0))
    _, _, ids, _ = views_of([labels] * 400, config)
    share = np.bincount(ids[:, 0].reshape(-1), minlength=4) / ids[:, 0].size
    assert np.abs(share - 0.25).max() < 0.02
    assert (ids[:, 0] != ids[:, 1]).mean() > 0.7  # the views draw independently: 3 of 4 differ


def test_without_replacement_gives_distinct_masks_then_padding():
    random = np.random.default_rng(4)
    config = DataConfig(sample="without_replacement", min_area=0.9)
    _, weights, ids, _ = views_of([blobs(random, 60, 60, 5), blobs(random, 60, 60, 40)], config)
    for i in range(2):
        for view in range(2):
            real = ids[i, view][ids[i, view] >= 0]
            assert len(set(real)) == len(real)
            assert (ids[i, view][len(real) :] == -1).all()
            assert (weights[i, view][len(real) :] == 0).all()
    assert (ids[1] >= 0).all()
    assert (ids[0] == -1).any()


def test_points_fall_into_cells_by_their_share_of_the_mask():
    labels = np.zeros((224, 224), int)
    labels[:32, :64] = 1  # two whole cells ...
    labels[32:64, :32] = 1
    labels[48:64, :32] = 0  # ... and a half
    config = DataConfig(pool="point", min_area=1.0, aspect=(1.0, 1.0), flip=False)
    _, weights, ids, _ = views_of([labels] * 300, config)
    drawn = weights[ids == 1]
    assert (drawn.sum(-1) == 1).all()
    assert set(np.flatnonzero(drawn.sum(0))) == {0, 1, 7}
    np.testing.assert_allclose(drawn.mean(0)[[0, 1, 7]], [0.4, 0.4, 0.2], atol=0.03)


def test_global_mask_covers_everything():
    _, weights, ids, _ = views_of([np.zeros((20, 30), int)], DataConfig(global_mask=True, masks_per_view=2))
    assert (weights == 1).all()
    assert (ids == 0).all()


def test_one_view_shares_the_crop_and_redraws_the_masks():
    random = np.random.default_rng(5)
    boxes, _, ids, _ = views_of([blobs(random, 90, 90, 20)], DataConfig(views=1))
    assert (boxes[:, 0] == boxes[:, 1]).all()
    assert (ids[:, 0] != ids[:, 1]).any()


def test_an_image_without_masks_is_all_padding():
    none = np.zeros(0, np.int64)
    sides = np.array([50])
    _, weights, ids, broken = make_views(
        np.zeros(1, np.uint64), sides, sides, np.zeros(0, np.uint8), none, none, none, Geometry.of(DataConfig())
    )
    assert (ids == -1).all()
    assert (weights == 0).all()
    assert broken == -1


def boxes_of(config, height, width, number=3000):
    numbers = Geometry.of(config)
    return np.array([crop_box(np.uint64(i), 0, height, width, numbers) for i in range(number)])


def test_crops_are_the_papers():
    boxes = boxes_of(DataConfig(), 375, 500)
    top, left, height, width, flip = boxes.T
    assert ((top >= 0) & (left >= 0) & (top + height <= 375) & (left + width <= 500)).all()
    area, aspect = height * width / (375 * 500), width / height
    assert area.min() >= 0.079
    assert aspect.min() >= 0.74
    assert aspect.max() <= 1.36
    assert abs(area.mean() - 0.433) < 0.015  # 54 % before those that do not fit are redrawn
    assert abs(np.log(aspect)[area < 0.3].mean()) < 0.02  # small ones are never redrawn
    assert abs(flip.mean() - 0.5) < 0.03
    room = (500 - width) > 50
    assert abs((left / np.maximum(500 - width, 1))[room].mean() - 0.5) < 0.03


def test_clipped_crops_are_larger():
    boxes = boxes_of(DataConfig(crop="clip"), 375, 500)
    area = boxes[:, 2] * boxes[:, 3] / (375 * 500)
    assert abs(area.mean() - 0.518) < 0.015
    assert ((boxes[:, 2] == 375) | (boxes[:, 3] == 500)).mean() > 0.15


@pytest.mark.parametrize("sides", [(1, 1), (1, 400), (3000, 2), (7, 9)])
def test_crops_fit_images_of_any_shape(sides):
    for mode in ("reject", "clip"):
        top, left, height, width, _ = boxes_of(DataConfig(crop=mode), *sides, number=50).T
        assert (height >= 1).all()
        assert (width >= 1).all()
        assert ((top >= 0) & (left >= 0) & (top + height <= sides[0]) & (left + width <= sides[1])).all()


def test_draws_are_uniform_and_independent():
    draws = np.array(
        [[geometry.uniform(np.uint64(k), v, 0, i) for v in range(2) for i in range(4)] for k in range(4000)]
    )
    assert 0 <= draws.min() < 0.001
    assert 0.999 < draws.max() < 1
    assert np.abs(draws.mean(0) - 0.5).max() < 0.02
    correlation = np.corrcoef(draws.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.06


@settings(max_examples=100)
@given(st.integers(1, 25), st.integers(1, 25), st.integers(0, 2**32))
def test_runs_decode_as_the_reference(height, width, seed):
    mask = random_mask(np.random.default_rng(seed), height, width)
    runs, number = runs_of(rle.encode_mask(mask), mask.size)
    np.testing.assert_array_equal(runs[:number], rle.mask_to_runs(mask))


@settings(max_examples=300)
@given(st.binary(max_size=12), st.integers(1, 400))
def test_malformed_counts_are_refused_as_by_the_reference(counts, pixels):
    try:
        expected = rle.decode_counts(counts, pixels, 1).tolist()
    except rle.RleError:
        expected = None
    runs, number = runs_of(counts, pixels)
    assert (runs[:number].tolist() if number >= 0 else None) == expected


def test_a_broken_mask_is_reported_by_number():
    good, bad = rle.encode_mask(np.ones((4, 4), bool)), rle.encode_mask(np.ones((4, 5), bool))
    sides = np.array([4, 4])
    *_, broken = make_views(
        np.zeros(2, np.uint64), sides, sides, np.frombuffer(good + bad, np.uint8),
        np.array([len(good), len(good + bad)]), np.array([0, 1]), np.array([0, 0]), Geometry.of(DataConfig()),
    )  # fmt: skip
    assert broken == 1
