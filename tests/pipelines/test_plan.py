"""The plan: the same for the same inputs, a shuffle, nothing lost, nothing twice."""

import dataclasses
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.plan import (
    default_num_shards,
    list_inputs,
    load_plan,
    make_plan,
)
from maskmill.pipelines.parts.plan_lines import read_part, read_refused, split_evenly
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.location import Location
from maskmill.schemas.errors import DamageError, InputError, UsageError

CONFIG = BuildConfig("folder", "pictures", ("grid(n=5)",))


class FakeSource:
    categories, labels = {}, "none"

    def __init__(self, items):
        self.items = items

    def list_inputs(self):
        return iter(self.items)


def inputs(count):
    return [Input(f"{i:03d}.jpg", Location(f"{i:03d}.jpg", -1, i)) for i in range(count)]


def planned(folder, config=CONFIG, count=100, part_size=0, monkeypatch=None):
    monkeypatch.setattr(BuildConfig, "source", lambda self: FakeSource(inputs(count)))
    return make_plan(config, str(folder), part_size)


def test_order_is_a_seeded_shuffle_whatever_the_listing(monkeypatch):
    forward, backward, other = (
        list(list_inputs(config, FakeSource(items))[0])
        for config, items in (
            (CONFIG, inputs(100)),
            (CONFIG, inputs(100)[::-1]),
            (dataclasses.replace(CONFIG, seed=1), inputs(100)),
        )
    )
    assert forward == backward
    assert sorted(forward) == sorted(other)
    assert forward != other
    ids = [json.loads(line)["id"] for line in forward]
    assert ids != sorted(ids)


def test_a_limit_is_a_prefix_of_the_same_order():
    whole, _ = list_inputs(CONFIG, FakeSource(inputs(100)))
    some, _ = list_inputs(dataclasses.replace(CONFIG, limit=10), FakeSource(inputs(100)))
    assert list(some) == list(whole)[:10] == whole.head(10)
    assert len(some) == 10


def test_duplicate_ids_are_refused_and_the_same_one_is_kept():
    twice = [
        Input("a.jpg", Location("z/a.jpg")),
        Input("a.jpg", Location("b/a.jpg")),
        Input("c.jpg", Location("c.jpg")),
    ]
    for items in (twice, twice[::-1]):
        lines, refused = list_inputs(CONFIG, FakeSource(items))
        assert [(r.id, r.reason) for r in refused] == [("a.jpg", "duplicate_id")]
        kept = {i.id: i.location.path for i in map(Input.from_json, lines)}
        assert kept == {"a.jpg": "b/a.jpg", "c.jpg": "c.jpg"}


@given(st.integers(0, 5000), st.integers(1, 60))
def test_even_splits_cover_everything_once(count, pieces):
    ranges = split_evenly(count, pieces)
    assert [i for r in ranges for i in r] == list(range(count))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


def test_shard_counts():
    assert [default_num_shards(n) for n in (0, 1, 31, 32, 281, 5000, 118_287, 1_281_167)] == [
        1,
        1,
        1,
        2,
        16,
        16,
        119,
        1282,
    ]


def test_written_plans_load_the_same_and_hold_every_input_once(tmp_path, monkeypatch):
    plan = planned(tmp_path, part_size=7, monkeypatch=monkeypatch)
    assert load_plan(str(tmp_path)) == plan
    ids = [item.id for task in plan.tasks for item in read_part(str(tmp_path), task)]
    assert sorted(ids) == [i.id for i in inputs(100)]
    assert [t.images for t in plan.tasks] == [len(read_part(str(tmp_path), t)) for t in plan.tasks]
    assert max(t.images for t in plan.tasks) <= 7
    with gzip.open(tmp_path / "_work" / "plan.jsonl.gz") as file:
        assert len(file.readlines()) == 100


def test_part_size_changes_neither_identity_nor_order(tmp_path, monkeypatch):
    small = planned(tmp_path / "a", part_size=3, monkeypatch=monkeypatch)
    large = planned(tmp_path / "b", monkeypatch=monkeypatch)
    assert small.digest == large.digest
    order = [[i.id for t in p.tasks for i in read_part(str(tmp_path / n), t)] for p, n in ((small, "a"), (large, "b"))]
    assert order[0] == order[1]


def test_identity_covers_inputs_configuration_and_software(tmp_path, monkeypatch):
    base = planned(tmp_path / "a", monkeypatch=monkeypatch).digest
    assert planned(tmp_path / "b", count=99, monkeypatch=monkeypatch).digest != base
    assert planned(tmp_path / "c", dataclasses.replace(CONFIG, seed=1), monkeypatch=monkeypatch).digest != base
    monkeypatch.setattr("maskmill.pipelines.parts.plan.versions", lambda: {"numpy": "0"})
    assert planned(tmp_path / "d", monkeypatch=monkeypatch).digest != base


