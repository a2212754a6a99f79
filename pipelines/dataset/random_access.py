"""A handful of records of a data set by id, each by one short read at its place in its shard.

A shard is a sequence of frames of known length, and `images.parquet` lists its records in order, so no shard is scanned.
"""

from collections.abc import Iterable, Iterator

import numpy as np

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.dataset.stored_picture import check_size
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.example import ImageExample, check_example, decode_example
from maskmill.schemas.manifest import IMAGES, Manifest
from maskmill.schemas.tfrecord import FRAME_BYTES, read_records


def locate(
    folder: str, wanted: Iterable[str], pieces: Iterable[int] | None = None, records: int | None = None
) -> dict[str, tuple[int, int, int]]:
    """Where records are: id -> (shard, byte offset, bytes with framing). Ids that are not there are left out.

    Args:
        folder: the data set's.
        wanted: ids.
        pieces: numbers of the table's files that have them, where that is known (see `ImagesTable.find`).
        records: see `ImagesTable`.

    Raises:
        DamageError: `images.parquet` is missing or unreadable.
    """
    found = {}
    shard, end = -1, 0  # of the last row so far: its shard, and where in the shard it ends
    for hits, columns in ImagesTable(folder, records).find(wanted, ["shard", "record_bytes"], pieces):
        shards, sizes = columns["shard"], columns["record_bytes"] + FRAME_BYTES
        if not len(shards):
            continue
        ends = np.cumsum(sizes)
        begins = np.flatnonzero(np.diff(shards, prepend=shard))  # rows that are the first of their shard
        before = np.concatenate(([-end], ends[begins] - sizes[begins]))
        ends = ends - before[np.searchsorted(begins, np.arange(len(shards)), side="right")]
        for row, identity in hits.items():
            found[identity] = (int(shards[row]), int(ends[row] - sizes[row]), int(sizes[row]))
        shard, end = int(shards[-1]), int(ends[-1])
    return found


def read_examples(
    folder: str, manifest: Manifest, wanted: Iterable[str], pieces: Iterable[int] | None = None
) -> dict[str, ImageExample]:
    """Records by id, checked as `validate` would; raises as `each_example`."""
    return {example.filename: example for example in each_example(folder, manifest, wanted, pieces)}


def each_example(
    folder: str, manifest: Manifest, wanted: Iterable[str], pieces: Iterable[int] | None = None
) -> Iterator[ImageExample]:
    """Records of some ids, one after the other in the order of shards, checked as `validate` would; `pieces` as in `locate`.

    Raises:
        DamageError: a record is not where `images.parquet` says, or is not sound.
    """
    places = sorted(locate(folder, wanted, pieces, manifest.num_records).items(), key=lambda item: item[1])
    return storage.in_parallel(lambda item: _read(folder, manifest, item[0], *item[1]), places, folder)


def _read(folder: str, manifest: Manifest, identity: str, shard: int, offset: int, size: int) -> ImageExample:
    if not 0 <= shard < len(manifest.shards):
        raise DamageError(f"{IMAGES} says that {identity!r} is in shard {shard} of {len(manifest.shards)}")
    name = manifest.shards[shard].name
    if size < 0 or not 0 <= offset <= manifest.shards[shard].bytes - size:
        raise DamageError(f"{IMAGES} says that {identity!r} is at byte {offset} of {name}, which ends before")
    try:
        data = storage.read_bytes(storage.join(folder, name), offset, size)
    except FileNotFoundError:
        raise DamageError(f"{name} is missing from {folder}") from None
    except storage.NotAFile:
        raise DamageError(f"{name} in {folder} is not a regular file") from None
    payloads = list(read_records(storage.as_file(data), f"{name} from byte {offset} on"))
    if len(payloads) != 1:
        raise DamageError(f"{name} has no record at byte {offset}, where {IMAGES} says that {identity!r} is")
    example = decode_example(payloads[0], len(manifest.layers))
    if example.filename != identity:
        raise DamageError(f"{name} holds {example.filename!r} at byte {offset}, {IMAGES} says {identity!r}")
    check_size(example, manifest)
    check_example(example)
    return example
