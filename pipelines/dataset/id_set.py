"""Ids that came before, for any number of them: hashes, in memory while they are few and then on disk, by their first byte.

Two hashes of 64 bits that are equal are of one id but for a chance in 2**64 a pair, so whoever is told of two looks at the ids.
"""

import array
import hashlib
import os
import tempfile
from collections.abc import Iterator

import numpy as np

HELD = 4_000_000  # ids in memory, 12 bytes each
_BUCKETS = 256
_ENTRY = np.dtype([("hash", "<u8"), ("place", "<u4")])


def hash_of(identity: str) -> int:
    """64 bits of an id."""
    return int.from_bytes(hashlib.blake2b(identity.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class IdSet:
    """Ids and where each was met, a number below 2**32."""

    def __init__(self) -> None:
        self._hashes, self._places = array.array("Q"), array.array("I")
        self._folder: tempfile.TemporaryDirectory | None = None

    def add(self, identity: str, place: int) -> None:
        """Takes note of one."""
        self._hashes.append(hash_of(identity))
        self._places.append(place)
        if len(self._hashes) >= HELD:
            self._spill()

    def _held(self) -> np.ndarray:
        entries = np.empty(len(self._hashes), _ENTRY)
        entries["hash"], entries["place"] = self._hashes, self._places
        return entries

    def _path(self, bucket: int) -> str:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="maskmill-ids-")
        return os.path.join(self._folder.name, f"{bucket:03d}")

    def _spill(self) -> None:
        entries = np.sort(self._held(), order="hash")
        borders = np.searchsorted(entries["hash"], np.arange(1, _BUCKETS, dtype=np.uint64) << np.uint64(56))
        for bucket, own in enumerate(np.split(entries, borders)):
            with open(self._path(bucket), "ab") as file:
                file.write(own.tobytes())
        self._hashes, self._places = array.array("Q"), array.array("I")

    def _blocks(self) -> Iterator[np.ndarray]:
        if self._folder is None:
            yield self._held()
            return
        self._spill()
        for bucket in range(_BUCKETS):
            yield np.fromfile(self._path(bucket), _ENTRY)

    def repeated(self) -> dict[int, list[int]]:
        """Hashes that came more than once -> where, in order."""
        found: dict[int, list[int]] = {}
        for block in self._blocks():
            entries = np.sort(block, order=["hash", "place"])
            same = np.flatnonzero(entries["hash"][1:] == entries["hash"][:-1])
            for at in np.union1d(same, same + 1).tolist():
                found.setdefault(int(entries["hash"][at]), []).append(int(entries["place"][at]))
        return found
