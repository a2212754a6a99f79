"""A large file costs as much memory as it has bytes, once, however it is packed and however many there are."""

import os
import subprocess
import sys
import threading
import zipfile

import pytest

from maskmill.pipelines.reading import location, read_ahead
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.tree import list_tree
from maskmill.schemas.errors import ImageError

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
