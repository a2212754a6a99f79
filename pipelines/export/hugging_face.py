"""Parquet as Hugging Face `datasets` reads it: a file per shard, and a README.md that is the data set's card.

`load_dataset(FOLDER)` finds the files through the card, and the types (Image, ClassLabel) in each file's own metadata.
Lists are written there in the notation that every release of `datasets` since 2 reads. Pictures are the stored bytes.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.pipelines.dataset.checksums import HashedStream
from maskmill.pipelines.export.chosen import Chosen, Mask
from maskmill.schemas import storage
from maskmill.schemas.example import ImageExample

ROWS_PER_GROUP = 100  # the viewer and streaming readers fetch a group at once; a hundred photographs are some 15 MB
_MASK = {"counts": pa.string(), "area": pa.int64(), "bbox": pa.list_(pa.int64())}
_OWN = {
    "filename": pa.string(),
    "source_id": pa.string(),
    "sha256": pa.string(),
    "height": pa.int64(),
    "width": pa.int64(),
    "label": pa.int64(),
    "synset": pa.string(),
    "text": pa.string(),
}


def split_name(chosen: Chosen) -> str:
    """The split as `datasets` allows it: letters, digits and underscores."""
    return re.sub(r"\W", "_", chosen.manifest.split)


def parquet_name(chosen: Chosen, index: int) -> str:
    """`data/train-00000-of-00016.parquet`."""
    return f"data/{split_name(chosen)}-{index:05d}-of-{len(chosen.manifest.shards):05d}.parquet"


def _schema(chosen: Chosen) -> pa.Schema:
    mask = pa.struct({"layer": pa.int64(), **_MASK, "score": pa.float32()})
    annotation = pa.struct({"category_id": pa.int64(), **_MASK, "annotation_id": pa.int64(), "iscrowd": pa.bool_()})
    columns: dict[str, pa.DataType] = {}
    if not chosen.manifest.config.get("masks_only"):
        columns["image"] = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    columns |= _OWN | {"masks": pa.list_(mask)} | ({"annotations": pa.list_(annotation)} if chosen.truth else {})
    features: dict[str, Any] = {name: _feature(kind) for name, kind in columns.items()}
    if "image" in features:
        features["image"] = {"_type": "Image"}
    features["masks"][0]["layer"] = {"names": chosen.names, "_type": "ClassLabel"}
    about = {"info": {"features": features}}
    return pa.schema(list(columns.items()), metadata={"huggingface": json.dumps(about)})


def _feature(kind: pa.DataType) -> list | dict[str, Any]:
    """A type in the words of `datasets`."""
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    name = {"float": "float32"}.get(str(kind), str(kind))
    return {"dtype": name, "_type": "Value"}


def write_parquet(chosen: Chosen, index: int, path: str) -> tuple[int, int]:
    """One shard as a file, the same bytes every time: (records, masks). Raises DamageError, OSError."""
    schema = _schema(chosen)
    records = masks = 0
    # Pictures are compressed already; run lengths shrink by half.
    with (
        storage.create(path) as file,
        pq.ParquetWriter(HashedStream(file), schema, compression="zstd") as writer,
    ):
        for rows in _groups(chosen.records(chosen.manifest.shards[index])):
            plain = [_row(chosen, example) for example in rows]
            writer.write_table(pa.Table.from_pylist(plain, schema=schema))
            records += len(plain)
            masks += sum(len(row["masks"]) for row in plain)
    return records, masks


def _groups(examples: Iterator[ImageExample]) -> Iterator[list[ImageExample]]:
    group: list[ImageExample] = []
    for example in examples:
        group.append(example)
        if len(group) == ROWS_PER_GROUP:
            yield group
            group = []
    if group:
        yield group


def _row(chosen: Chosen, example: ImageExample) -> dict:
    number = {name: i for i, name in enumerate(chosen.names)}

    def plain(mask: Mask) -> dict:
        return {"counts": mask.counts, "area": mask.area, "bbox": list(mask.box)}

    row = {name: getattr(example, name) for name in _OWN}
    row["image"] = {"bytes": example.encoded, "path": example.filename}  # left out where the schema has no such column
    row["masks"] = [
        {"layer": number[str(mask.category)], "score": mask.score, **plain(mask)} for mask in chosen.masks(example)
    ]
    if chosen.truth:
        row["annotations"] = [
            {"category_id": mask.category, "annotation_id": mask.id, "iscrowd": mask.is_crowd, **plain(mask)}
            for mask in chosen.annotations(example)
        ]
    return row


def card(chosen: Chosen) -> bytes:
    """README.md: what the files hold, how to read a mask, and how good the layers are."""
    manifest, split = chosen.manifest, split_name(chosen)
    sizes = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
    size = next((name for limit, name in sizes.items() if manifest.num_records < limit), "10M<n<100M")
    rows = []
    for name in chosen.names:
        told = manifest.abo.get(name, {})
        abo, per_image = told.get("abo"), told.get("masks_per_image")
        rows.append(
            f"| `{name}` | {'-' if abo is None else f'{abo:.4f}'} | {'-' if per_image is None else f'{per_image:.1f}'} |"
        )
    truth = "`annotations` holds the ground truth in COCO's words.\n\n" if chosen.truth else ""
    return f"""---
pretty_name: {json.dumps(f"{manifest.dataset} masks")}
license: other
task_categories:
- image-segmentation
- mask-generation
tags:
- maskmill
- object-masks
size_categories:
- {size}
configs:
- config_name: default
  data_files:
  - split: {split}
    path: data/{split}-*.parquet
---

# {manifest.dataset} masks

Masks of {manifest.num_records} pictures by [maskmill](https://github.com/maskmill/maskmill). The pictures and annotations
are their owners', under their owners' terms.

| layer | average best overlap | masks per picture |
|---|---|---|
{chr(10).join(rows)}

A row is a picture; `masks` lists its masks, best first where a layer ranks them. `counts` is COCO's compressed RLE in the
frame of the stored picture, EXIF rotation not applied; `bbox` is left, top, width, height in pixels. {truth}

```python
from datasets import load_dataset
from pycocotools.mask import decode

row = load_dataset("FOLDER", split="{split}")[0]
masks = [decode({{"size": [row["height"], row["width"]], "counts": mask["counts"]}}) for mask in row["masks"]]
```

Manifest digest: `{manifest.digest}`.
""".encode()
