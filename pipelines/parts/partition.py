"""A large plan made by many: no machine holds it, and the one that plans never sees a line of it.

1. Each worker lists some of the data set's shards, brings what it finds into the order of records, and leaves it in one file,
   cut where the first byte of the key changes; beside it some numbers: inputs, refusals, labels.
2. A worker for each range of first bytes (of at most 256; keys are hashes, so ranges are of one size) takes its cut of every
   file, sorts it, and takes duplicates out: inputs with one id have one key and meet here. It leaves its range in blocks.
3. With the lengths of the ranges it is known which places in the order each piece of the plan has (`plan_lines.py`). A worker
   for each piece reads those and writes the piece.

Whoever plans reads numbers: some for each task of 1 and 2, and three for each part. Functions here know no Beam; `Workers` run
them, wherever. What they leave lies below `_work/listing-...`, and goes when the plan is made. Every file is the same whoever
writes it, and appears whole, so tasks can be tried again.
"""

import dataclasses
import functools
import gzip
import itertools
import json
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.lines import (
    BUCKETS,
    Lines,
    duplicate,
    keys,
    parse_entry,
    with_hash,
    without_duplicates,
)
from maskmill.pipelines.parts.plan_lines import Piece, deal, split_evenly, write_piece
from maskmill.pipelines.reading.inputs import Input, Refusal, within_limits
from maskmill.pipelines.reading.patience import patiently
from maskmill.pipelines.reading.shard_files import Facts, InPieces, ShardFile, list_shard
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.manifest import WORK

MIN_SHARDS = 64  # of fewer the driver has listed its share before workers have started
LARGE = 2_000_000  # inputs; up to here a plan takes the driver half a minute, and two more jobs take longer
_IN_RANGE = 250_000  # inputs; 100 MB while they are sorted. Beyond 64 million there are more in each
_MOST_TASKS = 2000  # of listing: each range reads a cut of what each has left
_BLOCK = 1024  # entries of an ordered range that are read at once
_LISTING_S, _SORTING_S, _DEALING_S = (
    2.0,
    5.0,
    2.0,
)  # of a core: a shard, a range, a piece; says how many machines to begin with

_Item = TypeVar("_Item", contravariant=True)
ListOne = Callable[[ShardFile], list[Any]]


class Workers(Protocol):
    """Who does what is to be done to many items."""

    def map(self, what: str, function: Callable[[Any], None], items: Sequence[Any], seconds: float) -> None:
        """Calls a function that can be pickled on each item, each at least once.

        Args:
            what: is done, in words that go on after "10 ".
            function: leaves its result in a file, the same whenever it is called.
            items: small.
            seconds: of a core, an item.

        Raises:
            InputError, JobError: it could not be done.
        """


def _file(place: str, kind: str, number: int) -> str:
    return storage.join(place, f"{kind}-{number:06d}")


def _write_json(path: str, fields: dict[str, Any]) -> None:
    storage.write_bytes(path, json.dumps(fields).encode())


def _read(path: str, offset: int = 0, length: int | None = None) -> bytes:
    """What a worker has left. Raises DamageError where it is not there."""
    try:
        data = storage.read_bytes(path, offset, length)
    except FileNotFoundError:
        data = b""
    if not data and length != 0:
        raise DamageError(
            f"{path}, which a worker wrote, is not to be seen here; give a folder that is the same on all machines, or gs://"
        )
    return data


def _read_json(path: str) -> dict[str, Any]:
    return json.loads(_read(path))


# --- 1. listing ---


def list_task(task: tuple[int, int, int], place: str, list_one: ListOne, seed: int) -> None:
    """Lists some shards.

    Args:
        task: its number, and where its shards are named in the list of all: offset and bytes.
        place: for what is found. That a shard cannot be listed is left there, too.
        list_one: what is in a shard; see `reading.shard_files.Shards`.
        seed: of the order.
    """
    number, offset, size = task
    names = gzip.decompress(_read(storage.join(place, "shards"), offset, size)).splitlines()
    lines, refused, facts, error = Lines(), list[Refusal](), Facts(), ""
    try:
        for shard in (ShardFile(*json.loads(line)) for line in names):
            found = list_shard(list_one, shard)
            facts += Facts.of(shard, found)
            for one in within_limits(one for one in found if isinstance(one, Input | Refusal)):
                if isinstance(one, Input):
                    lines.add(*keys(seed, one.id, one.together), one.to_json())
                elif isinstance(one, Refusal):
                    refused.append(one)
    except InputError as why:
        error = str(why)
    cuts = [0]
    with storage.create(_file(place, "listed", number)) as file:
        for entries in lines.buckets():
            member = gzip.compress(b"".join(entry + b"\n" for entry in entries), 1, mtime=0) if entries else b""
            file.write(member)
            cuts.append(cuts[-1] + len(member))
    leave_refused(_file(place, "refused", number), refused)
    known = {"facts": dataclasses.asdict(facts), "cuts": cuts, "refused": len(refused), "error": error}
    _write_json(_file(place, "known", number), known)


