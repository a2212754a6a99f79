"""Every byte and every record of a data set, checked against its manifest and its checksums."""

import contextlib
import hashlib
import itertools
import json
import operator
from collections import Counter
from collections.abc import Iterator

import google_crc32c

from maskmill.pipelines.dataset.checksums import load_checksums, read_file
from maskmill.pipelines.dataset.id_set import IdSet, hash_of
from maskmill.pipelines.dataset.images_table import ImagesTable, iou_units_column
from maskmill.pipelines.dataset.stored_picture import check_picture, check_size, decode_picture
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, ImageError
from maskmill.schemas.example import ImageExample, check_example
from maskmill.schemas.manifest import (
    CHECKSUMS,
    FAILURES,
    IMAGES,
    IMAGES_FOLDER,
    INFO_JSON,
    MANIFEST,
    REPORT_HTML,
    REPORT_JSON,
    Manifest,
    Shard,
    digest,
    images_files,
    is_shard_name,
    marked_splits,
    split_mark,
)
from maskmill.schemas.reader import Dataset, read_shard
from maskmill.schemas.stats import IOU_UNIT

_CHUNK = 4 << 20
# What a row of `images.parquet` says that its record says as well.
_SHARED = ("id", "source_id", "label", "synset", "height", "width", "instances", "crowds")


def unchecked(manifest: Manifest) -> str:
    """What cannot be checked of a data set that an older maskmill wrote, as a sentence; "" for one of ours."""
    if manifest.files is not None:
        return ""
    return (
        f"it was made by an older maskmill, without digests of {MANIFEST} and of the files beside the shards: a change of "
        "these may go unnoticed"
    )


def check_shard_bytes(folder: str, shard: Shard, size: int) -> Iterator[str]:
    """Checksums of one shard file of `size` bytes; one of another size than it should have is not read."""
    if size != shard.bytes:
        yield f"{shard.name}: {size} bytes, the manifest says {shard.bytes}"
        return
    sha, crc = hashlib.sha256(), google_crc32c.Checksum()
    with storage.open_read(storage.join(folder, shard.name)) as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
            crc.update(chunk)
    if sha.hexdigest() != shard.sha256 or crc.hexdigest().decode() != shard.crc32c:
        yield f"{shard.name}: its checksum is not the manifest's"


class _Table:
    """`images.parquet` beside the records: its rows by shard, in one pass, and what they add up to."""

    def __init__(self, dataset: Dataset):
        table = ImagesTable(dataset.folder, len(dataset))
        layers = [layer.name for layer in dataset.manifest.layers]
        if table.num_rows != len(dataset):
            raise DamageError(f"{IMAGES}: its {table.num_rows} rows are not the {len(dataset)} records of the shards")
        self.sums: Counter = Counter()
        self.reencoded: Counter = Counter()
        self._shared = [*_SHARED, *(f"{name}/masks" for name in layers)]
        self._summed = ["dropped_annotations", *map(iou_units_column, layers)]
        self._shards = itertools.groupby(self._read(table), key=operator.itemgetter(0))
        self._next = next(self._shards, None)

    def _read(self, table: ImagesTable) -> Iterator[tuple[int, str, tuple]]:
        for batch in table.batches(["shard", "reencoded", *self._shared, *self._summed]):
            for name in self._summed:
                self.sums[name] += sum(batch[name].tolist())
            self.reencoded.update(note for note in batch["reencoded"] if note)
            columns = [
                list(batch[name]) if isinstance(batch[name], list) else batch[name].tolist() for name in self._shared
            ]
            yield from zip(batch["shard"].tolist(), batch["reencoded"], zip(*columns, strict=True), strict=True)

    def of_shard(self, index: int) -> list[tuple[str, tuple]]:
        """(why re-encoded or "", what `_shared` gives) of each row of a shard; shards are asked for in their order.

        Raises:
            DamageError: the table cannot be read on.
        """
        while self._next is not None and self._next[0] < index:
            self._next = next(self._shards, None)  # of a shard that is missing
        if self._next is None or self._next[0] != index:
            return []
        rows = [(note, shared) for _, note, shared in self._next[1]]
        self._next = next(self._shards, None)
        return rows


def _shared(example: ImageExample) -> tuple:
    """What a record says that its row says as well."""
    crowds = int(example.annotations.is_crowd.sum())
    return (
        example.filename,
        example.source_id,
        example.label,
        example.synset,
        example.height,
        example.width,
        len(example.annotations) - crowds,
        crowds,
        *map(len, example.masks),
    )


