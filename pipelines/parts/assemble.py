"""Parts to shards: their bytes joined, their sidecars packed into one file, and the way back."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, Protocol

import google_crc32c

from maskmill.pipelines.parts import packed
from maskmill.pipelines.parts.part import (
    PARTS,
    Sidecar,
    has_records,
    load_sidecar,
    parse_sidecar,
    part_path,
    sidecar_bytes,
    sidecar_path,
)
from maskmill.pipelines.parts.part_index import DIGEST_DIGITS, PartTask
from maskmill.pipelines.parts.plan import Plan
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


def _packed_path(folder: str, plan: Plan, index: int) -> str:
    return shard_sidecar_path(folder, plan, index).removesuffix(".json") + packed.SUFFIX


@dataclasses.dataclass(frozen=True)
class _Commit:
    """What a shard's sidecar holds; `packed` says whether those of its parts are in one file beside it.

    An older maskmill left these where the parts had written them.
    """

    shard: Shard
    packed: bool


def _read_commit(folder: str, plan: Plan, index: int) -> _Commit | None:
    try:
        fields = json.loads(storage.read_bytes(shard_sidecar_path(folder, plan, index)))
        is_packed = fields.pop("packed", False)
        return _Commit(Shard(**fields), is_packed) if fields.pop("plan_digest") == plan.digest else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
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


def _load_commit(folder: str, plan: Plan, index: int) -> _Commit | None:
    """The shard as committed under this plan, its file still there and the same; else None."""
    try:
        sidecar = storage.stamp(shard_sidecar_path(folder, plan, index))
        commit = _read_commit(folder, plan, index)
        file = None if commit is None else storage.stamp(storage.join(folder, commit.shard.name))
    except FileNotFoundError:
        return None
    return commit if commit is not None and _is_whole(folder, commit.shard, file, sidecar) else None


def load_shard(folder: str, plan: Plan, index: int) -> Shard | None:
    """The shard as committed under this plan, its file still there and the same; else None."""
    commit = _load_commit(folder, plan, index)
    return None if commit is None else commit.shard


@dataclasses.dataclass(frozen=True)
class Joined:
    """The shards of a build that are committed and whole.

    Attributes:
        shards: by index.
        bare: indices of those whose parts' sidecars are lost, so that their rows must be built again.
        stale: indices of others, whose own sidecar is there and their file is not, or is another.
        packed: indices of those with their parts' sidecars in one file.
    """

    shards: dict[int, Shard]
    bare: frozenset[int] = frozenset()
    stale: frozenset[int] = frozenset()
    packed: frozenset[int] = frozenset()


def find_joined(folder: str, plan: Plan) -> Joined:
    """Every shard that `load_shard` would give: two listings, and a read for each that is there.

    On gs:// a call takes tens of milliseconds, and there are thousands of shards.
    """
    sidecars = storage.stamps(storage.join(folder, WORK, SHARDS))
    indices = [i for i in range(plan.num_shards) if _sidecar_name(plan, i) in sidecars]
    if not indices:
        return Joined({})
    files = storage.stamps(folder)
    read = storage.in_parallel(lambda index: _read_commit(folder, plan, index), indices, folder)
    whole = {
        index: commit
        for index, commit in zip(indices, read, strict=True)
        if commit is not None
        and _is_whole(folder, commit.shard, files.get(commit.shard.name), sidecars[_sidecar_name(plan, index)])
    }
    loose = [index for index, commit in whole.items() if not commit.packed]
    parts = storage.names(storage.join(folder, WORK, PARTS)) if loose else set()
    there = {i for i in whole if whole[i].packed and _packed_path("", plan, i).rpartition("/")[2] in sidecars}
    there |= {i for i in loose if all(f"{task.name}.json" in parts for task in plan.parts[i])}
    return Joined(
        shards={index: commit.shard for index, commit in whole.items()},
        bare=frozenset(whole) - there,
        stale=frozenset(indices) - whole.keys(),
        packed=frozenset(there) - set(loose),
    )


def sweep_parts(folder: str, plan: Plan, joined: Joined) -> None:
    """Removes what is left of the parts of packed shards, by attempts that were killed or came late."""
    tag = f"-{plan.digest[:DIGEST_DIGITS]}."
    names = storage.names(storage.join(folder, WORK, PARTS))
    ours = [n for n in names if tag in n and (shard := n.partition("-")[0]).isdecimal() and int(shard) in joined.packed]
    storage.remove_all(storage.join(folder, WORK, PARTS, name) for name in sorted(ours))


def load_shards(folder: str, plan: Plan) -> dict[int, Shard]:
    """The shards of `find_joined`, by index."""
    return find_joined(folder, plan).shards


def load_parts(folder: str, plan: Plan, index: int) -> Iterator[Sidecar]:
    """The sidecars of a joined shard's parts, in order, one at a time.

    Raises:
        DamageError: they are missing or damaged; `forget_unreadable` lets the shard be built again.
    """
    commit = _read_commit(folder, plan, index)
    if commit is None:
        raise DamageError(f"shard {index} is not complete; the same build command completes it")
    if commit.packed:
        try:
            yield from packed.unpack(_packed_path(folder, plan, index), plan.parts[index])
        except ValueError as error:
            raise DamageError(
                f"what is known of the parts of shard {index} cannot be read ({error}); the same build command builds it again"
            ) from error
        return
    for task in plan.parts[index]:
        sidecar = load_sidecar(folder, task)
        if sidecar is None:
            raise DamageError(f"part {task.name} has no sidecar; the same build command builds it")
        yield sidecar


def forget_unreadable(folder: str, plan: Plan, index: int) -> None:
    """Uncommits what of a joined shard's parts cannot be read: the next build makes it again."""
    commit = _read_commit(folder, plan, index)
    if commit is not None and commit.packed:
        storage.remove(shard_sidecar_path(folder, plan, index))
        return
    for task in plan.parts[index]:
        if load_sidecar(folder, task) is None:
            storage.remove(sidecar_path(folder, task.name))


