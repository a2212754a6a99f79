"""Where the records of a data set begin, so that any one of them can be read by its number.

The index is not a file of its own: `images.parquet` lists the bytes of every record in order, was written once by the
build and has its digest in `SHA256SUMS`, so an index beside it could only disagree with it. Two columns are read, 1.3
million rows in a fraction of a second, and what they say is compared with the records and bytes that the manifest gives
of every shard. Where the table is missing or says otherwise, the shards themselves are asked: twelve bytes a record.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import IMAGES, Manifest, Shard, images_files
from maskmill.schemas.tfrecord import FRAME_BYTES, MAX_RECORD_BYTES, masked_crc

if TYPE_CHECKING:
    from jaxtyping import Int64

_HEADER = struct.Struct("<QI")


def load_index(folder: str, manifest: Manifest) -> Int64[np.ndarray, " {manifest.num_records}"]:
    """Byte offsets of all records within their shards, int64[num_records], in the order of records.

    Raises:
        DamageError: a shard is missing, or does not hold the records that the manifest says.
    """
    offsets = _of_table(folder, manifest)
    if offsets is None:
        parts = [_of_shard(folder, shard) for shard in manifest.shards]
        offsets = np.concatenate([np.empty(0, np.int64), *parts])
    return offsets


def first_records(manifest: Manifest) -> Int64[np.ndarray, " {len(manifest.shards)+1}"]:
    """Number of the first record of every shard, and the number of all records: int64[shards + 1]."""
    return np.cumsum([0, *(shard.records for shard in manifest.shards)], dtype=np.int64)


def _of_table(folder: str, manifest: Manifest) -> np.ndarray | None:
    """The offsets by `images.parquet`, or None where it cannot be trusted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: list[list[np.ndarray]] = [[], []]
    try:
        for name in images_files(folder) or [IMAGES]:
            # From memory: pyarrow's own opening of a path would wait at a pipe, and knows no gs://.
            file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(storage.join(folder, *name.split("/")))))
            if file.metadata.num_rows > manifest.num_records:  # a small file can hold a billion rows
                return None
            table = file.read(["shard", "record_bytes"], use_threads=False)
            for column, name_of in zip(columns, ("shard", "record_bytes"), strict=True):
                column.append(table.column(name_of).to_numpy().astype(np.int64))
    except (OSError, ValueError, KeyError, pa.ArrowException, MemoryError, OverflowError):
        return None
    shard, size = (np.concatenate([np.empty(0, np.int64), *column]) for column in columns)
    firsts = first_records(manifest)
    if len(shard) != firsts[-1] or not np.array_equal(shard, np.repeat(np.arange(len(firsts) - 1), np.diff(firsts))):
        return None
    ends = np.concatenate(([0], np.cumsum(size + FRAME_BYTES)))
    held = np.diff(ends[firsts])
    if (size < 0).any() or held.tolist() != [one.bytes for one in manifest.shards]:
        return None
    return ends[:-1] - np.repeat(ends[firsts[:-1]], np.diff(firsts))


def _of_shard(folder: str, shard: Shard) -> np.ndarray:
    """The offsets of one shard by its frames' headers."""
    offsets: list[int] = []
    at = 0
    try:
        with storage.open_read(storage.join(folder, shard.name)) as stream:
            while at < shard.bytes:
                stream.seek(at)
                header = stream.read(_HEADER.size)
                if not header:
                    break
                length, crc = _HEADER.unpack(header) if len(header) == _HEADER.size else (0, -1)
                if crc != masked_crc(header[:8]) or length > MAX_RECORD_BYTES:
                    raise DamageError(f"{shard.name}: record {len(offsets)} at byte {at}: its header is damaged")
                offsets.append(at)
                at += FRAME_BYTES + length
    except FileNotFoundError:
        raise DamageError(f"{shard.name} is missing from {folder}") from None
    except storage.NotAFile:
        raise DamageError(f"{shard.name} in {folder} is not a regular file") from None
    if len(offsets) != shard.records or at != shard.bytes:
        raise DamageError(f"{shard.name} holds {len(offsets)} records, the manifest says {shard.records}")
    return np.asarray(offsets, np.int64)
