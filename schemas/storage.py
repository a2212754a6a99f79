"""Files on local disk or under gs://, through one small set of functions.

Everything else in the project names paths as strings and comes here to reach them. What a disk does is in
`local_files.py`, what a bucket does in `gcs_files.py`, and what both must do in `files.py`.
"""

import collections
import concurrent.futures
import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from maskmill.schemas import gcs_files, local_files
from maskmill.schemas.files import INCOMPLETE, Files, Stamp
from maskmill.schemas.gcs_files import LOGIN
from maskmill.schemas.local_files import NotAFile, open_regular

__all__ = ["INCOMPLETE", "LOGIN", "NotAFile", "Stamp", "open_regular"]  # and all that stands below

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_PARALLEL = 16  # calls to gs:// at once by `in_parallel`


def is_remote(path: str) -> bool:
    """Whether a path is on gs://."""
    return path.startswith("gs://")


def _of(path: str) -> Files:
    return gcs_files if is_remote(path) else local_files


def join(folder: str, *parts: str) -> str:
    """A path below a folder."""
    return _of(folder).join(folder, *parts)


def check_relative(name: str) -> str:
    """A path from an annotation file or an archive, refused where it could leave its folder.

    Raises:
        ValueError: absolute, climbing (`..`), with a NUL, a backslash or a drive letter, or empty.
    """
    parts = name.split("/")
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or name[1:2] == ":":
        raise ValueError(f"unsafe path {name[:200]!r}: it must be relative and stay inside its folder")
    return name


def in_parallel(function: Callable[[_Item], _Result], items: Iterable[_Item], folder: str) -> Iterator[_Result]:
    """`map(function, items)`, in order: some calls ahead on threads where `folder` is remote, else one by one.

    A call to gs:// waits for tens of milliseconds; thousands of them must not wait for one another.
    """
    if not is_remote(folder):
        yield from map(function, items)
        return
    waiting = iter(items)
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        pending = collections.deque(pool.submit(function, item) for item in itertools.islice(waiting, 2 * _PARALLEL))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in itertools.islice(waiting, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def is_same(path: str, other: str) -> bool:
    """Whether two names are of one file or folder."""
    return is_remote(path) == is_remote(other) and _of(path).identity(path) == _of(other).identity(other)


def exists(path: str) -> bool:
    """Whether there is a file (or, locally, a folder) at `path`."""
    return _of(path).exists(path)


def stamp(path: str) -> Stamp:
    """What is known of a file without reading it. Raises FileNotFoundError."""
    return _of(path).stamp(path)


def size(path: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    return stamp(path).bytes


def read_bytes(path: str, offset: int = 0, length: int | None = None) -> bytes:
    """A file's bytes, or `length` of them from `offset` on (fewer at the end of the file).

    Raises:
        FileNotFoundError, PermissionError, OSError: as the standard library, for gs:// as well.
    """
    return _of(path).read_bytes(path, offset, length)


def read_whole(path: str, limit: int) -> bytes:
    """A file's bytes, or its first `limit` + 1 where it is longer, so that an absurd file fills no memory."""
    return _of(path).read_whole(path, limit)


def read_range(path: str, offset: int, length: int) -> bytes:
    """Part of a large file that many ranges are read from (an archive).

    Raises:
        EOFError: the file ends before `offset + length`.
    """
    data = _of(path).read_range(path, offset, length)
    if len(data) < length:
        raise EOFError(f"{path} ends at {len(data)} of {length} bytes from offset {offset}")
    return data


@contextlib.contextmanager
def open_read(path: str) -> Iterator[BinaryIO]:
    """A seekable binary stream; gs:// objects are read in chunks, never whole."""
    with _of(path).open_read(path) as stream:
        yield stream


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """A new file that appears at `path` whole or not at all, replacing what was there.

    When the block raises, nothing appears and nothing is left.
    """
    with _of(path).create(path) as file:
        yield file


def write_bytes(path: str, data: bytes) -> None:
    """A whole file at once; see `create`."""
    with create(path) as file:
        file.write(data)


def remove(path: str) -> None:
    """Removes a file; a file that is not there is no error."""
    _of(path).remove(path)


def remove_all(paths: Iterable[str]) -> None:
    """Removes many files, those on gs:// at the same time."""
    paths = list(paths)
    for _ in in_parallel(remove, paths, paths[0] if paths else ""):
        pass


def walk(folder: str) -> Iterator[tuple[str, int]]:
    """Every file below a folder as (path relative to it with forward slashes, bytes), in no fixed order.

    Raises:
        FileNotFoundError: there is no such folder (gs://: no object below it).
        NotADirectoryError: it is a file.
    """
    return _of(folder).walk(folder)


def walk_between(folder: str, first: str, end: str) -> Iterator[tuple[str, int]]:
    """What `walk` gives of a gs:// folder, from the name `first` on and before `end` ("": without that bound)."""
    return gcs_files.walk(folder, first, end)


def next_name(folder: str, beginning: str, first: str) -> str | None:
    """The first name below a gs:// folder that has this beginning and does not come before `first`; one request."""
    return gcs_files.next_name(folder, beginning, first)


def stamps(folder: str) -> dict[str, Stamp]:
    """Name -> what is known of each file directly in a folder; empty where there is no such folder.

    One listing, not one call a file.

    Raises:
        FileNotFoundError: the bucket of a gs:// folder does not exist.
    """
    return _of(folder).stamps(folder)


def sizes(folder: str) -> dict[str, int]:
    """Name -> bytes of the files directly in a folder; see `stamps`."""
    return {name: stamp.bytes for name, stamp in stamps(folder).items()}


def names(folder: str) -> set[str]:
    """Names of the files directly in a folder; see `sizes`."""
    return set(sizes(folder))


def as_file(data: bytes) -> BinaryIO:
    """Bytes as a seekable stream."""
    return io.BytesIO(data)
