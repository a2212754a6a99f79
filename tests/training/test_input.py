"""Batches from real shards: what they hold, that masks follow their pixels, determinism, and damage named."""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskmill.schemas import rle
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.manifest import load_manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.tfrecord import frame, read_records
from maskmill.training import host, order
from maskmill.training.cache import cache_folder
from maskmill.training.config import DataConfig
from maskmill.training.input import Batches
from maskmill.training.record import decode_image
from maskmill.training.resize import resize_crop

CONFIG = DataConfig(layers=("true",), image_size=64, masks_per_view=6, shuffle_group_bytes=60_000)


@pytest.fixture(scope="module")
def build(scenes, tmp_path_factory):
    """30 scenes of 70 x 90 in 4 shards, every third of them a PNG."""
    folder = str(tmp_path_factory.mktemp("build"))
    scenes.write_scenes(folder, 30, size=(70, 90), kind=lambda i: "PNG" if i % 3 == 0 else "JPEG")
    return folder


@pytest.fixture
def damaged(build, tmp_path):
    """A copy of the build, to be broken."""
    return shutil.copytree(build, tmp_path / "copy")


def take(batches, step, number=1):
    stream = batches.at(step)
    return [next(stream) for _ in range(number)]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_batch_is_what_the_trainer_was_promised(build):
    batches = Batches(build, CONFIG, global_batch=8, seed=0)
    (batch,) = take(batches, 0)
    shapes = {name: (value.shape, value.dtype.name) for name, value in batch.items()}
    per_view = {
        "image": ((8, 64, 64, 3), "uint8"),
        "weights": ((8, 6, 4), "float32"),
        "ids": ((8, 6), "int32"),
    }
    expected = {f"{name}{view}": what for name, what in per_view.items() for view in (1, 2)}
    assert shapes == expected | {"label": ((8,), "int32"), "key": ((8, 2), "uint32")}
    assert batches.manifest_digest == load_manifest(build).digest
    assert (batches.num_records, batches.steps_per_epoch) == (30, 3)
    assert len({tuple(k) for k in batch["key"]}) == 8
    for view in (1, 2):
        weights, ids = batch[f"weights{view}"], batch[f"ids{view}"]
        assert (weights >= 0).all()
        assert (weights <= 1).all()
        assert ((weights.max(-1) > 0) == (ids >= 0)).all()


def test_any_step_gives_the_batch_that_walking_there_gives(build):
    batches = Batches(build, CONFIG, global_batch=4, seed=3)
    walked = take(batches, 0, 17)  # past two epochs of 7 steps
    for step in (1, 7, 16):
        assert same(take(batches, step)[0], walked[step])
    assert same(take(Batches(build, CONFIG, global_batch=4, seed=3), 6)[0], walked[6])
    assert not same(take(Batches(build, CONFIG, global_batch=4, seed=4), 0)[0], walked[0])
    assert len({tuple(k) for batch in walked for k in batch["key"]}) == 17 * 4  # new crops every epoch


def test_processes_divide_the_epoch(build):
    seen = []
    for process in range(2):
        part = Batches(build, CONFIG, global_batch=6, seed=1, process_index=process, process_count=2)
        assert part.steps_per_epoch == 5
        for step, batch in enumerate(take(part, 0, 5)):
            assert batch["image1"].shape[0] == 3
            names = part._order.records(step)
            seen += names.tolist()
            keys = order.fold(1, 0, order._KEYS, names).view(np.uint32).reshape(-1, 2)
            np.testing.assert_array_equal(batch["key"], keys)
    assert sorted(seen) == list(range(30))


def label_of_pixels(image: np.ndarray, palette: np.ndarray) -> np.ndarray:
    return np.argmin(((image[..., None, :].astype(int) - palette) ** 2).sum(-1), -1)


PALETTE = np.array([[20, 20, 20], [240, 20, 20], [20, 240, 20], [20, 20, 240], [240, 240, 20], [20, 240, 240]])


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


def regions(build, batches, names) -> None:
    """Checks that ids count the masks of the named layers, in the manifest's order, then the annotations'."""
    records = list(Dataset.open(build))
    bases = {shard.name: [] for shard in load_manifest(build).shards}
    assert bases
    layers = [layer.name for layer in load_manifest(build).layers]
    (batch,) = take(batches, 0)
    for i, number in enumerate(batches._order.records(0)):
        record = records[number]
        total = sum(len(record.masks[layers.index(n)]) for n in layers if n in names)
        total += int((~record.annotations.is_crowd).sum()) if "gt" in names else 0
        for view in (1, 2):
            assert batch[f"ids{view}"][i].max() < total
            assert batch[f"ids{view}"][i].min() >= 0


