"""More of what is fuzzed: files of data sets, masks made elsewhere, and what a build keeps of itself. See `fuzz_targets`.

Each target writes the bytes to a file of its kind and reads it as a build or a reader does. Promised is a listing, a mask or a
refusal by one of the few exceptions that those who call expect.
"""

import functools
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from archives import picture, tar_bytes
from elsewhere import HEIGHT, WIDTH, drawn, sam
from scipy.io import savemat

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.folding.fold import Fold, IdSum, Totals
from maskmill.pipelines.foreign.formats import reader_of
from maskmill.pipelines.foreign.generator import Imported
from maskmill.pipelines.foreign.store import Spool
from maskmill.pipelines.measuring.overlap_stats import OverlapAccumulator
from maskmill.pipelines.measuring.stage_times import StageTimes
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.pipelines.parts import packed
from maskmill.pipelines.parts.part import Sidecar, sidecar_bytes
from maskmill.pipelines.parts.part_index import PartTask
from maskmill.pipelines.reading import parquet, row_group, webdataset
from maskmill.pipelines.reading.example_index import list_examples
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.shard_files import ShardFile, list_shard
from maskmill.pipelines.reading.tfrecords import CUSTOMARY
from maskmill.schemas import example_pb2, rle
from maskmill.schemas.errors import REASONS, DamageError, ImageError, InputError
from maskmill.schemas.manifest import File, Shard, digest, parse_manifest
from maskmill.schemas.shard_table import SHARD_TABLE, table_bytes
from maskmill.schemas.stats import LayerSums
from maskmill.schemas.tfrecord import frame


@functools.lru_cache(maxsize=1)
def _folder() -> str:
    return tempfile.mkdtemp(prefix="maskmill-fuzz-")


def _write(name: str, data: bytes) -> str:
    path = os.path.join(_folder(), name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def _told(error: Exception) -> None:
    """A refusal is one sentence; one of a picture has a reason of the closed list."""
    if "\n" in str(error) or getattr(error, "reason", REASONS[0]) not in REASONS:
        raise AssertionError(f"not a refusal: {error!r}") from error


def _sharded(name: str, list_one: Callable, data: bytes) -> None:
    """A shard is refused, or every picture in it is read or refused; nobody's id is another's."""
    row_group._BLOCKS.clear()  # the file of that name has just changed
    row_group._LAST.block = None
    try:
        listed = list_shard(list_one, ShardFile(name, _write(name, data)))
    except InputError as error:
        _told(error)
        return
    ids = [item.id for item in listed if isinstance(item, Input)]
    assert len(ids) == len(set(ids)), ids
    for item in listed:
        if isinstance(item, Refusal):
            assert item.reason in REASONS, item
        elif isinstance(item, Input):
            assert Input.from_json(item.to_json()) == item
            try:
                item.location.read()
            except ImageError as error:
                _told(error)


def _tars() -> list[bytes]:
    files = {"a.b/1.jpg": picture(1), "a.b/1.cls": b"3", "2.png": picture(2), "2.json": b'{"label": 4}', "__x__": b""}
    return [tar_bytes(files), tar_bytes(dict(reversed(files.items())), format=0)]


def _parquets() -> list[bytes]:
    cells = [{"bytes": picture(i), "path": f"{i}.png"} for i in range(3)] + [None]
    tables = [
        pa.table(
            {"image": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])), "label": range(4)}
        ),
        pa.table({"image": pa.array([picture(1), None], pa.binary())}),
    ]
    return [_parquet(table, compression="none", row_group_size=2) for table in tables]


def _parquet(table: pa.Table, **options) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def _records() -> list[bytes]:
    message = example_pb2.Example()
    for name, value in (("image/encoded", picture(5)), ("image/filename", b"a.png"), ("image/class/synset", b"n01")):
        message.features.feature[name].bytes_list.value.append(value)
    message.features.feature["image/class/label"].int64_list.value.append(7)
    return [frame(message.SerializeToString()) * 2]


def _imported(kind: str, name: str, data: bytes) -> None:
    """A file of masks is refused with a reason, or gives masks that fill their picture and nothing beyond it."""
    _write(name, data)
    wanted = Imported(path=_folder(), name="x", format=kind, top=5)
    block = json.dumps([name, len(data)]).encode()
    try:
        masks = reader_of(kind).read(block, "a", HEIGHT, WIDTH, wanted)
    except ImageError as error:
        _told(error)
        return
    assert len(masks.counts) <= 5
    for counts, area in zip(masks.counts, masks.area.tolist(), strict=True):
        assert rle.area_of_runs(rle.decode_counts(counts, HEIGHT, WIDTH)) == area


def _results(data: bytes) -> None:
    """A file of results is refused, or joined by names, and each picture's entries give masks or a reason."""
    path = _write("results.json", data)
    with Spool() as spool:
        try:
            reader_of("coco").index(path, spool)
        except InputError:
            return
        for _, block in spool.groups():
            try:
                reader_of("coco").read(b"".join(block), "a", HEIGHT, WIDTH, Imported(path=path, name="x", top=5))
            except ImageError as error:
                _told(error)


def _result_seeds() -> list[bytes]:
    entries = [{"image_id": i, "category_id": 1, "score": 0.5, **sam(drawn(i))[0]} for i in range(2)]
    whole = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(2)],
        "annotations": entries,
        "categories": [],
    }
    return [json.dumps(one).encode() for one in (entries, whole)]


