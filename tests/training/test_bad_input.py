"""What users and their surroundings do wrong, as commands meet it: one sentence and an exit code, never a traceback.

A wrong topology's name is in test_plan_step.py; one host of several with another data set, and folders that are not
shared, in test_pods.py, where there are several hosts.
"""

import contextlib
import errno
import json
import os
import subprocess
import sys

import pytest

from maskmill.schemas import storage
from maskmill.training import cli, folder
from maskmill.training.config_io import to_json

REMOTE = "gs://mill/data"


@pytest.fixture
def train(gcs, scenes, tiny_config, tmp_path, monkeypatch, capsys):
    """Runs `detcon train` on a build in a bucket; returns the exit code, and its own lines of standard error."""
    scenes.write_scenes(str(tmp_path / "data"), 12, size=(70, 90))
    gcs.upload(tmp_path / "data", "mill", "data")
    monkeypatch.setenv("MASKMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MASKMILL_CACHE_GB", "")  # none, and none again after `--cache-gb`
    (tmp_path / "config.json").write_text(to_json(tiny_config))
    common = ["train", "--config", str(tmp_path / "config.json"), "--set", "data.layers=true"]

    def train(workdir, *words):
        code = cli.main([*common, "--data", REMOTE, "--workdir", str(workdir), *words])
        return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("detcon train:")]

    return train


def test_a_runs_bucket_that_is_gone_in_mid_run(train, gcs):
    """After the lock, the card and an empty log were written; then nothing can be."""
    uploads = []

    def fault(method, path):
        uploads.extend([path] * ("/upload/" in path and method == "POST"))
        return 404 if len(uploads) > 3 else None

    gcs.fault = fault
    code, [line] = train("gs://mill/run", "--until", "4")
    assert code == 4
    assert line.startswith("detcon train: cannot write the run's log, gs://mill/run/log.jsonl: ")
    assert line.endswith("then run the same command to go on from the last checkpoint")


def test_a_data_sets_bucket_that_is_gone_in_mid_run(train, gcs, tmp_path):
    """When all but one of the shards have been read."""
    read = []

    def fault(method, path):
        if "scenes-train" not in path or method != "GET":
            return None
        read.extend([path] * ("alt=media" in path))
        return 404 if len(read) > 3 else None

    gcs.fault = fault
    code, [line] = train(tmp_path / "run", "--set", "data.shuffle_group_bytes=1000", "--until", "8")
    assert code == 5
    assert "scenes-train.tfrecord-0000" in line
    assert line.endswith(f"-of-00004 is missing from {REMOTE}; the manifest lists it")


def test_two_runs_in_one_folder(train, tmp_path):
    """The first is a process that lives; when it has died, the folder is free again (test_folder.py)."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    workdir = tmp_path / "run"
    os.mkdir(workdir)
    lock = {"token": "t", "beat": 3, "machine": folder._machine(), "pid": other.pid}
    (workdir / folder.LOCK).write_text(json.dumps(lock | {"started": folder._started(other.pid)}))
    try:
        code, [line] = train(workdir)
    finally:
        other.kill()
        other.wait()
    assert code == 4
    assert line.startswith(f"detcon train: another trainer is at work in {workdir} (process {other.pid} on ")
    assert line.endswith("; wait for it, stop it, or use another --workdir")
    assert os.listdir(workdir) == [folder.LOCK]


def test_a_cache_that_is_full(train, tmp_path):
    code, [line] = train(tmp_path / "run", "--cache-gb", "1e-6")
    assert code == 4
    assert "may hold 1e-06 GB, and 0 GB of it are in use when scenes-train.tfrecord-" in line
    assert "raise --cache-gb, set MASKMILL_CACHE to a larger disk, or lower data.shuffle_group_bytes" in line


def test_a_disk_of_the_cache_that_is_full(train, tmp_path, monkeypatch):
    """In the middle of a shard; nothing half-written stays there."""
    whole = storage.create

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextlib.contextmanager
    def create(path):
        with whole(path) as file:
            yield Full() if path.startswith(str(tmp_path / "cache")) else file

    monkeypatch.setattr(storage, "create", create)
    code, [line] = train(tmp_path / "run")
    assert code == 4
    assert line.startswith("detcon train: cannot keep scenes-train.tfrecord-")
    assert f" in {tmp_path / 'cache'}: No space left on device; set MASKMILL_CACHE to a folder with room" in line
    assert os.listdir(tmp_path / "cache") == []


def test_a_host_that_goes_on_with_another_data_set(train, gcs, scenes, tmp_path):
    workdir = tmp_path / "run"
    assert train(workdir, "--until", "1") == (0, [])
    before = sorted(os.listdir(workdir / "checkpoints"))
    scenes.write_scenes(str(tmp_path / "other"), 12, size=(70, 90), seed=1)
    gcs.upload(tmp_path / "other", "mill", "data")
    code, [line] = train(workdir)
    assert code == 4
    assert line.startswith(f"detcon train: {workdir} holds a run on another data set (manifest ")
    assert line.endswith("; train there again only with the same data, or use another --workdir")
    assert sorted(os.listdir(workdir / "checkpoints")) == before