def committed_part(folder: str, plan: Plan, task: PartTask) -> Sidecar | None:
    """The sidecar of a part that needs no building: its records are there, or in a shard that is whole; else None.

    An engine that starts a job anew in its middle asks for all parts again, those of joined shards too.
    """
    sidecar = load_sidecar(folder, task)
    if sidecar is not None and has_records(folder, sidecar):
        return sidecar
    commit = _load_commit(folder, plan, task.shard)
    if commit is None or not commit.packed:
        return None if commit is None else sidecar
    try:
        return list(packed.unpack(_packed_path(folder, plan, task.shard), plan.parts[task.shard]))[task.part]
    except ValueError:
        return None


def assemble_shard(folder: str, plan: Plan, index: int) -> Shard | None:
    """Joins the parts of a shard, packs their sidecars into one file, commits the shard, and removes the parts.

    Engines make two attempts at one shard: a retry of a worker thought dead, a backup of a slow one. The one that comes late
    finds the parts gone, before or while it reads them. That is damage only where the shard is not whole either.

    Returns:
        The shard, or None while a part is missing.

    Raises:
        DamageError: a part's bytes are not those its sidecar promises; the sidecar is removed, so the part is built again.
    """
    done = _load_commit(folder, plan, index)
    if done is not None and done.packed and storage.exists(_packed_path(folder, plan, index)):
        _remove_parts(folder, plan, index)  # of a second attempt that came late
        return done.shard
    parts: list[_Part] = []
    for task in plan.parts[index]:
        part = _Part.load(folder, task)
        if part is None:  # still to be built, or packed by an attempt that was quicker
            return load_shard(folder, plan, index) if done is None else None
        parts.append(part)
    shard = done.shard if done is not None else _join(folder, plan, index, parts)
    if shard is None:
        return load_shard(folder, plan, index)
    with storage.create(_packed_path(folder, plan, index)) as file:
        for part in parts:
            file.write(part.member)
    fields = {**dataclasses.asdict(shard), "plan_digest": plan.digest, "packed": True}
    storage.write_bytes(shard_sidecar_path(folder, plan, index), json.dumps(fields).encode() + b"\n")
    _remove_parts(folder, plan, index)
    return shard


