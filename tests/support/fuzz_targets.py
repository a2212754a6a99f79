"""What is fuzzed: each target takes any bytes, and raises where a promise about them is broken.

Seeds are made here, by code; what a fuzzer finds becomes a test beside the code that was at fault.
"""

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Callable

import numpy as np
from archives import picture, tar_bytes, zip_bytes
from fuzz_readers import READERS
from mutants import seeds as pictures

from maskmill.masks.grid import Grid
from maskmill.pipelines.reading.annotations import parse_annotations
from maskmill.pipelines.reading.decode import decode_image
from maskmill.pipelines.reading.inputs import Refusal
from maskmill.pipelines.reading.tree import list_tree
from maskmill.schemas import rle
from maskmill.schemas.errors import REASONS, DamageError, ImageError, InputError
from maskmill.schemas.example import ImageExample, check_example, decode_example, encode_example
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.manifest import Manifest, Shard, digest, parse_manifest

MAX_PIXELS = 500_000


@dataclasses.dataclass(frozen=True)
class Target:
    """Something to fuzz.

    Attributes:
        check: takes any bytes; raises on a fault.
        seeds: makes inputs to begin with.
    """

    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


@functools.lru_cache(maxsize=2)
def _place(kind: str) -> str:
    return os.path.join(tempfile.mkdtemp(prefix="maskmill-fuzz-"), f"archive.{kind}")


def _list(kind: str, data: bytes) -> None:
    """An archive is listed or refused, and what it lists is read within it or refused; every name once, none that climbs."""
    path = _place(kind)
    with open(path, "wb") as file:
        file.write(data)
    try:
        listed = list(list_tree(path))
    except InputError:
        return
    for name, where in listed:
        if isinstance(where, Refusal):
            assert where.reason in REASONS, where
            continue
        assert not name.startswith("/"), name
        assert ".." not in name.split("/"), name
        try:
            content = where.read()
        except ImageError:
            continue
        assert len(content) <= max(len(data), where.plain), name


def _archives(kind: str) -> list[bytes]:
    files = {"a/b.png": picture(1), "a/ü.png": picture(2), "c.txt": b"text", "./d.png": picture(3)}
    return [zip_bytes(files), zip_bytes(files, 8)] if kind == "zip" else [tar_bytes(files), tar_bytes(files, format=0)]


def _rle(data: bytes) -> None:
    """Counts are refused, or are runs that fill the mask and are written the same way again."""
    if len(data) < 3:
        return
    height, width, counts = data[0] + 1, data[1] + 1, data[2:]
    try:
        runs = rle.decode_counts(counts, height, width)
    except rle.RleError:
        return
    assert runs.min() >= 0
    assert runs.sum() == height * width
    mask = rle.runs_to_mask(runs, height, width)
    assert np.array_equal(rle.decode_mask(rle.encode_mask(mask), height, width), mask)
    assert np.array_equal(rle.decode_counts(rle.encode_runs(runs), height, width), runs)


def _rle_seeds() -> list[bytes]:
    masks = np.random.default_rng(0).integers(0, 2, (4, 9, 12)).astype(bool)
    return [bytes((8, 11)) + rle.encode_mask(mask) for mask in (*masks, masks[0] | True, masks[0] & False)]


def _manifest(data: bytes) -> None:
    """A manifest is refused, or is one; its digest fitting or made to fit."""
    try:
        fields = json.loads(data)
        if isinstance(fields, dict):
            fields.pop("manifest_digest", None)
            data = json.dumps({**fields, "manifest_digest": digest(fields)}).encode()
    except (ValueError, RecursionError):
        pass
    try:
        manifest = parse_manifest(data, "manifest.json")
    except (DamageError, InputError):
        return
    assert parse_manifest(manifest.to_json(), "again") == manifest


