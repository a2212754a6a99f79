"""What listing archives on gs:// fetches: headers, not pictures."""

import os

import pytest
from archives import tar_bytes

from maskmill.pipelines.clusters.runners import LOCAL, Runner
from maskmill.pipelines.driver.inner_tars import listed_by_workers
from maskmill.pipelines.driver.listing import OnWorkers
from maskmill.pipelines.parts import partition
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.plan import make_plan
from maskmill.pipelines.reading import bucket_folder, tar_index
from maskmill.pipelines.reading.bucket_folder import find_ranges, walk_range
from maskmill.pipelines.reading.example_index import list_records
from maskmill.pipelines.reading.folder import Folder
from maskmill.pipelines.reading.imagenet import ImageNet
from maskmill.pipelines.reading.inputs import Refusal
from maskmill.pipelines.reading.shard_files import ShardFile
from maskmill.pipelines.reading.tree import list_tree
from maskmill.pipelines.reading.webdataset import WebDataset
from maskmill.schemas import operations, storage
from maskmill.schemas.sparse import open_sparse
from maskmill.schemas.tfrecord import frame

PICTURE = os.urandom(110_000)  # bytes, ImageNet's mean


@pytest.fixture
def fetched(gcs, monkeypatch) -> list[int]:
    """Bytes of every answer, as they come over the wire."""
    sizes: list[int] = []
    usual = operations.CountingAdapter.send

    def send(self, request, *args, **kwargs):
        answer = usual(self, request, *args, **kwargs)
        if request.method == "GET":
            sizes.append(int(answer.headers.get("Content-Length") or 0))
        return answer

    monkeypatch.setattr(operations.CountingAdapter, "send", send)
    return sizes


def of_classes(classes: int, pictures: int) -> bytes:
    """As ImageNet's tar for training: a tar of a tar for each class."""
    inner = {
        f"n{c:08d}.tar": tar_bytes({f"n{c:08d}_{p}.JPEG": PICTURE for p in range(pictures)}) for c in range(classes)
    }
    return tar_bytes(inner)


def listed(path: str) -> dict[str, tuple[int, int]]:
    return {name: (at.offset, at.size) for name, at in list_tree(path)}


def test_a_tar_of_tars_is_listed_by_its_headers(fetched, tmp_path):
    data = of_classes(5, 24)
    (tmp_path / "train.tar").write_bytes(data)
    storage.write_bytes("gs://mill/train.tar", data)
    fetched.clear()
    there = listed("gs://mill/train.tar")
    assert there == listed(str(tmp_path / "train.tar"))
    assert len(there) == 120
    assert sum(fetched) < 0.05 * len(data)  # of 13 MB; the end of each tar is read too, for zeros
    assert len(fetched) < 2 * 120
    inputs = list(ImageNet("gs://mill/train.tar").list_inputs())
    assert {(one.synset, one.label) for one in inputs} == {(f"n{c:08d}", c) for c in range(5)}
    assert inputs[7].location.read() == PICTURE


def test_small_members_are_read_through_instead_of_asked_for_one_by_one(fetched):
    data = tar_bytes({f"{i:05d}.jpg": PICTURE[:3000] for i in range(1000)})
    storage.write_bytes("gs://mill/small.tar", data)
    fetched.clear()
    assert len(listed("gs://mill/small.tar")) == 1000
    assert len(fetched) < 16
    assert sum(fetched) < 1.1 * len(data)


def test_webdataset_and_tfrecord_too(fetched):
    samples = {}
    for i in range(60):
        samples |= {f"{i:04d}.jpg": PICTURE, f"{i:04d}.cls": b"7"}
    data = tar_bytes(samples)
    storage.write_bytes("gs://mill/set/a-000.tar", data)
    fetched.clear()
    found = list(WebDataset("gs://mill/set/a-000.tar").list_inputs())
    assert [one.label for one in found] == [7] * 60
    assert sum(fetched) < 0.05 * len(data)

    records = b"".join(frame(PICTURE) for _ in range(60))
    storage.write_bytes("gs://mill/a.tfrecord", records)
    fetched.clear()
    with open_sparse("gs://mill/a.tfrecord") as stream:
        offsets = [offset for offset, _ in list_records("a", stream, len(records))]
    assert len(offsets) == 60
    assert sum(fetched) < 0.03 * len(records)


