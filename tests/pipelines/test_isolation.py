"""Pictures that crash, hang or confuse their process cost themselves and nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import trouble as kinds
from drawn import write_troubles

from maskmill.pipelines.parts import isolation, memory
from maskmill.pipelines.parts.config import BuildConfig, RunOptions, Settings
from maskmill.pipelines.parts.generators import parse_specs
from maskmill.pipelines.parts.image_builder import ImageBuilder
from maskmill.pipelines.parts.isolation import ChildProcess, InProcess
from maskmill.pipelines.reading.decode import encode_png
from maskmill.pipelines.reading.inputs import Input
from maskmill.pipelines.reading.location import Location
from maskmill.schemas.errors import DamageError

SETTINGS = Settings(("trouble()",), 1000, False, False)


@pytest.fixture
def child(trouble):
    child = ChildProcess(SETTINGS, timeout=2.0)
    yield child
    child.close()


@pytest.fixture
def pictures(trouble, tmp_path):
    """kind -> (Input, file bytes)."""
    folder = write_troubles(tmp_path / "pictures", list(range(9)))
    found = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            found[int(name[4])] = (Input(name, Location(path)), file.read())
    return found


def test_child_and_this_process_give_the_same(child, pictures):
    alone = InProcess(SETTINGS).build(*pictures[kinds.PEACE])
    isolated = child.build(*pictures[kinds.PEACE])
    assert isolated.payload == alone.payload
    assert {k: v for k, v in isolated.row.items() if k != "ms"} == {k: v for k, v in alone.row.items() if k != "ms"}


def test_a_picture_that_crashes_is_quarantined_and_the_next_one_built(child, pictures):
    refusal = child.build(*pictures[kinds.ABORT]).refusal
    assert (refusal.reason, refusal.stage, refusal.attempts) == ("worker_crash", "build", 3)
    assert "killed by SIGABRT" in refusal.message
    assert "about to abort" in refusal.message
    assert child.build(*pictures[kinds.PEACE]).refusal is None


def test_a_picture_that_hangs_is_given_up_and_the_next_one_built(child, pictures):
    child.build(*pictures[kinds.PEACE])  # so that imports do not count
    refusal = child.build(*pictures[kinds.HANG]).refusal
    assert (refusal.reason, refusal.attempts) == ("timeout", 2)
    assert "longer than 2 s" in refusal.message
    assert child.build(*pictures[kinds.PEACE]).refusal is None


def test_a_crash_that_does_not_repeat_loses_nothing(child, pictures):
    assert child.build(*pictures[kinds.ABORT_ONCE]).refusal is None


def test_a_killed_worker_loses_nothing(child, pictures):
    expected = child.build(*pictures[kinds.PEACE]).payload
    os.kill(child._process.pid, signal.SIGKILL)
    assert child.build(*pictures[kinds.PEACE]).payload == expected


def test_a_worker_killed_in_the_middle_of_an_image_loses_nothing(child, pictures):
    child.timeout = 30.0
    built = []
    child.build(*pictures[kinds.PEACE])
    thread = threading.Thread(target=lambda: built.append(child.build(*pictures[kinds.HANG])))
    child.timeout = 1.0
    child.close()  # restart with the short limit, then kill while the picture hangs
    thread.start()
    time.sleep(0.3)
    for _ in range(100):
        if child._process is not None:
            os.kill(child._process.pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    thread.join(timeout=60)
    assert built[0].refusal.reason == "timeout"  # not worker_crash: the kill was not the picture's doing
    assert child.build(*pictures[kinds.PEACE]).refusal is None


@pytest.mark.parametrize(
    ("kind", "reason", "message"),
    [
        (kinds.RAISE, "generator_error", "ZeroDivisionError: a generator's own mistake"),
        (kinds.SCRIBBLE, "generator_error", "read-only"),
        (kinds.NO_MASKS, "no_masks", "no layer has a mask"),
    ],
)
def test_what_a_generator_does_wrong_is_its_images_failure(kind, reason, message, pictures):
    refusal = ImageBuilder(SETTINGS).build(*pictures[kind]).refusal
    assert refusal.reason == reason
    assert message in refusal.message


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system does not limit a process's data")
def test_a_picture_that_takes_too_much_memory_is_refused_and_the_next_one_built(child, pictures):
    refusal = child.build(*pictures[kinds.HOG]).refusal
    assert (refusal.reason, refusal.attempts) == ("too_large", 1)
    assert "needs more memory than a picture within --max-pixels should" in refusal.message
    assert child.build(*pictures[kinds.PEACE]).refusal is None


def test_without_a_limit_it_is_not(pictures):
    """The control: in this process, which has none, the same picture is built."""
    assert ImageBuilder(SETTINGS).build(*pictures[kinds.HOG]).refusal is None


def test_the_last_words_of_native_code_without_memory_are_understood(child, pictures, monkeypatch):
    monkeypatch.setattr(isolation, "_NO_MEMORY", ("about to abort",))
    assert child.build(*pictures[kinds.ABORT]).refusal.reason == "too_large"


def test_large_pictures_are_built_one_at_a_time(child, pictures):
    child.build(*pictures[kinds.PEACE])
    child._large = 1  # pixel
    built = []
    thread = threading.Thread(target=lambda: built.append(child.build(*pictures[kinds.PEACE])))
    with memory.one_at_a_time(True):
        thread.start()
        thread.join(timeout=1.0)
        assert not built
        with memory.one_at_a_time(False):  # an ordinary picture waits for nobody
            pass
    thread.join(timeout=60)
    assert built[0].refusal is None


@pytest.mark.parametrize("spec", ["fh()", "grid()", "gt()"])
def test_a_flat_picture_stays_within_the_budget(spec):
    """A flat picture costs FH the most, and its file next to nothing."""
    flat = encode_png(np.full((2000, 3000, 3), 90, np.uint8))
    settings = Settings((spec,), 6_000_000, False, False)
    outline = {"id": 1, "category_id": 1, "segmentation": [[0, 0, 3000, 0, 3000, 2000]]}
    worker = ChildProcess(settings, 120.0)
    try:
        assert worker.build(Input("flat.png", Location("flat.png"), annotations=(outline,)), flat).refusal is None
        with open(f"/proc/{worker._process.pid}/status") as file:
            peak = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
        assert peak < memory.worker_bytes(parse_specs([spec]), settings.max_pixels)
    finally:
        worker.close()


def test_no_child_outlives_its_parent(trouble, tmp_path):
    code = (
        "import sys, trouble; from maskmill.pipelines.parts.isolation import ChildProcess\n"
        "from maskmill.pipelines.parts.config import Settings\n"
        "from maskmill.masks.registry import GENERATORS; GENERATORS['trouble'] = 'trouble:Trouble'\n"
        f"child = ChildProcess(Settings(('trouble()',), 1000, False, False), 5.0); child.program = {ChildProcess.program!r}\n"
        "print(child._start().pid, flush=True); import time; time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(200):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return
        except FileNotFoundError:
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    raise AssertionError("the child went on for 20 s after its parent was killed")


def test_a_build_with_troubles_finishes_and_accounts_for_all(trouble, tmp_path):
    from maskmill.pipelines.driver.build import build

    order = [
        kinds.PEACE,
        kinds.ABORT,
        kinds.PEACE,
        kinds.HANG,
        kinds.RAISE,
        kinds.ABORT_ONCE,
        kinds.NO_MASKS,
        kinds.PEACE,
    ]
    config = BuildConfig("folder", write_troubles(tmp_path / "pictures", order), ("trouble()",))
    outcome = build(config, str(tmp_path / "out"), RunOptions(workers=2, part_size=2, image_timeout=3.0), quiet=True)
    assert outcome.manifest.counts == {"inputs": 8, "written": 4, "failed": 4, "skipped": 0, "dropped_annotations": 0}
    assert outcome.too_many_failures


def test_what_stops_every_image_stops_the_build_from_within_a_child(child, pictures, tmp_path):
    """A generator that misses what was made for it says so once, with the exit code of damage, not of every picture."""
    from maskmill.pipelines.driver.build import build

    for builder in (InProcess(SETTINGS), child):
        with pytest.raises(DamageError, match=r"^what was joined is gone; build with --overwrite$"):
            builder.build(*pictures[kinds.DAMAGE])
    assert child.build(*pictures[kinds.PEACE]).refusal is None
    images = write_troubles(tmp_path / "damaged", [kinds.PEACE, kinds.DAMAGE])
    config = BuildConfig("folder", images, ("trouble()",))
    with pytest.raises(DamageError, match="could not be built in 3 attempts: what was joined is gone"):
        build(config, str(tmp_path / "out"), RunOptions(workers=1, part_size=1), quiet=True)


def test_what_a_child_logs_reaches_its_parent(child, pictures, monkeypatch, caplog):
    monkeypatch.setenv("TROUBLE_WARNS", "a cold worker is compiling")
    assert child.build(*pictures[kinds.PEACE]).refusal is None
    assert "a cold worker is compiling" in caplog.text
