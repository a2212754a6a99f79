"""One trainer per run folder: the living keep it, the dead lose it, and who lost it stops."""

import json
import re
import subprocess
import sys
import threading
import time

import pytest

from maskmill.schemas import storage
from maskmill.schemas.errors import InputError
from maskmill.training import folder
from maskmill.training.folder import RunFolder


@pytest.fixture
def enter(tiny_config):
    """Takes a folder for a run of the tiny network."""
    told = []

    def enter(workdir):
        return RunFolder(str(workdir), tiny_config, "digest", say=told.append)

    enter.told = told
    return enter


def leave_lock(workdir, **content):
    storage.write_bytes(str(workdir / folder.LOCK), json.dumps({"token": "t", "beat": 3} | content).encode())


def here(pid, started=None):
    return {"machine": folder._machine(), "pid": pid, "started": started or folder._started(pid)}


def test_the_second_trainer_is_refused_until_the_first_is_done(enter, tmp_path):
    with enter(tmp_path):
        with pytest.raises(
            InputError, match=r"another trainer is at work in .* \(process \d+ on .*\); wait for it, stop"
        ):
            enter(tmp_path).__enter__()
        assert (tmp_path / folder.LOCK).exists()
    with enter(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [folder.CARD]


def test_a_dead_process_holds_nothing(enter, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    leave_lock(tmp_path, **here(child.pid))
    with pytest.raises(InputError, match=f"process {child.pid} on"):
        enter(tmp_path).__enter__()
    child.kill()
    time.sleep(0.1)  # a zombie by now: nobody has asked for its end
    with enter(tmp_path):
        pass
    child.wait()
    leave_lock(tmp_path, **here(child.pid, started="5"))
    with enter(tmp_path):
        pass
    assert not enter.told


def test_what_a_killed_trainer_had_begun_to_write_is_cleared_away(enter, tmp_path):
    begun = [tmp_path / "run.json.7-ab.incomplete", tmp_path / "checkpoints" / "40.safetensors.7-ab.incomplete"]
    kept = tmp_path / "checkpoints" / "20.safetensors"
    for path in (*begun, kept):
        storage.write_bytes(str(path), b"half")
    with enter(tmp_path):
        assert not any(path.exists() for path in begun)
    assert kept.exists()


def test_another_process_under_a_dead_ones_number_is_not_its_owner(enter, tmp_path):
    leave_lock(tmp_path, **here(1, started="a long time ago"))
    with enter(tmp_path):
        pass


@pytest.mark.parametrize("content", [{"machine": "elsewhere", "pid": 7}, {"machine": 5}, None])
def test_another_machines_lock_is_watched(enter, tmp_path, monkeypatch, content):
    monkeypatch.setattr(folder, "WATCH_S", 0.3)
    if content is None:
        (tmp_path / folder.LOCK).write_bytes(b"\xff{")
    else:
        leave_lock(tmp_path, **content)
    with enter(tmp_path):
        pass
    assert re.search(r"another trainer is at work in .*, or was; waiting 0 s for a sign of life", enter.told[0])


def test_another_machines_trainer_that_gives_signs_of_life_keeps_the_folder(enter, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "WATCH_S", 5)
    leave_lock(tmp_path, machine="elsewhere", pid=7)
    timer = threading.Timer(0.2, leave_lock, [tmp_path], {"machine": "elsewhere", "pid": 7, "beat": 4})
    timer.start()
    with pytest.raises(InputError, match=r"\(process 7 on elsewhere\)"):
        enter(tmp_path).__enter__()
    timer.join()


def be_written_over(held, workdir):
    for beat in range(100):  # as its holder would: where both write at once, one of them sees the other
        leave_lock(workdir, machine="elsewhere", pid=7, beat=beat)
        time.sleep(0.05)
        held.check()


def test_who_lost_the_folder_stops(enter, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "BEAT_S", 0.02)
    with enter(tmp_path) as held:
        time.sleep(0.2)
        held.check()
        beat = json.loads((tmp_path / folder.LOCK).read_text())["beat"]
        assert beat > 0
        with pytest.raises(InputError, match=r"\(process 7 on elsewhere\)"):
            be_written_over(held, tmp_path)
    assert (tmp_path / folder.LOCK).exists()  # the other's


def test_of_two_that_start_together_one_trains(enter, tmp_path):
    outcomes = []

    def start():
        try:
            with enter(tmp_path):
                outcomes.append("taken")
                time.sleep(1)
        except InputError:
            outcomes.append("refused")

    threads = [threading.Thread(target=start) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sorted(outcomes) == ["refused"] * 3 + ["taken"]


def test_a_folder_that_cannot_be_used_is_named(enter, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot use the run's folder .*/file/run: Not a directory"):
        enter(tmp_path / "file" / "run").__enter__()
