"""Builds: the same bytes however they ran, nothing lost, and clear words when something is in the way."""

import dataclasses
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn import content, write_coco
from nasty import NASTY
from pycocotools import mask as coco_mask

from maskmill.pipelines.dataset.validate import find_damage
from maskmill.pipelines.driver import build as build_module
from maskmill.pipelines.driver.build import build, forget_failures
from maskmill.pipelines.parts.assemble import load_parts
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.part import sidecar_bytes
from maskmill.pipelines.parts.plan import load_plan
from maskmill.schemas import rle, storage
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.manifest import load_manifest
from maskmill.schemas.reader import Dataset

IN_PROCESS = RunOptions(workers=0)


@pytest.fixture(scope="module")
def reference(coco, tmp_path_factory) -> Path:
    """The data set as one process builds it."""
    out = tmp_path_factory.mktemp("reference") / "out"
    build(coco, str(out), IN_PROCESS, quiet=True)
    return out


def test_the_reference_is_whole_and_valid(reference):
    manifest = load_manifest(str(reference))
    assert manifest.counts == {"inputs": 40, "written": 40, "failed": 0, "skipped": 0, "dropped_annotations": 0}
    assert [layer.name for layer in manifest.layers] == ["grid-2", "grid-5", "gt"]
    assert manifest.abo["gt"]["abo"] == 1.0
    assert manifest.categories == {"1": "person", "3": "car", "90": "toothbrush"}
    assert list(find_damage(Dataset.open(str(reference)))) == []
    assert not [n for n, _ in storage.walk(str(reference)) if n.endswith(storage.INCOMPLETE)]
    assert not [n for n, _ in storage.walk(str(reference / "_work" / "parts")) if n.endswith(".tfrecord")]


@pytest.mark.parametrize(
    "run", [RunOptions(workers=1), RunOptions(workers=2, part_size=7), RunOptions(workers=0, part_size=1)]
)
def test_workers_and_parts_change_no_byte(run, coco, reference, tmp_path):
    build(coco, str(tmp_path), run, quiet=True)
    assert content(tmp_path) == content(reference)


def test_the_seed_does_change_the_bytes(coco, reference, tmp_path):
    build(dataclasses.replace(coco, seed=1), str(tmp_path), IN_PROCESS, quiet=True)
    assert content(tmp_path) != content(reference)


def test_records_hold_what_the_pictures_and_annotations_say(coco, reference):
    raw = json.loads(Path(coco.annotations).read_text())
    by_name = {i["file_name"]: i for i in raw["images"]}
    seen = set()
    for example in Dataset.open(str(reference)):
        image = by_name[example.filename]
        seen.add(example.filename)
        assert example.encoded == (Path(coco.images) / example.filename).read_bytes()
        assert example.source_id == str(image["id"])
        truths = {a["id"]: a for a in raw["annotations"] if a["image_id"] == image["id"]}
        assert sorted(truths) == example.annotations.annotation_id.tolist()
        for index, identity in enumerate(example.annotations.annotation_id.tolist()):
            assert example.annotations.is_crowd[index] == truths[identity]["iscrowd"]
            drawn = rle.decode_mask(example.annotations.counts[index], example.height, example.width)
            decoded = coco_mask.decode(
                {"size": [example.height, example.width], "counts": example.annotations.counts[index]}
            )
            assert np.array_equal(drawn, decoded.astype(bool))
            for layer, masks in enumerate(example.masks):
                for counts in masks.counts:
                    oracle = coco_mask.decode({"size": [example.height, example.width], "counts": counts})
                    assert np.array_equal(rle.decode_mask(counts, example.height, example.width), oracle)
                best = max(
                    (m & drawn).sum() / (m | drawn).sum()
                    for m in (rle.decode_mask(c, example.height, example.width) for c in masks.counts)
                )
                expected = -1 if example.annotations.is_crowd[index] else best
                assert abs(example.best_iou[layer, index] - expected) < 1e-6
    assert seen == set(by_name)


def test_abo_is_the_mean_over_instances(reference):
    manifest = load_manifest(str(reference))
    values = np.concatenate([e.best_iou[:, ~e.annotations.is_crowd] for e in Dataset.open(str(reference))], axis=1)
    for index, layer in enumerate(manifest.layers):
        assert abs(manifest.abo[layer.name]["abo"] - values[index].mean(dtype=np.float64)) < 1e-7
        assert manifest.abo[layer.name]["instances"] == values.shape[1]


