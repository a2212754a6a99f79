"""A sample of the trials in trials.py, of which `make faults` makes all."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from failing_calls import compiler
from faulty_disk import Disk

from maskmill.schemas import local_files, storage

HERE = Path(__file__).parent

needs_emulator = pytest.mark.skipif(
    importlib.util.find_spec("gcp_storage_emulator") is None, reason="the dev extra is not installed"
)
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler")

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


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (6, ["build", "retry"]),
        (4, ["go-on", "fall-back"]),
        pytest.param(3, ["gs-build", "gs-retry"], marks=needs_emulator),
        pytest.param(3, ["calls-build", "calls-export"], marks=needs_compiler),
    ],
)
def test_a_command_whose_folder_fails_says_so_or_goes_on_and_loses_nothing(count, names):
    """On a disk, of training runs, of a bucket, in system calls."""
    if "go-on" in names:
        pytest.importorskip("jax")
    words = [word for name in names for word in ("--scenario", name)]
    done = trials([str(HERE / "trials.py")], "--sample", str(count), "--seed", "5", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} trials: " in done.stdout


def test_files_that_are_not_written_with_care_are_found_out():
    """The control."""
    done = trials(["-c", _CARELESS])
    expected = "('went on', \"exit code 0, and other bytes: ['failures.jsonl']\")"
    assert done.stdout.strip() == expected, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["power", "torn write"])
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
