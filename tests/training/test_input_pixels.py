"""Pixels of batches: masks follow theirs, decoding is the build's, crops are TensorFlow's."""

import dataclasses

import cv2
import numpy as np
import pytest
from batches import take

from maskmill.training.config import DataConfig
from maskmill.training.input import Batches
from maskmill.training.record import decode_image
from maskmill.training.resize import resize_crop

PALETTE = np.array([[20, 20, 20], [240, 20, 20], [20, 240, 20], [20, 20, 240], [240, 240, 20], [20, 240, 240]])


def label_of_pixels(image: np.ndarray, palette: np.ndarray) -> np.ndarray:
    return np.argmin(((image[..., None, :].astype(int) - palette) ** 2).sum(-1), -1)


@pytest.fixture(scope="module")
def coloured(scenes, tmp_path_factory):
    """24 lossless pictures whose colour is their label, in an asymmetric layout."""
    folder, examples = str(tmp_path_factory.mktemp("coloured")), []
    for i in range(24):
        random = np.random.default_rng(i)
        height, width = random.integers(60, 140, 2)
        y, x = np.mgrid[:height, :width]
        centres = random.random((len(PALETTE), 2)) * (height, width)
        labels = np.argmin(np.hypot(y[..., None] - centres[:, 0], x[..., None] - centres[:, 1]), -1)
        example = scenes.scene_example(i, 0, int(height), int(width), "PNG")
        masks = scenes.to_masks([labels == k for k in range(len(PALETTE))])
        examples.append(
            dataclasses.replace(
                example,
                encoded=scenes.encode_picture(PALETTE[labels].astype(np.uint8), "PNG"),
                masks=(masks,),
                best_iou=example.best_iou[:1],
            )
        )
    scenes.write_build(folder, examples, layers=("colour",))
    return folder


def misplaced(batches, *, mirror_masks: bool) -> float:
    """Greatest difference, over both views, between a mask's weights and what its colour covers of each cell."""
    worst = 0.0
    for batch in take(batches, 0, 4):
        for view in (1, 2):
            labels = label_of_pixels(batch[f"image{view}"], PALETTE)
            n, size = labels.shape[:2]
            covered = (labels[..., None] == np.arange(len(PALETTE))).reshape(n, size // 32, 32, size // 32, 32, -1)
            covered = covered.mean((2, 4)).reshape(n, -1, len(PALETTE))
            weights, ids = batch[f"weights{view}"], batch[f"ids{view}"]
            if mirror_masks:
                grid = size // 32
                weights = weights.reshape(n, -1, grid, grid)[..., ::-1].reshape(weights.shape)
            for i, m in zip(*np.nonzero(ids >= 0)):
                worst = max(worst, float(np.abs(weights[i, m] - covered[i, :, ids[i, m]]).max()))
    return worst


@pytest.mark.parametrize("pool", ["soft", "argmax"])
def test_masks_follow_their_pixels_through_crop_and_flip(coloured, pool):
    config = DataConfig(layers=("colour",), image_size=128, masks_per_view=8, pool=pool)
    if pool == "argmax":  # one-hot: compare the winners only where a colour clearly leads
        for batch in take(Batches(coloured, config, global_batch=6, seed=0), 0, 4):
            labels = label_of_pixels(batch["image1"], PALETTE)
            covered = (labels[..., None] == np.arange(6)).reshape(6, 4, 32, 4, 32, 6).mean((2, 4)).reshape(6, 16, 6)
            for i, m in zip(*np.nonzero(batch["ids1"] >= 0)):
                share = covered[i, :, batch["ids1"][i, m]]
                assert (batch["weights1"][i, m][share > 0.6] == 1).all()
                assert (batch["weights1"][i, m][share < 0.15] == 0).all()
        return
    batches = Batches(coloured, config, global_batch=6, seed=0)
    # A resized picture's border between two colours moves by under a pixel; the control is off by whole cells.
    assert misplaced(batches, mirror_masks=False) < 0.12
    assert misplaced(batches, mirror_masks=True) > 0.9


def test_both_views_mean_the_same_region_by_the_same_id(coloured):
    config = DataConfig(layers=("colour",), image_size=128, masks_per_view=8, pool="point")
    for batch in take(Batches(coloured, config, global_batch=6, seed=0), 0, 4):
        for view in (1, 2):
            labels = label_of_pixels(batch[f"image{view}"], PALETTE).reshape(6, 4, 32, 4, 32)
            for i, m in zip(*np.nonzero(batch[f"ids{view}"] >= 0)):
                row, column = divmod(int(batch[f"weights{view}"][i, m].argmax()), 4)
                assert (labels[i, row, :, column, :] == batch[f"ids{view}"][i, m]).any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pixels_are_those_of_the_builds_decoder(scenes, kind):
    encoded = scenes.encode_picture(scenes.draw_scene(0, 93, 121).image, kind)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    np.testing.assert_array_equal(decode_image(encoded), cv2.imdecode(np.frombuffer(encoded, np.uint8), flags))


def test_photos_decode_as_tensorflow_decodes_them_accurately(test_data):
    """The other readers of a build (TFDS) see the same pixels; its default DCT, the control, gives others."""
    import tensorflow as tf

    differ = 0
    for path in sorted((test_data / "coco" / "images").glob("*.jpg"))[:25]:
        encoded = path.read_bytes()
        accurate = tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE").numpy()
        np.testing.assert_array_equal(decode_image(encoded), accurate)
        differ += bool((tf.io.decode_jpeg(encoded, channels=3).numpy() != accurate).any())
    assert differ > 20


def cropped(image, box, size, antialias):
    out = np.full((size, size, 3), 77, np.uint8)
    resize_crop(image, np.array(box, np.int64), antialias, out)
    return out


def oracle(image, box, size, antialias, **kind):
    """TensorFlow's resize of the crop, rounded to bytes."""
    import tensorflow as tf

    part = image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]
    part = part[:, ::-1] if box[4] else part
    method = kind.get("method", "bicubic")
    return np.clip(tf.image.resize(part, [size, size], method, antialias=antialias).numpy() + 0.5, 0, 255)


