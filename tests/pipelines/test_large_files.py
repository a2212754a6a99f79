"""A large file costs as much memory as it has bytes, once, however it is packed and however many there are."""

import json
import os
import subprocess
import sys
import threading
import tracemalloc
import zipfile

import pytest
from archives import picture, tar_bytes

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.parts import isolation, memory
from maskmill.pipelines.parts.config import Settings
from maskmill.pipelines.parts.generators import parse_specs
from maskmill.pipelines.reading import location, read_ahead
from maskmill.pipelines.reading.example_record import ExampleRecord
from maskmill.pipelines.reading.folder import Folder
from maskmill.pipelines.reading.inputs import Input, Refusal, within_limits
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.tree import list_tree
from maskmill.pipelines.reading.webdataset import WebDataset
from maskmill.schemas import example_pb2
from maskmill.schemas.errors import ImageError
from maskmill.schemas.tfrecord import frame

MEGABYTES = 48

_PEAK = """
import re, sys, zlib
from maskmill.pipelines.reading import read_ahead
from maskmill.pipelines.reading.inputs import Input
from maskmill.pipelines.reading.tree import list_tree
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10
items = [Input(name, place) for name, place in sorted(list_tree(sys.argv[1]), key=lambda pair: pair[0])]
for item, data in read_ahead.read_ahead([i for i in items if i.id.startswith("small")], 2, 60.0):
    assert len(data) == 9
    del data
before = peak()
for item, data in read_ahead.read_ahead(items, 2, 60.0):
    assert len(data) in (9, int(sys.argv[2]) << 20), data
    del data
print(peak() - before)
"""


@pytest.fixture(scope="module")
def noise():
    return os.urandom(MEGABYTES << 20)