def test_the_table_has_a_row_per_record(reference):
    table = pq.read_table(reference / "images.parquet").to_pydict()
    examples = {e.filename: e for e in Dataset.open(str(reference))}
    assert table["id"] == list(examples)
    for i, example in enumerate(examples.values()):
        assert table["grid-5/masks"][i] == len(example.masks[1]) == 25
        assert table["grid-5/coverage"][i] == 1.0
        assert table["instances"][i] == (~example.annotations.is_crowd).sum()
        assert table["ms/decode"][i] > 0
    shards = load_manifest(str(reference)).shards
    assert [table["shard"].count(i) for i in range(len(shards))] == [s.records for s in shards]


def test_a_complete_build_is_left_alone(coco, reference):
    before = {p: p.stat().st_mtime_ns for p in reference.glob("*tfrecord*")}
    assert not build(coco, str(reference), IN_PROCESS, quiet=True).built
    assert {p: p.stat().st_mtime_ns for p in reference.glob("*tfrecord*")} == before


@pytest.mark.parametrize(
    "lost",
    ["shard", "shard sidecar", "parts' sidecars", "torn parts' sidecars", "fold", "torn fold", "rows", "manifest"],
)
def test_whatever_is_lost_is_built_again(lost, coco, reference, tmp_path):
    build(coco, str(tmp_path), RunOptions(workers=0, part_size=8), quiet=True)
    work = tmp_path / "_work"
    pattern = {
        "shard": "*tfrecord*",
        "shard sidecar": "_work/shards/00000-*.json",
        "parts' sidecars": "_work/shards/00000-*.parts.gz",
        "fold": "_work/pieces/*.json.gz",
        "rows": "_work/pieces/*.parquet",
        "manifest": "manifest.json",
    }[lost.removeprefix("torn ")]
    victim = next(tmp_path.glob(pattern))
    if lost.startswith("torn"):
        victim.write_bytes(victim.read_bytes()[:-9])
    else:
        victim.unlink()
    if victim.is_relative_to(work):
        (tmp_path / "manifest.json").unlink()
    if "parts" in lost:  # else what was made of them is enough
        next((work / "pieces").glob("*.json.gz")).unlink()
    if lost == "torn parts' sidecars":
        with pytest.raises(DamageError, match=r"the parts of shard 0 cannot be read \(.*\); the same build command"):
            build(coco, str(tmp_path), IN_PROCESS, quiet=True)
    build(coco, str(tmp_path), IN_PROCESS, quiet=True)
    assert content(tmp_path) == content(reference)
    assert not os.listdir(work / "parts")


