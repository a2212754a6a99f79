"""Parts to shards to a data set: byte concatenation, the manifest and the tables beside it."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import BinaryIO, Protocol

import google_crc32c

from maskmill.pipelines.parts.part import Sidecar, has_records, load_sidecar, part_path, sidecar_path
from maskmill.pipelines.parts.plan import DIGEST_DIGITS, PartTask, Plan
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import WORK, Shard, shard_name

SHARDS = "shards"
_CHUNK = 4 << 20


def shard_sidecar_path(folder: str, plan: Plan, index: int) -> str:
    """The sidecar that says a shard is whole."""
    return storage.join(folder, WORK, SHARDS, _sidecar_name(plan, index))


def _sidecar_name(plan: Plan, index: int) -> str:
    return f"{index:05d}-{plan.digest[:DIGEST_DIGITS]}.json"


def _read_shard_sidecar(folder: str, plan: Plan, index: int) -> Shard | None:
    try:
        fields = json.loads(storage.read_bytes(shard_sidecar_path(folder, plan, index)))
        return Shard(**fields) if fields.pop("plan_digest") == plan.digest else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _is_whole(folder: str, shard: Shard | None, file: storage.Stamp | None, sidecar: storage.Stamp) -> bool:
    """Whether a shard's file is still the one that was committed.

    A job of another plan that nobody stopped would write under the same name. gs:// keeps every object's checksum. Elsewhere
    a file's bytes are read only where the file is younger than its sidecar, which is written after it.
    """
    if shard is None or file is None or file.bytes != shard.bytes:
        return False
    if not file.crc32c and file.changed_ns <= sidecar.changed_ns:
        return True
    return (file.crc32c or _crc32c(storage.join(folder, shard.name))) == shard.crc32c


def _crc32c(path: str) -> str:
    crc = google_crc32c.Checksum()
    with storage.open_read(path) as source:
        while chunk := source.read(_CHUNK):
            crc.update(chunk)
    return crc.hexdigest().decode()


def load_shard(folder: str, plan: Plan, index: int) -> Shard | None:
    """The shard as committed under this plan, its file still there and the same; else None."""
    try:
        sidecar = storage.stamp(shard_sidecar_path(folder, plan, index))
        shard = _read_shard_sidecar(folder, plan, index)
        file = None if shard is None else storage.stamp(storage.join(folder, shard.name))
    except FileNotFoundError:
        return None
    return shard if _is_whole(folder, shard, file, sidecar) else None


def load_shards(folder: str, plan: Plan) -> dict[int, Shard]:
    """Every shard that `load_shard` would give, by index: two listings, and a read for each that is there.

    On gs:// a call takes tens of milliseconds, and there are thousands of shards.
    """
    sidecars = storage.stamps(storage.join(folder, WORK, SHARDS))
    indices = [i for i in range(plan.num_shards) if _sidecar_name(plan, i) in sidecars]
    if not indices:
        return {}
    files = storage.stamps(folder)
    read = storage.in_parallel(lambda index: _read_shard_sidecar(folder, plan, index), indices, folder)
    return {
        index: shard
        for index, shard in zip(indices, read, strict=True)
        if shard is not None and _is_whole(folder, shard, files.get(shard.name), sidecars[_sidecar_name(plan, index)])
    }


def committed_part(folder: str, plan: Plan, task: PartTask) -> Sidecar | None:
    """The sidecar of a part that needs no building: its records are there, or in a shard that is whole; else None.

    An engine that starts a job anew in its middle asks for all parts again, those of joined shards too.
    """
    sidecar = load_sidecar(folder, task)
    if sidecar is None or has_records(folder, sidecar):
        return sidecar
    return sidecar if load_shard(folder, plan, task.shard) is not None else None


def assemble_shard(folder: str, plan: Plan, index: int) -> Shard | None:
    """Joins the parts of a shard, commits it and removes them.

    Engines make two attempts at one shard: a retry of a worker thought dead, a backup of a slow one. The one that comes late
    finds the parts gone, before or while it reads them. That is damage only where the shard is not whole either.

    Returns:
        The shard, or None while a part is missing.

    Raises:
        DamageError: a part's bytes are not those its sidecar promises; the sidecar is removed, so the part is built again.
    """
    if (done := load_shard(folder, plan, index)) is not None:
        # A part whose sidecar was lost, or a second attempt that came late, was built for nothing but its sidecar.
        storage.remove_all(part_path(folder, task) for task in plan.parts[index])
        return done
    sidecars = [load_sidecar(folder, task) for task in plan.parts[index]]
    parts = [sidecar for sidecar in sidecars if sidecar is not None]
    if len(parts) < len(sidecars):
        return None
    name = shard_name(plan.config.name, plan.config.split, index, plan.num_shards)
    sha, crc = hashlib.sha256(), google_crc32c.Checksum()
    try:
        with storage.create(storage.join(folder, name)) as target:
            for part in parts:
                _append(folder, part, target, (sha, crc))
    except _BrokenPart as broken:
        if (done := load_shard(folder, plan, index)) is not None:
            return done  # another attempt was quicker
        storage.remove(sidecar_path(folder, str(broken)))
        raise DamageError(f"part {broken} is not what was written; the same build command builds it again") from None
    shard = Shard(
        name,
        sum(part.records for part in parts),
        sum(part.bytes for part in parts),
        sha.hexdigest(),
        crc.hexdigest().decode(),
    )
    fields = {**dataclasses.asdict(shard), "plan_digest": plan.digest}
    storage.write_bytes(shard_sidecar_path(folder, plan, index), json.dumps(fields).encode() + b"\n")
    for part in parts:
        storage.remove(part_path(folder, part))
    return shard


def split_shard(folder: str, plan: Plan, index: int, keep: set[str]) -> None:
    """The inverse of `assemble_shard`: gives a committed shard's parts back their records, and uncommits the shard.

    Args:
        folder, plan: the build.
        index: which shard.
        keep: names of the parts worth keeping; the others are uncommitted, so that they are built again.
    """
    shard = load_shard(folder, plan, index)
    offset = 0
    for task in plan.parts[index]:
        sidecar = load_sidecar(folder, task)
        if sidecar is None:
            break  # without its length, what follows cannot be found; it is built again
        if shard is not None and task.name in keep:
            with storage.create(part_path(folder, sidecar)) as target:
                target.write(storage.read_bytes(storage.join(folder, shard.name), offset, sidecar.bytes))
        offset += sidecar.bytes
    storage.remove(shard_sidecar_path(folder, plan, index))
    for task in plan.parts[index]:
        if task.name not in keep:
            storage.remove(sidecar_path(folder, task.name))


class _Sum(Protocol):
    """A checksum under way, of `hashlib` or of `google_crc32c`."""

    def update(self, data: bytes, /) -> None: ...


class _BrokenPart(Exception):
    """The records of the part of this name are not there, or not those that its sidecar promises."""


def _append(folder: str, part: Sidecar, target: BinaryIO, sums: Iterable[_Sum]) -> None:
    own = hashlib.sha256()
    try:
        with storage.open_read(part_path(folder, part)) as source:
            while chunk := source.read(_CHUNK):
                own.update(chunk)
                for total in sums:
                    total.update(chunk)
                target.write(chunk)
    except FileNotFoundError:
        raise _BrokenPart(part.name) from None
    if own.hexdigest() != part.sha256:
        raise _BrokenPart(part.name)
