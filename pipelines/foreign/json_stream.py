"""JSON files too long to be held, from anyone: parsed as a stream by ijson, behind a guard.

ijson keeps the path to where it is and whole texts, numbers and items: nesting of 100,000 brackets, a hundred kilobytes of
file, takes it tens of gigabytes. The guard reads along and ends such a file before the parser sees it.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

import ijson
import numpy as np

from maskmill.schemas import storage
from maskmill.schemas.errors import InputError

MAX_DEPTH = 32
MAX_TEXT_BYTES = 64 << 20
MAX_ITEM_BYTES = 256 << 20
_CHUNK = 1 << 20
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.S)
_NUMERAL = re.compile(rb"[-+.0-9eE]{400}")
_ITEM_DEPTH = 3  # an item of a list in an object; deeper is inside an item
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")] = 1
_STEP[list(b"]}")] = -1


class _Guard:
    """A stream for ijson: refuses what would fill the memory, and knows the digest of what was read."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._identity = stream, hashlib.sha256()
        self._depth = 0
        self._inside = 0  # bytes since the parser was last between items
        self._begun = b""  # a text that has not ended yet

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        self._identity.update(data)
        if data:
            self._look(data)
        return data

    def _look(self, data: bytes) -> None:
        bare = _TEXT.sub(b"", self._begun + data)
        bare, quote, rest = bare.partition(b'"')
        self._begun = quote + rest
        if len(self._begun) > MAX_TEXT_BYTES:
            raise ValueError(f"a text in it has more than {MAX_TEXT_BYTES} bytes")
        if _NUMERAL.search(bare):
            raise ValueError("a number in it has more than 400 digits")
        depth = self._depth + np.cumsum(_STEP[np.frombuffer(bare, np.uint8)], dtype=np.int64)
        if len(depth):
            self._depth = int(depth[-1])
            if depth.max() > MAX_DEPTH:
                raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        between = len(depth) > 0 and depth.min() < _ITEM_DEPTH
        self._inside = 0 if between else self._inside + len(data)
        if self._inside > MAX_ITEM_BYTES:
            raise ValueError(f"an item of it has more than {MAX_ITEM_BYTES} bytes")

    def finish(self) -> str:
        """Reads what the parser left, and says the digest of the whole."""
        while self.read(_CHUNK):
            pass
        return self._identity.hexdigest()


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """InputError for everything that a file can have wrong before or while it is parsed."""
    try:
        with storage.open_read(path) as stream:
            yield stream
    except FileNotFoundError:
        raise InputError(f"{path} not found; import takes a .json of COCO results or instances there") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ijson.JSONError, ValueError, RecursionError, OverflowError) as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} is not valid JSON: {text}") from error


def first_character(path: str) -> bytes:
    """`{`, `[` or whatever the file begins with, blanks and byte order mark aside."""
    with _opened(path) as stream:
        return stream.read(_CHUNK).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]


def digest(path: str) -> str:
    """sha256 of a file, unparsed."""
    with _opened(path) as stream:
        identity = hashlib.sha256()
        while data := stream.read(_CHUNK):
            identity.update(data)
        return identity.hexdigest()


class Items:
    """The items below a prefix (ijson's: `item`, `annotations.item`), one by one; and then the file's digest.

    Attributes:
        sha256: of the whole file; "" until every item was taken.
    """

    def __init__(self, path: str, prefix: str):
        self._path, self._prefix = path, prefix
        self.sha256 = ""

    def __iter__(self) -> Iterator[Any]:
        """Raises InputError where the file is not JSON, or JSON of a kind that nobody writes for masks."""
        with _opened(self._path) as stream:
            guard = _Guard(stream)
            yield from ijson.items(guard, self._prefix, use_float=True, buf_size=_CHUNK)
            self.sha256 = guard.finish()