@pytest.mark.parametrize(
    "names", [("true",), ("grid-2", "true"), ("gt",), ("true", "gt"), ("shuffled", "grid-2", "gt")]
)
def test_layers_are_chosen_by_name(build, names):
    config = dataclasses.replace(CONFIG, layers=names, min_area=1.0, masks_per_view=32)
    regions(build, Batches(build, config, global_batch=8, seed=0), names)


def test_gt_means_the_annotations_without_crowds(scenes, tmp_path):
    examples = [scenes.scene_example(i, 0, 64, 64) for i in range(4)]
    examples = [
        dataclasses.replace(
            e, annotations=dataclasses.replace(e.annotations, is_crowd=np.arange(len(e.annotations)) > 0)
        )
        for e in examples
    ]
    scenes.write_build(str(tmp_path), examples)
    config = dataclasses.replace(CONFIG, layers=("gt",), min_area=1.0, aspect=(1.0, 1.0), flip=False)
    batches = Batches(str(tmp_path), config, global_batch=4, seed=0)
    (batch,) = take(batches, 0)
    records = list(Dataset.open(str(tmp_path)))
    assert (batch["ids1"] == 0).all()
    for i, number in enumerate(batches._order.records(0)):
        mask = rle.decode_mask(records[number].annotations.counts[0], 64, 64)
        np.testing.assert_allclose(batch["weights1"][i, 0], mask.reshape(2, 32, 2, 32).mean((1, 3)).reshape(-1))


def test_the_global_mask_needs_no_layer(build):
    config = dataclasses.replace(CONFIG, layers=(), global_mask=True, masks_per_view=1)
    (batch,) = take(Batches(build, config, global_batch=4, seed=0), 0)
    assert (batch["weights1"] == 1).all()
    assert (batch["ids2"] == 0).all()


def test_one_view_is_the_same_crop_twice(build):
    config = dataclasses.replace(CONFIG, views=1)
    (batch,) = take(Batches(build, config, global_batch=8, seed=0), 0)
    np.testing.assert_array_equal(batch["image1"], batch["image2"])
    assert (batch["ids1"] != batch["ids2"]).any()


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