def manifest_seed() -> bytes:
    manifest = Manifest(
        dataset="coco",
        split="train",
        config={"max_pixels": 50_000_000, "masks": ["grid(n=2)"]},
        config_digest="0" * 64,
        layers=Grid(2).layers,
        shards=(Shard("coco-train.tfrecord-00000-of-00001", 2, 100, "0" * 64, "0" * 8),),
        counts={"inputs": 3, "written": 2, "failed": 1, "skipped": 0},
        decoder={"name": "opencv", "reencoded": {"gif": 1}},
        versions={"maskmill": "1"},
        abo={"grid-2": {"abo": 0.5, "instances": 3, "masks_per_image": 4.0, "coverage": 1.0}},
        labels="none",
        categories={"1": "person"},
        plan_digest="1" * 64,
    )
    return manifest.to_json()


def _example(data: bytes) -> None:
    """A record is refused, or is one: written again, it reads the same."""
    try:
        example = decode_example(data, 1)
        check_example(example)
    except DamageError:
        return
    again = decode_example(encode_example(example), 1)
    assert encode_example(again) == encode_example(example)


def _example_seeds() -> list[bytes]:
    masks = Grid(2)(ImageRecord("a", np.zeros((8, 8, 3), np.uint8)))
    annotations, _ = parse_annotations(tuple(json.loads(_annotation_seeds()[0])), 8, 8)
    common = {"format": "PNG", "height": 8, "width": 8, "filename": "a.png", "source_id": "7", "sha256": "0" * 64}
    best = np.where(annotations.is_crowd, -1.0, 0.5)[None].astype(np.float32)
    full = ImageExample(
        encoded=picture(),
        label=3,
        synset="n01",
        text="a",
        masks=masks,
        annotations=annotations,
        best_iou=best,
        **common,
    )
    return [encode_example(full)]


def _annotations(data: bytes) -> None:
    """Annotations are refused with a reason, or become checked masks."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(raw, list) or not all(isinstance(one, dict) for one in raw):
        return
    try:
        annotations, _ = parse_annotations(tuple(raw), 8, 8)
    except ImageError as error:
        if error.reason not in ("bad_annotation", "bad_rle", "duplicate_id"):
            raise
        return
    for counts, area in zip(annotations.counts, annotations.area, strict=True):
        assert rle.area_of_runs(rle.decode_counts(counts, 8, 8)) == area > 0


def _annotation_seeds() -> list[bytes]:
    polygon = {"id": 1, "category_id": 3, "iscrowd": 0, "segmentation": [[1, 1, 6, 1, 6.5, 6, 1, 6]]}
    runs = {"id": 2, "category_id": 1, "iscrowd": 1, "segmentation": {"size": [8, 8], "counts": [5, 10, 49]}}
    text = {"id": 3, "category_id": 1, "segmentation": {"size": [8, 8], "counts": "5:a1"}}
    return [json.dumps(one).encode() for one in ([polygon, runs], [text], [polygon])]


@functools.cache
def _tensorflow():
    import tensorflow as tf

    return tf


def _image(data: bytes) -> None:
    """A picture is refused, or what is stored of it has, for another library's decoder, the pixels that masks are made of."""
    try:
        made = decode_image(data, MAX_PIXELS)
    except ImageError:
        return
    if made.format == "JPEG":
        seen = _tensorflow().io.decode_jpeg(made.stored, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    else:
        seen = _tensorflow().io.decode_png(made.stored, channels=3).numpy()
    assert np.array_equal(seen, made.image)


TARGETS = {
    "tar": Target(functools.partial(_list, "tar"), functools.partial(_archives, "tar")),
    "zip": Target(functools.partial(_list, "zip"), functools.partial(_archives, "zip")),
    "rle": Target(_rle, _rle_seeds),
    "manifest": Target(_manifest, lambda: [manifest_seed()]),
    "example": Target(_example, _example_seeds),
    "annotations": Target(_annotations, _annotation_seeds),
    "image": Target(_image, lambda: list(pictures().values())),
    **{name: Target(check, seeds) for name, (check, seeds) in READERS.items()},
}
