"""A stream that jumps: the same bytes as a file, and few of them fetched."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskmill.schemas.sparse import SparseStream, open_sparse

DATA = bytes(range(256)) * 4096  # 1 MiB


def sparse(data: bytes, asked: list[tuple[int, int]]) -> SparseStream:
    def fetch(start: int, end: int) -> bytes:
        asked.append((start, end))
        return data[start:end]

    return SparseStream(fetch, len(data))


@given(
    st.lists(
        st.tuples(st.sampled_from(["seek", "skip", "end"]), st.integers(-300_000, 1_100_000), st.integers(-1, 9000)),
        max_size=20,
    )
)
def test_it_reads_what_a_file_reads(steps):
    asked: list[tuple[int, int]] = []
    ours, file = sparse(DATA, asked), io.BytesIO(DATA)
    for how, offset, count in steps:
        whence = {"seek": 0, "skip": 1, "end": 2}[how]
        if (0, file.tell(), len(DATA))[whence] + offset < 0:
            continue
        assert ours.seek(offset, whence) == file.seek(offset, whence)
        assert ours.read(count) == file.read(count)
        assert ours.tell() == file.tell()
    assert all(0 <= start < end <= len(DATA) for start, end in asked)


def test_who_jumps_fetches_little_and_who_reads_on_fetches_ahead():
    asked: list[tuple[int, int]] = []
    stream = sparse(DATA, asked)
    for at in range(0, 1_000_000, 100_000):
        stream.seek(at)
        assert stream.read(512) == DATA[at : at + 512]
        assert stream.read(512) == DATA[at + 512 : at + 1024]
    assert len(asked) == 10
    assert sum(end - start for start, end in asked) == 10 * 2048
    asked.clear()
    stream = sparse(DATA, asked)
    assert b"".join(iter(lambda: stream.read(1000), b"")) == DATA
    assert len(asked) <= 9
    assert sum(end - start for start, end in asked) == len(DATA)  # nothing twice


def test_a_file_that_ends_early_is_said():
    with pytest.raises(EOFError, match=r"^the file ends at byte 100 of 1000$"):
        SparseStream(lambda start, end: b"x" * (100 - start), 1000).read(200)


def test_local_files_and_absent_ones(tmp_path, gcs):
    (tmp_path / "a").write_bytes(b"hello")
    with open_sparse(str(tmp_path / "a")) as stream:
        assert stream.read() == b"hello"
    for path in (str(tmp_path / "b"), "gs://mill/b"):
        with pytest.raises(FileNotFoundError), open_sparse(path):
            pass
