"""A large file on gs:// read here and there: what is jumped over is not fetched.

Archives without a table of contents are listed by their headers, half a kilobyte before every hundred of picture. A stream
that fetches megabytes at a time (`storage.open_read`) would bring all of the archive for them.
"""

import contextlib
import errno
import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

from maskmill.schemas import gcs_files, storage

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_JUMP = 64 << 10  # bytes; what is nearer than that is read through, which is cheaper than another request
_FEW = 2 << 10  # fetched after a jump: a header, a small member and the next header
_MANY, _MOST = 16 << 10, 8 << 20  # fetched by who reads on: twice as much each time


class SparseStream(io.RawIOBase):
    """A seekable stream over ranges.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size: int):
        """`fetch(start, end)` gives the bytes from `start` up to `end`."""
        self.size = size
        self._fetch = fetch
        self._at = 0
        self._start, self._data = 0, b""  # what was fetched last, and from where
        self._next = _MANY

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def read(self, count: int = -1) -> bytes:
        """Exactly `count` bytes, fewer only at the file's end."""
        left = max(0, self.size - self._at)
        count = left if count < 0 else min(count, left)
        if not count:
            return b""
        if not self._start <= self._at <= self._at + count <= self._start + len(self._data):
            self._fill(count)
        begin = self._at - self._start
        self._at += count
        return self._data[begin : begin + count]

    def readinto(self, buffer: "ReadableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _fill(self, count: int) -> None:
        end = self._start + len(self._data)
        reads_on = bool(self._data) and self._start <= self._at < end + _JUMP
        window = self._next if reads_on else _FEW
        self._next = min(2 * self._next, _MOST) if reads_on else _MANY
        kept = self._data[self._at - self._start :] if self._start <= self._at < end else b""
        begin = self._at + len(kept)
        fetched = self._fetch(begin, min(self.size, begin + max(window, count - len(kept))))
        self._start, self._data = self._at, kept + fetched
        if len(self._data) < count:
            raise EOFError(f"the file ends at byte {begin + len(fetched)} of {self.size}")


@contextlib.contextmanager
def open_sparse(path: str) -> Iterator[BinaryIO]:
    """A seekable binary stream for who jumps; locally an ordinary file.

    Raises:
        FileNotFoundError, PermissionError, OSError: as `storage.open_read`.
    """
    if not storage.is_remote(path):
        with storage.open_read(path) as stream:
            yield stream
        return
    bucket, name = gcs_files.bucket_and_name(path)
    with gcs_files.remote_errors(path):
        found = bucket.get_blob(name, **gcs_files.patience(bucket))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "not found", path)
        # Of that generation: an object replaced meanwhile is not read half old and half new.
        blob = bucket.blob(name, generation=found.generation)

        def fetch(start: int, end: int) -> bytes:
            return (
                blob.download_as_bytes(start=start, end=end - 1, **gcs_files.patience(bucket)) if end > start else b""
            )

        yield cast(BinaryIO, SparseStream(fetch, int(found.size or 0)))