def _remove_parts(folder: str, plan: Plan, index: int) -> None:
    tasks = plan.parts[index]
    storage.remove_all(part_path(folder, task) for task in tasks)
    storage.remove_all(sidecar_path(folder, task.name) for task in tasks)


@dataclasses.dataclass(frozen=True)
class _Part:
    """What joining needs of a part: its records' size and digest, and its sidecar, packed. A shard can have many parts."""

    name: str
    path: str
    records: int
    size: int
    sha256: str
    member: bytes

    @classmethod
    def load(cls, folder: str, task: PartTask) -> "_Part | None":
        try:
            data = storage.read_bytes(sidecar_path(folder, task.name))
        except FileNotFoundError:
            return None
        sidecar = parse_sidecar(data, task)
        if sidecar is None:
            return None
        path = part_path(folder, task)
        return cls(task.name, path, sidecar.records, sidecar.bytes, sidecar.sha256, packed.pack(data))


def _join(folder: str, plan: Plan, index: int, parts: Sequence[_Part]) -> Shard | None:
    """Writes the shard's file; None where another attempt was quicker. Raises DamageError."""
    name = shard_name(plan.config.name, plan.config.split, index, plan.num_shards)
    sha, crc = hashlib.sha256(), google_crc32c.Checksum()
    try:
        with storage.create(storage.join(folder, name)) as target:
            for part in parts:
                _append(part, target, (sha, crc))
    except _BrokenPart as broken:
        if load_shard(folder, plan, index) is not None:
            return None
        storage.remove(sidecar_path(folder, str(broken)))
        raise DamageError(f"part {broken} is not what was written; the same build command builds it again") from None
    records, size = sum(part.records for part in parts), sum(part.size for part in parts)
    return Shard(name, records, size, sha.hexdigest(), crc.hexdigest().decode())


def split_shard(folder: str, plan: Plan, index: int, keep: set[str]) -> None:
    """The inverse of `assemble_shard`: gives a committed shard's parts back their records, and uncommits the shard.

    Args:
        folder, plan: the build.
        index: which shard.
        keep: names of the parts worth keeping; the others are uncommitted, so that they are built again.
    """
    shard = load_shard(folder, plan, index)
    offset = 0
    if shard is not None:
        for task, sidecar in zip(plan.parts[index], load_parts(folder, plan, index), strict=True):
            if task.name in keep:
                with storage.create(part_path(folder, sidecar)) as target:
                    target.write(storage.read_bytes(storage.join(folder, shard.name), offset, sidecar.bytes))
                storage.write_bytes(sidecar_path(folder, task.name), sidecar_bytes(sidecar))
            offset += sidecar.bytes
    storage.remove(shard_sidecar_path(folder, plan, index))
    storage.remove(_packed_path(folder, plan, index))
    for task in plan.parts[index]:
        if task.name not in keep:
            storage.remove(sidecar_path(folder, task.name))


class _Sum(Protocol):
    """A checksum under way, of `hashlib` or of `google_crc32c`."""

    def update(self, data: bytes, /) -> None: ...


class _BrokenPart(Exception):
    """The records of the part of this name are not there, or not those that its sidecar promises."""


def _append(part: _Part, target: BinaryIO, sums: Iterable[_Sum]) -> None:
    own = hashlib.sha256()
    try:
        with storage.open_read(part.path) as source:
            while chunk := source.read(_CHUNK):
                own.update(chunk)
                for total in sums:
                    total.update(chunk)
                target.write(chunk)
    except FileNotFoundError:
        raise _BrokenPart(part.name) from None
    if own.hexdigest() != part.sha256:
        raise _BrokenPart(part.name)
