"""One record of a data set by its id, by one short read."""

import difflib

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.dataset.random_access import read_examples
from maskmill.schemas.errors import InputError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.manifest import IMAGES
from maskmill.schemas.reader import Dataset

_NEAR = 100_000  # ids that are compared with one that is not there


def find_record(dataset: Dataset, wanted: str) -> ImageExample:
    """The record whose id, COCO image id or file name is `wanted`.

    Raises:
        InputError: no such record (near ids are named), or a file name that several ids share.
        DamageError: the shard does not hold what `images.parquet` says.
    """
    kinds: list[list[str]] = [[], [], []]  # the ids found by id, by COCO image id, by file name
    number = wanted.lstrip("0") or "0"  # COCO people write 139 for 000000000139.jpg
    some: list[str] = []
    for rows in ImagesTable(dataset.folder, len(dataset)).batches(["id", "source_id"]):
        for identity, source_id in zip(rows["id"], rows["source_id"], strict=True):
            kind = (
                0 if identity == wanted else 1 if source_id == number else 2 if identity.endswith(f"/{wanted}") else -1
            )
            if kind >= 0:
                kinds[kind].append(identity)
        some += rows["id"][: _NEAR - len(some)]
    hits = next((ids for ids in kinds if ids), [])
    if not hits:
        near = difflib.get_close_matches(wanted, some, n=3, cutoff=0.4)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"{dataset.folder} has no record {wanted!r}{hint}. Its ids are in {IMAGES}")
    if len(hits) > 1:
        raise InputError(f"{wanted!r} is the name of {len(hits)} records: {', '.join(hits[:5])}")
    return read_examples(dataset.folder, dataset.manifest, hits)[hits[0]]


def some_ids(dataset: Dataset, count: int) -> list[str]:
    """Up to `count` record ids at even distances, in the order of records.

    Raises:
        DamageError: `images.parquet` is missing or damaged.
    """
    total = dataset.manifest.num_records
    wanted = sorted({i * total // min(count, total) for i in range(min(count, total))})
    found: list[str] = []
    start = 0
    for rows in ImagesTable(dataset.folder, len(dataset)).batches(["id"]):
        ids = rows["id"]
        found += [ids[i - start] for i in wanted if start <= i < start + len(ids)]
        start += len(ids)
    return found