def _check_picture(example: ImageExample, deep: bool, reencoded: str | None) -> Iterator[str]:
    if example.encoded is None:
        return
    try:
        (decode_picture if deep else check_picture)(example)
    except ImageError as error:
        yield f"the picture: {error}"
    # A picture that was stored as other bytes has the digest of bytes that are not here.
    if deep and reencoded == "" and hashlib.sha256(example.encoded).hexdigest() != example.sha256:
        yield "the picture's digest is not image/key/sha256"


class _Records:
    """Checks records, shard after shard, and adds up what the manifest says of all of them.

    Attributes:
        dataset, deep: see `find_damage`.
        table: the rows beside them; None where they cannot be read.
        seen: ids of the records so far, and their shards' numbers.
        masks: layer -> masks so far.
        instances: annotations so far that are no crowds.
    """

    def __init__(self, dataset: Dataset, table: _Table | None, deep: bool):
        self.dataset, self.table, self.deep = dataset, table, deep
        self.seen = IdSet()
        self.masks: Counter = Counter()
        self.instances = 0

    def check_shard(self, index: int) -> Iterator[str]:
        """Framing, schema, RLE, areas, overlaps, pictures and rows of one shard."""
        manifest, shard = self.dataset.manifest, self.dataset.manifest.shards[index]
        rows = None
        try:
            rows = self.table.of_shard(index) if self.table else None
        except DamageError as error:
            self.table = None
            yield str(error)
        if rows is not None and len(rows) != shard.records:
            yield f"{IMAGES}: it has {len(rows)} rows of {shard.name}, the manifest says {shard.records}"
            rows = None
        try:
            for number, example in enumerate(read_shard(self.dataset.folder, shard, len(manifest.layers))):
                where = f"{shard.name}: record {number} ({example.filename})"
                row = rows[number] if rows and number < len(rows) else None
                for line in self._check(example, row):
                    yield f"{where}: {line}"
                self.seen.add(example.filename, index)
        except DamageError as error:
            yield str(error)
        except OSError as error:
            yield f"{shard.name}: cannot be read ({error.strerror or error})"

    def check_ids(self) -> Iterator[str]:
        """That no id comes twice. Where hashes do, the records of their shards are read once more."""
        repeated = self.seen.repeated()
        first: dict[str, str] = {}
        for index in sorted({index for places in repeated.values() for index in places}):
            shard = self.dataset.manifest.shards[index]
            with contextlib.suppress(DamageError, OSError):  # which has been said
                for number, example in enumerate(
                    read_shard(self.dataset.folder, shard, len(self.dataset.manifest.layers))
                ):
                    name = example.filename
                    if hash_of(name) not in repeated:
                        continue
                    if name in first:
                        yield f"{shard.name}: record {number} ({name}): the same id is in {first[name]}"
                    first.setdefault(name, shard.name)

    def _check(self, example: ImageExample, row: tuple[str, tuple] | None) -> Iterator[str]:
        for layer, masks in zip(self.dataset.manifest.layers, example.masks, strict=True):
            self.masks[layer.name] += len(masks)
        self.instances += int((~example.annotations.is_crowd).sum())
        try:
            check_size(example, self.dataset.manifest)
            check_example(example)
        except DamageError as error:
            yield str(error)
            return
        yield from _check_picture(example, self.deep, row[0] if row else None)
        if row and row[1] != _shared(example):
            yield f"its row of {IMAGES} is of another record, or says otherwise"


def check_ledger(folder: str, manifest: Manifest) -> Iterator[str]:
    """`failures.jsonl` against the counts."""
    try:
        lines = [json.loads(line) for line in storage.read_bytes(storage.join(folder, FAILURES)).splitlines()]
        for name in ("failed", "skipped"):
            count = sum(line["outcome"] == name for line in lines)
            if count != manifest.counts[name]:
                yield f"{FAILURES}: {count} {name}, the manifest says {manifest.counts[name]}"
    except FileNotFoundError:
        yield f"{FAILURES}: missing"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        yield f"{FAILURES}: damaged ({type(error).__name__}: {str(error)[:200]})"


def _check_sums(records: _Records, table: _Table) -> Iterator[str]:
    """The manifest's sums against those of all records and of their rows."""
    manifest, instances = records.dataset.manifest, records.instances
    for layer in manifest.layers:
        iou = table.sums[iou_units_column(layer.name)]
        found = {
            "abo": iou / IOU_UNIT / instances if instances else None,
            "instances": instances,
            "masks_per_image": records.masks[layer.name] / manifest.num_records if manifest.num_records else None,
        }
        for name, value in found.items():
            if (said := manifest.abo.get(layer.name, found)[name]) != value:
                yield f"{MANIFEST}: {name} of layer {layer.name} is {said}, of the records {value}"
    if manifest.decoder.get("reencoded", table.reencoded) != table.reencoded:
        yield f"{MANIFEST}: its counts of pictures stored as other bytes are not those of {IMAGES}"
    dropped = table.sums["dropped_annotations"]
    if manifest.counts.get("dropped_annotations", dropped) != dropped:
        yield f"{MANIFEST}: its count of dropped annotations is not that of {IMAGES}"


