"""Training data on gs://, against an object store on loopback: the same batches, one download, and clear words."""

import dataclasses
import io
import json

import numpy as np
import pytest

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.manifest import load_manifest
from maskmill.training import cli
from maskmill.training.checkpoint import load_run
from maskmill.training.config import DataConfig
from maskmill.training.input import Batches
from maskmill.training.train import train

REMOTE = "gs://mill/scenes"
CONFIG = DataConfig(layers=("true",), image_size=64, masks_per_view=4, shuffle_group_bytes=60_000)


@pytest.fixture(scope="module")
def build(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write_scenes(str(folder), 24, size=(70, 90))
    return folder


@pytest.fixture
def bucket(gcs, build, tmp_path, monkeypatch):
    """The store with the build in it, and an empty cache of shards."""
    gcs.upload(build, "mill", "scenes")
    monkeypatch.setenv("MASKMILL_CACHE", str(tmp_path / "cache"))
    return gcs


def take(folder, number):
    batches = Batches(folder, CONFIG, global_batch=6, seed=0).at(0)
    return [next(batches) for _ in range(number)]


def downloads(gcs, name):
    return sum(method == "GET" and name in path and "alt=media" in path for method, path in gcs.requests)


def test_batches_from_gs_are_the_local_ones(build, bucket):
    """Two epochs; every shard is downloaded once, and a second run downloads none."""
    remote, local = take(REMOTE, 8), take(str(build), 8)
    for one, other in zip(remote, local, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    shards = [shard.name for shard in load_manifest(str(build)).shards]
    seen = {name: downloads(bucket, name) for name in shards}
    assert all(seen.values())
    take(REMOTE, 8)
    again = {name: downloads(bucket, name) - seen[name] for name in shards}
    # The first shard is looked into for what its records hold; the others come from the cache.
    assert sorted(again.values())[:-1] == [0] * (len(shards) - 1)


def test_transient_faults_change_no_batch(build, bucket):
    answers = iter([503, 429, None, "torn"])
    bucket.fault = lambda method, path: next(answers, None)
    np.testing.assert_array_equal(take(REMOTE, 1)[0]["image1"], take(str(build), 1)[0]["image1"])
    assert next(answers, "all given") == "all given"


def test_a_shard_that_went_missing_is_named(bucket):
    name = "scenes-train.tfrecord-00002-of-00004"
    batches = Batches(REMOTE, CONFIG, global_batch=6, seed=0).at(0)
    storage.remove(f"{REMOTE}/{name}")
    with pytest.raises(DamageError, match=f"{name} is missing from {REMOTE}; the manifest lists it"):
        [next(batches) for _ in range(5)]
    with pytest.raises(DamageError, match=f"{name} is missing from {REMOTE}; the manifest lists it"):
        Batches(REMOTE, CONFIG, global_batch=6, seed=0)


@pytest.mark.parametrize(
    ("data", "fault", "message"),
    [
        ("gs://nobody/scenes", None, "gs://nobody/scenes has no manifest.json: not a maskmill data set"),
        ("gs://mill/nothing", None, "gs://mill/nothing has no manifest.json: not a maskmill data set"),
        (REMOTE, 403, f"{REMOTE}/manifest.json: access denied ("),
    ],
)
def test_what_cannot_be_read_is_one_line_and_exit_4(bucket, capsys, tmp_path, data, fault, message):
    bucket.fault = lambda method, path: fault
    assert cli.main(["train", "--preset", "smoke_cpu", "--data", data, "--workdir", str(tmp_path / "run")]) == 4
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_runs_folder_is_on_a_disk_or_on_gs(bucket, capsys, tmp_path):
    for words in (
        ["train", "--preset", "smoke_cpu", "--data", REMOTE, "--workdir", "s3://mill/run"],
        ["export", "s3://mill/run", "out.safetensors"],
        ["probe", "s3://mill/run", "--data", REMOTE],
    ):
        assert cli.main(words) == 2
        assert "the run's folder must be on a disk or on gs://, got s3://mill/run" in capsys.readouterr().err
    assert cli.main(["export", "gs://mill/run", str(tmp_path / "out.safetensors")]) == 4
    assert "gs://mill/run holds no run: there is no run.json in it" in capsys.readouterr().err


def test_a_run_on_gs_is_the_local_one(gcs, tiny_run, tiny_config, fake_batches):
    """Interrupted and resumed: the same last checkpoint, file for file, the same log, and TensorBoard's files."""
    config = dataclasses.replace(tiny_config, log=dataclasses.replace(tiny_config.log, tensorboard=True))
    for until in (6, None):
        train("data", config, "gs://mill/run", batches=fake_batches, until=until, stream=io.StringIO())
    workdir, _ = tiny_run
    for name in ("checkpoints/20.safetensors", "checkpoints/20.json"):
        assert storage.read_bytes(f"gs://mill/run/{name}") == (workdir / name).read_bytes()
    lines = [storage.read_bytes("gs://mill/run/log.jsonl").decode(), (workdir / "log.jsonl").read_text()]
    losses, expected = ([(x["step"], x["loss"]) for x in map(json.loads, text.splitlines())] for text in lines)
    assert losses == expected
    names = [name for name, _ in storage.walk("gs://mill/run")]
    assert sum(name.startswith("tensorboard/events.out") for name in names) == 2
    assert "lock.json" not in names
    assert load_run("gs://mill/run", step=16).step == 16


def test_a_bucket_that_goes_away_in_mid_run_is_named(gcs, tmp_path, tiny_config, fake_batches):
    class Batches(fake_batches):
        def batch(self, step):
            if step == 6:
                gcs.fault = lambda method, path: 403
            return super().batch(step)

    with pytest.raises(
        InputError, match=r"cannot write the run's log, gs://mill/run/log.jsonl: access denied .*from the last"
    ):
        train("data", tiny_config, "gs://mill/run", batches=Batches, until=8, stream=io.StringIO())
