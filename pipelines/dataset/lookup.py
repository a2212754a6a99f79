"""One record of a data set by its id, by one short read."""

import difflib

import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskmill.pipelines.dataset.random_access import read_examples
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.manifest import IMAGES
from maskmill.schemas.reader import Dataset


def find_record(dataset: Dataset, wanted: str) -> ImageExample:
    """The record whose id, COCO image id or file name is `wanted`.

    Raises:
        InputError: no such record (near ids are named), or a file name that several ids share.
        DamageError: the shard does not hold what `images.parquet` says.
    """
    try:
        with storage.open_read(storage.join(dataset.folder, IMAGES)) as stream:
            table = pq.read_table(stream, columns=["id", "source_id"])
    except FileNotFoundError:
        raise DamageError(f"{IMAGES} is missing from {dataset.folder}") from None
    hits = table.filter(pc.field("id") == wanted)
    if not len(hits):
        # COCO people write 139 for 000000000139.jpg
        hits = table.filter(pc.field("source_id") == (wanted.lstrip("0") or "0"))
    if not len(hits):
        hits = table.filter(pc.ends_with(pc.field("id"), pattern=f"/{wanted}"))
    if not len(hits):
        near = difflib.get_close_matches(wanted, table.column("id").to_pylist()[:100_000], n=3, cutoff=0.4)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise InputError(f"{dataset.folder} has no record {wanted!r}{hint}. Its ids are in {IMAGES}")
    if len(hits) > 1:
        raise InputError(
            f"{wanted!r} is the name of {len(hits)} records: {', '.join(hits.column('id').to_pylist()[:5])}"
        )
    identity = hits.column("id")[0].as_py()
    return read_examples(dataset.folder, dataset.manifest, [identity])[identity]


def some_ids(dataset: Dataset, count: int) -> list[str]:
    """Up to `count` record ids at even distances, in the order of records.

    Raises:
        DamageError: `images.parquet` is missing.
    """
    total = dataset.manifest.num_records
    wanted = {i * total // min(count, total) for i in range(min(count, total))}
    found, start = [], 0
    try:
        with storage.open_read(storage.join(dataset.folder, IMAGES)) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(8192, columns=["id"]):
                ids = batch.column("id")
                found += [ids[i - start].as_py() for i in sorted(wanted) if start <= i < start + len(ids)]
                start += len(ids)
    except FileNotFoundError:
        raise DamageError(f"{IMAGES} is missing from {dataset.folder}") from None
    return found