def unpacked(out: Path) -> None:
    """A finished folder as an older maskmill left it: sidecars of parts by themselves, no folds, no sums of ids."""
    plan = load_plan(str(out))
    for index in range(plan.num_shards):
        for sidecar in load_parts(str(out), plan, index):
            (out / "_work" / "parts" / f"{sidecar.name}.json").write_bytes(sidecar_bytes(sidecar))
    for path in (out / "_work" / "shards").glob("*.json"):
        fields = json.loads(path.read_text())
        assert fields.pop("packed")
        path.write_text(json.dumps(fields))
    for path in [*(out / "_work" / "shards").glob("*.gz"), *(out / "_work" / "pieces").iterdir()]:
        path.unlink()
    fields = json.loads((out / "_work" / "plan.json").read_text())
    del fields["ids"], fields["self"]
    (out / "_work" / "plan.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("lost", ["nothing", "manifest", "shard", "part sidecar"])
def test_a_folder_of_an_older_version_goes_on(lost, coco, reference, tmp_path):
    build(coco, str(tmp_path), RunOptions(workers=0, part_size=8), quiet=True)
    unpacked(tmp_path)
    if lost != "nothing":
        (tmp_path / "manifest.json").unlink()
    if lost == "shard":
        next(tmp_path.glob("*tfrecord*")).unlink()
    elif lost == "part sidecar":
        next((tmp_path / "_work" / "parts").glob("*.json")).unlink()
    outcome = build(coco, str(tmp_path), IN_PROCESS, quiet=True)
    assert outcome.built == (lost != "nothing")
    assert content(tmp_path) == content(reference)


def test_inputs_are_accounted_for_by_id_and_the_shard_is_named(coco, tmp_path):
    """One id of shard 1 is exchanged for another: no count tells, the sum does."""
    build(coco, str(tmp_path), RunOptions(workers=0, part_size=8), quiet=True)
    unpacked(tmp_path)
    (tmp_path / "manifest.json").unlink()
    path = next((tmp_path / "_work" / "parts").glob("00001-00000-*.json"))
    fields = json.loads(path.read_text())
    lost, fields["rows"][2]["id"] = fields["rows"][2]["id"], "stranger.jpg"
    path.write_text(json.dumps(fields))
    with pytest.raises(
        DamageError, match=rf"shard 1 does not account.*lost \['{lost}'\], unplanned \['stranger.jpg'\]"
    ):
        build(coco, str(tmp_path), IN_PROCESS, quiet=True)
    assert not (tmp_path / "manifest.json").exists()


def test_another_configuration_is_refused_with_the_difference(coco, reference):
    with pytest.raises(
        UsageError, match=r"another configuration:\n  seed: 0 -> 5\nChoose another --out, or --overwrite"
    ):
        build(dataclasses.replace(coco, seed=5), str(reference), IN_PROCESS, quiet=True)


def test_other_software_is_refused_with_the_difference(coco, reference, monkeypatch):
    monkeypatch.setattr(build_module, "versions", lambda: {**load_plan(str(reference)).versions, "numpy": "0.1"})
    with pytest.raises(UsageError, match=r"begun with other software.*\n  numpy: '.*' -> '0.1'"):
        build(coco, str(reference), IN_PROCESS, quiet=True)


def test_overwrite_starts_anew_and_leaves_strangers_alone(coco, reference, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    build(dataclasses.replace(coco, seed=5, num_shards=3), str(tmp_path), IN_PROCESS, quiet=True)
    build(coco, str(tmp_path), IN_PROCESS, overwrite=True, quiet=True)
    assert content(tmp_path) == content(reference)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_two_builds_into_one_folder(coco, reference):
    with open(reference / "_work" / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another build is writing to"):
            build(coco, str(reference), IN_PROCESS, quiet=True)


def test_what_a_job_on_a_cluster_is_writing_is_left_alone(tmp_path):
    """It holds no lock here. What has not been written to for an hour is nobody's, and what a local build left is at once."""
    parts = tmp_path / "_work" / "parts"
    parts.mkdir(parents=True)
    fresh, old = parts / f"a{storage.INCOMPLETE}", parts / f"b{storage.INCOMPLETE}"
    for path in (fresh, old):
        path.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    with build_module._lock(str(tmp_path), build_module._IDLE_S):
        assert sorted(parts.iterdir()) == [fresh]
    with build_module._lock(str(tmp_path)):
        assert not list(parts.iterdir())


@pytest.mark.parametrize("after_bytes", [0, 12_000, 24_000])
def test_a_full_disk_keeps_what_is_finished_and_resumes(after_bytes, coco, reference, tmp_path, monkeypatch):
    written = 0
    real = storage.write_bytes

    def write_bytes(path, data):
        nonlocal written
        written += len(data)
        if written > after_bytes:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        real(path, data)

    with monkeypatch.context() as full:
        full.setattr(storage, "write_bytes", write_bytes)
        with pytest.raises(InputError, match="the disk is full; free some space and run the same command to resume"):
            build(coco, str(tmp_path), IN_PROCESS, quiet=True)
    assert not (tmp_path / "manifest.json").exists()
    build(coco, str(tmp_path), IN_PROCESS, quiet=True)
    assert content(tmp_path) == content(reference)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "no permission to write there"),
        (errno.EDQUOT, "the disk quota is used up; free some space and run the same command to resume"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_what_the_system_says_of_an_output_is_passed_on(number, words, coco, tmp_path, monkeypatch):
    def refuse(path, data):
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(storage, "write_bytes", refuse)
    with pytest.raises(InputError, match=f"cannot write to {tmp_path} .*: {words}"):
        build(coco, str(tmp_path), IN_PROCESS, quiet=True)


def test_an_output_that_cannot_be_written(coco, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=f"cannot write to {place}.*part of the path is a file"):
            build(coco, str(place), IN_PROCESS, quiet=True)
    with pytest.raises(InputError, match="cannot write to /proc/maskmill"):
        build(coco, "/proc/maskmill", IN_PROCESS, quiet=True)


def test_failures_are_retried_to_the_same_bytes(tmp_path):
    images, annotations = write_coco(tmp_path / "data", 20)
    config = BuildConfig("coco", images, ("grid(n=2)",), annotations=annotations)
    whole = tmp_path / "whole"
    build(config, str(whole), IN_PROCESS, quiet=True)

    victim = sorted(Path(images).iterdir())[3]
    good = victim.read_bytes()
    victim.write_bytes(good[:50])
    lost = sorted(Path(images).iterdir())[4]
    lost_bytes = lost.read_bytes()
    lost.unlink()
    out = tmp_path / "out"
    outcome = build(config, str(out), RunOptions(workers=0, part_size=4), quiet=True)
    assert outcome.too_many_failures
    lines = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert {(f["id"], f["reason"], f["stage"], f["attempts"]) for f in lines} == {
        (victim.name, "truncated", "decode", 1),
        (lost.name, "not_found", "read", 1),
    }
    assert list(find_damage(Dataset.open(str(out)))) == []

    victim.write_bytes(good)
    lost.write_bytes(lost_bytes)
    plan, again = forget_failures(str(out), ("timeout",))
    assert again == 0
    plan, again = forget_failures(str(out))
    assert again == 2
    assert not (out / "manifest.json").exists()
    build(plan.requested, str(out), IN_PROCESS, quiet=True)
    assert content(out) == content(whole)


def children_of(pid: int) -> list[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        return [int(c) for t in threads for c in Path(f"/proc/{pid}/task/{t}/children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.mark.slow
@pytest.mark.timeout(1200)  # some twenty starts of the command: a busy machine takes minutes
def test_killed_at_ten_random_moments_the_bytes_are_the_same(tmp_path):
    images, annotations = write_coco(tmp_path / "data", 150, 96, 128)
    options = ["--dataset", "coco", "--images", images, "--annotations", annotations]
    options += ["--masks", "grid(n=(1, 2, 5, 10, 20))", "--masks", "gt()", "--part-size", "3"]
    command = [sys.executable, "-m", "maskmill.pipelines.commands.cli", "build", *options, "--workers", "2", "--out"]
    expected = tmp_path / "expected"
    start = time.monotonic()
    subprocess.run([*command, str(expected)], check=True, capture_output=True)
    usual = time.monotonic() - start

    rng = np.random.default_rng(11)
    out, kills, died_of = tmp_path / "out", 0, []
    while kills < 10:
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=float(rng.uniform(0.2, 1.0)) * usual)
            if process.returncode == 0:  # finished before the blow: begin again, so that every kill meets work
                for path in [*(out / "_work" / "shards").iterdir(), *(out / "_work" / "pieces").iterdir()]:
                    path.unlink()
                continue
        except subprocess.TimeoutExpired:
            workers = children_of(process.pid)
            if kills % 2 and workers:  # a worker: the same command goes on without it
                os.kill(workers[0], signal.SIGKILL)
                assert process.wait(timeout=120) == 0
                died_of.append("worker")
            else:
                process.kill()
                process.wait()
                died_of.append("command")
            kills += 1
    done = subprocess.run([*command, str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert content(out) == content(expected)
    assert "command" in died_of
    assert not [n for n, _ in storage.walk(str(out)) if n.endswith(storage.INCOMPLETE)]


def test_every_nasty_file_is_a_record_or_in_the_ledger(test_data, tmp_path):
    config = BuildConfig("folder", str(test_data / "nasty" / "images"), ("grid(n=5)",))
    manifest = build(config, str(tmp_path), RunOptions(workers=1), quiet=True).manifest
    assert manifest.counts == {"inputs": 43, "written": 30, "failed": 13, "skipped": 0, "dropped_annotations": 0}
    lines = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert {f["id"]: f["reason"] for f in lines} == NASTY
    assert manifest.decoder["reencoded"] == {"cmyk_jpeg": 3, "gif": 3}
    assert list(find_damage(Dataset.open(str(tmp_path)))) == []


def test_tensorflow_datasets_opens_the_folder(reference):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tfds = pytest.importorskip("tensorflow_datasets")
    builder = tfds.builder_from_directory(str(reference))
    assert builder.info.splits["train"].num_examples == 40
    examples = {e.filename: e for e in Dataset.open(str(reference))}
    read = list(tfds.as_numpy(builder.as_dataset(split="train")))
    assert len(read) == 40
    for row in read:
        example = examples[row["image/filename"].decode()]
        assert row["image/encoded"].shape == (example.height, example.width, 3)
        assert row["masks/counts"].tolist() == [c for m in example.masks for c in m.counts]
        assert row["gt/annotation_id"].tolist() == example.annotations.annotation_id.tolist()


def test_masks_only_shards_hold_no_pictures_and_open_too(coco, reference, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    build(dataclasses.replace(coco, masks_only=True), str(tmp_path), IN_PROCESS, quiet=True)
    whole = {e.filename: e for e in Dataset.open(str(reference))}
    for example in Dataset.open(str(tmp_path)):
        assert example.encoded is None
        assert example.sha256 == whole[example.filename].sha256
        assert [m.counts for m in example.masks] == [m.counts for m in whole[example.filename].masks]
    assert len(list(tfds.builder_from_directory(str(tmp_path)).as_dataset(split="train"))) == 40
    assert list(find_damage(Dataset.open(str(tmp_path)))) == []


def test_a_lock_that_is_a_pipe_is_refused_at_once(coco, tmp_path):
    os.makedirs(tmp_path / "out" / "_work")
    os.mkfifo(tmp_path / "out" / "_work" / "lock")
    with pytest.raises(InputError, match=r"cannot write to .*out \(.*lock\): No such device"):
        build(coco, str(tmp_path / "out"), RunOptions(workers=0, image_timeout=20), quiet=True)
