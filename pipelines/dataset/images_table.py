"""`images.parquet`: one row per record. Its row, its columns, its one writer and its one reader.

A data set of more than `ONE_TABLE` images has the same rows in files `images/00000.parquet`, `images/00001.parquet` ..., each
of some whole shards and in the order of records. Readers do not see the difference.

A file is read from memory, or by its local path, and never through a Python file object: `pyarrow.parquet.read_table`
gives such an object to threads of its data set scanner, which outlive the call and abort an interpreter that ends.
"""

import dataclasses
import functools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskmill.pipelines.dataset.checksums import HashedStream
from maskmill.pipelines.measuring.series import Series
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import IMAGES, IMAGES_FOLDER, images_files

ROWS_PER_GROUP = 65_536  # a group has a footer entry for every column, so a group of few rows costs more than its rows
ONE_TABLE = (
    64 * ROWS_PER_GROUP
)  # rows; a file of more has a footer that takes seconds to open, and one thread to write it
_BATCH = 8192  # rows decoded at once by `ImagesTable.batches`

_FIXED = {
    "id": pa.string(),
    "source_id": pa.string(),
    "label": pa.int64(),
    "synset": pa.string(),
    "shard": pa.int32(),
    "height": pa.int32(),
    "width": pa.int32(),
    "stored_bytes": pa.int64(),
    "record_bytes": pa.int64(),
    "reencoded": pa.string(),
    "instances": pa.int32(),
    "crowds": pa.int32(),
    "dropped_annotations": pa.int32(),
}
_PER_LAYER = {"masks": pa.int32(), "coverage": pa.float64()}
_PER_SERIES = {"iou_units": pa.int64()}
_MS = "ms/"

_SCANNED = 65_536  # rows looked through at once by `ImagesTable.find`
_UNREADABLE = (OSError, ValueError, KeyError, pa.ArrowException, MemoryError, OverflowError)

Found = tuple[dict[int, str], dict[str, Any]]
Columns = dict[str, Any]  # name -> list[str] of a text column, np.ndarray of a column of numbers


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """One record of a data set with L layers and S series.

    Attributes:
        id, source_id, label, synset: as in the record.
        shard: index of its shard; rows are in the order of records.
        height, width: pixels.
        stored_bytes: of the picture as the record holds it.
        record_bytes: of the record, without framing.
        reencoded: "" or why the picture's bytes are not the original ones.
        instances, crowds: annotations that are no crowds, and that are.
        dropped_annotations: left out as unreadable.
        masks: L numbers of masks.
        coverage: L shares of the picture under any mask.
        iou_units: S sums of the instances' best IoUs, in units of 1 / `schemas.stats.IOU_UNIT`.
        ms: stage -> milliseconds; a stage that did not run is left out.
    """

    id: str
    source_id: str
    label: int
    synset: str
    shard: int
    height: int
    width: int
    stored_bytes: int
    record_bytes: int
    reencoded: str
    instances: int
    crowds: int
    dropped_annotations: int
    masks: tuple[int, ...]
    coverage: tuple[float, ...]
    iou_units: tuple[int, ...]
    ms: dict[str, float]

    @classmethod
    def of_built(cls, row: dict, shard: int) -> "ImageRow":
        """The row of a record as `pipelines.parts.image_builder` describes it, which a sidecar keeps."""
        pixels = row["height"] * row["width"]
        return cls(
            **{name: row[name] for name in _FIXED if name != "shard"},
            shard=shard,
            masks=tuple(row["masks"]),
            coverage=tuple(covered / pixels for covered in row["covered_px"]),
            iou_units=tuple(row["iou_units"]),
            ms=dict(row["ms"]),
        )


def column_type(name: str) -> pa.DataType:
    """The type of a column; KeyError for a name that no table has."""
    if name.startswith(_MS):
        return pa.float64()
    return (_FIXED | _PER_LAYER | _PER_SERIES)[name if name in _FIXED else name.rsplit("/", 1)[-1]]


def iou_units_column(series: str) -> str:
    """Name of the column of a series' sums of best IoUs."""
    return f"{series}/iou_units"


def masks_column(layer: str) -> str:
    """Name of the column of a layer's numbers of masks."""
    return f"{layer}/masks"