def _mat_seeds() -> list[bytes]:
    labels = np.empty((2, 1), object)
    labels[0, 0], labels[1, 0] = np.array([[1, 2]], np.uint16), np.array([[3]], np.uint16)
    grown = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3 + 1
    seeds = []
    for compressed in (False, True):
        stream = io.BytesIO()
        content = {"superpixels": grown.astype(np.uint16), "labels": labels, "scores": np.array([[0.9], [0.1]])}
        savemat(stream, content, do_compression=compressed)
        seeds.append(stream.getvalue())
    return seeds


def _label_seeds() -> list[bytes]:
    grey = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) // 100
    kinds = (grey.astype(np.uint8), grey.astype(np.uint16), np.repeat(grey[..., None].astype(np.uint8), 3, 2))
    return [cv2.imencode(".png", kind)[1].tobytes() for kind in kinds]


_SHARDS = 5
_TASKS = [PartTask(0, part, 0, 0, 1, "f" * 64) for part in range(2)]


def _packed(data: bytes) -> None:
    """Packed sidecars are refused, or are those of the shard's parts."""
    path = _write("shard.parts.gz", data)
    try:
        names = [sidecar.name for sidecar in packed.unpack(path, _TASKS)]
    except ValueError:
        return
    assert names == [task.name for task in _TASKS]


def _packed_seeds() -> list[bytes]:
    empty = OverlapAccumulator().result()
    sidecars = [Sidecar(0, task.part, "f" * 64, 1, 0, 0, "", "", [], [], empty, 1.0) for task in _TASKS]
    return [b"".join(packed.pack(sidecar_bytes(one)) for one in sidecars)]


def _fold(data: bytes) -> None:
    """A fold is refused, or is one. Damaged inside its gzip or, by what is made of it here, below that."""
    for whole in (data, gzip.compress(data, 1)):
        try:
            fold = Fold.from_bytes(whole)
        except ValueError:
            continue
        assert isinstance(fold, Fold)


def _fold_seeds() -> list[bytes]:
    fold = Fold(
        plan_digest="f" * 64,
        first=0,
        shards=["0" * 64],
        ids=[IdSum(1, 2)],
        failures=[],
        totals=Totals(sums=[LayerSums()]),
        stats=ReportStats.zero(1, 1),
        times=StageTimes.of(("decode",)),
        rows=File("images/00000.parquet", 9, "0" * 64),
    )
    return [fold.to_bytes(), gzip.decompress(fold.to_bytes())]


def _shards(number: int) -> list[dict]:
    return [vars(Shard(f"a-train.tfrecord-{i:05d}-of-{number:05d}", 1, 9, "0" * 64, "0" * 8)) for i in range(number)]


def _shard_table(data: bytes) -> None:
    """A manifest is refused, or lists the shards that its table has."""
    _write(SHARD_TABLE, data)
    fields = json.loads(_manifest_of_many())
    try:
        manifest = parse_manifest(json.dumps(fields).encode(), "manifest.json", _folder())
    except (DamageError, InputError):
        return
    assert [vars(shard) for shard in manifest.shards] == _shards(_SHARDS)


@functools.lru_cache(maxsize=1)
def _manifest_of_many() -> bytes:
    from fuzz_targets import manifest_seed

    fields = json.loads(manifest_seed())
    number = _SHARDS
    fields |= {"shards": [], "shard_table": {"digest": digest(_shards(number)), "shards": number}}
    fields["counts"] = {"inputs": number, "written": number, "failed": 0, "skipped": 0}
    del fields["manifest_digest"]
    return json.dumps({**fields, "manifest_digest": digest(fields)}).encode()


def _shard_table_seeds() -> list[bytes]:
    return [table_bytes(_shards(_SHARDS), {"name": str, "records": int, "bytes": int, "sha256": str, "crc32c": str})]


def _images_table(data: bytes) -> None:
    """A table is refused as damaged, or read to its end."""
    _write("images.parquet", data)
    try:
        table = ImagesTable(_folder())
        rows = sum(len(batch["id"]) for batch in table.batches(["id", "shard", "record_bytes"]))
        assert rows == table.num_rows
    except (DamageError, OSError):
        return


def _images_table_seeds() -> list[bytes]:
    columns = {"id": ["a", "b"], "shard": pa.array([0, 1], pa.int32()), "record_bytes": pa.array([5, 6], pa.int64())}
    return [_parquet(pa.table(columns), compression=kind) for kind in ("none", "zstd")]


# Name -> (check, seeds); `fuzz_targets` makes targets of them.
READERS = {
    "webdataset": (functools.partial(_sharded, "x.tar", webdataset.list_samples), _tars),
    "parquet": (functools.partial(_sharded, "x.parquet", parquet.list_file), _parquets),
    "tfrecord": (
        functools.partial(_sharded, "x.tfrecord", functools.partial(list_examples, features=CUSTOMARY)),
        _records,
    ),
    "results": (_results, _result_seeds),
    "sam": (functools.partial(_imported, "sam", "a.json"), lambda: [json.dumps(sam(drawn(1, 2))).encode()]),
    "mat": (functools.partial(_imported, "mcg", "a.mat"), _mat_seeds),
    "label-png": (functools.partial(_imported, "label-png", "a.png"), _label_seeds),
    "packed": (_packed, _packed_seeds),
    "fold": (_fold, _fold_seeds),
    "shard-table": (_shard_table, _shard_table_seeds),
    "images-table": (_images_table, _images_table_seeds),
}
