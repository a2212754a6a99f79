"""Batches from real shards: what they hold, which masks, and that nothing but the step decides."""

import dataclasses
import os
import platform
import subprocess
import sys

import numpy as np
import pytest
from batches import CONFIG, same, take

from maskmill.schemas import rle
from maskmill.schemas.manifest import load_manifest
from maskmill.schemas.reader import Dataset
from maskmill.training import host, order
from maskmill.training.input import Batches


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


def test_training_reads_without_tensorflow():
    """It took 5 s and 0.6 GB of every host."""
    code = (
        "import sys, maskmill.training.train, maskmill.training.input, maskmill.training.probe, maskmill.training.bench\n"
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


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
