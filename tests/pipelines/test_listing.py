"""Data sets in shards, listed by workers: the plan is the one that the driver would have made."""

import gzip
import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskmill.pipelines.clusters.runners import LOCAL, Runner
from maskmill.pipelines.driver import listing
from maskmill.pipelines.driver.listing import decode, encode, let_workers_list
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.plan import make_plan
from maskmill.pipelines.reading.folder import Folder
from maskmill.pipelines.reading.inputs import Refusal
from maskmill.schemas import example_pb2
from maskmill.schemas.errors import InputError
from maskmill.schemas.tfrecord import frame

RUNNER = Runner(LOCAL, ())


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


def planned(config: BuildConfig, out: Path, *, workers: bool, monkeypatch) -> tuple[dict[str, bytes], list[str]]:
    """What planning leaves, and what it said."""
    monkeypatch.setattr(listing, "MIN_SHARDS", 2)
    said: list[str] = []
    if workers:
        make_plan(config, str(out), ready=lambda source: let_workers_list(source, str(out), RUNNER, said.append))
    else:
        make_plan(config, str(out))
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return files, said


@pytest.mark.parametrize("dataset", WRITERS)
def test_the_plan_is_the_same_bytes(dataset, tmp_path, monkeypatch):
    images = tmp_path / "images"
    images.mkdir()
    WRITERS[dataset](images)
    config = BuildConfig(dataset, str(images), ("grid(n=2)",), seed=3)
    here, said_here = planned(config, tmp_path / "here", workers=False, monkeypatch=monkeypatch)
    there, said = planned(config, tmp_path / "there", workers=True, monkeypatch=monkeypatch)
    assert here == there
    assert sorted(here) == ["_work/plan.json", "_work/plan.jsonl.gz", "_work/refused.jsonl"]
    assert gzip.decompress(here["_work/plan.jsonl.gz"]).count(b"\n") == 20
    assert said_here == []
    assert said == [f"5 shards are listed on the workers of {LOCAL}, so that a plan can be made"]


def test_a_damaged_shard_is_the_same_sentence(tmp_path, monkeypatch):
    images = tmp_path / "images"
    images.mkdir()
    write_tars(images)
    path = images / "00003.tar"
    path.write_bytes(path.read_bytes()[:700])
    texts = []
    config = BuildConfig("webdataset", str(images), ("grid(n=2)",))
    for workers in (False, True):
        with pytest.raises(InputError, match=r"00003\.tar is damaged") as caught:
            planned(config, tmp_path / str(workers), workers=workers, monkeypatch=monkeypatch)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert not list((tmp_path / "True" / "_work" / "listing").glob("*"))


def test_few_shards_and_sources_without_any_are_listed_here(tmp_path, monkeypatch):
    source = Folder("pictures")
    let_workers_list(source, str(tmp_path), RUNNER, print)
    assert source == Folder("pictures")
    images = tmp_path / "images"
    images.mkdir()
    write_tars(images)
    said: list[str] = []
    config = BuildConfig("webdataset", str(images), ("grid(n=2)",))
    make_plan(
        config, str(tmp_path / "out"), ready=lambda one: let_workers_list(one, str(tmp_path), RUNNER, said.append)
    )
    assert said == []


def test_lines_come_back_whatever_is_in_them():
    refusals = [
        Refusal("a\nb \udc80", "list", "not_taken", "line\u2028s \x85", 0, "skipped"),
        Refusal("c", "list", "x", ""),
    ]
    assert decode(encode(refusals)) == refusals
