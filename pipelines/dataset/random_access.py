"""A handful of records of a data set by id, each by one short read at its place in its shard.

A shard is a sequence of frames of known length, and `images.parquet` lists its records in order, so no shard is scanned.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow.parquet as pq

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.example import ImageExample, check_example, decode_example
from maskmill.schemas.manifest import IMAGES, Manifest
from maskmill.schemas.tfrecord import FRAME_BYTES, read_records


def locate(folder: str, wanted: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Where records are: id -> (shard, byte offset, bytes with framing). Ids that are not there are left out.

    Raises:
        DamageError: `images.parquet` is missing or unreadable.
    """
    wanted, found = set(wanted), {}
    try:
        with storage.open_read(storage.join(folder, IMAGES)) as stream:
            shard, offset = -1, 0
            for batch in pq.ParquetFile(stream).iter_batches(8192, columns=["id", "shard", "record_bytes"]):
                shards = batch.column("shard").to_pylist()
                sizes = np.asarray(batch.column("record_bytes")).tolist()
                for identity, at, size in zip(batch.column("id").to_pylist(), shards, sizes, strict=True):
                    if at != shard:
                        shard, offset = at, 0
                    if identity in wanted:
                        found[identity] = (shard, offset, size + FRAME_BYTES)
                    offset += size + FRAME_BYTES
    except FileNotFoundError:
        raise DamageError(f"{IMAGES} is missing from {folder}") from None
    except (OSError, ValueError, KeyError) as error:
        raise DamageError(f"{IMAGES} in {folder} cannot be read: {error}") from error
    return found


def read_examples(folder: str, manifest: Manifest, wanted: Iterable[str]) -> dict[str, ImageExample]:
    """Records by id, checked as `validate` would.

    Raises:
        DamageError: a record is not where `images.parquet` says, or is not sound.
    """
    examples = {}
    for identity, (shard, offset, size) in sorted(locate(folder, wanted).items(), key=lambda item: item[1]):
        if not 0 <= shard < len(manifest.shards):
            raise DamageError(f"{IMAGES} says that {identity!r} is in shard {shard} of {len(manifest.shards)}")
        name = manifest.shards[shard].name
        try:
            data = storage.read_bytes(storage.join(folder, name), offset, size)
        except FileNotFoundError:
            raise DamageError(f"{name} is missing from {folder}") from None
        payloads = list(read_records(storage.as_file(data), f"{name} from byte {offset} on"))
        if len(payloads) != 1:
            raise DamageError(f"{name} has no record at byte {offset}, where {IMAGES} says that {identity!r} is")
        payload = payloads[0]
        example = decode_example(payload, len(manifest.layers))
        if example.filename != identity:
            raise DamageError(f"{name} holds {example.filename!r} at byte {offset}, {IMAGES} says {identity!r}")
        check_example(example)
        examples[identity] = example
    return examples
