"""The plan: every input, in the order of its record, dealt into shards and parts, before anything is built.

`_work/plan.jsonl.gz` holds one line per input; each part is a gzip member of its own, so a worker reads its lines and no
others, and a work item is a few numbers however large the annotations are. `_work/plan.json` is the index, written last.

Order: inputs are sorted by the hash of seed and id. That is a shuffle that does not depend on how the inputs were listed,
and a random choice of them when only the first are taken.
"""

import dataclasses
import gzip
import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.lines import ID_BYTES, KEY_BYTES, Lines
from maskmill.pipelines.parts.part_index import PartIndex, PartTask
from maskmill.pipelines.parts.preparing import paths_of_masks, prepare
from maskmill.pipelines.parts.provenance import mask_packages, versions
from maskmill.pipelines.reading.inputs import Input, Refusal, Source, within_limits
from maskmill.pipelines.reading.location import MAX_FILE_BYTES
from maskmill.pipelines.reading.patience import PATIENCE_S, patiently
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.manifest import WORK, digest

PLAN = "plan.json"
LINES = "plan.jsonl.gz"
REFUSED = "refused.jsonl"
FORMAT = 1

IMAGES_PER_SHARD = 1000
MIN_SHARD_IMAGES = 16  # small data sets get up to 16 shards of this many, so that readers have something to shuffle
IMAGES_PER_PART = 128
PART_SECONDS = 90.0
_HEAD = 2048  # lines that are offered for timing


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be built.

    Attributes:
        requested: the configuration as asked for; what a resuming command is compared with.
        config: the same, resolved: the number of shards, and what generators found when they looked at their files.
        categories: category id as text -> name.
        labels: where class labels come from, in words.
        inputs: images planned, without those refused.
        refused: inputs refused or skipped while listing; their lines are in `refused.jsonl`.
        versions: of the software that makes the bytes; a worker with others refuses to work.
        parts: per shard, the parts.
        ids: per shard, the sum of `id_key` over its inputs, modulo 2**64; () in plans of older versions.
        digest: identity: same inputs, same configuration, same versions, same order.
        seconds_per_image: as timed while planning, on one core of the machine that planned; 0 where it was not.
        files: sha256, in hex, of the files beside `plan.json` that belong to it, by name; {} in plans of older versions.
    """

    requested: BuildConfig
    config: BuildConfig
    categories: dict[str, str]
    labels: str
    inputs: int
    refused: int
    versions: dict[str, str]
    parts: PartIndex
    digest: str
    seconds_per_image: float = 0.0
    files: dict[str, str] = dataclasses.field(default_factory=dict)
    ids: tuple[int, ...] = ()

    @property
    def num_shards(self) -> int:
        return len(self.parts)

    @property
    def num_parts(self) -> int:
        return self.parts.num_parts

    @property
    def tasks(self) -> list[PartTask]:
        """Every part; of a large build there are millions."""
        return [task for parts in self.parts for task in parts]

    def seconds_of(self, tasks: int) -> float:
        """Work in so many of the parts, on one core; 0 where that was not timed."""
        return self.seconds_per_image * self.inputs * tasks / max(1, self.num_parts)


def order_key(seed: int, identity: str, together: str = "") -> bytes:
    """Where an input comes in the order of records: 16 bytes, uniform and independent of all other inputs.

    Inputs that are read `together` (see `Input`) share the first half: their group is shuffled, and they within it.
    """
    key = hashlib.sha256(f"{seed}\0{identity}".encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES]
    return order_key(seed, together)[: KEY_BYTES // 2] + key[: KEY_BYTES // 2] if together else key


def id_key(seed: int, identity: str) -> int:
    """What an id is counted by: 64 bits, those with which the order key of an input begins that is read by itself."""
    return int.from_bytes(order_key(seed, identity)[:ID_BYTES], "big")


def list_inputs(
    config: BuildConfig, source: Source, *, beyond_limit: bool = False, scratch: str | None = None
) -> tuple[Lines, list[Refusal]]:
    """All inputs of a source as plan lines in the order of their records, and those refused.

    `config.limit` cuts the lines, unless those beyond it are asked for as well. Duplicated ids are refused here: of several
    inputs with one id the first in the order of their lines is kept. `scratch` is for lines that are too many for memory.
    """
    lines = Lines(scratch)
    refused: list[Refusal] = []
    for item in within_limits(source.list_inputs()):
        if isinstance(item, Refusal):
            refused.append(item)
        else:
            key = order_key(config.seed, item.id, item.together)
            own = key[KEY_BYTES // 2 :] if item.together else key[:ID_BYTES]
            lines.add(key, own, item.to_json())
    for line in lines.settle():
        refused.append(Refusal(json.loads(line)["id"], "list", "duplicate_id", "another input has the same id"))
    if config.limit and not beyond_limit:
        lines.cut(config.limit)
    refused.sort(key=lambda r: (r.id, r.reason, r.message))
    return lines, refused


def list_prepared(
    config: BuildConfig,
    source: Source,
    folder: str,
    say: Callable[[str], None] = lambda line: None,
    patience: float = PATIENCE_S,
) -> tuple[BuildConfig, Lines, list[Refusal]]:
    """`list_inputs` and then `prepare`, given up where storage stands still for `patience` seconds.

    Raises:
        InputError: see both; or nothing comes from there.
    """
    scratch = None if storage.is_remote(folder) else storage.join(folder, WORK)
    return patiently(
        lambda: prepare(config, *list_inputs(config, source, beyond_limit=True, scratch=scratch), folder, say),
        patience,
        config.images,
        config.annotations,
        *paths_of_masks(config.masks).values(),
    )


def default_num_shards(images: int) -> int:
    """One shard per about `IMAGES_PER_SHARD` images, and up to 16 for small data sets."""
    return max(1, math.ceil(images / IMAGES_PER_SHARD), min(16, images // MIN_SHARD_IMAGES))


def split_evenly(count: int, pieces: int) -> list[range]:
    """0..count-1 as `pieces` consecutive ranges whose lengths differ by at most one."""
    return [range(i * count // pieces, (i + 1) * count // pieces) for i in range(pieces)]


def images_per_part(seconds: float | None) -> int:
    """How many images make about `PART_SECONDS` of work, where one takes `seconds`; the default where that is unknown.

    Parts are what a cluster deals out, tries again and cannot divide: long enough that starting one costs nothing, short
    enough that the last one is not waited for.
    """
    return max(16, min(512, round(PART_SECONDS / seconds))) if seconds else IMAGES_PER_PART


def make_plan(
    config: BuildConfig,
    folder: str,
    part_size: int = 0,
    pace: Callable[[BuildConfig, list[bytes]], float | None] = lambda config, lines: None,
    say: Callable[[str], None] = lambda line: None,
    patience: float = PATIENCE_S,
    ready: Callable[[Source], None] = lambda source: None,
) -> Plan:
    """Lists the inputs and writes the plan below `folder`.

    Args:
        config: what to build.
        folder: the build's folder.
        part_size: images per part; 0 means what `images_per_part` says of `pace`. It changes no byte of the shards.
        pace: seconds per image, measured on some of the lines, or None; see `pipelines.driver.estimate.seconds_per_image`.
        say: told what was found out, a line at a time.
        patience: seconds for which storage that is listed may stand still.
        ready: called with the source before it is listed.

    Raises:
        InputError: the data set cannot be read, does not answer, has no inputs at all, or masks to be imported are not its own.
        UsageError: more shards than images.
    """
    source = config.source()
    ready(source)
    requested = config
    config, lines, refused = list_prepared(config, source, folder, say, patience)
    if not lines and not refused:
        raise InputError(f"{config.images} holds no pictures")
    if large := sum(refusal.reason == "too_large" for refusal in refused):
        say(f"{large:,} inputs are not read: files of more than {MAX_FILE_BYTES >> 20} MB (too_large in the ledger)")
    shards = config.num_shards or default_num_shards(len(lines))
    if lines and shards > len(lines):
        raise UsageError(f"--num-shards {shards} is more than the {len(lines)} images there are")
    seconds = pace(config, lines.head(_HEAD))
    resolved = dataclasses.replace(config, num_shards=shards)
    software = {**versions(), **mask_packages(config.masks)}
    dealt = _deal(folder, lines, shards, part_size or images_per_part(seconds), digest([resolved.to_dict(), software]))
    for refusal in refused:
        dealt.identity.update(json.dumps(dataclasses.astuple(refusal)).encode() + b"\n")
    plan_digest = dealt.identity.hexdigest()
    ledger = b"".join(json.dumps(dataclasses.asdict(r)).encode() + b"\n" for r in refused)
    storage.write_bytes(storage.join(folder, WORK, REFUSED), ledger)
    plan = Plan(
        requested=requested,
        config=resolved,
        categories={str(k): v for k, v in sorted(source.categories.items())},
        labels=source.labels,
        inputs=len(lines),
        refused=len(refused),
        versions=software,
        parts=PartIndex(dealt.parts, plan_digest),
        digest=plan_digest,
        seconds_per_image=round(seconds or 0.0, 4),
        files={LINES: dealt.sha256, REFUSED: hashlib.sha256(ledger).hexdigest()},
        ids=tuple(dealt.ids),
    )
    save_plan(folder, plan)
    return plan


def save_plan(folder: str, plan: Plan) -> None:
    """Writes `plan.json`, which says that the files beside it are whole."""
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)} | {"format": FORMAT}
    fields |= {"requested": plan.requested.to_dict(), "config": plan.config.to_dict(), "parts": plan.parts.to_json()}
    fields["self"] = digest(fields)
    storage.write_bytes(storage.join(folder, WORK, PLAN), json.dumps(fields, sort_keys=True).encode() + b"\n")


@dataclasses.dataclass
class _Dealt:
    """Lines dealt into shards and parts, and written: their numbers, digests, and the identity of the inputs so far."""

    identity: Any
    sha256: str
    parts: list[list[tuple[int, int, int]]]
    ids: list[int]


def _deal(folder: str, lines: Lines, shards: int, part_size: int, asked: str) -> _Dealt:
    identity, lines_sha = hashlib.sha256(asked.encode()), hashlib.sha256()
    parts: list[list[tuple[int, int, int]]] = []
    ids: list[int] = []
    offset = 0
    with storage.create(storage.join(folder, WORK, LINES)) as file:
        waiting = lines.with_hashes()
        for images in split_evenly(len(lines), shards):
            own: list[tuple[int, int, int]] = []
            total = 0
            for piece in split_evenly(len(images), max(1, math.ceil(len(images) / part_size))):
                taken = list(itertools.islice(waiting, len(piece)))
                total += sum(id_hash for id_hash, _ in taken)
                block = b"".join(line + b"\n" for _, line in taken)
                identity.update(block)
                member = gzip.compress(block, compresslevel=6, mtime=0)
                file.write(member)
                lines_sha.update(member)
                own.append((offset, len(member), len(piece)))
                offset += len(member)
            parts.append(own)
            ids.append(total % (1 << 8 * ID_BYTES))
    return _Dealt(identity, lines_sha.hexdigest(), parts, ids)


def load_plan(folder: str) -> Plan | None:
    """The plan of a build's folder, or None where there is none yet.

    Raises:
        DamageError: there is one, but it cannot be read.
    """
    path = storage.join(folder, WORK, PLAN)
    try:
        fields = json.loads(storage.read_bytes(path))
        stated = fields.pop("self", None)  # older versions state none
        if stated is not None and stated != digest(fields):
            raise ValueError("it does not match its own digest")
        if fields.pop("format") != FORMAT:
            raise DamageError(f"{path} was written by another version of maskmill; build with --overwrite")
        fields["parts"] = PartIndex(fields["parts"], fields["digest"])
        fields["ids"] = tuple(fields.get("ids", ()))
        fields |= {name: BuildConfig.from_dict(fields[name]) for name in ("requested", "config")}
        return Plan(**fields)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, error) from error


def check_files(folder: str, plan: Plan) -> None:
    """Makes sure that the files beside `plan.json` are those it was written with, before anything rests on them.

    Raises:
        DamageError: one is missing or has other bytes.
    """
    for name, sha256 in sorted(plan.files.items()):
        path = storage.join(folder, WORK, name)
        try:
            if hashlib.sha256(storage.read_bytes(path)).hexdigest() != sha256:
                raise _damaged(path, f"its bytes are not those that {PLAN} states")
        except FileNotFoundError as error:
            raise _damaged(path, "it is missing") from error


def _damaged(path: str, why: str | Exception) -> DamageError:
    return DamageError(f"{path} cannot be read ({why}); build with --overwrite, which plans and builds anew")


def read_part(folder: str, task: PartTask) -> list[Input]:
    """The inputs of one part, in the order of their records.

    Raises:
        DamageError: the lines are missing or damaged.
    """
    path = storage.join(folder, WORK, LINES)
    try:
        member = storage.read_bytes(path, task.offset, task.size)
    except FileNotFoundError as error:
        raise _damaged(path, "it is missing") from error
    try:
        items = [Input.from_json(line) for line in gzip.decompress(member).splitlines()]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:  # the first are gzip's own
        raise _damaged(path, error) from error
    if len(items) != task.images:
        raise _damaged(path, f"part {task.name} has {len(items)} inputs, not {task.images}")
    return items


def read_refused(folder: str) -> Iterator[Refusal]:
    """Inputs refused while listing.

    Raises:
        DamageError: the lines are missing or damaged.
    """
    path = storage.join(folder, WORK, REFUSED)
    try:
        for line in storage.read_bytes(path).splitlines():
            yield Refusal(**json.loads(line))
    except FileNotFoundError as error:
        raise _damaged(path, "it is missing") from error
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def difference(old: dict, new: dict) -> Iterable[str]:
    """Lines that say how two configurations differ."""
    for name in sorted(set(old) | set(new)):
        if old.get(name) != new.get(name):
            yield f"  {name}: {old.get(name)!r} -> {new.get(name)!r}"
