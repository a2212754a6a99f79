"""A build's folder as its readers see it: `manifest.json`, and the names beside it.

The manifest is written last. A folder without it is not a data set, and `load_manifest` says so: that one rule makes
half-written builds impossible to train from by accident.
"""

import dataclasses
import hashlib
import json
import re

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.example import SCHEMA_VERSION
from maskmill.schemas.mask import Layer

MANIFEST = "manifest.json"
FAILURES = "failures.jsonl"
IMAGES = "images.parquet"
WORK = "_work"

_SHARD_NAME = re.compile(r"^(?P<stem>[^/\\]+)\.tfrecord-(?P<index>\d{5,})-of-(?P<count>\d{5,})$")


def shard_name(dataset: str, split: str, index: int, count: int) -> str:
    """`DATASET-SPLIT.tfrecord-00000-of-00016`, the template that tensorflow_datasets also reads."""
    return f"{dataset}-{split}.tfrecord-{index:05d}-of-{count:05d}"


def is_shard_name(name: str) -> bool:
    """Whether a file name is one that `shard_name` gives."""
    return _SHARD_NAME.match(name) is not None


def canonical_json(value) -> bytes:
    """JSON with one spelling per value, for digests: sorted keys, no spaces, no NaN, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value) -> str:
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
class Manifest:
    """What `manifest.json` holds.

    Attributes:
        dataset, split: names, as in the shards' file names.
        config: every option that can change a byte of the records, resolved.
        config_digest: `digest(config)`.
        layers: the mask layers, in the order that `masks/layer` indexes.
        shards: the shard files, in order.
        counts: inputs, written, failed, skipped; inputs is the sum of the other three.
        decoder: how pixels were decoded, and counters of what was re-encoded.
        versions: of this package and of the libraries that can change a byte.
        abo: layer -> {"abo", "instances", "masks_per_image", "coverage"}, from the integer sums of `schemas.stats`.
        labels: where class labels come from, in words.
        categories: category id as text -> name.
        plan_digest: identity of the inputs and their order.
        schema_version: of the records; this package reads `SCHEMA_VERSION` only.
    """

    dataset: str
    split: str
    config: dict
    config_digest: str
    layers: tuple[Layer, ...]
    shards: tuple[Shard, ...]
    counts: dict
    decoder: dict
    versions: dict
    abo: dict = dataclasses.field(default_factory=dict)
    labels: str = ""
    categories: dict = dataclasses.field(default_factory=dict)
    plan_digest: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def num_records(self) -> int:
        """Records in all shards."""
        return sum(shard.records for shard in self.shards)

    @property
    def digest(self) -> str:
        """Identity of the data set: two folders with this digest hold the same bytes."""
        return digest(dataclasses.asdict(self))

    def layer_index(self, name: str) -> int:
        """Position of a layer; InputError lists those there are."""
        names = [layer.name for layer in self.layers]
        if name not in names:
            raise InputError(f"this data set has no layer {name!r}; it has {', '.join(names) or 'none'}")
        return names.index(name)

    def to_json(self) -> bytes:
        """The file's bytes, the same for the same manifest."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Bytes of `manifest.json` to a Manifest.

    Args:
        data: the file's bytes.
        where: the file's path, for messages.

    Raises:
        InputError: a schema version that this package does not read.
        DamageError: not JSON, a field missing or of the wrong kind, unsafe shard names, or counts that do not add up.
    """
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise DamageError(f"{where} is not JSON: {error}") from error
    if not isinstance(fields, dict) or "schema_version" not in fields:
        raise DamageError(f"{where} is not a maskmill manifest: it has no schema_version")
    if fields["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{where} has schema version {fields['schema_version']!r}; this maskmill reads version {SCHEMA_VERSION}. "
            "Build the data set again, or use the maskmill that wrote it"
        )
    try:
        known = {f.name for f in dataclasses.fields(Manifest)}
        fields = {name: value for name, value in fields.items() if name in known}
        fields["layers"] = tuple(Layer(**layer) for layer in fields["layers"])
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        manifest = Manifest(**fields)
        counts = {name: int(manifest.counts[name]) for name in ("inputs", "written", "failed", "skipped")}
    except (KeyError, TypeError, ValueError) as error:
        raise DamageError(f"{where} is incomplete: {error}") from error
    for shard in manifest.shards:
        if not is_shard_name(shard.name):
            raise DamageError(f"{where}: {shard.name!r} is not a shard's name")
    if counts["inputs"] != counts["written"] + counts["failed"] + counts["skipped"]:
        raise DamageError(f"{where}: inputs are not written + failed + skipped: {counts}")
    if counts["written"] != manifest.num_records:
        raise DamageError(f"{where}: {counts['written']} written, but the shards hold {manifest.num_records} records")
    return manifest


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
        data = storage.read_bytes(path)
    except FileNotFoundError:
        if storage.exists(storage.join(folder, WORK, "plan.json")):
            raise InputError(
                f"{folder} has no {MANIFEST}: its build has not finished; the same build command resumes it"
            ) from None
        raise InputError(f"{folder} has no {MANIFEST}: not a maskmill data set") from None
    return parse_manifest(data, path)
