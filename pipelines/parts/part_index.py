"""Which parts each shard has, and where their lines are: three numbers a part, since there can be millions of parts."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

DIGEST_DIGITS = 8  # of the plan's digest, in names
ONLY = -1  # instead of a piece's number: the plan is not in pieces


def lines_name(piece: int) -> str:
    """Where the lines of a piece lie, below `_work`."""
    return "plan.jsonl.gz" if piece == ONLY else f"plan/{piece:05d}.jsonl.gz"


@dataclasses.dataclass(frozen=True)
class PartTask:
    """One work item: which part of which shard, where its lines are in the plan, and of which plan.

    Attributes:
        shard, part: indices.
        offset, size: the gzip member in the file of its piece, bytes.
        images: how many lines it holds.
        plan_digest: identity of the plan; a sidecar with another one is not this part.
        piece: which file its lines are in; see `lines_name`.
    """

    shard: int
    part: int
    offset: int
    size: int
    images: int
    plan_digest: str
    piece: int = ONLY

    @property
    def name(self) -> str:
        """Of its files. With the plan's digest: a job of another plan that nobody stopped writes beside them, not over them."""
        return f"{self.shard:05d}-{self.part:05d}-{self.plan_digest[:DIGEST_DIGITS]}"


class PartIndex(Sequence[tuple[PartTask, ...]]):
    """Per shard, its parts. Tasks are made when they are asked for.

    Args:
        shards: per shard, per part: offset, size, images.
        plan_digest: of the plan.
        pieces: the first shard of each piece; () where the plan is not in pieces.
    """

    def __init__(self, shards: Iterable[Iterable[Sequence[int]]], plan_digest: str, pieces: Sequence[int] = ()):
        counts: list[int] = []

        def numbers() -> Iterator[tuple[int, int, int]]:
            for parts in shards:
                count = 0
                for offset, size, images in parts:
                    yield int(offset), int(size), int(images)
                    count += 1
                counts.append(count)

        self._numbers = np.fromiter(numbers(), np.dtype((np.int64, 3)))
        self._firsts = np.cumsum([0, *counts], dtype=np.int64)
        self.plan_digest = plan_digest
        self.pieces = np.asarray(pieces, np.int64)

    def __len__(self) -> int:
        return len(self._firsts) - 1

    @overload
    def __getitem__(self, index: int) -> tuple[PartTask, ...]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[PartTask, ...]]: ...
    def __getitem__(self, index: int | slice) -> tuple[PartTask, ...] | list[tuple[PartTask, ...]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} shards, not {index}")
        shard = index % len(self)
        first, end = self._firsts[shard : shard + 2].tolist()
        rows = self._numbers[first:end].tolist()
        piece = self._piece(shard)
        return tuple(
            PartTask(shard, part, offset, size, images, self.plan_digest, piece)
            for part, (offset, size, images) in enumerate(rows)
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PartIndex):
            return NotImplemented
        same = np.array_equal(self._numbers, other._numbers) and np.array_equal(self._firsts, other._firsts)
        return same and np.array_equal(self.pieces, other.pieces) and self.plan_digest == other.plan_digest

    def __hash__(self) -> int:
        return hash((self.plan_digest, len(self)))

    @property
    def num_parts(self) -> int:
        """Of all shards."""
        return len(self._numbers)

    def firsts(self) -> np.ndarray:
        """int64[shards + 1]: number of each shard's first part, counted through all shards, and the number of all parts."""
        return self._firsts

    def images(self) -> np.ndarray:
        """int64[shards]: planned images of each shard."""
        ends = np.concatenate(([0], np.cumsum(self._numbers[:, 2])))
        return ends[self._firsts[1:]] - ends[self._firsts[:-1]]

    def task(self, number: int) -> PartTask:
        """A part by its number through all shards."""
        shard = int(np.searchsorted(self._firsts, number, side="right")) - 1
        offset, size, images = self._numbers[number].tolist()
        part = number - int(self._firsts[shard])
        return PartTask(shard, part, offset, size, images, self.plan_digest, self._piece(shard))

    def _piece(self, shard: int) -> int:
        return int(np.searchsorted(self.pieces, shard, side="right")) - 1  # `ONLY` where there are none

    def sizes(self) -> dict[str, int]:
        """Bytes of the files of lines, by name."""
        ends = self._numbers[:, :2].sum(1)[self._firsts[[*self.pieces[1:], len(self)]] - 1].tolist()
        return {lines_name(number if len(self.pieces) else ONLY): end for number, end in enumerate(ends)}

    def to_json(self) -> list[list[list[int]]]:
        """The numbers, nested by shard."""
        rows, firsts = self._numbers.tolist(), self._firsts.tolist()
        return [rows[first:end] for first, end in itertools.pairwise(firsts)]
