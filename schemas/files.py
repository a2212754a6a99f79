"""What a place that holds files can do: local disks (`local_files.py`) and buckets (`gcs_files.py`) alike.

Both modules are a `Files`, function by function; `storage.py` chooses between them by the path. Who wants a third kind of
place writes a third module, and the type checker says what it still lacks.
"""

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

INCOMPLETE = ".incomplete"  # suffix of files that are still being written


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What is known of a file without reading it.

    Attributes:
        bytes: its size.
        crc32c: of its bytes, in hex, where the place keeps it (gs://); else "".
        changed_ns: when it was last changed, on the clock of its file system; 0 on gs://.
    """

    bytes: int
    crc32c: str = ""
    changed_ns: int = 0


class Files(Protocol):
    """Failures are the standard library's: FileNotFoundError, PermissionError, other OSErrors."""

    def join(self, folder: str, *parts: str) -> str:
        """A path below a folder."""

    def identity(self, path: str) -> str:
        """One spelling for all names of a file or folder."""

    def exists(self, path: str) -> bool:
        """Whether there is a file (or, on a disk, a folder)."""

    def stamp(self, path: str) -> Stamp:
        """What is known of a file."""

    def read_bytes(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """A file's bytes, or `length` of them from `offset` on (fewer at the end of the file)."""

    def read_whole(self, path: str, limit: int) -> bytes:
        """A file's bytes, or its first `limit` + 1 where it is longer."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Part of a large file that many ranges are read from; fewer bytes where it ends before."""

    def open_read(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A seekable stream."""

    def create(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A new file that appears whole or not at all."""

    def remove(self, path: str) -> None:
        """Removes a file, if it is there."""

    def walk(self, folder: str) -> Iterator[tuple[str, int]]:
        """Every file below a folder: its relative path and bytes."""

    def stamps(self, folder: str) -> dict[str, Stamp]:
        """Name -> what is known of each file directly in a folder."""
