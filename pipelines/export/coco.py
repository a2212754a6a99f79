"""COCO's JSON, written as a stream: instances (`images`, `annotations`, `categories`), and results, a list per layer.

Masks are compressed RLE, as pycocotools and Detectron2 (`mask_format="bitmask"`) read them. A picture's id is its COCO id
where every picture has one of its own, else its number in the order of records, from 1 on. Results say `file_name` as well
where ids are such numbers: a number of ours means nothing to anybody else.
"""

import json
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.export.chosen import Chosen, Mask, image_ids
from maskmill.schemas import storage
from maskmill.schemas.errors import UsageError
from maskmill.schemas.example import ImageExample


class _Repeated(Exception):
    """An annotation id that two annotations have."""


def write_instances(chosen: Chosen, path: str) -> dict[str, int]:
    """One file of all pictures with the masks of the layers, a category each, or with the ground truth.

    Annotations keep their ids; where two have the same (COCO's tools would lose one) all are numbered anew from 1 on.

    Raises:
        UsageError: the path is not that of a .json file. DamageError, OSError.
    """
    if not path.endswith(".json"):
        raise UsageError(f"coco is one file; --to {path!r} does not end in .json")
    ids = image_ids(chosen.dataset)
    try:
        return _write_instances(chosen, path, ids, own_ids=chosen.truth)
    except _Repeated:
        return _write_instances(chosen, path, ids, own_ids=False)


def _write_instances(chosen: Chosen, path: str, ids: np.ndarray | None, *, own_ids: bool) -> dict[str, int]:
    manifest = chosen.manifest
    category = {entry["name"]: entry["id"] for entry in chosen.categories}
    seen: list[int] = []
    with storage.create(path) as file:
        head = {"description": f"{manifest.dataset} {manifest.split}", "version": manifest.digest}
        file.write(b'{"info": ' + _json(head) + b',\n"licenses": [],\n"categories": ' + _json(chosen.categories))
        file.write(b',\n"images": ')
        images = _write_list(file, _images(chosen, ids))
        file.write(b',\n"annotations": ')

        def entries() -> Iterator[dict]:
            number = 0
            for image_id, example in _numbered(chosen, ids):
                for mask in chosen.annotations(example) if chosen.truth else chosen.masks(example):
                    number += 1
                    if own_ids:
                        seen.append(mask.id)
                    yield {
                        "id": mask.id if own_ids else number,
                        "image_id": image_id,
                        "category_id": mask.category if chosen.truth else category[str(mask.category)],
                        "segmentation": _segmentation(example, mask),
                        "area": mask.area,
                        "bbox": mask.box,
                        "iscrowd": int(mask.is_crowd),
                        **({} if chosen.truth else {"score": mask.score}),
                    }

        masks = _write_list(file, entries())
        file.write(b"}\n")
        if len(np.unique(np.asarray(seen, np.int64))) < len(seen):
            raise _Repeated
    return {"images": images, "masks": masks, "files": 1}


def write_results(chosen: Chosen, path: str) -> dict[str, int]:
    """A list per layer: `FOLDER/LAYER.json`, or one file where the path is that of a .json and there is one layer.

    Raises:
        UsageError: several layers for one file. DamageError, OSError.
    """
    if path.endswith(".json") and len(chosen.layers) != 1:
        raise UsageError(
            f"coco-results is a file per layer, and --to {path!r} is one file for {len(chosen.layers)} layers; name a "
            f"folder, or one layer with --layers ({', '.join(chosen.names)})"
        )
    ids = image_ids(chosen.dataset)
    total = 0
    for index, name in zip(chosen.layers, chosen.names, strict=True):
        one = Chosen(chosen.dataset, (index,), False)
        target = path if path.endswith(".json") else storage.join(path, f"{name}.json")
        with storage.create(target) as file:
            total += _write_list(file, _results(one, ids))
            file.write(b"\n")
    return {"images": len(chosen.dataset), "masks": total, "files": len(chosen.layers)}


def _results(chosen: Chosen, ids: np.ndarray | None) -> Iterator[dict]:
    for image_id, example in _numbered(chosen, ids):
        named = {} if ids is not None else {"file_name": _text(example.filename)}
        for mask in chosen.masks(example):
            yield {
                "image_id": image_id,
                **named,
                "category_id": 1,
                "segmentation": _segmentation(example, mask),
                "bbox": mask.box,
                "score": mask.score,
            }


def _numbered(chosen: Chosen, ids: np.ndarray | None) -> Iterator[tuple[int, ImageExample]]:
    for number, example in enumerate(chosen.all_records()):
        yield (number + 1 if ids is None else int(ids[number])), example


def _images(chosen: Chosen, ids: np.ndarray | None) -> Iterator[dict]:
    """The pictures, from the table: the shards are read once, for the masks."""
    number = 0
    for rows in ImagesTable(chosen.dataset.folder, len(chosen.dataset)).batches(["id", "height", "width"]):
        for name, height, width in zip(rows["id"], rows["height"].tolist(), rows["width"].tolist(), strict=True):
            image_id = number + 1 if ids is None else int(ids[number])
            yield {"id": image_id, "file_name": _text(name), "height": height, "width": width}
            number += 1


def _segmentation(example: ImageExample, mask: Mask) -> dict:
    return {"size": [example.height, example.width], "counts": mask.counts}


def _text(name: str) -> str:
    """A name as JSON may hold it: readers in C refuse lone surrogates."""
    return name.encode("utf-8", "backslashreplace").decode()


def _json(value: object) -> bytes:
    return json.dumps(value).encode("ascii")


def _write_list(file: BinaryIO, entries: Iterator[dict]) -> int:
    """A JSON list, an entry per line; memory holds one. Returns how many."""
    count = 0
    for entry in entries:
        file.write((b",\n" if count else b"[\n") + _json(entry))
        count += 1
    file.write(b"\n]" if count else b"[]")
    return count