def _columns(series: Sequence[Series], stages: Sequence[str]) -> list[str]:
    """Names of all columns in order: identity and sizes, then of each series, then of each stage."""
    names = list(_FIXED)
    for one in series:
        if one.kind == "layer":
            names += [f"{one.name}/{kind}" for kind in _PER_LAYER]
        names.append(iou_units_column(one.name))
    return [*names, *(f"{_MS}{stage}" for stage in stages)]


class ImagesWriter:
    """Writes rows to a stream, in groups of `ROWS_PER_GROUP`; a context manager, like the writer of pyarrow.

    Rows wait as Arrow columns, about 0.3 kB each, so memory is bounded by one group however many rows there are.
    """

    def __init__(self, stream: BinaryIO | HashedStream, series: Sequence[Series], stages: Sequence[str]):
        self._series, self._stages = tuple(series), tuple(stages)
        names = _columns(series, stages)
        self._schema = pa.schema([(name, column_type(name)) for name in names])
        self._writer = pq.ParquetWriter(stream, self._schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def __enter__(self) -> "ImagesWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush(everything=True)
        self._writer.close()

    def write(self, rows: Sequence[ImageRow]) -> None:
        """Appends rows, in order."""
        if not rows:
            return
        columns = [[getattr(row, name) for row in rows] for name in _FIXED]
        layer = 0
        for index, one in enumerate(self._series):
            if one.kind == "layer":
                columns += [[getattr(row, kind)[layer] for row in rows] for kind in _PER_LAYER]
                layer += 1
            columns.append([row.iou_units[index] for row in rows])
        columns += [[row.ms.get(stage, math.nan) for row in rows] for stage in self._stages]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self._schema, strict=True)]
        self.append(pa.Table.from_arrays(arrays, schema=self._schema))

    def append(self, table: pa.Table) -> None:
        """Appends rows that another writer of the same columns wrote."""
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= ROWS_PER_GROUP:
            self._flush(everything=False)

    def _flush(self, *, everything: bool) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).combine_chunks()
        whole = table.num_rows if everything else table.num_rows // ROWS_PER_GROUP * ROWS_PER_GROUP
        self._writer.write_table(table.slice(0, whole), row_group_size=ROWS_PER_GROUP)
        rest = table.slice(whole)
        self._waiting, self._rows = [rest] if rest.num_rows else [], rest.num_rows


def join_tables(
    paths: Sequence[str], stream: BinaryIO | HashedStream, series: Sequence[Series], stages: Sequence[str]
) -> None:
    """Writes the rows of several files of one data set, in their order, as one file."""
    with ImagesWriter(stream, series, stages) as writer:
        for path in paths:
            file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path)))
            for group in range(file.num_row_groups):
                writer.append(file.read_row_group(group, use_threads=False))


