"""What of a data set is exported, and its records in the words that the formats share: plain values, boxes, COCO RLE."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.dataset.stored_picture import check_size
from maskmill.schemas import rle
from maskmill.schemas.errors import DamageError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.manifest import IMAGES, Manifest, Shard
from maskmill.schemas.reader import Dataset, read_shard

if TYPE_CHECKING:
    from jaxtyping import Int64


@dataclasses.dataclass(frozen=True)
class Mask:
    """One mask or annotation.

    Attributes:
        counts: compressed COCO RLE.
        area: pixels.
        box: left, top, width, height, pixels.
        score: of a mask; 1.0 of an annotation.
        category: name of the layer of a mask; COCO category id of an annotation.
        id: of an annotation, 64 bits; 0 of a mask.
        is_crowd: of an annotation.
    """

    counts: str
    area: int
    box: tuple[int, int, int, int]
    score: float
    category: str | int
    id: int = 0
    is_crowd: bool = False


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A data set and what of it is wanted.

    Attributes:
        dataset: the data set.
        layers: indices of layers, in the order asked for.
        truth: whether annotations are wanted.
    """

    dataset: Dataset
    layers: tuple[int, ...]
    truth: bool

    @classmethod
    def of(cls, dataset: Dataset, names: Sequence[str], truth: bool) -> Chosen:
        """By layers' names; no name means all.

        Raises:
            InputError: a name that is none. DamageError: a name in the manifest that cannot be part of a file's.
        """
        manifest = dataset.manifest
        for name in (manifest.dataset, manifest.split, *(layer.name for layer in manifest.layers)):
            if not name or "/" in name or "\\" in name or name.startswith("."):
                raise DamageError(
                    f"{dataset.folder}: its manifest holds the name {name[:60]!r}, which cannot be part of a file's name"
                )
        names = list(dict.fromkeys(names)) or [layer.name for layer in manifest.layers]
        return cls(dataset, tuple(manifest.layer_index(name) for name in names), truth)

    @property
    def manifest(self) -> Manifest:
        """The data set's."""
        return self.dataset.manifest

    @property
    def names(self) -> list[str]:
        """Of the layers."""
        return [self.manifest.layers[i].name for i in self.layers]

    def records(self, shard: Shard) -> Iterator[ImageExample]:
        """Of one shard, in order. Raises DamageError."""
        for example in read_shard(self.dataset.folder, shard, len(self.manifest.layers)):
            check_size(example, self.manifest)
            yield example

    def all_records(self) -> Iterator[ImageExample]:
        """Of all shards, in order. Raises DamageError."""
        for shard in self.manifest.shards:
            yield from self.records(shard)

    def masks(self, example: ImageExample) -> Iterator[Mask]:
        """Masks of the layers chosen, layer after layer in rank order. Raises DamageError."""
        for i in self.layers:
            layer, name = example.masks[i], self.manifest.layers[i].name
            for counts, score in zip(layer.counts, layer.score, strict=True):
                # the shortest decimal that is this float32, so that 0.3 is written as 0.3
                yield _mask(example, counts, score=float(str(score)), category=name)

    def annotations(self, example: ImageExample) -> Iterator[Mask]:
        """The record's ground truth, crowds included. Raises DamageError."""
        truth = example.annotations
        rows = zip(truth.counts, truth.category_id, truth.annotation_id, truth.is_crowd, strict=True)
        for counts, category, identity, crowd in rows:
            yield _mask(example, counts, category=int(category), id=int(identity), is_crowd=bool(crowd))

    @property
    def categories(self) -> list[dict]:
        """COCO's list: the annotations' categories, or one per layer, numbered from 1 in the order asked for."""
        if self.truth:
            named = sorted((int(identity), name) for identity, name in self.manifest.categories.items())
            return [{"id": identity, "name": name} for identity, name in named]
        return [{"id": number, "name": name} for number, name in enumerate(self.names, 1)]


def runs_of(example: ImageExample, counts: bytes) -> Int64[np.ndarray, " runs"]:
    """Runs of one of a record's masks. Raises DamageError."""
    try:
        return rle.decode_counts(counts, example.height, example.width)
    except rle.RleError as error:
        raise DamageError(f"the record of {example.filename!r} holds a mask that is none: {error}") from error


def _mask(example: ImageExample, counts: bytes, *, score: float = 1.0, **fields: Any) -> Mask:
    runs = runs_of(example, counts)
    box = rle.box_of_runs(runs, example.height)
    return Mask(counts.decode("ascii"), rle.area_of_runs(runs), box, score, **fields)


def image_ids(dataset: Dataset) -> Int64[np.ndarray, " records"] | None:
    """COCO image ids of all records in order, int64[num_records], or None where not every record has one of its own.

    Raises:
        DamageError: `images.parquet` cannot be read, or has another number of rows.
    """
    table = ImagesTable(dataset.folder, len(dataset))
    if table.num_rows != len(dataset):
        raise DamageError(f"{IMAGES} in {dataset.folder} has {table.num_rows} rows for {len(dataset)} records")
    found: list[np.ndarray] = []
    for rows in table.batches(["source_id"]):
        texts = rows["source_id"]
        if not all(text.isdecimal() and text.isascii() and len(text) <= 18 for text in texts):
            return None
        found.append(np.asarray([int(text) for text in texts], np.int64))
    ids = np.concatenate([np.empty(0, np.int64), *found])
    return ids if len(np.unique(ids)) == len(ids) else None
