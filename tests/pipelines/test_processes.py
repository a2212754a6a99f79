"""Every command as a process of its own: its exit code, and what it leaves behind.

Calls of `main` in the tests' process cannot see an interpreter that aborts while it ends, nor a folder that only the next
user of the machine meets. `make processes` runs every command `MASKMILL_REPEATS` times; a run of all tests runs most of
them once.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawn import write_coco

REPEATS = int(os.environ.get("MASKMILL_REPEATS", "0"))  # 0: the short form
_BUILD = ("--masks", "grid(n=2)", "--masks", "gt()", "--num-shards", "16")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with pictures, their annotations, results of a segmenter and a finished build of 16 shards."""
    root = tmp_path_factory.mktemp("processes")
    pictures = 32 if REPEATS else 16
    write_coco(root, pictures)
    outline = [[1, 1, 9, 1, 9, 9]]
    results = [{"image_id": i + 1, "category_id": 1, "score": 0.5, "segmentation": outline} for i in range(pictures)]
    (root / "results.json").write_text(json.dumps(results))
    run(root, ["build", *inputs(), "--out", "out", "--workers", "1"])
    return root


def inputs() -> list[str]:
    return ["--dataset", "coco", "--images", "images", "--annotations", "instances.json", *_BUILD]


def start(root: Path, command: list[str], temporary: Path) -> subprocess.Popen:
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temporary), "MASKMILL_TEST_CHILD": str(temporary)}
    environment.pop("PYTEST_CURRENT_TEST", None)
    return subprocess.Popen(
        [sys.executable, "-m", "maskmill.pipelines.commands.cli", *command],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def descendants(temporary: Path) -> list[str]:
    """Command lines of processes that began below a command with this folder, however they were orphaned."""
    mark = f"MASKMILL_TEST_CHILD={temporary}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (process / "environ").read_bytes() and (process / "cmdline").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def left_behind(root: Path, temporary: Path, shared: set[str]) -> list[str]:
    """Temporary files, shared memory, half-written files and processes that a command left, after a grace of 10 s."""
    end = time.monotonic() + 10
    while (running := descendants(temporary)) and time.monotonic() < end:
        time.sleep(0.1)
    files = [str(path.relative_to(root)) for path in root.rglob("*.incomplete")]
    return [*running, *files, *os.listdir(temporary), *sorted(set(os.listdir("/dev/shm")) - shared)]


def run(root: Path, command: list[str], code: int = 0) -> tuple[str, str]:
    """Runs a command to its end, asserts how it ended, and gives what it said."""
    temporary, shared = root / "temporary", set(os.listdir("/dev/shm"))
    process = start(root, command, temporary)
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, f"{command}: {process.returncode}\n{out}\n{err}"
    assert left_behind(root, temporary, shared) == []
    return out, err


COMMANDS = {
    "plan": ["plan", *inputs()],
    "build": ["build", *inputs(), "--out", "again", "--overwrite", "--workers", "2", "--json"],
    "build complete": ["build", *inputs(), "--out", "out"],
    "status": ["status", "out"],
    "validate": ["validate", "out"],
    "report": ["report", "out"],
    "report from shards": ["report", "out", "--from-shards"],
    "report audit": ["report", "out", "--annotations", "instances.json", "--out", "audit"],
    "compare": ["compare", "out", "out"],
    "view": ["view", "out", "5", "--out", "view.png"],
    "view html": ["view", "out", "5", "--html", "--out", "view.html"],
    "retry": ["retry", "out", "--workers", "0", "--json"],
    "import": ["import", "results.json", *inputs(), "--out", "imported", "--overwrite", "--json"],
    "export": ["export", "out", "--format", "parquet", "--gt", "--to", "exported"],
    "version": ["--version"],
}
# Alike, or slow to start twice; in the long form only. What they do is tested in one process elsewhere; what is looked for
# here happens when an interpreter ends, which is left to one command of each kind: with processes, with tables, with pages.
LONG = (
    "build complete",
    "report from shards",
    "report audit",
    "view html",
    "import",
    "plan",
    "compare",
    "status",
    "view",
    "export",
)


@pytest.mark.timeout(7200)  # the long form
@pytest.mark.parametrize("name", [name for name in COMMANDS if REPEATS or name not in LONG])
def test_a_command_ends_with_the_code_it_means_and_leaves_nothing(name, place):
    for _ in range(REPEATS or (2 if name == "validate" else 1)):
        out, err = run(place, COMMANDS[name])
        assert out.strip()
        assert err == ""


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["validate", "images"], 4, "not a maskmill data set"),
        (["build", "--dataset", "nothing"], 2, "--dataset is one of"),
        (["view", "out", "nothing.jpg"], 4, "has no record 'nothing.jpg'"),
    ][: None if REPEATS else 2],
)
def test_a_command_that_fails_says_so_in_one_line(command, code, words, place):
    _, err = run(place, command, code)
    assert words in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL] if REPEATS else [signal.SIGINT])
def test_an_interrupted_build_leaves_no_process_and_no_temporary_file(blow, tmp_path):
    write_coco(tmp_path, 400 if REPEATS else 120, 96, 128)
    temporary, shared = tmp_path / "temporary", set(os.listdir("/dev/shm"))
    process = start(tmp_path, ["build", *inputs(), "--part-size", "1", "--out", "out", "--workers", "2"], temporary)
    parts = tmp_path / "out" / "_work" / "parts"
    end = time.monotonic() + 120
    while time.monotonic() < end and not (parts.is_dir() and len(os.listdir(parts)) > 3):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(blow)
    process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if blow == signal.SIGKILL else 130)
    left = [path for path in left_behind(tmp_path, temporary, shared) if not path.endswith(".incomplete")]
    assert left == []
