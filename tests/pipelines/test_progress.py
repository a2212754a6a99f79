"""Progress from sidecars, in words people use."""

import time

import pytest
from drawn import write_coco

from maskmill.pipelines.driver import progress
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.driver.progress import (
    STARTING,
    Pace,
    Tally,
    amount,
    duration,
    show_progress,
    state,
    volume,
    work,
)
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.isolation import InProcess
from maskmill.pipelines.parts.part import UNDER_WAY, build_part
from maskmill.pipelines.parts.plan import load_plan, make_plan
from maskmill.pipelines.parts.preparing import prepared_folder


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45, "45 s"),
        (119.6, "120 s"),
        (150, "2.5 min"),
        (3000, "50 min"),
        (9000, "2.5 h"),
        (180_000, "2.1 d"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_amounts():
    assert [amount(n, "shard") for n in (0, 1, 1024)] == ["0 shards", "1 shard", "1,024 shards"]


def test_the_tally_counts_each_sidecar_once_and_only_of_this_plan(tmp_path):
    images, annotations = write_coco(tmp_path / "data", 10)
    config = BuildConfig("coco", images, ("grid(n=2)",), annotations=annotations)
    out = tmp_path / "out"
    build(config, str(out), RunOptions(workers=0, part_size=3), quiet=True)
    tally = Tally(str(out), load_plan(str(out)))
    for _ in range(2):
        tally.refresh()
        assert (tally.done, tally.failed, tally.total, tally.parts) == (10, 0, 10, 4)
    (out / "_work" / "parts").mkdir(exist_ok=True)
    (out / "_work" / "parts" / "99999-00000.json").write_text('{"plan_digest": "another", "images": 5}')
    (out / "_work" / "parts" / "99999-00001.json").write_text("torn")
    tally.refresh()
    assert tally.done == 10


def test_images_are_counted_within_the_parts_of_this_process(tmp_path):
    images, annotations = write_coco(tmp_path / "data", 5)
    out = str(tmp_path / "out")
    plan = make_plan(BuildConfig("coco", images, ("grid(n=2)",), annotations=annotations), out, 5)
    tally, counts = Tally(out, plan), []
    other = Tally(str(tmp_path / "another"), plan)  # a control: another folder's build of the same plan

    class Watched(InProcess):
        def build(self, item, data):
            tally.refresh()
            other.refresh()
            counts.append(tally.done)
            return super().build(item, data)

    (task,) = plan.tasks
    build_part(task, out, Watched(plan.config.settings(prepared_folder(out))))
    tally.refresh()
    assert counts == [0, 1, 2, 3, 4]
    assert (tally.done, tally.parts, other.done) == (5, 1, 0)
    assert not UNDER_WAY


def test_a_part_that_fails_is_under_way_no_more(tmp_path):
    images, annotations = write_coco(tmp_path / "data", 3)
    out = str(tmp_path / "out")
    plan = make_plan(BuildConfig("coco", images, ("grid(n=2)",), annotations=annotations), out, 3)

    class Fails(InProcess):
        def build(self, item, data):
            if UNDER_WAY:
                raise OSError("the disk is gone")
            return super().build(item, data)

    with pytest.raises(OSError, match="the disk is gone"):
        build_part(plan.tasks[0], out, Fails(plan.config.settings(prepared_folder(out))))
    assert not UNDER_WAY


def test_the_pace_leaves_compiling_out_and_forgets_a_slow_beginning():
    pace = Pace()
    for now in range(100):  # kernels compile
        pace.add(now, 0)
        assert not pace.started
        assert pace.rate is None
    left = []
    for now in range(100, 400):  # then two images a second
        pace.add(now, (now - 99) * 2)
        if pace.rate is not None:
            left.append((600 - (now - 99) * 2) / pace.rate)
    assert left == sorted(left, reverse=True)
    assert pace.rate == 2
    for now in range(400, 1400):  # and then ten
        pace.add(now, 602 + (now - 400) * 10)
    assert pace.rate == pytest.approx(10, rel=0.01)


def test_a_resumed_build_is_not_credited_with_what_was_there():
    pace = Pace()
    pace.add(0, 900)
    pace.add(50, 900)
    assert pace.rate is None
    for now in (51, 52, 53, 54):
        pace.add(now, 850 + now)
    assert pace.rate == 1


def test_lines_say_first_what_is_waited_for_and_never_a_speed_of_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_STARTING_S", 0.02)
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.05)

    class Slow:
        folder, total, done, failed = str(tmp_path), 8, 0, 0

        def refresh(self):
            pass

    with show_progress(Slow()):
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"maskmill: {STARTING}"
    assert lines[1] == "maskmill: 0 of 8 images; kernels are still loading or compiling"
    assert state(Slow(), Pace()) == "0 of 8 images"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "less than 1 s of one core"),
        (35, "35 s of one core"),
        (900, "15 core-minutes"),
        (19800, "5.5 core-hours"),
    ],
)
def test_work_of_cores(seconds, text):
    assert work(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(640e3, "640 kB"), (2.6e6, "2.6 MB"), (31e6, "31 MB"), (31e9, "31 GB"), (1.5e12, "1.5 TB")]
)
def test_volumes(size, text):
    assert volume(size) == text
