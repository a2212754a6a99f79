"""Which record is trained on at which step: a pure function of the manifest, the seed and the step.

An epoch is `records // global_batch` steps; the remainder of its records, always fewer than a batch and different ones
each time, waits for another epoch. Each epoch lays the shards out in a new order and cuts that sequence of records into
one stretch per process, all of the same length. A process reads its stretch in groups of shards that fit its memory
together, and shuffles each group. So no process reads much more than its share, every record is used at most once an
epoch, and the place of any step is found by arithmetic: there is no iterator to save.

The order depends on the number of processes: a run that continues with another number keeps its step, not the rest of
its epoch's order. Keys and orders come from a hash written out here, not from a library whose streams may change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskmill.schemas.errors import UsageError
from maskmill.schemas.manifest import Manifest

if TYPE_CHECKING:
    from jaxtyping import Int64, UInt64

_SHARDS, _RECORDS, _KEYS = range(3)  # what is drawn


def mix(x: np.ndarray) -> np.ndarray:
    """Uint64 (an array or, compiled, a number) to uint64, bijective, no visible order (SplitMix64's finaliser)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def fold(*parts: npt.ArrayLike) -> UInt64[np.ndarray, "*last"]:
    """Hashes integers, the last of which may be an array, to uint64s of the last one's shape."""
    state = np.zeros(1, np.uint64)
    for part in parts:
        part = np.atleast_1d(np.asarray(part)).astype(np.uint64)
        state = mix(state + mix(part + np.uint64(0x9E3779B97F4A7C15)))
    return state


@dataclasses.dataclass(frozen=True)
class Group:
    """Shards read and shuffled together.

    Attributes:
        shards: their positions in the manifest, in the order in which they are read.
        records: int64[m], record numbers (counted over the manifest's shards) in the order of training.
        places: int64[m], where each of them stands among all records of `shards`, read one shard after another.
        keys: uint64[m], one per record and epoch.
    """

    shards: tuple[int, ...]
    records: np.ndarray
    places: np.ndarray
    keys: np.ndarray


class Order:
    """The order of one process's records.

    Attributes:
        batch: images per step of this process.
        steps_per_epoch: steps after which every record, but for the remainder, has been used once more.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        global_batch: int,
        seed: int,
        group_bytes: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Raises UsageError where the batch does not divide by the processes, or exceeds the records."""
        if global_batch % process_count:
            raise UsageError(f"batch_size={global_batch} does not divide by {process_count} processes")
        self.steps_per_epoch = manifest.num_records // global_batch
        if not self.steps_per_epoch:
            raise UsageError(
                f"batch_size={global_batch} exceeds the data set's {manifest.num_records} records; lower batch_size"
            )
        self.batch = global_batch // process_count
        self._counts = np.array([shard.records for shard in manifest.shards], np.int64)
        self._bytes = [shard.bytes for shard in manifest.shards]
        self._first = np.cumsum(self._counts) - self._counts
        self._seed, self._group_bytes, self._process = seed, group_bytes, process_index

    def groups(self, step: int) -> Iterator[Group]:
        """Groups from `step` on, epoch after epoch without end, the first one without what lies before the step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        skip = within * self.batch
        while True:
            for shards, spans in self._layout(epoch):
                size = sum(stop - start for start, stop in spans)
                if skip >= size:
                    skip -= size
                    continue
                yield self._shuffled(epoch, shards, spans, skip)
                skip = 0
            epoch += 1

    def records(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Record numbers of this process's part of a step, int64[batch]."""
        found = np.zeros(0, np.int64)
        for group in self.groups(step):
            found = np.concatenate([found, group.records])
            if len(found) >= self.batch:
                break
        return found[: self.batch]

    def place(self, record: int) -> tuple[int, int]:
        """Shard of a record number, and its index there."""
        shard = int(np.searchsorted(self._first + self._counts, record, side="right"))
        return shard, int(record - self._first[shard])

    def _layout(self, epoch: int) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
        # Groups of (shards, span of each shard's records that belongs to this process), unshuffled.
        length = self.steps_per_epoch * self.batch
        begin, end = self._process * length, (self._process + 1) * length
        order = np.argsort(fold(self._seed, epoch, _SHARDS, np.arange(len(self._counts))), kind="stable")
        past = 0
        shards: list[int] = []
        spans: list[tuple[int, int]] = []
        held = 0
        for shard in order.tolist():
            first, past = past, past + int(self._counts[shard])
            start, stop = max(first, begin) - first, min(past, end) - first
            if start >= stop:
                continue
            if shards and held + self._bytes[shard] > self._group_bytes:
                yield shards, spans
                shards, spans, held = [], [], 0
            shards.append(shard)
            spans.append((start, stop))
            held += self._bytes[shard]
        if shards:
            yield shards, spans

    def _shuffled(self, epoch: int, shards: list[int], spans: list[tuple[int, int]], skip: int) -> Group:
        before = np.cumsum([0, *self._counts[shards[:-1]]])
        inside = [np.arange(start, stop) for start, stop in spans]
        places = np.concatenate([part + offset for part, offset in zip(inside, before, strict=True)])
        records = np.concatenate([part + self._first[shard] for part, shard in zip(inside, shards, strict=True)])
        order = np.argsort(fold(self._seed, epoch, _RECORDS, records), kind="stable")[skip:]
        records = records[order]
        return Group(tuple(shards), records, places[order], fold(self._seed, epoch, _KEYS, records))
