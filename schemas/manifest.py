"""A build's folder as its readers see it: `manifest.json`, and the names beside it.

The manifest is written last. A folder without it is not a data set, and `load_manifest` says so: that one rule makes
half-written builds impossible to train from by accident.
"""

import dataclasses
import hashlib
import itertools
import json
import re
import typing

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.example import SCHEMA_VERSION
from maskmill.schemas.mask import Layer
from maskmill.schemas.shard_table import SHARD_TABLE, table_bytes, table_rows
from maskmill.schemas.typed import FieldError, typed

MANIFEST = "manifest.json"
FAILURES = "failures.jsonl"
IMAGES = "images.parquet"
IMAGES_FOLDER = "images"  # of a large data set: the same rows as `images_piece` 0, 1, 2 ...
CHECKSUMS = "SHA256SUMS"
FEATURES_JSON, INFO_JSON, LAYER_NAMES = "features.json", "dataset_info.json", "masks.layer.labels.txt"
REPORT_HTML, REPORT_JSON = "report.html", "report.json"
WORK = "_work"
MAX_PIXELS = 50_000_000  # of a picture, where a build is not told otherwise
SHARDS_INSIDE = 10_000  # shards that a manifest lists itself; more are in `shards.parquet` (`schemas.shard_table`)
_OWN_DIGEST = "manifest_digest"
_TABLE = "shard_table"
_MAX_BYTES = 256 << 20  # about a million shards

_SHARD_NAME = re.compile(r"[^/\\\x00-\x1f\x7f-\x9f\ud800-\udfff]+\.tfrecord-[0-9]{5,}-of-[0-9]{5,}")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}\Z")


