"""Data sets in shards, listed by workers: the plan is the one that the driver would have made."""

import dataclasses
import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskmill.pipelines.clusters.runners import LOCAL, Runner
from maskmill.pipelines.driver.listing import OnWorkers
from maskmill.pipelines.parts import partition, plan_lines
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.lines import Lines
from maskmill.pipelines.parts.partition import in_order
from maskmill.pipelines.parts.plan import load_plan, make_plan
from maskmill.pipelines.parts.plan_lines import read_part, read_refused
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.shard_files import InShards, ShardFile, Shards
from maskmill.schemas import example_pb2
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.tfrecord import frame

RUNNER = Runner(LOCAL, ())


@dataclasses.dataclass
class MadeUp(InShards):
    """A data set that is nowhere."""

    parts: dict = dataclasses.field(default_factory=dict)

    def find(self):
        return Shards([ShardFile(name, name) for name in self.parts], [Refusal("left", "list", "x", "")], self.held)

    def held(self, shard):
        return self.parts[shard.name]

    def conclude(self, facts):
        self.labels = facts.labels("nowhere")


def picture(value: int) -> bytes:
    return cv2.imencode(".png", np.full((4, 4, 3), value, np.uint8))[1].tobytes()


def write_tars(folder: Path) -> None:
    for number in range(5):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for i in range(4):
                for name, data in ((f"{i}.png", picture(i)), (f"{i}.cls", b"%d" % i), (f"{i}.left", b"?")):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (folder / "notes.txt").write_text("beside the tars")


