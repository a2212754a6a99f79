"""gs:// paths against an emulator that fails on request: the same functions, the same exceptions as for local files."""

import errno
import time

import pytest

from maskmill.schemas import gcs_files, storage
from maskmill.schemas.errors import InputError

BUCKET = "gs://mill"


def once(fault, method="GET"):
    """A fault that strikes the first matching request and no other."""
    left = [fault]
    return lambda how, path: left.pop() if how == method and left else None


def test_files_come_and_go(gcs):
    storage.write_bytes(f"{BUCKET}/a/one", b"1")
    storage.write_bytes(f"{BUCKET}/a/b/two", b"22")
    storage.write_bytes(f"{BUCKET}/a/.hidden", b"333")
    assert storage.read_bytes(f"{BUCKET}/a/b/two") == b"22"
    assert storage.exists(f"{BUCKET}/a/one")
    assert not storage.exists(f"{BUCKET}/a")
    assert storage.size(f"{BUCKET}/a/b/two") == 2
    assert sorted(storage.walk(f"{BUCKET}/a")) == [(".hidden", 3), ("b/two", 2), ("one", 1)]
    assert storage.sizes(f"{BUCKET}/a") == {"one": 1, ".hidden": 3}
    assert storage.names(f"{BUCKET}/a/b") == {"two"}
    assert storage.names(f"{BUCKET}/nothing") == set()
    storage.remove(f"{BUCKET}/a/one")
    storage.remove(f"{BUCKET}/a/one")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{BUCKET}/a/one")
    storage.remove_all(f"{BUCKET}/a/{name}" for name in ("b/two", ".hidden"))
    with pytest.raises(FileNotFoundError):
        list(storage.walk(f"{BUCKET}/a"))


def test_ranges_and_streams(gcs):
    data = bytes(range(256)) * 100_000  # three chunks of a stream
    storage.write_bytes(f"{BUCKET}/big", data)
    assert storage.read_bytes(f"{BUCKET}/big", 300, 5) == data[300:305]
    assert storage.read_range(f"{BUCKET}/big", 1000, 10) == data[1000:1010]
    assert storage.read_whole(f"{BUCKET}/big", len(data)) == data
    assert len(storage.read_whole(f"{BUCKET}/big", 1000)) == 1001
    with storage.open_read(f"{BUCKET}/big") as stream:
        stream.seek(20_000_000)
        assert stream.read(4) == data[20_000_000:20_000_004]
        stream.seek(0)
        assert stream.read() == data
    with pytest.raises(EOFError, match="of 10 bytes from offset"):
        storage.read_range(f"{BUCKET}/big", len(data) - 5, 10)


def test_a_range_behind_the_end_is_empty(gcs):
    storage.write_bytes(f"{BUCKET}/empty", b"")
    assert storage.read_whole(f"{BUCKET}/empty", 100) == b""
    gcs.fault = lambda method, path: 416  # what the service says, and the emulator does not
    assert storage.read_bytes(f"{BUCKET}/empty", 5, 10) == b""


@pytest.mark.parametrize("fault", [429, 503, 500, "torn", "flipped"])
def test_a_failed_read_is_made_again(fault, gcs):
    data = b"precious " * 1000
    storage.write_bytes(f"{BUCKET}/file", data)
    gcs.fault = once(fault)
    assert storage.read_whole(f"{BUCKET}/file", 10_000) == data
    gcs.fault = once(fault)
    assert storage.read_bytes(f"{BUCKET}/file") == data


@pytest.mark.parametrize("fault", [429, 503, "torn"])
def test_a_failed_range_is_read_again(fault, gcs):
    data = bytes(range(256)) * 100
    storage.write_bytes(f"{BUCKET}/file", data)
    gcs.fault = once(fault)
    assert storage.read_range(f"{BUCKET}/file", 100, 5000) == data[100:5100]
    gcs.fault = once(fault)
    with storage.open_read(f"{BUCKET}/file") as stream:
        assert stream.read() == data


@pytest.mark.parametrize("fault", [429, 503])
@pytest.mark.parametrize("size", [10, 9 << 20])  # in one request; as a resumable upload
def test_a_failed_write_is_made_again(fault, size, gcs):
    gcs.fault = once(fault, "POST")
    storage.write_bytes(f"{BUCKET}/file", b"x" * size)
    gcs.fault = once(fault, "PUT")
    storage.write_bytes(f"{BUCKET}/file", b"y" * size)
    assert storage.read_bytes(f"{BUCKET}/file") == b"y" * size


def test_a_write_that_fails_leaves_nothing(gcs):
    def write_and_fail():
        with storage.create(f"{BUCKET}/file") as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_and_fail()
    assert not storage.exists(f"{BUCKET}/file")


def test_denied(gcs):
    gcs.fault = lambda method, path: 403
    with pytest.raises(PermissionError, match=r"access denied .*a planned 403"):
        storage.read_bytes(f"{BUCKET}/file")
    with pytest.raises(PermissionError, match=r"access denied .*a planned 403"):
        storage.write_bytes(f"{BUCKET}/file", b"")


def test_nobody_there_is_known_within_seconds(gcs, monkeypatch):
    storage.write_bytes(f"{BUCKET}/file", b"")
    gcs.close()
    monkeypatch.setattr(gcs_files, "FIRST_CONTACT_S", 1.0)
    gcs_files._REACHED.clear()
    start = time.monotonic()
    with pytest.raises(OSError, match="no answer from storage"):
        storage.read_bytes(f"{BUCKET}/file")
    assert time.monotonic() - start < 30


def test_no_credentials_is_one_sentence(monkeypatch, tmp_path):
    gcs_files._client_of.cache_clear()
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
    with pytest.raises(InputError, match=r"no usable Google Cloud credentials .*gcloud auth application-default login"):
        storage.read_bytes("gs://bucket/file")


def test_a_bucket_must_be_named():
    with pytest.raises(InputError, match="names no bucket; write gs://BUCKET/PREFIX"):
        storage.read_bytes("gs:///file")


def test_order_is_kept_in_parallel_and_errors_pass(gcs):
    assert list(storage.in_parallel(str, range(100), BUCKET)) == [str(i) for i in range(100)]
    with pytest.raises(ZeroDivisionError):
        list(storage.in_parallel(lambda i: 1 // (50 - i), range(100), BUCKET))