def shard_name(dataset: str, split: str, index: int, count: int) -> str:
    """`DATASET-SPLIT.tfrecord-00000-of-00016`, the template that tensorflow_datasets also reads."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def is_shard_name(name: str) -> bool:
    """Whether a file name is one that `shard_name` gives."""
    return len(name) <= 255 and _SHARD_NAME.fullmatch(name) is not None


def images_piece(index: int) -> str:
    """`images/00000.parquet`: some of the rows of a data set that is too large for one `images.parquet`."""
    return f"{IMAGES_FOLDER}/{index:05d}.parquet"


def images_files(folder: str) -> list[str]:
    """Names of the files that hold a data set's rows, in order, below its folder; [] where there are none.

    Where there is an `images.parquet`, that is all.
    """
    if storage.exists(storage.join(folder, IMAGES)):
        return [IMAGES]
    there = {f"{IMAGES_FOLDER}/{name}" for name in storage.names(storage.join(folder, IMAGES_FOLDER))}
    return list(itertools.takewhile(there.__contains__, map(images_piece, itertools.count())))


def canonical_json(value: object) -> bytes:
    """JSON with one spelling per value, for digests: sorted keys, no spaces, no NaN, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: object) -> str:
    """sha256, in hex, of a JSON-able value's canonical spelling."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


@dataclasses.dataclass(frozen=True)
class Shard:
    """One shard file.

    Attributes:
        name: file name within the folder.
        records: how many records it holds; 0 is allowed.
        bytes: its size.
        sha256: hex digest of its bytes.
        crc32c: hex CRC32C of its bytes, comparable with what object stores report.
    """

    name: str
    records: int
    bytes: int
    sha256: str
    crc32c: str


@dataclasses.dataclass(frozen=True)
class File:
    """Another file of the folder, one that is the same in every build of the same data.

    Attributes:
        name: within the folder.
        bytes: its size.
        sha256: hex digest of its bytes.
    """

    name: str
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        dataset, split: names, as in the shards' file names.
        config: every option that can change a byte of the records, resolved; paths by their last part.
        config_digest: `digest(config)`.
        layers: the mask layers, in the order that `masks/layer` indexes.
        shards: the shard files, in order. The file lists up to `SHARDS_INSIDE` of them; of more it has the digest of what
            `shards.parquet` beside it says.
        counts: inputs, written, failed, skipped (inputs is the sum of these three), and dropped_annotations.
        decoder: how pixels were decoded, and counters of what was re-encoded.
        versions: of this package and of the libraries that can change a byte.
        abo: layer -> {"abo", "instances", "masks_per_image", "coverage"}, from the integer sums of `schemas.stats`.
        labels: where class labels come from, in words.
        categories: category id as text -> name.
        plan_digest: identity of the inputs and their order.
        schema_version: of the records; this package reads `SCHEMA_VERSION` only.
        files: the other files that do not differ between builds of the same data. Those that hold times are in
            `SHA256SUMS` (see `pipelines.dataset.checksums`), which has a line for every file. None for a manifest that an older
            maskmill wrote, without digests.
    """

    dataset: str
    split: str
    config: dict
    config_digest: str
    layers: tuple[Layer, ...]
    shards: tuple[Shard, ...]
    counts: dict[str, int]
    decoder: dict[str, str | dict[str, int]]
    versions: dict[str, str]
    abo: dict[str, dict[str, int | float | None]] = dataclasses.field(default_factory=dict)
    labels: str = ""
    categories: dict[str, str] = dataclasses.field(default_factory=dict)
    plan_digest: str = ""
    schema_version: int = SCHEMA_VERSION
    files: tuple[File, ...] | None = ()

    @property
    def num_records(self) -> int:
        """Records in all shards."""
        return sum(shard.records for shard in self.shards)

    @property
    def max_pixels(self) -> int:
        """How many pixels a picture of the data set has at most."""
        return self.config.get("max_pixels", MAX_PIXELS)

    @property
    def digest(self) -> str:
        """Identity of the data set: two folders with this digest hold the same bytes."""
        return digest(self._fields())

    def layer_index(self, name: str) -> int:
        """Position of a layer; InputError lists those there are."""
        names = [layer.name for layer in self.layers]
        if name not in names:
            raise InputError(f"this data set has no layer {name!r}; it has {', '.join(names) or 'none'}")
        return names.index(name)

    def to_json(self) -> bytes:
        """The file's bytes, the same for the same manifest; with its own digest, where it is not an older one's."""
        own = {} if self.files is None else {_OWN_DIGEST: self.digest}
        return json.dumps({**self._fields(), **own}, indent=1, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"

    def shard_table(self) -> bytes | None:
        """Bytes of `shards.parquet`, or None where the manifest lists its shards itself."""
        if len(self.shards) <= SHARDS_INSIDE:
            return None
        return table_bytes(list(map(vars, self.shards)), typing.get_type_hints(Shard))

    def _fields(self) -> dict:
        fields = dataclasses.asdict(self)
        if len(self.shards) > SHARDS_INSIDE:
            fields |= {"shards": [], _TABLE: {"digest": digest(fields["shards"]), "shards": len(self.shards)}}
        if self.files is None:
            del fields["files"]
        return fields


def parse_manifest(data: bytes, where: str, folder: str = "") -> Manifest:
    """Bytes of `manifest.json` to a Manifest, believed in nothing.

    Args:
        data: the file's bytes.
        where: the file's path, for messages.
        folder: where the table of the shards is, for a manifest that does not list them itself.

    Raises:
        InputError: a schema version that this package does not read.
        DamageError: not JSON, a field missing or of the wrong kind (named by its path), unsafe or repeated shard names,
            counts that do not add up, or a manifest that is not the one its own digest was made of.
    """
    try:
        return _parse(data, where, folder)
    except RecursionError:
        raise DamageError(f"{where} is damaged: its JSON is nested too deep to be a manifest") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _parse(data: bytes, where: str, folder: str) -> Manifest:
    try:
        fields = json.loads(data, parse_constant=_no_constant)
    except ValueError as error:
        raise DamageError(f"{where} is not JSON: {error}") from error
    if not isinstance(fields, dict) or "schema_version" not in fields:
        raise DamageError(f"{where} is not a maskmill manifest: it has no schema_version")
    if fields["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{where} has schema version {repr(fields['schema_version'])[:60]}; this maskmill reads version "
            f"{SCHEMA_VERSION}. Build the data set again, or use the maskmill that wrote it"
        )
    own = fields.pop(_OWN_DIGEST, None)
    # Two fields came with the digests, so that a damaged name of one does not pass for an older manifest.
    older = own is None and "files" not in fields
    try:
        listed = {"shards": _shards_of_table(fields[_TABLE], folder)} if _TABLE in fields else {}
        files = {"files": None if older else fields.get("files", [])}
        manifest = typed(Manifest, {**fields, **listed, **files}, "")
        _check_sense(manifest)
        same = older or own == digest(fields)
    except ValueError as error:
        raise DamageError(f"{where} is damaged: {error}") from error
    if not same:
        raise DamageError(
            f"{where} is damaged: its {_OWN_DIGEST} is that of another content; copy the folder again, or let the same "
            "build command make it anew"
        )
    return manifest


def _shards_of_table(stated: object, folder: str) -> list[dict]:
    """The shards as `shards.parquet` lists them, where that is what the manifest states. Raises FieldError."""
    path = storage.join(folder, SHARD_TABLE)
    try:
        data = storage.read_whole(path, _MAX_BYTES)
        rows = table_rows(data, [field.name for field in dataclasses.fields(Shard)])
    except FileNotFoundError:
        raise FieldError(f"its shards are in {SHARD_TABLE}, which is missing beside it") from None
    except (OSError, ValueError) as error:
        raise FieldError(f"its shards are in {SHARD_TABLE}, which cannot be read: {error}") from error
    if stated != {"digest": digest(rows), "shards": len(rows)}:
        raise FieldError(f"{SHARD_TABLE} beside it lists other shards than it was made with")
    return rows


def _check_sense(manifest: Manifest) -> None:
    """What types cannot say. Raises FieldError."""
    seen: set[str] = set()
    for number, one in enumerate(manifest.shards):
        if not is_shard_name(one.name):
            raise FieldError(f"shards[{number}].name: {one.name[:200]!r} is not a shard's name")
        if one.name in seen:
            raise FieldError(f"shards[{number}].name: {one.name!r} is listed twice")
        seen.add(one.name)
    for number, file in enumerate(manifest.files or ()):
        if not _FILE_NAME.match(file.name) or file.name in (MANIFEST, CHECKSUMS):
            raise FieldError(
                f"files[{number}].name: {file.name[:200]!r} is not the name of a file that it can vouch for"
            )
    names = [layer.name for layer in manifest.layers]
    for what, name in (("dataset", manifest.dataset), ("split", manifest.split), *(("layers", name) for name in names)):
        if not name.isprintable():  # it would reach terminals; a lone surrogate cannot even be printed
            raise FieldError(f"{what}: {name[:60]!r} is not printable text")
    if len(set(names)) != len(names):
        raise FieldError(f"layers: {next(n for n in names if names.count(n) > 1)!r} is listed twice")
    if manifest.abo and set(manifest.abo) != set(names):
        raise FieldError(f"abo should have the layers {', '.join(names)}, has {', '.join(manifest.abo)}"[:300])
    for name, row in manifest.abo.items():
        for key in ("abo", "instances", "masks_per_image", "coverage"):
            if key not in row:
                raise FieldError(f"abo.{name}.{key} is missing")
    for key in ("inputs", "written", "failed", "skipped"):
        if key not in manifest.counts:
            raise FieldError(f"counts.{key} is missing")
    counts = manifest.counts
    if counts["inputs"] != counts["written"] + counts["failed"] + counts["skipped"]:
        raise FieldError(f"inputs are not written + failed + skipped: {counts}"[:300])
    if counts["written"] != manifest.num_records:
        raise FieldError(f"{counts['written']} written, but the shards hold {manifest.num_records} records")
    max_pixels = manifest.config.get("max_pixels", 1)
    if isinstance(max_pixels, bool) or not isinstance(max_pixels, int) or max_pixels < 1:
        raise FieldError("config.max_pixels should be a whole number from 1 on")


def split_mark(split: str) -> str:
    """Name of the file that marks a folder below it as one of several splits of a data set."""
    return f"split-{split}.json"


def marked_splits(folder: str) -> list[str]:
    """Names of the splits below a folder, sorted; those of a build into `FOLDER/{split}`."""
    first, last = split_mark("\0").split("\0")
    names = (name for name in storage.names(folder) if name.startswith(first) and name.endswith(last))
    return sorted(name.removeprefix(first).removesuffix(last) for name in names)


def splits_below(folder: str) -> list[str]:
    """The splits of a data set of several, where `folder` is the one above them; else []."""
    # Asked for one file before all are listed: it may be a folder of a million pictures.
    return marked_splits(folder) if storage.exists(storage.join(folder, INFO_JSON)) else []


def load_manifest(folder: str) -> Manifest:
    """The manifest of a build's folder.

    Args:
        folder: local path or gs:// prefix.

    Raises:
        InputError: no such folder, no manifest in it (an unfinished build), or a foreign schema version.
        DamageError: see `parse_manifest`.
    """
    path = storage.join(folder, MANIFEST)
    try:
        data = storage.read_whole(path, _MAX_BYTES)
    except FileNotFoundError:
        if storage.exists(storage.join(folder, WORK, "plan.json")):
            raise InputError(
                f"{folder} has no {MANIFEST}: its build has not finished; the same build command resumes it"
            ) from None
        if splits := splits_below(folder):
            raise InputError(
                f"{folder} holds the split{'s' if len(splits) > 1 else ''} {', '.join(splits)}, each a data set; name one: "
                f"{storage.join(folder, splits[0])}"
            ) from None
        raise InputError(f"{folder} has no {MANIFEST}: not a maskmill data set") from None
    except storage.NotAFile:
        raise DamageError(f"{path} is not a regular file") from None
    if len(data) > _MAX_BYTES:
        raise DamageError(f"{path} is damaged: a manifest of more than {_MAX_BYTES >> 20} MB is none of ours")
    return parse_manifest(data, path, folder)