def packed(path, noise, method):
    with zipfile.ZipFile(path, "w", method, compresslevel=0) as file:
        for name in ("a.png", "b.png", "c.png"):
            file.writestr(name, noise)
        file.writestr("small.png", b"some text")
    return path


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system does not tell a process's memory")
@pytest.mark.parametrize("kind", ["stored", "deflated", "folder"])
def test_three_large_files_cost_the_memory_of_one(kind, noise, tmp_path):
    if kind == "folder":
        place = tmp_path / "folder"
        place.mkdir()
        for name in ("a.png", "b.png", "c.png"):
            (place / name).write_bytes(noise)
        (place / "small.png").write_bytes(b"some text")
    else:
        place = packed(tmp_path / "a.zip", noise, zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PEAK, str(place), str(MEGABYTES)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1.6 * MEGABYTES, done.stdout


@pytest.mark.parametrize("piece", [1, 7, 100, 5000])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pieces_of_any_size_make_the_whole(piece, method, tmp_path, monkeypatch):
    monkeypatch.setattr(location, "_PIECE", piece)
    contents = {"a": b"", "b": b"x", "c": bytes(3000), "d": os.urandom(2000) + bytes(900)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as file:
        for name, data in contents.items():
            file.writestr(name, data)
    assert {name: place.read() for name, place in list_tree(str(tmp_path / "a.zip"))} == contents


def test_more_than_the_archive_states_is_not_inflated(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", bytes(40 << 20))
    [(_, place)] = list_tree(str(tmp_path / "a.zip"))
    fields = {name: getattr(place, name) for name in Location.__slots__}
    for plain in (10, (40 << 20) - 1, (40 << 20) + 1):
        with pytest.raises(ImageError, match=f"inflates to other than the {plain} bytes its archive states"):
            Location(**{**fields, "plain": plain, "crc": -1}).read()


def test_large_files_wait_until_they_are_asked_for(tmp_path, monkeypatch):
    """And nobody waits for those that are not asked for any more."""
    monkeypatch.setattr(read_ahead, "LARGE_BYTES", 10)
    read = []
    whole = location.storage.read_whole
    monkeypatch.setattr(location.storage, "read_whole", lambda path, limit: read.append(path) or whole(path, limit))
    items = []
    for name, size in (("0", 5), ("1", 20), ("2", 5), ("3", 20), ("4", 20)):
        (tmp_path / name).write_bytes(bytes(size))
        items.append(Input(name, Location(str(tmp_path / name))))
    reads = read_ahead.read_ahead(items, 3, 5.0)
    assert next(reads)[0].id == "0"
    assert all(not path.endswith(("1", "3", "4")) for path in read)
    assert [(item.id, len(data)) for item, data in (next(reads), next(reads))] == [("1", 20), ("2", 5)]
    before = len(read)
    reads.close()
    for thread in threading.enumerate():
        if thread.name == "maskmill-read":
            thread.join(5)
            assert not thread.is_alive()
    assert len(read) == before
    assert isinstance(read_ahead.read_one(Input("x", Location(str(tmp_path / "none"))), 5.0), Refusal)


def test_large_files_on_gs_are_asked_for_their_size_before_they_are_read(gcs, monkeypatch):
    """And ordinary ones are not: a request for each picture would be paid for."""
    monkeypatch.setattr(location, "LARGE_BYTES", 100)
    monkeypatch.setattr(location, "MAX_FILE_BYTES", 1000)
    asked, fetched, admitted = [], [], []
    size, whole = location.storage.size, location.storage.read_whole
    monkeypatch.setattr(location.storage, "size", lambda path: asked.append(path) or size(path))

    def read_whole(path, limit):
        fetched.append(len(data := whole(path, limit)))
        return data

    monkeypatch.setattr(location.storage, "read_whole", read_whole)
    for name, count in (("small", 100), ("large", 1000), ("huge", 1001)):
        location.storage.write_bytes(f"gs://mill/{name}", bytes(count))
    assert len(Location("gs://mill/small").read(admitted.append)) == 100
    assert (asked, admitted, fetched) == ([], [], [100])
    assert len(Location("gs://mill/large").read(admitted.append)) == 1000
    assert (asked, admitted, fetched) == (["gs://mill/large"], [1000], [100, 101, 1000])
    with pytest.raises(ImageError, match="the file has 1001 bytes, the limit is 1000") as caught:
        Location("gs://mill/huge").read(admitted.append)
    assert caught.value.reason == "too_large"
    assert (admitted, fetched) == ([1000], [100, 101, 1000, 101])


def test_what_listing_knows_to_be_too_large_is_in_the_ledger_before_anything_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("maskmill.pipelines.reading.inputs.MAX_FILE_BYTES", 2000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.png", picture())
        file.writestr("huge.png", bytes(2001))
    words = [
        "--dataset",
        "folder",
        "--images",
        str(tmp_path / "a.zip"),
        "--masks",
        "grid(n=2)",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["plan", *words]) == 0
    said = capsys.readouterr().out
    assert "1 too_large" in said
    assert "GB more where its file has 256 MB, the most that is read" in said
    assert main(["build", *words, "--workers", "0", "--max-failure-rate", "1"]) == 0
    assert "1 inputs are not read: files of more than 256 MB (too_large in the ledger)" in capsys.readouterr().err
    (line,) = map(json.loads, (tmp_path / "o" / "failures.jsonl").read_text().splitlines())
    assert (line["id"], line["stage"], line["reason"], line["outcome"]) == ("huge.png", "list", "too_large", "failed")


def test_large_files_in_a_bucket_are_refused_as_pictures_and_taken_as_shards(gcs, monkeypatch):
    for module in ("inputs", "tree"):
        monkeypatch.setattr(f"maskmill.pipelines.reading.{module}.MAX_FILE_BYTES", 2000)
    location.storage.write_bytes("gs://mill/in/a.png", picture())
    location.storage.write_bytes("gs://mill/in/huge.png", bytes(2001))
    location.storage.write_bytes("gs://mill/in/x.tar", tar_bytes({"1.png": picture(), "2.png": picture()}))
    listed = {item.id: item for item in within_limits(Folder("gs://mill/in").list_inputs())}
    assert isinstance(listed["a.png"], Input)
    assert (listed["huge.png"].reason, listed["huge.png"].outcome) == ("too_large", "failed")
    assert (listed["x.tar"].reason, listed["x.tar"].outcome) == ("unsupported_format", "skipped")
    taken = [item.id for item in within_limits(WebDataset("gs://mill/in").list_inputs()) if isinstance(item, Input)]
    assert taken == ["x.tar/1.png", "x.tar/2.png"]


def test_a_record_of_strangers_costs_twice_its_bytes(tmp_path):
    """The record, and its picture; it was five times."""
    message = example_pb2.Example()
    message.features.feature["image/encoded"].bytes_list.value.append(bytes(8 << 20))
    payload = message.SerializeToString()
    (tmp_path / "x").write_bytes(frame(payload))
    place, asked = ExampleRecord(str(tmp_path / "x"), 0, len(payload), "image/encoded"), []
    tracemalloc.start()  # of Python's own memory: protobuf's is not counted
    assert len(place.read(asked.append)) == 8 << 20
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * (8 << 20), peak
    assert asked == [len(payload)]


def test_large_files_of_small_pictures_are_built_one_at_a_time():
    """A file's copies are counted as the pixels that cost as much."""
    generators = parse_specs(["grid(n=2)"])
    assert memory.pixels_of_file(generators, 80) == 10
    child = isolation.ChildProcess(Settings(("grid(n=2)",), 10**9, False, False), 60.0)
    child._large = memory.pixels_of_file(generators, 1000) + 64
    assert not child._is_large(picture() + bytes(900 - len(picture())))
    assert child._is_large(picture() + bytes(1000 - len(picture())))
