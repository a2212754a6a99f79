"""A sample of the trials in trials.py, of which `make faults` makes all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_disk import Disk

from maskmill.schemas import local_files, storage

HERE = Path(__file__).parent
SAMPLE = os.environ.get("MASKMILL_FAULTS", "6")

# Writes the ledger at once under its final name, and says nothing of what went wrong.
_CARELESS = """
import contextlib, io, pathlib, sys, tempfile
import trials
from maskmill.schemas import local_files, storage
careful = storage.create
@contextlib.contextmanager
def careless(path):
    if not path.endswith("failures.jsonl"):
        with careful(path) as file:
            yield file
        return
    file = io.BytesIO()
    yield file
    whole = local_files.open(path, "wb")
    with contextlib.suppress(OSError):
        whole.raw.write(file.getvalue())
storage.create = careless
with tempfile.TemporaryDirectory() as root:
    build = trials.scenarios(pathlib.Path(root), ["build"])["build"]
    at = 1 + next(i for i, line in enumerate(build.log) if line.startswith("write failures.jsonl"))
    print(build.trial(at, "full"))
"""


def trials(program: list[str], *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", *program, *arguments],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_a_command_on_a_failing_disk_says_so_or_goes_on_and_loses_nothing():
    done = trials(
        [str(HERE / "trials.py")], "--sample", SAMPLE, "--seed", "5", "--scenario", "build", "--scenario", "retry"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{SAMPLE} trials: " in done.stdout


def test_files_that_are_not_written_with_care_are_found_out():
    """The control."""
    done = trials(["-c", _CARELESS])
    assert done.stdout.strip() == "('went on', 'exit code 0, and other bytes')", done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["power", "torn"])
def test_a_file_that_was_created_is_there_after_a_loss_of_power(kind, tmp_path, monkeypatch):
    disk = Disk(str(tmp_path), kind=kind)
    monkeypatch.setattr(local_files, "os", disk)
    monkeypatch.setattr(local_files, "open", disk.new_file, raising=False)
    for content in (b"old", b"new"):
        storage.write_bytes(str(tmp_path / "a" / "b" / "file"), content)
    assert [line.split()[0] for line in disk.log][-5:] == ["write", "fsync", "rename", "open", "fsync"]
    disk._lose()
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"new"


def test_without_flushing_the_folder_it_is_not(tmp_path, monkeypatch):
    """The control."""
    disk = Disk(str(tmp_path), kind="power")
    monkeypatch.setattr(local_files, "os", disk)
    monkeypatch.setattr(local_files, "open", disk.new_file, raising=False)
    monkeypatch.setattr(local_files, "_sync_folder", lambda folder: None)
    storage.write_bytes(str(tmp_path / "file"), b"new")
    disk._lose()
    assert not (tmp_path / "file").exists()