class ImagesTable:
    """A data set's `images.parquet`, or the files that stand for it, open for reading.

    Attributes:
        folder: the data set's, local or gs://.
        files: names of the files.
        stages: what was timed, in the order of the columns.
    """

    def __init__(self, folder: str, records: int | None = None):
        """Opens the first file: a local one by its path, row group by row group; one on gs:// is read into memory.

        Args:
            folder: the data set's, local or gs://.
            records: how many the data set has, where it is known. Then a file of more rows is not read (one of a few
                megabytes can hold a billion), and who reads all rows and finds fewer is told.

        Raises:
            DamageError: there is none, or it is not as it was written. OSError: it cannot be read.
        """
        self._records = records
        self.folder = folder
        self.files = images_files(folder) or [IMAGES]
        self._first = self._open(self.files[0])
        self.stages = tuple(name[len(_MS) :] for name in self._first.schema_arrow.names if name.startswith(_MS))

    def _open(self, name: str) -> pq.ParquetFile:
        path = storage.join(self.folder, *name.split("/"))
        try:
            if storage.is_remote(path):
                file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path)))
            else:
                with storage.open_read(path):  # a regular file that is there; its absence is ours to explain
                    file = pq.ParquetFile(path)
            if self._records is not None and file.metadata.num_rows > self._records:
                raise ValueError(f"it has {file.metadata.num_rows} rows, the data set {self._records} records")
            return file
        except FileNotFoundError:
            raise DamageError(f"{name} is missing from {self.folder}") from None
        except _UNREADABLE as error:
            raise self._damaged(error, name) from error

    def _opened(self, pieces: Iterable[int] | None = None) -> Iterator[tuple[str, pq.ParquetFile]]:
        """Files by their numbers, one open at a time."""
        for index in range(len(self.files)) if pieces is None else pieces:
            name = self.files[index]
            yield name, self._first if index == 0 else self._open(name)

    @functools.cached_property
    def num_rows(self) -> int:
        """As many as the data set has records. Raises DamageError."""
        return sum(file.metadata.num_rows for _, file in self._opened())

    def _damaged(self, error: object, name: str = IMAGES) -> DamageError | OSError:
        if isinstance(error, OSError) and error.errno:  # the disk's; of wrong bytes pyarrow gives no number
            return OSError(error.errno, os.strerror(error.errno), storage.join(self.folder, *name.split("/")))
        text = (str(error).splitlines() or [type(error).__name__])[0]
        return DamageError(f"{name} in {self.folder} is damaged and cannot be read: {text[:300]}")

    def _check(self, name: str, schema: pa.Schema, columns: Sequence[str]) -> None:
        for column in columns:
            if schema.names.count(column) != 1:
                raise DamageError(f"{name} in {self.folder} has no column {column!r}; build the data set again")
            if schema.field(column).type != column_type(column):
                found = schema.field(column).type
                raise self._damaged(f"column {column!r} is of {found}, not {column_type(column)}", name)

    def batches(self, names: Sequence[str], rows: int = _BATCH) -> Iterator[Columns]:
        """Some columns, up to `rows` rows at a time, in the order of records; memory does not grow with their number.

        Raises:
            DamageError: a column is missing, of another type or damaged. OSError: it cannot be read.
        """
        for name, batch in self._batches(names, rows, None):
            yield {column: self._values(name, column, batch.column(column)) for column in names}

    def find(self, ids: Iterable[str], names: Sequence[str], pieces: Iterable[int] | None = None) -> Iterator[Found]:
        """Where rows of some ids are, without making Python's objects of all others.

        Args:
            ids: what to look for.
            names: columns of numbers that are wanted as well.
            pieces: numbers of the files to look into, each of whole shards; all where None.

        Yields:
            For every batch of rows: the ids found in it, by their place in the batch, and the columns.
        """
        wanted = pa.array(sorted(set(ids)), pa.string())
        inside = sorted(set(pieces)) if pieces is not None and len(self.files) > 1 else None
        for name, batch in self._batches(["id", *names], _SCANNED, inside):
            column = batch.column("id")
            hits = np.flatnonzero(pc.is_in(column, wanted).to_numpy(zero_copy_only=False)).tolist()
            yield {i: column[i].as_py() for i in hits}, {n: self._values(name, n, batch.column(n)) for n in names}

    def _batches(
        self, names: Sequence[str], rows: int, pieces: Iterable[int] | None
    ) -> Iterator[tuple[str, pa.RecordBatch]]:
        seen = 0
        for name, file in self._opened(pieces):
            seen += file.metadata.num_rows
            try:
                self._check(name, file.schema_arrow, names)
                for batch in file.iter_batches(rows, columns=list(names), use_threads=False):
                    yield name, batch
            except _UNREADABLE as error:
                raise self._damaged(error, name) from error
        if pieces is None and self._records not in (None, seen):
            name = IMAGES if self.files == [IMAGES] else f"{IMAGES_FOLDER}/"
            raise DamageError(f"{name} in {self.folder} has {seen} rows, and the data set {self._records} records")

    def columns(self, names: Sequence[str]) -> Columns:
        """Some columns, whole; see `batches`."""
        parts = list(self.batches(names, ROWS_PER_GROUP))
        return {name: self._joined(name, [part[name] for part in parts]) for name in names}

    def _values(self, name: str, column: str, array: pa.Array) -> list[str] | np.ndarray:
        if array.null_count:
            raise self._damaged(f"column {column!r} has rows without a value", name)
        return array.to_pylist() if pa.types.is_string(array.type) else array.to_numpy(zero_copy_only=False)

    @staticmethod
    def _joined(name: str, parts: list) -> list[str] | np.ndarray:
        if pa.types.is_string(column_type(name)):
            return [value for part in parts for value in part]
        return np.concatenate([pa.array([], column_type(name)).to_numpy(), *parts])
