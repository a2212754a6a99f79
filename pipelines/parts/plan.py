"""The plan: every input, in the order of its record, dealt into shards and parts, before anything is built.

There is a line per input (`plan_lines.py`); a work item is a few numbers however large the annotations are. `_work/plan.json`
is the index, written last. The lines are put into order here, in bounded memory, or by a cluster's workers (`partition.py`): the
plan is the same, byte for byte.

Order: inputs are sorted by the hash of seed and id. That is a shuffle that does not depend on how the inputs were listed,
and a random choice of them when only the first are taken.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable

from maskmill.pipelines.parts import plan_lines
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.lines import Lines, duplicate, keys
from maskmill.pipelines.parts.part_index import ONLY, PartIndex, PartTask, lines_name
from maskmill.pipelines.parts.partition import Listing, Workers, list_by_workers
from maskmill.pipelines.parts.plan_lines import (
    REFUSED,
    Piece,
    damaged,
    deal,
    write_piece,
    write_refused,
)
from maskmill.pipelines.parts.preparing import has_prepared, paths_of_masks, prepare
from maskmill.pipelines.parts.provenance import mask_packages, versions
from maskmill.pipelines.reading.inputs import Refusal, Source, within_limits
from maskmill.pipelines.reading.location import MAX_FILE_BYTES
from maskmill.pipelines.reading.patience import PATIENCE_S, patiently
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.manifest import WORK, digest

PLAN = "plan.json"
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


def list_inputs(
    config: BuildConfig, source: Source | Listing, *, beyond_limit: bool = False, scratch: str | None = None
) -> tuple[Lines, list[Refusal]]:
    """All inputs of a source as plan lines in the order of their records, and those refused.

    `config.limit` cuts the lines, unless those beyond it are asked for as well. Duplicated ids are refused here: of several
    inputs with one id the first in the order of their lines is kept. `scratch` is for lines that are too many for memory.
    """
    lines = Lines(scratch)
    refused: list[Refusal] = []
    if isinstance(source, Listing):
        source.fill(lines)
        refused += source.refused()
    else:
        for item in within_limits(source.list_inputs()):
            if isinstance(item, Refusal):
                refused.append(item)
            else:
                lines.add(*keys(config.seed, item.id, item.together), item.to_json())
    refused += map(duplicate, lines.settle())
    if config.limit and not beyond_limit:
        lines.cut(config.limit)
    refused.sort(key=dataclasses.astuple)
    return lines, refused


def list_prepared(
    config: BuildConfig,
    source: Source | Listing,
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
    workers: Workers | None = None,
) -> Plan:
    """Lists the inputs and writes the plan below `folder`.

    Args:
        config: what to build.
        folder: the build's folder.
        part_size: images per part; 0 means what `images_per_part` says of `pace`. It changes no byte of the shards.
        pace: seconds per image, measured on some of the lines, or None; see `pipelines.driver.estimate.seconds_per_image`.
        say: told what was found out, a line at a time.
        patience: seconds for which storage that is listed may stand still.
        workers: where there are any, they list a data set that lies in many shards, and plan it where it is large.

    Raises:
        InputError: the data set cannot be read, does not answer, has no inputs at all, or masks to be imported are not its own.
        UsageError: more shards than images.
    """
    source = config.source()
    with contextlib.ExitStack() as stack:
        listed = None
        if workers is not None:
            listed = list_by_workers(config, source, folder, workers, patience)
        if listed is not None:
            stack.callback(listed.remove)
            listed.conclude()
            if listed.is_large and not has_prepared(config.masks):
                return _by_workers(config, folder, listed, source, part_size, pace)
        requested = config
        config, lines, refused = list_prepared(config, listed or source, folder, say, patience)
        if large := sum(refusal.reason == "too_large" for refusal in refused):
            say(
                f"{large:,} inputs are not read: files of more than {MAX_FILE_BYTES >> 20} MB (too_large in the ledger)"
            )
        resolved = _resolve(config, len(lines), bool(refused))
        seconds = pace(config, lines.head(_HEAD))
        size = part_size or images_per_part(seconds)
        waiting = lines.with_hashes()
        written = [
            write_piece(folder, number, waiting, [len(dealt) for dealt in own], size)
            for number, own in deal(len(lines), resolved.num_shards)
        ]
        return _settle(folder, requested, resolved, source, len(lines), written, refused, seconds)


def _resolve(config: BuildConfig, inputs: int, is_refused: bool) -> BuildConfig:
    if not inputs and not is_refused:
        raise InputError(f"{config.images} holds no pictures")
    shards = config.num_shards or default_num_shards(inputs)
    if inputs and shards > inputs:
        raise UsageError(f"--num-shards {shards} is more than the {inputs} images there are")
    return dataclasses.replace(config, num_shards=shards)


def _by_workers(
    config: BuildConfig,
    folder: str,
    listed: Listing,
    source: Source,
    part_size: int,
    pace: Callable[[BuildConfig, list[bytes]], float | None],
) -> Plan:
    """A plan whose lines this process never holds: workers sort ranges of the order, and write its pieces."""
    ordered = listed.sort()
    inputs = min(ordered.inputs, config.limit or ordered.inputs)
    resolved = _resolve(config, inputs, is_refused=True)
    seconds = pace(config, ordered.head(min(_HEAD, inputs)))
    size = part_size or images_per_part(seconds)
    written = ordered.deal(folder, inputs, resolved.num_shards, size)
    return _settle(folder, config, resolved, source, inputs, written, ordered.refused(), seconds)


def _settle(
    folder: str,
    requested: BuildConfig,
    resolved: BuildConfig,
    source: Source,
    inputs: int,
    written: Iterable[Piece],
    refused: Iterable[Refusal],
    seconds: float | None,
) -> Plan:
    """The plan of pieces that are written, and its index."""
    software = {**versions(), **mask_packages(resolved.masks)}
    identity = hashlib.sha256(digest([resolved.to_dict(), software]).encode())
    parts: list[list[list[int]]] = []
    ids: list[int] = []
    starts: list[int] = []
    sha256: list[str] = []
    for piece in written:
        starts.append(len(parts))
        sha256.append(piece.sha256)
        parts += piece.parts
        ids += piece.ids
        for own in piece.digests:
            identity.update(bytes.fromhex(own))
    names = [lines_name(number) for number in range(len(sha256))] if len(sha256) > 1 else [lines_name(ONLY)]
    count, ledger = write_refused(folder, refused)
    identity.update(bytes.fromhex(ledger))
    plan_digest = identity.hexdigest()
    plan = Plan(
        requested=requested,
        config=resolved,
        categories={str(k): v for k, v in sorted(source.categories.items())},
        labels=source.labels,
        inputs=inputs,
        refused=count,
        versions=software,
        parts=PartIndex(parts, plan_digest, starts if len(starts) > 1 else ()),
        digest=plan_digest,
        seconds_per_image=round(seconds or 0.0, 4),
        files={**dict(zip(names, sha256, strict=True)), REFUSED: ledger},
        ids=tuple(ids),
    )
    save_plan(folder, plan)
    return plan


def save_plan(folder: str, plan: Plan) -> None:
    """Writes `plan.json`, which says that the files beside it are whole."""
    fields = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)} | {"format": FORMAT}
    fields |= {"requested": plan.requested.to_dict(), "config": plan.config.to_dict(), "parts": plan.parts.to_json()}
    fields |= {"pieces": plan.parts.pieces.tolist()} if len(plan.parts.pieces) else {}
    fields["self"] = digest(fields)
    storage.write_bytes(storage.join(folder, WORK, PLAN), json.dumps(fields, sort_keys=True).encode() + b"\n")


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
        fields["parts"] = PartIndex(fields["parts"], fields["digest"], fields.pop("pieces", ()))
        fields["ids"] = tuple(fields.get("ids", ()))
        fields |= {name: BuildConfig.from_dict(fields[name]) for name in ("requested", "config")}
        return Plan(**fields)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, error) from error


def check_files(folder: str, plan: Plan) -> None:
    """Makes sure that the files beside `plan.json` are those it was written with, before anything rests on them.

    Raises:
        DamageError: one is missing or has other bytes.
    """
    plan_lines.check_files(folder, plan.files, plan.parts.sizes(), PLAN)


def difference(old: dict, new: dict) -> Iterable[str]:
    """Lines that say how two configurations differ."""
    for name in sorted(set(old) | set(new)):
        if old.get(name) != new.get(name):
            yield f"  {name}: {old.get(name)!r} -> {new.get(name)!r}"