def test_training_reads_without_tensorflow():
    """It took 5 s and 0.6 GB of every host."""
    code = (
        "import sys, maskmill.training.train, maskmill.training.input, maskmill.training.probe, maskmill.training.bench\n"
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def overwrite(path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_a_flipped_byte_is_found_and_named(damaged):
    shard = damaged / load_manifest(str(damaged)).shards[2].name
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    batches = Batches(str(damaged), CONFIG, global_batch=6, seed=0)
    with pytest.raises(DamageError, match=rf"{shard.name}: record \d+ at byte \d+: the checksum"):
        take(batches, 0, 6)


def test_a_truncated_shard_is_named(damaged):
    shard = damaged / load_manifest(str(damaged)).shards[1].name
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(DamageError, match=f"{shard.name}: record .* ends inside the record"):
        take(Batches(str(damaged), CONFIG, global_batch=6, seed=0), 0, 6)


def test_a_shard_of_another_length_is_named(damaged):
    shard = damaged / load_manifest(str(damaged)).shards[1].name
    shard.write_bytes(shard.read_bytes() + frame(b""))
    with pytest.raises(DamageError, match=shard.name):
        take(Batches(str(damaged), CONFIG, global_batch=6, seed=0), 0, 6)


def test_a_shard_of_another_build_is_refused(scenes, damaged, tmp_path):
    """Whole in itself, with as many records; also when it takes the other's place, and time, between two epochs."""
    scenes.write_scenes(str(tmp_path / "other"), 24, size=(70, 90), seed=9)
    entry = load_manifest(str(damaged)).shards[1]
    path, other = damaged / entry.name, tmp_path / "other" / entry.name
    message = (
        rf"{entry.name} in .* has 6 records and crc32c \w+, the manifest says \d and .*: the shard is of another build"
    )
    batches = Batches(str(damaged), CONFIG, global_batch=6, seed=0)
    take(batches, 0, 4)
    before = path.stat()
    shutil.copy(other, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DamageError, match=message):
        take(batches, 0, 8)
    with pytest.raises(DamageError, match=message):
        take(Batches(str(damaged), CONFIG, global_batch=6, seed=0), 0, 6)


def test_a_shard_of_the_same_size_is_told_apart(damaged):
    """One bit of a picture, with the checksums that go with it."""
    entry = load_manifest(str(damaged)).shards[1]
    path = damaged / entry.name
    with path.open("rb") as stream:
        records = list(read_records(stream, entry.name))
    records[0] = records[0][:-1] + bytes([records[0][-1] ^ 1])
    path.write_bytes(b"".join(frame(record) for record in records))
    assert path.stat().st_size == entry.bytes
    with pytest.raises(DamageError, match=rf"{entry.name} in .* crc32c \w+, the manifest says \d and {entry.crc32c}:"):
        take(Batches(str(damaged), CONFIG, global_batch=6, seed=0), 0, 6)


def test_a_missing_shard_is_named_before_training(damaged):
    name = load_manifest(str(damaged)).shards[3].name
    (damaged / name).unlink()
    with pytest.raises(DamageError, match=f"{name} is missing"):
        Batches(str(damaged), CONFIG, global_batch=6, seed=0)


def broken_build(scenes, folder, **changes):
    examples = [scenes.scene_example(i, 0, 64, 64) for i in range(6)]
    examples[4] = dataclasses.replace(examples[4], **changes)
    scenes.write_build(folder, examples, shards=2)
    return Batches(folder, CONFIG, global_batch=6, seed=0)


def test_records_that_contradict_themselves_are_named(scenes, tmp_path):
    where = r"scenes-train\.tfrecord-00000-of-00002: record 2 \(scene-00004.jpg\)"
    full = scenes.to_masks([np.ones((64, 64), bool)])
    wrong = dataclasses.replace(full, counts=(rle.encode_mask(np.ones((64, 65), bool)),))
    cases = {
        "does not decode": {"encoded": b"\xff\xd8\xff\xe0 not a picture"},
        r"the image is \(32, 64\)": {"encoded": scenes.encode_picture(np.zeros((32, 64, 3), np.uint8))},
        "mask 0: runs sum to 4160": {"masks": (wrong, full, full)},
    }
    for number, (message, change) in enumerate(cases.items()):
        with pytest.raises(DamageError, match=f"{where}: .*{message}"):
            take(broken_build(scenes, str(tmp_path / str(number)), **change), 0)


def test_masks_of_a_layer_that_the_manifest_lacks_are_named(scenes, tmp_path):
    examples = [scenes.scene_example(i, 0, 64, 64) for i in range(4)]
    more = dataclasses.replace(examples[2], masks=(*examples[2].masks, examples[2].masks[0]))
    examples[2] = dataclasses.replace(more, best_iou=np.concatenate([more.best_iou, more.best_iou[:1]]))
    scenes.write_build(str(tmp_path), examples, shards=1)
    with pytest.raises(DamageError, match=r"record 2: .* masks, of layers \[0, 1, 2, 3\] of 3"):
        take(Batches(str(tmp_path), CONFIG, global_batch=4, seed=0), 0)


def test_an_unknown_layer_lists_those_there_are(build):
    with pytest.raises(InputError, match="no layer 'fh-1000'; it has true, grid-2, shuffled"):
        Batches(build, DataConfig(), global_batch=4, seed=0)


def test_other_data_is_refused(scenes, damaged, tmp_path):
    with pytest.raises(InputError, match="not a maskmill data set"):
        Batches(str(tmp_path), CONFIG, global_batch=4, seed=0)
    masks_only = [dataclasses.replace(scenes.scene_example(i, 0, 64, 64), encoded=None) for i in range(4)]
    scenes.write_build(str(tmp_path / "masks"), masks_only)
    with pytest.raises(InputError, match="masks only"):
        Batches(str(tmp_path / "masks"), CONFIG, global_batch=4, seed=0)
    empty = [dataclasses.replace(scenes.scene_example(i, 0, 64, 64, objects=0), label=-1) for i in range(4)]
    scenes.write_build(str(tmp_path / "bare"), empty)
    with pytest.raises(InputError, match="no annotations to take masks"):
        Batches(str(tmp_path / "bare"), dataclasses.replace(CONFIG, layers=("gt",)), global_batch=4, seed=0)
    with pytest.raises(UsageError, match="exceeds the data set's 30 records"):
        Batches(str(damaged), CONFIG, global_batch=31, seed=0)
    fields = json.loads((damaged / "manifest.json").read_text())
    (damaged / "manifest.json").write_text(json.dumps(fields | {"schema_version": 2}))
    with pytest.raises(InputError, match="schema version 2"):
        Batches(str(damaged), CONFIG, global_batch=4, seed=0)


@pytest.fixture
def bucket(build, tmp_path, monkeypatch):
    """The build under gs://, as the storage layer would show it, and an empty cache."""
    import contextlib

    from maskmill.schemas import storage

    remote = str(shutil.copytree(build, tmp_path / "remote"))
    opened = []
    real_open, real_names = storage.open_read, storage.names
    real_read, real_whole = storage.read_bytes, storage.read_whole

    def local(path):
        return path.replace("gs://bucket/build", remote)

    @contextlib.contextmanager
    def open_read(path):
        opened.append(path)
        with real_open(local(path)) as stream:
            yield stream

    monkeypatch.setattr(storage, "open_read", open_read)
    monkeypatch.setattr(storage, "read_bytes", lambda path, *rest: real_read(local(path), *rest))
    monkeypatch.setattr(storage, "read_whole", lambda path, limit: real_whole(local(path), limit))
    monkeypatch.setattr(storage, "names", lambda folder: real_names(local(folder)))
    monkeypatch.setenv("MASKMILL_CACHE", str(tmp_path / "cache"))
    return remote, opened


def test_remote_shards_are_read_once_and_give_the_same_batches(build, bucket):
    _, opened = bucket
    remote = Batches("gs://bucket/build", CONFIG, global_batch=6, seed=0)
    opened.clear()
    for one, other in zip(take(remote, 0, 8), take(Batches(build, CONFIG, global_batch=6, seed=0), 0, 8), strict=True):
        assert same(one, other)
    assert len([path for path in opened if path.startswith("gs://")]) == 4
    assert set(os.listdir(cache_folder())) == {shard.sha256 for shard in load_manifest(build).shards}


def test_remote_shards_that_changed_are_refused(bucket):
    folder, _ = bucket
    name = load_manifest(folder).shards[2].name
    path = Path(folder) / name
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageError, match=rf"{name} has sha256 .*, the manifest says"):
        take(Batches("gs://bucket/build", CONFIG, global_batch=6, seed=0), 0, 6)
    assert not any("incomplete" in left for left in os.listdir(cache_folder()))


def test_the_allocator_is_told_where_it_listens(monkeypatch):
    assert host.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")

    def no_library(name):
        raise OSError("no C library to be found")

    monkeypatch.setattr(host.ctypes, "CDLL", no_library)
    assert host.keep_freed_memory() is False


def test_tf_data_gives_the_same_batches(build):
    from maskmill.training.tfdata import batches_dataset

    view = batches_dataset(build, CONFIG, global_batch=8, seed=5, step=2)
    for tensors, batch in zip(view.take(2), take(Batches(build, CONFIG, global_batch=8, seed=5), 2, 2), strict=True):
        assert same({name: tensor.numpy() for name, tensor in tensors.items()}, batch)


def test_threads_and_their_number_change_nothing(build, monkeypatch):
    many = take(Batches(build, CONFIG, global_batch=8, seed=0), 0, 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    for one, other in zip(take(Batches(build, CONFIG, global_batch=8, seed=0), 0, 4), many, strict=True):
        assert same(one, other)


def test_damage_is_told_at_its_step_and_not_before(scenes, tmp_path):
    """Batches are made ahead; those before the damage are whole and are given."""
    examples = [scenes.scene_example(i, 0, 64, 64) for i in range(12)]
    examples[7] = dataclasses.replace(examples[7], encoded=b"no picture")
    scenes.write_build(str(tmp_path), examples, shards=2)
    batches = Batches(str(tmp_path), CONFIG, global_batch=2, seed=1)
    broken = 6 + 3  # records are dealt in turn: the eighth is the fourth of the second shard
    at = next(step for step in range(6) if broken in batches._order.records(step))
    assert at > 1
    stream = batches.at(0)
    assert len([next(stream) for _ in range(at)]) == at
    with pytest.raises(DamageError, match=r"00001-of-00002: record 3 \(scene-00007.jpg\): the image does not decode"):
        next(stream)