def test_workers_list_the_tars_inside_a_tar(fetched, tmp_path, monkeypatch):
    """The same plan, byte for byte, and the machine that plans has read the outer headers only."""
    data = bytearray(of_classes(40, 2))
    data[data.index(b"n00000007_1.JPEG")] ^= 1  # a tar that is damaged is told of by its worker
    storage.write_bytes("gs://mill/train.tar", bytes(data))
    config = BuildConfig("imagenet", "gs://mill/train.tar", ("grid(n=2)",))
    here = make_plan(config, str(tmp_path / "here"))
    calls: list[str] = []
    usual = tar_index.list_inner
    monkeypatch.setattr(tar_index, "list_inner", lambda path, inner: calls.append(inner[0]) or usual(path, inner))
    monkeypatch.setattr(
        Runner, "is_local", False
    )  # its workers are threads of this process, which is all that is local of it
    with listed_by_workers(Runner(), "gs://mill/out"):
        there = make_plan(config, str(tmp_path / "there"))
    assert len(calls) == 40
    assert there == here
    assert there.refused == 1
    assert not list(storage.walk("gs://mill/"))[1:]  # what workers left is gone
    assert [name for name, _ in storage.walk("gs://mill/")] == ["train.tar"]
    for name in ("plan.json", "plan.jsonl.gz", "refused.jsonl"):
        one, other = (tmp_path / folder / "_work" / name for folder in ("here", "there"))
        assert one.read_bytes() == other.read_bytes()


def test_few_tars_are_not_worth_a_job(gcs, monkeypatch):
    storage.write_bytes("gs://mill/train.tar", of_classes(3, 2))
    monkeypatch.setattr(Runner, "is_local", False)
    monkeypatch.setattr(Runner, "flags", lambda *args, **kwargs: pytest.fail("a job"))
    with listed_by_workers(Runner(), "gs://mill/out"):
        assert len(listed("gs://mill/train.tar")) == 6


def test_a_damaged_tar_inside_is_told_of_as_on_a_disk(gcs, tmp_path):
    data = bytearray(of_classes(3, 4))
    data[data.index(b"n00000001_2.JPEG")] ^= 1
    (tmp_path / "train.tar").write_bytes(data)
    storage.write_bytes("gs://mill/train.tar", bytes(data))
    told = [sorted(map(repr, list_tree(path))) for path in ("gs://mill/train.tar", str(tmp_path / "train.tar"))]
    assert told[0] == [line.replace(str(tmp_path), "gs://mill") for line in told[1]]
    assert sum("the tar inside is damaged" in line for line in told[0]) == 1


NAMES = [
    "a",
    "ab",
    "aé",
    "a\ud7ff",
    "a\U0010ffff",
    "b/.hidden/x.jpg",
    "b/c.txt",
    *(f"n{i % 7}/p_{i:05d}.jpg" for i in range(300)),
]


def test_a_folder_is_cut_into_ranges_of_names(gcs, monkeypatch):
    """Each name is in one range, with the ranges of one listing; few names are one range."""
    for name in NAMES:
        storage.write_bytes(f"gs://mill/set/{name}", b"x")
    storage.write_bytes("gs://mill/setting", b"beside it")
    assert find_ranges("gs://mill/set") == [ShardFile("", "gs://mill/set")]
    monkeypatch.setattr(bucket_folder, "FEW", 10)
    for enough in (1, 5, 20):
        monkeypatch.setattr(bucket_folder, "ENOUGH", enough)
        before = len(gcs.requests)
        ranges = find_ranges("gs://mill/set")
        assert enough <= len(ranges) <= 10 * enough + 10
        assert len(gcs.requests) - before < 12 * len(ranges) + 30
        found = [name for one in ranges for name, _ in walk_range(one)]
        assert found == sorted(NAMES)
    source = Folder("gs://mill/set")
    shards = source.find()
    listed = [one for shard in shards.files for one in shards.list_one(shard)]
    assert listed == sorted(source.list_inputs(), key=lambda one: one.id)
    assert {one.reason for one in listed if isinstance(one, Refusal)} == {"not_taken", "unsupported_format"}
    assert Folder("gs://mill/nothing").find() is Folder("/local").find() is Folder("gs://mill/a.zip").find() is None


def test_a_folder_on_a_bucket_is_planned_in_ranges(gcs, tmp_path, monkeypatch):
    for name in NAMES[:40]:
        storage.write_bytes(f"gs://mill/set/{name}", b"x")
    config = BuildConfig("folder", "gs://mill/set", ("grid(n=2)",))
    here = make_plan(config, str(tmp_path / "here"))
    for module, name, value in (
        (bucket_folder, "FEW", 10),
        (bucket_folder, "ENOUGH", 5),
        (partition, "MIN_SHARDS", 2),
        (partition, "LARGE", 0),
    ):
        monkeypatch.setattr(module, name, value)
    said: list[str] = []
    workers = OnWorkers(Runner(LOCAL, ()), said.append)
    there = make_plan(config, "gs://mill/out", workers=workers)
    assert there == here
    assert len(said) == 3
    assert sorted(storage.names("gs://mill/out/_work")) == sorted(os.listdir(tmp_path / "here" / "_work"))
    assert not [name for name, _ in storage.walk("gs://mill/out") if "listing" in name]
