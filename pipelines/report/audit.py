"""Ground truth from a file of its own, for shards that were built without: matched to records, dealt to the shards.

The file is read once, by the driver; workers get references to the entries of their shard, as in a build.
"""

import dataclasses
import gzip
import hashlib
import json
import os
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.measuring.statistics import AuditStats
from maskmill.pipelines.reading.annotations import parse_annotations
from maskmill.pipelines.reading.coco import KEPT, integer_id, load_instances
from maskmill.pipelines.report.model import AuditSource
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.image import Annotations
from maskmill.schemas.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class AuditTask:
    """One shard to be measured.

    Attributes:
        shard: its index.
        offset, size: its entries in the file at `path`: one gzip member.
        audits: whether there are entries; else the records' own ground truth counts.
        path: of the file.
    """

    shard: int
    offset: int
    size: int
    audits: bool
    path: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What an instances file says of one picture.

    Attributes:
        size: [height, width], or None where the file has none.
        annotations: COCO's, raw.
    """

    size: list[int] | None
    annotations: list[dict[str, Any]]

    def fits(self, example: ImageExample) -> bool:
        """Whether the record's picture is of the size that the file says."""
        return self.size in (None, [example.height, example.width])

    def truth(self, example: ImageExample) -> tuple[Annotations, int]:
        """A record's ground truth, empty where the size differs, and how many annotations could not become a mask."""
        if not self.fits(example):
            return Annotations(), 0
        return parse_annotations(tuple(self.annotations), example.height, example.width, drop_bad=True)


def read_entries(task: AuditTask) -> dict[str, Entry]:
    """The entries of a task's shard by record id."""
    member = storage.read_bytes(task.path, task.offset, task.size)
    lines = (json.loads(line) for line in gzip.decompress(member).splitlines())
    return {line["id"]: Entry(line["size"], line["annotations"]) for line in lines}


@dataclasses.dataclass(frozen=True)
class _Listed:
    """A picture that an instances file lists."""

    image_id: int
    size: list[int] | None


class Audit:
    """An instances file matched to the records of a data set.

    A record's entry is the one with its id as `file_name`; else with its COCO image id; else with its file name, where
    that names one entry only.

    Attributes:
        categories: category id as text -> name.
    """

    def __init__(self, folder: str, manifest: Manifest, path: str):
        self._folder, self._manifest = folder, manifest
        content = load_instances(path)
        self._sha256 = _sha256(path)
        self.categories: dict[str, str] = {}
        for category in content["categories"]:
            identity = integer_id(category.get("id")) if isinstance(category, dict) else None
            if identity is None:
                raise InputError(f"{path}: a category has no integer id: {str(category)[:100]}")
            self.categories[str(identity)] = str(category.get("name", identity))
        self._annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for annotation in content["annotations"]:
            image_id = integer_id(annotation.get("image_id")) if isinstance(annotation, dict) else None
            if image_id is not None:
                self._annotations[image_id].append({name: annotation[name] for name in KEPT if name in annotation})
        self._entries: dict[str, _Listed] = {}
        self._unmatched = self._match(content["images"])
        if not self._entries:
            raise InputError(f"{path} lists none of the pictures of {folder}; its file_name or id must be theirs")

    def _match(self, images: list[Any]) -> int:
        """Fills `_entries`; returns how many entries no record has."""
        by_name: dict[str, _Listed] = {}
        by_id: dict[str, _Listed] = {}
        by_base: dict[str, _Listed] = {}
        bases: Counter[str] = Counter()
        for image in images:
            image_id = integer_id(image.get("id")) if isinstance(image, dict) else None
            name = image.get("file_name") if isinstance(image, dict) else None
            if image_id is None or not isinstance(name, str):
                continue
            height, width = integer_id(image.get("height")), integer_id(image.get("width"))
            listed = _Listed(image_id, None if height is None or width is None else [height, width])
            by_name.setdefault(name, listed)
            by_id.setdefault(str(image_id), listed)
            base = name.rsplit("/", 1)[-1]
            bases[base] += 1
            by_base[base] = listed
        self._shards: list[list[str]] = [[] for _ in self._manifest.shards]
        self._records = 0
        used = set()
        for identity, source_id, shard in _rows(self._folder, self._manifest.num_records):
            self._records += 1
            base = identity.rsplit("/", 1)[-1]
            entry = by_name.get(identity) or (by_id.get(source_id) if source_id else None)
            if entry is None and bases[base] == 1:
                entry = by_base[base]
            if entry is not None:
                self._entries[identity] = entry
                self._shards[shard].append(identity)
                used.add(entry.image_id)
        return len(by_id) - len(used)

    def tasks(self, work: str) -> list[AuditTask]:
        """Writes the entries to a file in the folder `work`, a gzip member per shard, and refers to them. See `forget`."""
        path = storage.join(work, f"audit-{os.getpid()}-{secrets.token_hex(4)}.jsonl.gz")
        tasks, offset = [], 0
        with storage.create(path) as file:
            for shard, identities in enumerate(self._shards):
                lines = (json.dumps({"id": i, **vars(self._entry(i))}).encode() + b"\n" for i in identities)
                member = gzip.compress(b"".join(lines), compresslevel=3, mtime=0)
                file.write(member)
                tasks.append(AuditTask(shard, offset, len(member), True, path))
                offset += len(member)
        return tasks

    @staticmethod
    def forget(tasks: list[AuditTask]) -> None:
        """Removes what `tasks` wrote."""
        for path in {task.path for task in tasks}:
            storage.remove(path)

    def _entry(self, identity: str) -> Entry:
        listed = self._entries[identity]
        return Entry(listed.size, self._annotations.get(listed.image_id, []))

    def truth(self, example: ImageExample) -> Annotations:
        """A record's ground truth according to this file; empty where the file has none that fits."""
        if example.filename not in self._entries:
            return Annotations()
        return self._entry(example.filename).truth(example)[0]

    def describe(self, left_out: AuditStats) -> AuditSource:
        """What a report says of this file; `left_out` is of the statistics measured with it."""
        return AuditSource(
            sha256=self._sha256,
            images_matched=len(self._entries),
            images_without_entry=self._records - len(self._entries),
            entries_without_image=self._unmatched,
            size_mismatches=left_out.size_mismatches,
            dropped_annotations=left_out.dropped_annotations,
        )


def _sha256(path: str) -> str:
    sha = hashlib.sha256()
    with storage.open_read(path) as stream:
        while chunk := stream.read(4 << 20):
            sha.update(chunk)
    return sha.hexdigest()


def _rows(folder: str, records: int) -> Iterator[tuple[str, str, int]]:
    """(id, COCO image id or "", shard) of every record."""
    for rows in ImagesTable(folder, records).batches(["id", "source_id", "shard"]):
        yield from zip(rows["id"], rows["source_id"], rows["shard"].tolist(), strict=True)
