"""Records of a finished build, straight from its folder: what `validate`, `report`, `view`, the trainer's host code and
anyone with NumPy can use. No TensorFlow."""

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, UsageError
from maskmill.schemas.example import ImageExample, decode_example
from maskmill.schemas.manifest import Manifest, Shard, load_manifest
from maskmill.schemas.record_index import first_records, load_index
from maskmill.schemas.tfrecord import read_records


@contextlib.contextmanager
def shard_errors(folder: str, shard: Shard) -> Iterator[None]:
    """Names a shard that is not there, or no file, as damage of its data set."""
    try:
        yield
    except FileNotFoundError:
        raise DamageError(f"{shard.name} is missing from {folder}; the manifest lists it") from None
    except storage.NotAFile:
        raise DamageError(f"{shard.name} in {folder} is not a regular file") from None


def _decode(payload: bytes, num_layers: int, name: str, number: int) -> ImageExample:
    try:
        return decode_example(payload, num_layers)
    except DamageError as error:
        raise DamageError(f"{name}: record {number}: {error}") from error


def read_shard(folder: str, shard: Shard, num_layers: int) -> Iterator[ImageExample]:
    """Records of one shard, in order.

    Raises:
        DamageError: a missing file, a broken record (file, record and offset named), or another number of records than
            the manifest says.
    """
    count = 0
    with shard_errors(folder, shard), storage.open_read(storage.join(folder, shard.name)) as stream:
        for count, payload in enumerate(read_records(stream, shard.name), 1):
            yield _decode(payload, num_layers, shard.name, count - 1)
    if count != shard.records:
        raise DamageError(f"{shard.name} holds {count} records, the manifest says {shard.records}")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A finished build: a sequence of records, in the order of its shards (which the build has shuffled).

    It holds no open file, so it pickles, and workers may share it however they are started, by fork or by spawn.

    Attributes:
        folder: local path or gs:// prefix.
        manifest: its manifest.
    """

    folder: str
    manifest: Manifest

    @classmethod
    def open(cls, folder: str) -> "Dataset":
        """Opens a build's folder; raises as `load_manifest`."""
        return cls(folder, load_manifest(folder))

    def __len__(self) -> int:
        return self.manifest.num_records

    def __bool__(self) -> bool:
        return True  # a data set without records is one all the same

    def __iter__(self) -> Iterator[ImageExample]:
        """All records, shard after shard."""
        return self.iterate()

    @functools.cached_property
    def _offsets(self) -> np.ndarray:
        return load_index(self.folder, self.manifest)

    @functools.cached_property
    def _firsts(self) -> np.ndarray:
        return first_records(self.manifest)

    def __getitem__(self, index: SupportsIndex) -> ImageExample:
        """Record `index`, negative ones from the end, by one short read.

        The first call finds out where all records are (see `schemas.record_index`): call it before workers are started,
        and they need not.

        Raises:
            IndexError: there is no such record.
            DamageError: see `read_shard`.
        """
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"record {number} of a data set of {len(self)}")
        number %= len(self)
        at = int(np.searchsorted(self._firsts, number, side="right")) - 1
        shard, place = self.manifest.shards[at], number - int(self._firsts[at])
        start = int(self._offsets[number])
        end = int(self._offsets[number + 1]) if place + 1 < shard.records else shard.bytes
        with shard_errors(self.folder, shard):
            # A read of its own each time: a kept file's position would be shared by the processes of a fork.
            data = storage.read_bytes(storage.join(self.folder, shard.name), start, end - start)
        payloads = list(read_records(storage.as_file(data), shard.name, record=place, offset=start))
        if len(payloads) != 1:
            raise DamageError(f"{shard.name}: there are {len(payloads)} records at byte {start}, where one should be")
        return _decode(payloads[0], len(self.manifest.layers), shard.name, place)

    def iterate(self, worker: int = 0, workers: int = 1) -> Iterator[ImageExample]:
        """One worker's share of the records: every record is in exactly one, and no byte is read by two.

        Shares are consecutive stretches whose lengths differ by one at most, whatever the number of shards, so that ranks
        of a distributed job take the same number of steps; put together in order they are the whole data set. For `n`
        loading processes in each of several ranks: `iterate(rank * n + process, ranks * n)`.

        Args:
            worker: 0 .. workers - 1.
            workers: how many share the data set.

        Raises:
            UsageError: no such worker.
            DamageError: see `read_shard`.
        """
        if not 0 <= worker < workers:
            raise UsageError(f"worker {worker} of {workers}: workers are counted from 0 to workers - 1")
        start, stop = (len(self) * k // workers for k in (worker, worker + 1))
        return self._stretch(start, stop)

    def _stretch(self, start: int, stop: int) -> Iterator[ImageExample]:
        layers = len(self.manifest.layers)
        for first, shard in zip(self._firsts[:-1].tolist(), self.manifest.shards, strict=True):
            low, high = max(start, first), min(stop, first + shard.records)
            if start <= first and first + shard.records <= stop:
                yield from read_shard(self.folder, shard, layers)
            elif low < high:
                yield from self._part(shard, low - first, high - first, int(self._offsets[low]))

    def _part(self, shard: Shard, low: int, high: int, offset: int) -> Iterator[ImageExample]:
        """Records low .. high - 1 of a shard, the first of them at a byte offset."""
        number = low
        path = storage.join(self.folder, shard.name)
        with shard_errors(self.folder, shard), storage.open_read(path) as stream:
            stream.seek(offset)
            for number, payload in enumerate(read_records(stream, shard.name, record=low, offset=offset), low + 1):
                yield _decode(payload, len(self.manifest.layers), shard.name, number - 1)
                if number == high:
                    return
        raise DamageError(f"{shard.name} holds {number} records, the manifest says {shard.records}")