@pytest.mark.parametrize("antialias", [False, True])
def test_crops_are_tensorflows_bicubic_resize_to_one_level(scenes, antialias):
    image = scenes.draw_scene(1, 80, 110).image
    noise = np.random.default_rng(0).integers(0, 256, (300, 211, 3)).astype(np.uint8)
    boxes = ([0, 0, 80, 110, 0], [5, 7, 33, 64, 1], [79, 109, 1, 1, 0], [3, 9, 2, 3, 1], [10, 0, 70, 5, 1])
    cases = [(image, box) for box in boxes] + [(noise, [0, 0, 300, 211, 1]), (noise, [17, 3, 283, 5, 0])]
    for picture, box in cases:
        for size in (64, 33):
            got = cropped(picture, box, size, antialias).astype(int)
            expected = oracle(picture, box, size, antialias).astype(np.uint8).astype(int)
            assert np.abs(got - expected).max() <= 1, (box, size)
            assert (got != expected).mean() < 0.05, (box, size)
    # Controls: the other setting of averaging, and the other common cubic kernel, are far off.
    got = cropped(noise, [0, 0, 300, 211, 1], 64, antialias)
    assert np.abs(got - oracle(noise, [0, 0, 300, 211, 1], 64, not antialias)).max() > 50
    if not antialias:
        other = cv2.resize(noise[:, ::-1], (64, 64), interpolation=cv2.INTER_CUBIC)
        assert np.abs(got.astype(int) - other).max() > 5


def test_photos_crops_are_tensorflows(test_data):
    for path in sorted((test_data / "imagenet").glob("n*/*"))[:8]:
        image = decode_image(path.read_bytes())
        height, width = image.shape[:2]
        for box in ([0, 0, height, width, 0], [height // 4, width // 5, height // 2, width // 2, 1]):
            gap = np.abs(cropped(image, box, 224, False).astype(int) - oracle(image, box, 224, False).astype(np.uint8))
            assert gap.max() <= 1
            assert (gap > 0).mean() < 0.02
