"""Training data on gs://, against an object store on loopback: the same batches, one download, and clear words."""

import numpy as np
import pytest

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import load_manifest
from maskmill.training import cli
from maskmill.training.config import DataConfig
from maskmill.training.input import Batches

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


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--preset", "smoke_cpu", "--data", REMOTE, "--workdir", "gs://mill/run"],
        ["export", "gs://mill/run", "out.safetensors"],
        ["probe", "gs://mill/run", "--data", REMOTE],
    ],
    ids=lambda words: words[0],
)
def test_a_run_lives_on_a_local_disk(bucket, capsys, words):
    """The checkpoint library takes minutes to say that it cannot reach a bucket, and knows no stand-in to test it on."""
    before = len(bucket.requests)
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert "the run's folder must be on a disk, got gs://mill/run" in said
    assert "gcloud storage cp" in said
    assert len(bucket.requests) == before
