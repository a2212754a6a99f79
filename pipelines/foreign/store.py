"""What was joined, on disk, grouped by picture: a worker finds its picture's entries with two short reads.

`NAME.data` holds one compressed block per picture. `NAME.index` holds, after a head, one row of 28 bytes per picture
(16 bytes of the key's sha256, offset, size), sorted, and in front of them a fence: the first key of every 512 rows. A
worker keeps the fence (32 kB for a million pictures), reads 14 kB of rows and then the block, from disk or from gs://.

Grouping happens in a `Spool`, a temporary SQLite file, whose sort is bounded in memory whatever it is given.
"""

import contextlib
import hashlib
import itertools
import os
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator

import numpy as np

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError

_MAGIC = b"MMSTORE1"
_ROW = np.dtype([("key", "S16"), ("offset", "<u8"), ("size", "<u4")])  # S16 sorts as bytes do
_PACKED_ROW = struct.Struct("<16sQI")
_FENCE_ROWS = 512
_MAX_FENCES = 1 << 24  # eight billion pictures; more is damage
_CACHE_KB = 32 << 10
MAX_PICTURE_BYTES = 256 << 20  # of one picture's entries; a worker holds them at once


class Spool:
    """Entries in the order of arrival; read back grouped by source, each group in that order. Removed when closed."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="maskmill-import-")
        self._db = sqlite3.connect(os.path.join(self._folder.name, "spool"), isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "temp_store=FILE", f"cache_size=-{_CACHE_KB}"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY, source TEXT, entry BLOB)")

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()
        self._folder.cleanup()

    def add(self, entries: Iterable[tuple[str, bytes]]) -> None:
        """Takes (source, entry) pairs."""
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO entries (source, entry) VALUES (?, ?)", entries)
        self._db.execute("COMMIT")

    def groups(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """(source, its entries); a group must be used up before the next is asked for."""
        rows = self._db.execute("SELECT source, entry FROM entries ORDER BY source, number")
        for source, group in itertools.groupby(rows, key=lambda row: row[0]):
            yield source, (entry for _, entry in group)


def _key_bytes(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:16]


def write_store(path: str, blocks: Iterable[tuple[str, Iterable[bytes]]], what: str) -> None:
    """Writes `path`.data and then `path`.index.

    Args:
        path: without ending, local or gs://.
        blocks: (key of a picture, pieces of its block), in any order; the bytes written follow that order.
        what: whose entries these are, for messages.

    Raises:
        InputError: a picture's entries are longer than `MAX_PICTURE_BYTES`.
    """
    rows = bytearray()
    offset = 0
    with storage.create(f"{path}.data") as file:
        for key, pieces in blocks:
            packer = zlib.compressobj(6)
            plain = packed = 0
            for piece in pieces:
                plain += len(piece)
                if plain > MAX_PICTURE_BYTES:
                    raise InputError(f"{what}: the masks of {key} are longer than {MAX_PICTURE_BYTES} bytes")
                packed += file.write(packer.compress(piece))
            packed += file.write(packer.flush())
            rows += _PACKED_ROW.pack(_key_bytes(key), offset, packed)
            offset += packed
    table = np.frombuffer(bytes(rows), _ROW)
    table = table[np.argsort(table["key"], kind="stable")]
    with storage.create(f"{path}.index") as file:
        file.write(_MAGIC + len(table).to_bytes(8, "little"))
        file.write(np.ascontiguousarray(table["key"][::_FENCE_ROWS]).tobytes())
        file.write(table.tobytes())


def has_store(path: str) -> bool:
    """Whether a store was written there."""
    return storage.exists(f"{path}.index")


class Store:
    """A store opened for reading."""

    def __init__(self, path: str):
        """Raises DamageError where there is none."""
        self.path = path
        try:
            head = storage.read_bytes(f"{path}.index", 0, 16)
            self._count = int.from_bytes(head[8:], "little")
            fences = -(-self._count // _FENCE_ROWS)
            known = head[:8] == _MAGIC and fences < _MAX_FENCES
            fence = storage.read_bytes(f"{path}.index", 16, 16 * fences) if known and fences else b""
        except FileNotFoundError:
            raise DamageError(f"{path}.index is gone; build with --overwrite, which joins the masks anew") from None
        if not known or len(fence) != 16 * fences:
            raise DamageError(f"{path}.index is damaged; build with --overwrite, which joins the masks anew")
        self._fence = np.frombuffer(fence, "S16")
        self._rows_at = 16 + 16 * fences

    def get(self, key: str) -> bytes | None:
        """A picture's block, or None where it has none.

        Raises:
            DamageError: what the index promises is not there.
        """
        wanted = np.array(_key_bytes(key), "S16")
        place = int(np.searchsorted(self._fence, wanted, side="right")) - 1
        if place < 0:
            return None
        first = place * _FENCE_ROWS
        count = min(_FENCE_ROWS, self._count - first)
        with contextlib.suppress(EOFError, zlib.error):
            raw = storage.read_range(f"{self.path}.index", self._rows_at + first * _ROW.itemsize, count * _ROW.itemsize)
            rows = np.frombuffer(raw, _ROW)
            at = int(np.searchsorted(rows["key"], wanted))
            if at == count or rows["key"][at] != wanted:
                return None
            packed = storage.read_range(f"{self.path}.data", int(rows["offset"][at]), int(rows["size"][at]))
            return zlib.decompress(packed)
        raise DamageError(f"{self.path}.data is damaged; build with --overwrite, which joins the masks anew")