def check_files(folder: str, manifest: Manifest, sizes: dict[str, int]) -> Iterator[str]:
    """Every file but the shards: those that the manifest vouches for, and all that `SHA256SUMS` lists."""
    listed = {shard.name for shard in manifest.shards}
    for name in sorted(sizes):
        if is_shard_name(name) and name not in listed:
            yield f"{name}: not in the manifest; a reader that takes all files of such names would read it"
    if manifest.config_digest != digest(manifest.config):
        yield f"{MANIFEST}: config_digest is not that of its config"
    if manifest.files is None:
        return
    try:
        checksums = load_checksums(folder)
    except (DamageError, OSError) as error:
        yield str(error)
        checksums = {}
    if checksums is None:
        yield f"{CHECKSUMS}: missing"
        checksums = {}
    wanted = dict(checksums)
    vouched = {shard.name: shard.sha256 for shard in manifest.shards} | {f.name: f.sha256 for f in manifest.files}
    wanted.update(vouched)
    for name, sha256 in vouched.items():
        if checksums and checksums.get(name) != sha256:
            yield f"{CHECKSUMS}: its line of {name} is not the manifest's"
    if checksums:
        for name in (
            MANIFEST,
            *(images_files(folder) or [IMAGES]),
            *(n for n in (REPORT_HTML, REPORT_JSON) if n in sizes),
        ):
            if name not in checksums:
                yield f"{CHECKSUMS}: has no line of {name}"
    expected = {file.name: file.bytes for file in manifest.files}
    for name in sorted(set(wanted) - listed):
        try:
            if name not in sizes:
                yield f"{name}: missing, or not a regular file"
            elif sizes[name] != expected.get(name, sizes[name]):
                yield f"{name}: {sizes[name]} bytes, the manifest says {expected[name]}"
            elif read_file(folder, name).sha256 != wanted[name]:
                yield f"{name}: its checksum is not that of {MANIFEST if name in expected else CHECKSUMS}"
        except OSError as error:
            yield f"{name}: cannot be read ({error.strerror or error})"


def find_damage_above(folder: str) -> Iterator[str]:
    """What is not as it was written of the files above several splits."""
    try:
        checksums = load_checksums(folder)
    except (DamageError, OSError) as error:
        yield str(error)
        return
    if checksums is None:
        yield f"{CHECKSUMS}: missing from {folder}; the build command of a split writes it again"
        return
    sizes = storage.sizes(folder)
    for name in sorted({INFO_JSON, *map(split_mark, marked_splits(folder))} - set(checksums)):
        yield f"{CHECKSUMS}: has no line of {name}"
    for name, sha256 in sorted(checksums.items()):
        try:
            if name not in sizes:
                yield f"{name}: missing, or not a regular file"
            elif read_file(folder, name).sha256 != sha256:
                yield f"{name}: its checksum is not that of {CHECKSUMS}"
        except OSError as error:
            yield f"{name}: cannot be read ({error.strerror or error})"


def find_damage(dataset: Dataset, *, deep: bool = False) -> Iterator[str]:
    """Everything in a data set that is not as it was written, a line each; nothing for a sound one.

    Args:
        dataset: a finished build.
        deep: also decode every picture, with the build's decoder, and compare its bytes with their digest.
    """
    folder, manifest = dataset.folder, dataset.manifest
    sizes = storage.sizes(folder)
    if IMAGES not in sizes:
        pieces = storage.sizes(storage.join(folder, IMAGES_FOLDER))
        sizes |= {f"{IMAGES_FOLDER}/{name}": size for name, size in pieces.items()}
    yield from check_files(folder, manifest, sizes)
    yield from check_ledger(folder, manifest)
    table = None
    try:
        table = _Table(dataset)
    except DamageError as error:
        yield str(error)
    records = _Records(dataset, table, deep)
    whole = True
    for index, shard in enumerate(manifest.shards):
        if shard.name not in sizes:
            whole = False
            yield f"{shard.name}: missing, or not a regular file"
            continue
        for line in itertools.chain(check_shard_bytes(folder, shard, sizes[shard.name]), records.check_shard(index)):
            whole = False
            yield line
    for line in records.check_ids():
        whole = False
        yield line
    if whole and records.table is not None:
        yield from _check_sums(records, records.table)
