"""One part: the unit of work, of retry and of resume. Knows no Beam.

A part is committed by its sidecar, written last: until `_work/parts/NAME.json` is there, the part has not happened. (When its
shard is joined, the sidecar moves into one file with the others; see `pipelines.parts.assemble`.) What a part writes depends
on the plan and the configuration only, so two attempts at one part, even at once, do no harm.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from typing import Protocol

import google_crc32c

from maskmill.pipelines.measuring.overlap_stats import OverlapAccumulator, OverlapStats
from maskmill.pipelines.parts.image_builder import Built
from maskmill.pipelines.parts.part_index import DIGEST_DIGITS, PartTask
from maskmill.pipelines.parts.plan_lines import read_part
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.read_ahead import read_ahead
from maskmill.schemas import storage
from maskmill.schemas.errors import MESSAGE_LIMIT
from maskmill.schemas.manifest import WORK
from maskmill.schemas.tfrecord import frame

PARTS = "parts"
READ_TIMEOUT_S = 300.0

# Path of the sidecar to come -> (images done, of them failed), of the parts that threads of this process are at: for progress.
# A count appears with a part's first image and goes after its commit, or with its failure.
UNDER_WAY: dict[str, tuple[int, int]] = {}


class Builder(Protocol):
    """What makes records of images: `pipelines.parts.isolation`."""

    def build(self, item: Input, data: bytes) -> Built: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Step:
    """What has just been done of a part: an image, or at its end the publishing of its records (`images` is 0 then).

    Attributes:
        images: 1 or 0.
        reason: why the image gave no record; "" where it did.
        read_bytes, written_bytes: of its file, and of its record.
        ms: wall time by stage; "read" is the waiting for the file, "publish" for storage to take the records.
    """

    images: int = 0
    reason: str = ""
    read_bytes: int = 0
    written_bytes: int = 0
    ms: dict[str, float] = dataclasses.field(default_factory=dict)


Watcher = Callable[[Step], None]


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """What is known of a committed part.

    Attributes:
        shard, part, plan_digest: which part of which plan.
        images: inputs of the part; images = records + len(failures).
        records, bytes, sha256, crc32c: of the part's file.
        failures: ledger lines, as dicts.
        rows: one per record, in its order (see `ImageBuilder`).
        overlaps: their measurements for the report, added up. Only what `rows` cannot give is here: choices of examples
            and bootstrap sums would be larger than the rows that they follow from.
        seconds: wall time.
    """

    shard: int
    part: int
    plan_digest: str
    images: int
    records: int
    bytes: int
    sha256: str
    crc32c: str
    failures: list[dict]
    rows: list[dict]
    overlaps: OverlapStats
    seconds: float

    @property
    def name(self) -> str:
        """As `PartTask.name`."""
        return f"{self.shard:05d}-{self.part:05d}-{self.plan_digest[:DIGEST_DIGITS]}"


def part_path(folder: str, task: PartTask | Sidecar) -> str:
    """The part's records."""
    return storage.join(folder, WORK, PARTS, f"{task.name}.tfrecord")


def sidecar_path(folder: str, name: str) -> str:
    """The part's sidecar."""
    return storage.join(folder, WORK, PARTS, f"{name}.json")


def load_sidecar(folder: str, task: PartTask) -> Sidecar | None:
    """The sidecar of a committed part of this plan, or None."""
    try:
        return parse_sidecar(storage.read_bytes(sidecar_path(folder, task.name)), task)
    except FileNotFoundError:
        return None


def parse_sidecar(data: bytes, task: PartTask) -> Sidecar | None:
    """The bytes of a part's sidecar, or None where they are torn by a machine that lost power, or of another plan."""
    try:
        fields = json.loads(data)
        sidecar = Sidecar(**{**fields, "overlaps": OverlapStats.from_json(fields["overlaps"])})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return sidecar if sidecar.plan_digest == task.plan_digest else None


