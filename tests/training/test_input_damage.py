"""Damaged, foreign and remote shards: each named, at its step and not before."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from batches import CONFIG, same, take

from maskmill.schemas import rle
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.manifest import load_manifest
from maskmill.schemas.tfrecord import frame, read_records
from maskmill.training.cache import cache_folder
from maskmill.training.config import DataConfig
from maskmill.training.input import Batches


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