def write_parquet(folder: Path) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    for number in range(5):
        rows = {"image": [{"bytes": picture(i), "path": f"{i}.png"} for i in range(4)], "label": [0, 1, 1, 0]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{number}.parquet"), batch_size=2)


def write_records(folder: Path) -> None:
    for number in range(5):
        records = []
        for i in range(4):
            example = example_pb2.Example()
            example.features.feature["image/encoded"].bytes_list.value.append(picture(i))
            example.features.feature["image/class/label"].int64_list.value.append(i)
            records.append(frame(example.SerializeToString()))
        (folder / f"train.tfrecord-{number:05d}-of-00005").write_bytes(b"".join(records))


WRITERS = {"webdataset": write_tars, "parquet": write_parquet, "tfrecord": write_records}
FORCED = {"MIN_SHARDS": 2, "LARGE": 0, "_MOST_TASKS": 3, "_BLOCK": 2, "_IN_RANGE": 4}


class Elsewhere:
    """Workers as a cluster may have them: they get what is to be done as bytes, in any order, and do it more than once."""

    def __init__(self):
        self.said = []

    def map(self, what, function, items, seconds):
        self.said.append(f"{len(items)} {what}")
        function = pickle.loads(pickle.dumps(function))
        for item in [*reversed(items), *items[:3]]:
            function(item)


def planned(config: BuildConfig, out: Path, workers=None) -> dict[str, bytes]:
    """What planning leaves."""
    made = make_plan(config, str(out), 2, workers=workers)
    assert made == load_plan(str(out))
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture
def forced(monkeypatch):
    """Everything is large."""
    for name, value in FORCED.items():
        monkeypatch.setattr(partition, name, value)


@pytest.fixture(params=WRITERS)
def in_shards(request, tmp_path) -> BuildConfig:
    images = tmp_path / "images"
    images.mkdir()
    WRITERS[request.param](images)
    return BuildConfig(request.param, str(images), ("grid(n=2)",), seed=3, num_shards=6)


def test_the_plan_is_the_same_bytes_whoever_lists(in_shards, tmp_path, monkeypatch):
    here = planned(in_shards, tmp_path / "here")
    monkeypatch.setattr(partition, "MIN_SHARDS", 2)
    said: list[str] = []
    there = planned(in_shards, tmp_path / "there", OnWorkers(RUNNER, said.append))
    assert here == there
    assert sorted(here) == ["_work/plan.json", "_work/plan.jsonl.gz", "_work/refused.jsonl"]
    assert gzip.decompress(here["_work/plan.jsonl.gz"]).count(b"\n") == 20
    assert said == [f"5 lists of 5 shards are made on the workers of {LOCAL}, so that a plan can be made"]


@pytest.mark.parametrize("limit", [0, 13])
def test_the_plan_is_the_same_bytes_where_no_line_comes_here(in_shards, limit, tmp_path, monkeypatch, forced):
    """In one piece and in several, with a limit, and with what was refused; labels are counted over all shards."""
    config = dataclasses.replace(in_shards, limit=limit)
    for images, pieces in ((1000, 1), (7, 2 if limit else 3)):
        monkeypatch.setattr(plan_lines, "IMAGES_PER_PIECE", images)
        here = planned(config, tmp_path / f"here-{images}")
        workers = Elsewhere()
        with monkeypatch.context() as patch:
            patch.setattr(Lines, "settle", lambda self: pytest.fail("lines are here"))
            there = planned(config, tmp_path / f"there-{images}", workers)
        assert here == there
        assert len([name for name in here if name.endswith(".jsonl.gz")]) == pieces
        assert workers.said == ["3 lists of 5 shards", "5 ranges of the plan's order", f"{pieces} pieces of the plan"]
        assert "labels" in json.loads(here["_work/plan.json"])
    one, many = (load_plan(str(tmp_path / name)) for name in ("here-1000", "here-7"))
    assert one.digest == many.digest  # how its lines lie is no part of a plan's identity
    ids = [[item.id for task in plan.tasks for item in read_part(str(tmp_path / name), task)]
           for plan, name in ((one, "here-1000"), (many, "here-7"))]  # fmt: skip
    assert ids[0] == ids[1]
    assert len(ids[0]) == (limit or 20)


def test_duplicates_meet_wherever_they_were_listed(tmp_path, forced, monkeypatch):
    """Shards of pictures that partly have one id; the source is made up, since files have names of their own."""
    items = [Input(f"{i % 30:02d}.png", Location(f"{i:02d}.png")) for i in range(50)]
    items += [Refusal(f"r{i % 3}", "list", "not_taken", f"{i}", 0, "skipped") for i in range(10)]
    parts = {f"{i}": items[i::7] for i in range(7)}
    source = MadeUp("x", parts=parts)
    monkeypatch.setattr(BuildConfig, "source", lambda self: source)
    config = BuildConfig("folder", "x", ("grid(n=2)",), num_shards=2)
    there = planned(config, tmp_path / "there", Elsewhere())
    monkeypatch.setattr(partition, "MIN_SHARDS", 100)
    assert planned(config, tmp_path / "here", Elsewhere()) == there
    refused = list(read_refused(str(tmp_path / "there")))
    assert [r.reason for r in refused].count("duplicate_id") == 20
    assert len(refused) == 31
    assert refused == sorted(refused, key=dataclasses.astuple)
    assert load_plan(str(tmp_path / "there")).inputs == 30


@pytest.mark.parametrize("in_shards", ["webdataset"], indirect=True)
def test_what_a_range_lacks_is_noticed(in_shards, tmp_path, forced):
    """The control: some entries less in the file of one worker, and the plan is another."""

    class Forgetful(Elsewhere):
        def map(self, what, function, items, seconds):
            super().map(what, function, items, seconds)
            if "lists" in what:
                (known,) = tmp_path.glob("bad/_work/listing-*/known-000001")
                fields = json.loads(known.read_text())
                full = next(i for i in range(256) if fields["cuts"][i] < fields["cuts"][i + 1])
                fields["cuts"][: full + 1] = [fields["cuts"][full + 1]] * (full + 1)
                known.write_text(json.dumps(fields))

    good, bad = (planned(in_shards, tmp_path / name, workers) for name, workers in
                 (("good", Elsewhere()), ("bad", Forgetful())))  # fmt: skip
    assert load_plan(str(tmp_path / "bad")).inputs < load_plan(str(tmp_path / "good")).inputs == 20
    assert good != bad


@pytest.mark.parametrize("in_shards", ["webdataset"], indirect=True)
def test_files_that_workers_wrote_elsewhere_are_missed(in_shards, tmp_path, forced):
    class Lost(Elsewhere):
        def map(self, what, function, items, seconds):
            pass

    with pytest.raises(
        DamageError, match="which a worker wrote, is not to be seen here; give a folder that is the same"
    ):
        planned(in_shards, tmp_path / "out", Lost())
    assert not list(tmp_path.glob("out/_work/*"))


def test_a_damaged_shard_is_the_same_sentence(tmp_path, forced):
    images = tmp_path / "images"
    images.mkdir()
    write_tars(images)
    path = images / "00003.tar"
    path.write_bytes(path.read_bytes()[:700])
    texts = []
    config = BuildConfig("webdataset", str(images), ("grid(n=2)",))
    for workers in (None, Elsewhere()):
        with pytest.raises(InputError, match=r"00003\.tar is damaged") as caught:
            planned(config, tmp_path / "out", workers)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert not list((tmp_path / "out" / "_work").glob("*"))


def test_shards_of_other_classes_are_the_same_sentence(tmp_path, forced):
    import datasets

    images = tmp_path / "images"
    images.mkdir()
    for number, names in enumerate((["a", "b"], ["a", "b"], ["b", "a"])):
        features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)})
        rows = {"image": [{"bytes": picture(1), "path": "1.png"}], "label": [0]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(images / f"{number}.parquet"))
    config = BuildConfig("parquet", str(images), ("grid(n=2)",))
    for workers in (None, Elsewhere()):
        with pytest.raises(InputError, match=r"/2\.parquet and .*/0\.parquet have other classes"):
            planned(config, tmp_path / "out", workers)


def test_few_shards_and_sources_without_any_are_listed_here(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    write_tars(images)
    workers = Elsewhere()
    make_plan(BuildConfig("webdataset", str(images), ("grid(n=2)",)), str(tmp_path / "few"), workers=workers)
    (images / "a.png").write_bytes(picture(1))
    make_plan(BuildConfig("folder", str(images), ("grid(n=2)",)), str(tmp_path / "none"), workers=workers)
    assert workers.said == []


def test_refusals_are_in_order_whatever_is_in_them():
    refusals = [
        Refusal("a\nb \udc80", "list", "not_taken", "line\u2028s \x85", 0, "skipped"),
        Refusal("\U0001f600", "list", "x", ""),
        Refusal("\uffff", "list", "x", ""),
        *(Refusal("c", "list", "x", "", attempts) for attempts in (10, 9, 1)),
    ]
    assert list(in_order(refusals)) == sorted(refusals, key=dataclasses.astuple)