def sidecar_bytes(sidecar: Sidecar) -> bytes:
    """What `parse_sidecar` reads."""
    # The rows as they are: `asdict` would copy every number of every image.
    return json.dumps({**vars(sidecar), "overlaps": dataclasses.asdict(sidecar.overlaps)}).encode() + b"\n"


def has_records(folder: str, sidecar: Sidecar) -> bool:
    """Whether the part's records are still there, at their size (their bytes are checked when they are joined)."""
    try:
        return storage.size(part_path(folder, sidecar)) == sidecar.bytes
    except FileNotFoundError:
        return False


def build_part(
    task: PartTask,
    folder: str,
    builder: Builder,
    threads: int = 2,
    read_timeout: float = READ_TIMEOUT_S,
    watch: Watcher = lambda step: None,
) -> Sidecar:
    """Builds and commits one part; a committed part is left as it is.

    Args:
        task: which part.
        folder: the build's folder, local or gs://.
        builder: makes records of images.
        threads: files read ahead by as many threads while the builder computes.
        read_timeout: seconds after which reading a picture is given up.
        watch: told of every step, as soon as it is done.

    Returns:
        The part's sidecar.

    Raises:
        OSError: the output cannot be written; nothing is left behind.
        DamageError: the plan's lines are damaged.
    """
    if (done := load_sidecar(folder, task)) is not None and has_records(folder, done):
        return done
    try:
        return _build_and_commit(task, folder, builder, threads, read_timeout, watch)
    finally:
        UNDER_WAY.pop(sidecar_path(folder, task.name), None)


def _build_and_commit(
    task: PartTask, folder: str, builder: Builder, threads: int, read_timeout: float, watch: Watcher
) -> Sidecar:
    start = time.perf_counter()
    items = read_part(folder, task)
    sha, crc, size = hashlib.sha256(), google_crc32c.Checksum(), 0
    failures: list[Refusal] = []
    rows: list[dict] = []
    overlaps = OverlapAccumulator()
    with (
        storage.create(part_path(folder, task)) as file,
        contextlib.closing(read_ahead(items, threads, read_timeout)) as reads,
    ):
        done = -1
        asked = time.perf_counter()
        for item, data in reads:  # not by enumerate(), which keeps what it gave until it has the next
            waited = (time.perf_counter() - asked) * 1e3
            done += 1
            if done:
                UNDER_WAY[sidecar_path(folder, task.name)] = (done, len(failures))
            built = Built(b"", data, {}) if isinstance(data, Refusal) else builder.build(item, data)
            read = 0 if isinstance(data, Refusal) else len(data)
            ms = {"read": waited, **built.row.get("ms", {})}
            del data  # before the next, which may be as large
            if built.refusal is not None:
                failures.append(built.refusal)
                watch(Step(1, built.refusal.reason, read, 0, ms))
                asked = time.perf_counter()
                continue
            record = frame(built.payload)
            file.write(record)
            sha.update(record)
            crc.update(record)
            size += len(record)
            rows.append(built.row)
            if built.overlaps is not None:
                overlaps.add(built.overlaps)
            watch(Step(1, "", read, len(record), ms))
            asked = time.perf_counter()
    watch(Step(ms={"publish": (time.perf_counter() - asked) * 1e3}))
    sidecar = Sidecar(
        shard=task.shard,
        part=task.part,
        plan_digest=task.plan_digest,
        images=len(items),
        records=len(rows),
        bytes=size,
        sha256=sha.hexdigest(),
        crc32c=crc.hexdigest().decode(),
        failures=[{**dataclasses.asdict(f), "message": f.message[:MESSAGE_LIMIT]} for f in failures],
        rows=rows,
        overlaps=overlaps.result(),
        seconds=round(time.perf_counter() - start, 3),
    )
    storage.write_bytes(sidecar_path(folder, task.name), sidecar_bytes(sidecar))
    return sidecar
