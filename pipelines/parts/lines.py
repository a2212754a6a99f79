"""The lines of a plan while it is made: sorted, without duplicates, and on disk where they are too many for memory.

Up to `HELD_BYTES` (about two million pictures without annotations) they are a list. Beyond, they go to files by the first
byte of their key, which is a hash, so that the files are of one size; each is sorted by itself, and their order is that of
all. Memory is then a few hundred megabytes and time per line the same, however many there are.
"""

import bisect
import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

from maskmill.pipelines.reading.inputs import Refusal

HELD_BYTES = 512 << 20
KEY_BYTES, ID_BYTES = 16, 8
BUCKETS = 256
_OBJECT_BYTES = 64  # of a bytes object beside its content, and of its place in a list
_HEX = 2 * (KEY_BYTES + ID_BYTES)  # length of both as text, with which an entry begins that lies in a file


def order_key(seed: int, identity: str, together: str = "") -> bytes:
    """Where an input comes in the order of records: 16 bytes, uniform and independent of all other inputs.

    Inputs that are read `together` (see `Input`) share the first half: their group is shuffled, and they within it.
    """
    key = hashlib.sha256(f"{seed}\0{identity}".encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]
    return order_key(seed, together)[: KEY_BYTES // 2] + key[: KEY_BYTES // 2] if together else key


def id_key(seed: int, identity: str) -> int:
    """What an id is counted by: 64 bits, those with which the order key of an input begins that is read by itself."""
    return int.from_bytes(order_key(seed, identity)[:ID_BYTES], "big")


def keys(seed: int, identity: str, together: str) -> tuple[bytes, bytes]:
    """`order_key`, and `id_key` as bytes."""
    key = order_key(seed, identity, together)
    return key, key[KEY_BYTES // 2 :] if together else key[:ID_BYTES]


def duplicate(line: bytes) -> Refusal:
    """What becomes of the second line with an id."""
    return Refusal(json.loads(line)["id"], "list", "duplicate_id", "another input has the same id")


class Lines:
    """Lines of a plan. First they are added, in any order; after `settle` they are read, any number of times.

    Args:
        scratch: folder for the files, if any are needed; the system's for temporary files where None.
    """

    def __init__(self, scratch: str | None = None):
        self._scratch = scratch
        self._folder: tempfile.TemporaryDirectory | None = None
        self._held: list[bytes] = []  # key, id's hash and line in one object: there can be millions
        self._held_bytes = 0
        self._counts: list[int] = []  # of lines to be read from each file
        self._length = 0

    def add(self, key: bytes, id_hash: bytes, line: bytes) -> None:
        """Adds a line: its key decides its place, equal keys are duplicates, `id_hash` is what ids are counted by."""
        self._held.append(key + id_hash + line)
        self._held_bytes += KEY_BYTES + ID_BYTES + len(line) + _OBJECT_BYTES
        if self._held_bytes > HELD_BYTES:
            self._spill()

    def _path(self, bucket: int) -> str:
        if self._folder is None:
            if self._scratch is not None:
                os.makedirs(self._scratch, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(".incomplete", "planning-", self._scratch)
        return os.path.join(self._folder.name, f"{bucket:03d}")

    def _spill(self) -> None:
        head = KEY_BYTES + ID_BYTES
        files: dict[int, BinaryIO] = {}
        with contextlib.ExitStack() as stack:
            for entry in self._held:
                bucket = entry[0]
                if bucket not in files:
                    files[bucket] = stack.enter_context(open(self._path(bucket), "ab"))
                files[bucket].write(b"%b%b\n" % (entry[:head].hex().encode(), entry[head:]))
        self._held, self._held_bytes = [], 0

    def buckets(self) -> Iterator[list[bytes]]:
        """Instead of `settle`: all entries by the first byte of their key, those of each byte in order, duplicates included.

        Entries are as in files; see `without_duplicates` and `parse_entry`.
        """
        self._held.sort()
        if self._folder is not None:
            self._spill()
        at = 0
        for bucket in range(BUCKETS):
            if self._folder is not None:
                yield sorted(self._read(bucket))
                continue
            end = bisect.bisect_right(self._held, bucket, at, key=lambda entry: entry[0])
            head = KEY_BYTES + ID_BYTES
            yield [b"%b%b" % (entry[:head].hex().encode(), entry[head:]) for entry in self._held[at:end]]
            at = end

    def settle(self) -> list[bytes]:
        """Brings the lines into order and takes duplicates out: the first by its line is kept, the others are returned."""
        duplicates: list[bytes] = []
        if self._folder is None:
            self._held.sort()
            self._held = _without_duplicates(self._held, KEY_BYTES, KEY_BYTES + ID_BYTES, duplicates)
            self._length = len(self._held)
            return duplicates
        self._spill()
        for bucket in range(BUCKETS):
            entries = sorted(self._read(bucket))
            entries = without_duplicates(entries, duplicates)
            self._write(bucket, entries)
            self._counts.append(len(entries))
        self._length = sum(self._counts)
        return duplicates

    def _read(self, bucket: int) -> list[bytes]:
        try:
            with open(self._path(bucket), "rb") as file:
                return file.read().split(b"\n")[:-1]
        except FileNotFoundError:  # no key begins with this byte
            return []

    def _write(self, bucket: int, entries: list[bytes]) -> None:
        with open(self._path(bucket), "wb") as file:
            file.writelines(entry + b"\n" for entry in entries)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        """The lines, in order."""
        return (line for _, line in self.with_hashes())

    def with_hashes(self) -> Iterator[tuple[int, bytes]]:
        """The lines, in order, each with its id's hash as a whole number."""
        head = KEY_BYTES + ID_BYTES
        for index in range(len(self._held) if self._folder is None else 0):
            entry = self._held[index]
            yield int.from_bytes(entry[KEY_BYTES:head], "big"), entry[head:]
        for bucket, count in enumerate(self._counts):
            for entry in self._read(bucket)[:count] if count else ():
                yield with_hash(entry)

    def head(self, count: int) -> list[bytes]:
        """The first few lines."""
        return [line for line, _ in zip(self, range(count), strict=False)]

    def cut(self, count: int) -> None:
        """Keeps the first `count` lines."""
        del self._held[count:]
        left = count
        for bucket, own in enumerate(self._counts):
            self._counts[bucket] = min(own, left)
            left -= self._counts[bucket]
        self._length = min(self._length, count)

    def keep(self, wanted: Callable[[bytes], bool]) -> None:
        """Keeps the lines for which `wanted` says so."""
        head = KEY_BYTES + ID_BYTES
        self._held = [entry for entry in self._held if wanted(entry[head:])]
        for bucket, count in enumerate(self._counts):
            entries = [entry for entry in self._read(bucket)[:count] if wanted(entry[_HEX:])]
            self._write(bucket, entries)
            self._counts[bucket] = len(entries)
        self._length = len(self._held) + sum(self._counts)


def parse_entry(entry: bytes) -> tuple[bytes, bytes, bytes]:
    """An entry of a file as (key, id's hash, line)."""
    key = 2 * KEY_BYTES
    return bytes.fromhex(entry[:key].decode()), bytes.fromhex(entry[key:_HEX].decode()), entry[_HEX:]


def with_hash(entry: bytes) -> tuple[int, bytes]:
    """An entry of a file as (id's hash as a whole number, line)."""
    return int(entry[2 * KEY_BYTES : _HEX], 16), entry[_HEX:]


def without_duplicates(entries: list[bytes], duplicates: list[bytes]) -> list[bytes]:
    """Sorted entries of a file, the first of each key; the lines of the others are added to `duplicates`."""
    return _without_duplicates(entries, 2 * KEY_BYTES, _HEX, duplicates)


def _without_duplicates(entries: list[bytes], key: int, head: int, duplicates: list[bytes]) -> list[bytes]:
    kept = 0
    last = b""
    for entry in entries:
        if entry[:key] == last:
            duplicates.append(entry[head:])
        else:
            entries[kept] = entry  # in place, behind the one being looked at
            kept += 1
        last = entry[:key]
    del entries[kept:]
    return entries
