"""`images.parquet`: one row per record. Its row, its columns, its one writer and its one reader.

The file is read from memory, or by its local path, and never through a Python file object: `pyarrow.parquet.read_table`
gives such an object to threads of its data set scanner, which outlive the call and abort an interpreter that ends.
"""

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.pipelines.dataset.checksums import HashedStream
from maskmill.pipelines.measuring.series import Series
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import IMAGES

ROWS_PER_GROUP = 65_536  # a group has a footer entry for every column, so a group of few rows costs more than its rows
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
        self._waiting.append(pa.Table.from_arrays(arrays, schema=self._schema))
        self._rows += len(rows)
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


class ImagesTable:
    """A data set's `images.parquet`, open for reading.

    Attributes:
        folder: the data set's, local or gs://.
        num_rows: as many as the data set has records.
        stages: what was timed, in the order of the columns.
    """

    def __init__(self, folder: str):
        """Opens the table: a local one by its path, row group by row group; one on gs:// is read into memory.

        Raises:
            DamageError: it is missing, or is not as it was written. OSError: it cannot be read.
        """
        self.folder = folder
        path = storage.join(folder, IMAGES)
        try:
            if storage.is_remote(folder):
                self._file = pq.ParquetFile(pa.BufferReader(storage.read_bytes(path)))
            else:
                with storage.open_read(path):  # a regular file that is there; its absence is ours to explain
                    self._file = pq.ParquetFile(path)
            self._schema = self._file.schema_arrow
            self.num_rows: int = self._file.metadata.num_rows
        except FileNotFoundError:
            raise DamageError(f"{IMAGES} is missing from {folder}") from None
        except (OSError, ValueError, KeyError, pa.ArrowException, MemoryError, OverflowError) as error:
            raise self._damaged(error) from error
        self.stages = tuple(name[len(_MS) :] for name in self._schema.names if name.startswith(_MS))

    def _damaged(self, error: object) -> DamageError | OSError:
        if (
            isinstance(error, OSError) and error.errno
        ):  # the disk's; of what is wrong with the bytes pyarrow gives no number
            return OSError(error.errno, os.strerror(error.errno), storage.join(self.folder, IMAGES))
        text = (str(error).splitlines() or [type(error).__name__])[0]
        return DamageError(f"{IMAGES} in {self.folder} is damaged and cannot be read: {text[:300]}")

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            if self._schema.names.count(name) != 1:
                raise DamageError(f"{IMAGES} in {self.folder} has no column {name!r}; build the data set again")
            if self._schema.field(name).type != column_type(name):
                raise self._damaged(f"column {name!r} is of {self._schema.field(name).type}, not {column_type(name)}")

    def batches(self, names: Sequence[str], rows: int = _BATCH) -> Iterator[Columns]:
        """Some columns, up to `rows` rows at a time, in the order of records; memory does not grow with their number.

        Raises:
            DamageError: a column is missing, of another type or damaged. OSError: it cannot be read.
        """
        self._check(names)
        try:
            for batch in self._file.iter_batches(rows, columns=list(names), use_threads=False):
                yield {name: self._values(name, batch.column(name)) for name in names}
        except (OSError, ValueError, KeyError, pa.ArrowException, MemoryError, OverflowError) as error:
            raise self._damaged(error) from error

    def columns(self, names: Sequence[str]) -> Columns:
        """Some columns, whole; see `batches`."""
        parts = list(self.batches(names, ROWS_PER_GROUP))
        return {name: self._joined(name, [part[name] for part in parts]) for name in names}

    def _values(self, name: str, array: pa.Array) -> list[str] | np.ndarray:
        if array.null_count:
            raise self._damaged(f"column {name!r} has rows without a value")
        return array.to_pylist() if pa.types.is_string(array.type) else array.to_numpy(zero_copy_only=False)

    @staticmethod
    def _joined(name: str, parts: list) -> list[str] | np.ndarray:
        if pa.types.is_string(column_type(name)):
            return [value for part in parts for value in part]
        return np.concatenate([pa.array([], column_type(name)).to_numpy(), *parts])
