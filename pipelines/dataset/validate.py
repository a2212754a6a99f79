"""Every byte and every record of a data set, checked against its manifest."""

import hashlib
import json
from collections.abc import Iterator

import google_crc32c
import pyarrow.parquet as pq

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.example import check_example
from maskmill.schemas.manifest import FAILURES, IMAGES, Manifest, Shard
from maskmill.schemas.reader import Dataset, read_shard


def check_shard_bytes(folder: str, shard: Shard) -> Iterator[str]:
    """Size and checksums of one shard file."""
    sha, crc, size = hashlib.sha256(), google_crc32c.Checksum(), 0
    try:
        with storage.open_read(storage.join(folder, shard.name)) as stream:
            while chunk := stream.read(4 << 20):
                sha.update(chunk)
                crc.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        yield f"{shard.name}: missing"
        return
    if size != shard.bytes:
        yield f"{shard.name}: {size} bytes, the manifest says {shard.bytes}"
    if sha.hexdigest() != shard.sha256 or crc.hexdigest().decode() != shard.crc32c:
        yield f"{shard.name}: its checksum is not the manifest's"


def check_records(folder: str, shard: Shard, num_layers: int, seen: dict[str, str]) -> Iterator[str]:
    """Every record of one shard: framing, schema, RLE, areas, overlaps, and ids not `seen` before."""
    try:
        for index, example in enumerate(read_shard(folder, shard, num_layers)):
            where = f"{shard.name}: record {index} ({example.filename})"
            try:
                check_example(example)
            except DamageError as error:
                yield f"{where}: {error}"
            if example.filename in seen:
                yield f"{where}: the same id is in {seen[example.filename]}"
            seen[example.filename] = shard.name
    except DamageError as error:
        yield str(error)


def check_tables(folder: str, manifest: Manifest, ids: set[str]) -> Iterator[str]:
    """`failures.jsonl` and `images.parquet` against the counts and the records' ids."""
    try:
        lines = [json.loads(line) for line in storage.read_bytes(storage.join(folder, FAILURES)).splitlines()]
        refused = {name: sum(line["outcome"] == name for line in lines) for name in ("failed", "skipped")}
        for name, count in refused.items():
            if count != manifest.counts[name]:
                yield f"{FAILURES}: {count} {name}, the manifest says {manifest.counts[name]}"
    except FileNotFoundError:
        yield f"{FAILURES}: missing"
    except (ValueError, KeyError, TypeError) as error:
        yield f"{FAILURES}: damaged ({error})"
    try:
        with storage.open_read(storage.join(folder, IMAGES)) as stream:
            listed = pq.read_table(stream, columns=["id"]).column("id").to_pylist()
        if set(listed) != ids or len(listed) != len(ids):
            yield f"{IMAGES}: its {len(listed)} rows are not the {len(ids)} records of the shards"
    except FileNotFoundError:
        yield f"{IMAGES}: missing"
    except (OSError, ValueError, KeyError) as error:
        yield f"{IMAGES}: damaged ({error})"


def find_damage(dataset: Dataset) -> Iterator[str]:
    """Everything in a data set that is not as its manifest promises, a line each; nothing for a sound one."""
    seen: dict[str, str] = {}
    for shard in dataset.manifest.shards:
        broken = False
        for line in check_shard_bytes(dataset.folder, shard):
            broken = True
            yield line
        if broken and not storage.exists(storage.join(dataset.folder, shard.name)):
            continue
        yield from check_records(dataset.folder, shard, len(dataset.manifest.layers), seen)
    yield from check_tables(dataset.folder, dataset.manifest, set(seen))
