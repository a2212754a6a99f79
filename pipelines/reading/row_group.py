"""One picture in a parquet file: which row of which row group, and reading it.

A row group is read whole, there is no way to a single value of it, so it is kept while the pictures of a part that lie in it
are asked for. The plan keeps those together (`Input.together`). Threads that read ahead for one part share a row group, and
it goes when none of them is at it any longer: a part holds one, at a border of row groups two.
"""

import contextlib
import dataclasses
import io
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from maskmill.pipelines.reading.location import MAX_FILE_BYTES, too_large
from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError, one_line

MAX_ROW_GROUP_BYTES = 512 << 20  # of its column of pictures, unpacked; libraries of the field write 100 MB at most


@dataclasses.dataclass(frozen=True, slots=True)  # there can be millions
class Cell:
    """Where the bytes of one picture are, in a parquet file.

    Attributes:
        path: of the file, local or gs://.
        row_group: its number.
        row: within the row group.
        column: `image` where that holds the bytes, `image.bytes` where it is a struct.
    """

    path: str
    row_group: int
    row: int
    column: str

    @property
    def stated(self) -> int:
        """Not known; row groups are bounded when they are listed."""
        return 0

    def read(self, admit: Callable[[int], None] = lambda size: None) -> bytes:
        """The picture's file. `admit` is asked when its row group is there, and before it is taken out of it.

        Raises:
            ImageError: not_found, unreadable, empty_file or too_large, stage "read".
        """
        where = f"row {self.row} of row group {self.row_group} of {self.path}"
        try:
            value = _load(self.path, self.row_group, self.column)[self.row]
            for name in self.column.split(".")[1:]:
                value = value[name] if value.is_valid else value
            size = len(value.as_buffer()) if value.is_valid else 0
            if size > MAX_FILE_BYTES:
                raise too_large("read", size)
            admit(size)
            data = value.as_py()
        except FileNotFoundError as error:
            raise ImageError("not_found", "read", f"no file at {self.path}") from error
        except (OSError, ValueError, IndexError, KeyError, NotImplementedError) as error:  # the rest are pyarrow's
            reason = one_line(getattr(error, "strerror", None) or error)
            raise ImageError("unreadable", "read", f"{where} cannot be read: {reason}") from error
        if data is None:
            text = f"{where} holds no bytes; of a picture that is a file of its own, or nowhere"
            raise ImageError("not_found", "read", text)
        return data


class _Ranges(io.RawIOBase):
    """An object on gs:// as a stream that fetches what is asked for and nothing around it; pyarrow asks for whole columns."""

    def __init__(self, path: str):
        self.path, self.at, self.size = path, 0, storage.size(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def read(self, count: int | None = -1) -> bytes:
        rest = max(0, self.size - self.at)
        data = storage.read_bytes(self.path, self.at, rest if count is None or count < 0 else min(count, rest))
        self.at += len(data)
        return data


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`; it reads the file's footer and then what it is asked for.

    Raises:
        FileNotFoundError, OSError: there is none. pyarrow.ArrowInvalid (a ValueError): it is no parquet file.
    """
    import pyarrow.parquet as pq

    stream: Any = _Ranges(path) if storage.is_remote(path) else storage.open_regular(path)
    with stream:
        yield pq.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True)


def read_column(path: str, row_group: int, column: str) -> Any:
    """One column of one row group, as a `pyarrow.ChunkedArray`."""
    with open_parquet(path) as file:
        return file.read_row_group(row_group, columns=[column], use_threads=False).column(column.split(".")[0])


class _Block:
    """A column of a row group, or the place where the thread that came first will put it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: Any = None


_Key = tuple[str, int, str]
_BLOCKS: "weakref.WeakValueDictionary[_Key, _Block]" = weakref.WeakValueDictionary()
_BLOCKS_LOCK = threading.Lock()
_LAST = threading.local()  # what keeps a block: the thread that read from it last


def _load(*key: Any) -> Any:
    with _BLOCKS_LOCK:
        block = _BLOCKS.get(key)
        if block is None:
            block = _BLOCKS[key] = _Block()
    with block.lock:
        if block.values is None:
            _LAST.block = None  # before the next one comes, not after
            block.values = read_column(*key)
    _LAST.block = block
    return block.values