def leave_refused(path: str, refused: list[Refusal]) -> None:
    """Leaves refusals as lines, where there are any."""
    if refused:
        lines = b"".join(json.dumps(dataclasses.asdict(one)).encode() + b"\n" for one in refused)
        storage.write_bytes(path, gzip.compress(lines, 1, mtime=0))


def list_by_workers(
    config: BuildConfig, source: object, folder: str, workers: Workers, patience: float
) -> "Listing | None":
    """Lets workers list a data set; None where it does not lie in many shards, and the driver is faster.

    Raises:
        InputError: a shard cannot be listed, or does not belong to the others; storage stands still for `patience` seconds.
    """
    if not isinstance(source, InPieces):
        return None
    shards = patiently(source.find, patience, config.images, config.annotations)
    if shards is None or len(shards.files) < MIN_SHARDS:
        return None
    place = storage.join(folder, WORK, f"listing-{secrets.token_hex(4)}")
    listing = Listing(place, source, workers, shards.left)
    try:
        listing.begin(shards.files, shards.list_one, config.seed)
    except BaseException:
        listing.remove()
        raise
    return listing


@dataclasses.dataclass
class Listing:
    """What workers have found in the shards of a data set, and left.

    Attributes:
        place: where.
        source: the data set.
        workers: who sort and deal it.
        left: what lies beside the shards.
        tasks: how many have listed.
        facts: of all shards.
    """

    place: str
    source: InPieces
    workers: Workers
    left: list[Refusal]
    tasks: int = 0
    facts: Facts = dataclasses.field(default_factory=Facts)

    def begin(self, files: list[ShardFile], list_one: ListOne, seed: int) -> None:
        """Lets workers list."""
        found: list[tuple[int, int, int]] = []
        with storage.create(storage.join(self.place, "shards")) as file:
            at = 0
            for number, own in enumerate(split_evenly(len(files), min(len(files), _MOST_TASKS))):
                named = (json.dumps(dataclasses.astuple(files[i])).encode() + b"\n" for i in own)
                member = gzip.compress(b"".join(named), 1, mtime=0)
                file.write(member)
                found.append((number, at, len(member)))
                at += len(member)
        work = functools.partial(list_task, place=self.place, list_one=list_one, seed=seed)
        seconds = _LISTING_S * len(files) / len(found)
        self.workers.map(f"lists of {len(files):,} shards", work, found, seconds)
        self.collect(len(found))

    def collect(self, tasks: int) -> None:
        """Reads the numbers that so many tasks have left, and leaves for the ranges where their cuts are."""
        self.tasks = tasks
        cuts = np.zeros((BUCKETS + 1, tasks), np.int64)
        paths = (_file(self.place, "known", number) for number in range(tasks))
        for number, known in enumerate(storage.in_parallel(_read_json, paths, self.place)):
            if known["error"]:
                raise InputError(known["error"])
            self.facts += Facts.from_json(known["facts"])
            cuts[:, number] = known["cuts"]
        storage.write_bytes(storage.join(self.place, "cuts"), cuts.astype("<i8").tobytes())

    def conclude(self) -> None:
        """Tells the data set what was found in it."""
        self.source.conclude(self.facts)

    @property
    def is_large(self) -> bool:
        """Whether it is worth two more jobs."""
        return self.facts.pictures > LARGE

    def fill(self, lines: Lines) -> None:
        """Brings all lines here."""
        paths = (_file(self.place, "listed", number) for number in range(self.tasks))
        for data in storage.in_parallel(storage.read_bytes, paths, self.place):
            for entry in gzip.decompress(data).split(b"\n")[:-1] if data else ():
                lines.add(*parse_entry(entry))

    def refused(self) -> Iterator[Refusal]:
        """What was refused while listing, in no order."""
        yield from self.left
        yield from self.read_refused("refused", self.tasks)

    def read_refused(self, kind: str, tasks: int) -> Iterator[Refusal]:
        """Refusals that so many tasks have left."""
        there = storage.names(self.place)
        for number in range(tasks):
            path = _file(self.place, kind, number)
            if os.path.basename(path) in there:
                for line in gzip.decompress(_read(path)).splitlines():
                    yield Refusal(**json.loads(line))

    def sort(self) -> "Order":
        """Lets workers bring it into order."""
        ranges = min(BUCKETS, -(-self.facts.pictures // _IN_RANGE))
        work = functools.partial(sort_range, place=self.place, tasks=self.tasks, ranges=ranges)
        self.workers.map("ranges of the plan's order", work, range(ranges), _SORTING_S)
        paths = (_file(self.place, "sorted", number) for number in range(ranges))
        return Order(self, [known["count"] for known in storage.in_parallel(_read_json, paths, self.place)])

    def remove(self) -> None:
        """Removes what was left."""
        try:
            storage.remove_all([storage.join(self.place, name) for name in storage.names(self.place)])
        except OSError:
            return  # the folder is gone, or is not ours any more; who needs it says so
        if not storage.is_remote(self.place):
            shutil.rmtree(self.place, ignore_errors=True)


# --- 2. sorting ---


def sort_range(number: int, place: str, tasks: int, ranges: int) -> None:
    """Brings the inputs into order whose keys begin with the bytes of a range, of so many, in what so many tasks have left."""
    own = split_evenly(BUCKETS, ranges)[number]

    def cuts(bucket: int) -> np.ndarray:
        return np.frombuffer(_read(storage.join(place, "cuts"), bucket * tasks * 8, tasks * 8), "<i8")

    starts, ends = cuts(own.start), cuts(own.stop)

    def cut(task: int) -> bytes:
        start, end = int(starts[task]), int(ends[task])
        return gzip.decompress(_read(_file(place, "listed", task), start, end - start)) if end > start else b""

    entries: list[bytes] = []
    for data in storage.in_parallel(cut, range(tasks), place):
        entries += data.split(b"\n")[:-1]
    entries.sort()
    duplicates: list[bytes] = []
    entries = without_duplicates(entries, duplicates)
    blocks = [0]
    with storage.create(_file(place, "range", number)) as file:
        for at in range(0, len(entries), _BLOCK):
            block = gzip.compress(b"".join(entry + b"\n" for entry in entries[at : at + _BLOCK]), 1, mtime=0)
            file.write(block)
            blocks.append(blocks[-1] + len(block))
    leave_refused(_file(place, "twice", number), [duplicate(line) for line in duplicates])
    _write_json(_file(place, "sorted", number), {"count": len(entries), "blocks": blocks})


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of all inputs, in ranges.

    Attributes:
        listing: of what.
        counts: inputs of each range.
    """

    listing: Listing
    counts: list[int]

    @property
    def inputs(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def head(self, count: int) -> list[bytes]:
        """The first lines."""
        return [line for _, line in read_order(self.listing.place, self.counts, 0, count)]

    def refused(self) -> Iterator[Refusal]:
        """Everything that is no input, in order."""
        found = (self.listing.refused(), self.listing.read_refused("twice", len(self.counts)))
        return in_order(itertools.chain.from_iterable(found))

    def deal(self, folder: str, inputs: int, shards: int, part_size: int) -> Iterator[Piece]:
        """Lets workers write the pieces of a plan of the first `inputs` below `folder`."""
        place = self.listing.place
        numbers = range(len(deal(inputs, shards)))
        work = functools.partial(
            deal_piece,
            place=place,
            folder=folder,
            counts=tuple(self.counts),
            inputs=inputs,
            shards=shards,
            part_size=part_size,
        )
        self.listing.workers.map("pieces of the plan", work, numbers, _DEALING_S)
        paths = (_file(place, "dealt", number) for number in numbers)
        return (Piece(**known) for known in storage.in_parallel(_read_json, paths, place))


def in_order(refused: Iterable[Refusal]) -> Iterator[Refusal]:
    """Refusals by id, sorted on disk where they are too many for memory."""
    names = [field.name for field in dataclasses.fields(Refusal)]
    marks = ", ".join("?" * len(names))
    table = sqlite3.connect("")  # a temporary file, which SQLite begins to write once its cache is full
    try:
        table.execute(f"CREATE TABLE refused ({', '.join(names)})")
        table.executemany(f"INSERT INTO refused VALUES ({marks})", map(_columns, refused))
        for row in table.execute(f"SELECT * FROM refused ORDER BY {', '.join(names)}"):
            values: list[Any] = [one.decode("utf-8", "surrogatepass") if isinstance(one, bytes) else one for one in row]
            yield Refusal(*values)
    finally:
        table.close()


def _columns(refusal: Refusal) -> list[bytes | int]:
    """Text as bytes, whose order is that of its characters."""
    values = dataclasses.astuple(refusal)
    return [one.encode("utf-8", "surrogatepass") if isinstance(one, str) else one for one in values]


# --- 3. dealing ---


def read_order(place: str, counts: Sequence[int], first: int, end: int) -> Iterator[tuple[int, bytes]]:
    """The inputs at some places of the order, as (id's hash, line)."""
    starts = [0, *itertools.accumulate(counts)]
    for number, count in enumerate(counts):
        low, high = max(first - starts[number], 0), min(end - starts[number], count)
        if low >= high:
            continue
        blocks = _read_json(_file(place, "sorted", number))["blocks"]
        block, last = low // _BLOCK, -(-high // _BLOCK)
        data = gzip.decompress(_read(_file(place, "range", number), blocks[block], blocks[last] - blocks[block]))
        entries = data.split(b"\n")[:-1]
        yield from map(with_hash, entries[low - block * _BLOCK : high - block * _BLOCK])


def deal_piece(
    number: int, place: str, folder: str, counts: Sequence[int], inputs: int, shards: int, part_size: int
) -> None:
    """Writes a piece of a plan of the first `inputs` of the order, and leaves what is to be known of it.

    Args:
        number: of the piece, among those that `deal` gives.
        place: where the order lies.
        folder: the build's.
        counts: of the order's ranges.
        inputs, shards: of the plan.
        part_size: images per part, at most.
    """
    own, images = deal(inputs, shards)[number]
    lines = read_order(place, counts, images[0].start, images[-1].stop)
    piece = write_piece(folder, own, lines, [len(dealt) for dealt in images], part_size)
    _write_json(_file(place, "dealt", number), dataclasses.asdict(piece))