def test_refusals_are_kept(tmp_path, monkeypatch):
    refusals = [
        Refusal("b", "list", "not_found", "gone"),
        Refusal("a.txt", "list", "unsupported_format", "text", 0, "skipped"),
    ]
    monkeypatch.setattr(BuildConfig, "source", lambda self: FakeSource([*inputs(3), *refusals]))
    plan = make_plan(CONFIG, str(tmp_path))
    assert (plan.inputs, plan.refused) == (3, 2)
    assert list(read_refused(str(tmp_path))) == sorted(refusals, key=lambda r: r.id)


def test_impossible_plans_are_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="pictures holds no pictures"):
        planned(tmp_path, count=0, monkeypatch=monkeypatch)
    with pytest.raises(UsageError, match="--num-shards 7 is more than the 3 images"):
        planned(tmp_path, dataclasses.replace(CONFIG, num_shards=7), count=3, monkeypatch=monkeypatch)


def test_a_torn_plan_is_said(tmp_path):
    (tmp_path / "_work").mkdir()
    assert load_plan(str(tmp_path)) is None
    (tmp_path / "_work" / "plan.json").write_text('{"format": 1, "parts": [[')
    with pytest.raises(DamageError, match=r"cannot be read .* build with --overwrite"):
        load_plan(str(tmp_path))
    (tmp_path / "_work" / "plan.json").write_text('{"format": 99}')
    with pytest.raises(DamageError, match="written by another version"):
        load_plan(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "cocoo"}, r"one of coco, imagenet, folder, .*got 'cocoo'; did you mean 'coco'"),
        ({"images": ""}, "--images is missing"),
        ({"dataset": "coco"}, "needs --annotations"),
        ({"annotations": "x.json"}, "--annotations belongs to --dataset coco, not folder"),
        ({"ground_truth": "x"}, "--ground-truth belongs to --dataset imagenet"),
        ({"masks": ()}, "--masks is missing"),
        ({"masks": ("gt()",)}, r"gt\(\) needs annotations"),
        ({"num_shards": -1}, "--num-shards must be at least 0, got -1"),
        ({"max_pixels": 0}, "--max-pixels must be at least 1"),
        ({"name": "a/b"}, "--name takes letters"),
        ({"split": ""}, "--split takes letters"),
        ({"bad_annotations": "ignore"}, "fail or drop"),
    ],
)
def test_configurations_that_mean_nothing(changes, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_parts_are_sized_by_what_an_image_takes():
    from maskmill.pipelines.parts.plan import images_per_part

    assert [images_per_part(s) for s in (None, 0.001, 0.5, 1.0, 60.0)] == [128, 512, 180, 90, 16]


def test_the_pace_is_measured_only_where_asked_and_changes_no_identity(coco, tmp_path, monkeypatch):
    from maskmill.pipelines.clusters.runners import Runner
    from maskmill.pipelines.driver import build
    from maskmill.pipelines.parts.plan import make_plan

    monkeypatch.setattr(build, "_WORTH_TIMING", 10)
    fixed = make_plan(coco, str(tmp_path / "fixed"))
    timed = build.plan_or_resume(coco, str(tmp_path / "timed"), cluster=Runner("PortableRunner", ()))
    slow = make_plan(coco, str(tmp_path / "slow"), pace=lambda config, lines: 60.0)
    assert timed.digest == fixed.digest == slow.digest
    assert [len(parts) for parts in timed.parts] == [1, 1]
    assert [len(parts) for parts in slow.parts] == [2, 2]


def test_lines_that_are_damaged_under_a_running_build_are_said(tmp_path, monkeypatch):
    plan = planned(tmp_path, part_size=50, monkeypatch=monkeypatch)
    task = plan.parts[0][0]
    path = tmp_path / "_work" / "plan.jsonl.gz"
    whole = path.read_bytes()
    said = r"plan\.jsonl\.gz cannot be read \(.*\); build with --overwrite"
    for at in range(task.offset + 10, task.offset + task.size, 7):  # behind gzip's own header, which holds no data
        flipped = bytearray(whole)
        flipped[at] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(DamageError, match=said):
            read_part(str(tmp_path), task)
    path.write_bytes(whole[: task.offset + 20])
    with pytest.raises(DamageError, match=said):
        read_part(str(tmp_path), task)
    path.unlink()
    with pytest.raises(DamageError, match="it is missing"):
        read_part(str(tmp_path), task)


def test_every_flipped_bit_of_the_index_is_found(tmp_path, monkeypatch):
    plan = planned(tmp_path, count=3, monkeypatch=monkeypatch)
    path = tmp_path / "_work" / "plan.json"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole) - 8, 13):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(DamageError):
            load_plan(str(tmp_path))
    path.write_bytes(whole)
    assert load_plan(str(tmp_path)) == plan
