"""`images.parquet`: what is written comes back, in groups of a bearable number, and damage is one sentence."""

import dataclasses
import io
import math
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskmill.pipelines.dataset import images_table
from maskmill.pipelines.dataset.images_table import ImageRow, ImagesTable, ImagesWriter, iou_units_column
from maskmill.pipelines.dataset.random_access import locate
from maskmill.pipelines.measuring.series import series_of
from maskmill.schemas.errors import DamageError
from maskmill.schemas.mask import Layer

LAYERS = [Layer("fh-500", "fh", {}), Layer("fh-1000", "fh", {}), Layer("gt", "gt", {})]
SERIES = series_of(LAYERS)
STAGES = ("decode", "fh")


def row(index: int) -> ImageRow:
    return ImageRow(
        id=f"train/\u00e9{index}.jpg",
        source_id=str(index),
        label=index % 7 - 1,
        synset="",
        shard=index // 10,
        height=3 + index,
        width=5,
        stored_bytes=1 << 33,
        record_bytes=100 + index,
        reencoded="gif" if index % 2 else "",
        instances=index % 3,
        crowds=1,
        dropped_annotations=0,
        masks=(index, index + 1, 2),
        coverage=(0.5, 1.0, 0.25),
        iou_units=(index << 40, 1, 2, 3),
        ms={"decode": 1.5, "fh": 2.0} if index % 5 else {"decode": 1.5},
    )


def write(folder, rows, batch: int = 3) -> None:
    with open(folder / "images.parquet", "wb") as file, ImagesWriter(file, SERIES, STAGES) as writer:
        for start in range(0, len(rows), batch):
            writer.write(rows[start : start + batch])


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [row(i) for i in range(25)]
    write(tmp_path, rows)
    table = ImagesTable(str(tmp_path))
    assert table.num_rows == 25
    assert table.stages == STAGES
    plain = [f.name for f in dataclasses.fields(ImageRow) if f.name not in ("masks", "coverage", "iou_units", "ms")]
    columns = table.columns(plain)
    for name in plain:
        assert list(columns[name]) == [getattr(one, name) for one in rows]
    assert [one.name for one in SERIES] == ["fh-500", "fh-1000", "gt", "fh-*", "all"][: len(SERIES)]
    for index, one in enumerate(SERIES):
        sums = table.columns([iou_units_column(one.name)])[iou_units_column(one.name)]
        assert sums.tolist() == [r.iou_units[index] for r in rows]
    kinds = table.columns(["gt/masks", "fh-1000/coverage", "ms/fh"])
    assert kinds["gt/masks"].tolist() == [2] * 25
    assert kinds["fh-1000/coverage"].tolist() == [1.0] * 25
    assert [math.isnan(ms) for ms in kinds["ms/fh"].tolist()] == ["fh" not in r.ms for r in rows]
    batches = list(table.batches(["id", "shard"], rows=10))
    assert [i for batch in batches for i in batch["id"]] == [r.id for r in rows]
    assert max(len(batch["id"]) for batch in batches) <= 10


@pytest.mark.parametrize(("rows", "groups"), [(0, []), (5, [5]), (8, [8]), (21, [8, 8, 5])])
def test_groups_are_filled_whatever_the_parts(rows, groups, tmp_path, monkeypatch):
    monkeypatch.setattr(images_table, "ROWS_PER_GROUP", 8)
    for batch in (1, 3, 30):
        write(tmp_path, [row(i) for i in range(rows)], batch)
        footer = pq.ParquetFile(tmp_path / "images.parquet").metadata
        assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == groups
        assert ImagesTable(str(tmp_path)).columns(["height"])["height"].tolist() == [3 + i for i in range(rows)]


def test_many_files_are_read_as_one(tmp_path, monkeypatch):
    """Files of whole shards, in the order of their numbers; whatever else lies beside them is none."""
    rows = [row(i) for i in range(50)]
    (tmp_path / "images").mkdir()
    for number, (start, end) in enumerate([(0, 20), (20, 20), (20, 50)]):
        path = tmp_path / "images" / f"{number:05d}.parquet"
        with open(path, "wb") as file, ImagesWriter(file, SERIES, STAGES) as writer:
            writer.write(rows[start:end])
    (tmp_path / "images" / "00001.parquet.7.incomplete").write_bytes(b"")
    write(tmp_path / "images", rows[:1])  # an images.parquet of somebody, one folder too deep
    table = ImagesTable(str(tmp_path))
    assert (table.num_rows, table.stages, len(table.files)) == (50, STAGES, 3)
    assert table.columns(["id"])["id"] == [one.id for one in rows]
    offsets, at = {}, {}
    for one in rows:  # by hand
        offsets[one.id] = (one.shard, at.get(one.shard, 0), one.record_bytes + 16)
        at[one.shard] = at.get(one.shard, 0) + one.record_bytes + 16
    for scanned in (65_536, 7):
        monkeypatch.setattr(images_table, "_SCANNED", scanned)
        assert locate(str(tmp_path), [*offsets, "nobody.jpg"]) == offsets
        assert locate(str(tmp_path), [rows[3].id, rows[33].id], [2]) == {rows[33].id: offsets[rows[33].id]}
    (tmp_path / "images" / "00000.parquet").unlink()
    with pytest.raises(DamageError, match=r"^images.parquet is missing"):
        ImagesTable(str(tmp_path))
    write(tmp_path, rows)
    assert ImagesTable(str(tmp_path)).files == ["images.parquet"]
    assert locate(str(tmp_path), list(offsets)) == offsets


def test_a_block_that_fails_leaves_its_own_error():
    def fail():
        with ImagesWriter(io.BytesIO(), SERIES, STAGES) as writer:
            writer.write([row(1)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_reading_leaves_no_thread_of_python(tmp_path):
    write(tmp_path, [row(i) for i in range(9)])
    before = threading.active_count()
    ImagesTable(str(tmp_path)).columns(["id", "height"])
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (None, "has no column 'height'; build the data set again"),
        (pa.array(["a", "b"]), "is damaged and cannot be read: column 'height' is of string, not int32"),
        (pa.array([1, None], pa.int32()), "is damaged and cannot be read: column 'height' has rows without a value"),
    ],
)
def test_columns_that_are_not_ours_are_named(column, words, tmp_path):
    write(tmp_path, [row(0), row(1)])
    table = pq.ParquetFile(tmp_path / "images.parquet").read()
    index = table.schema.get_field_index("height")
    table = table.remove_column(index) if column is None else table.set_column(index, "height", column)
    pq.write_table(table, tmp_path / "images.parquet")
    with pytest.raises(DamageError, match=words):
        ImagesTable(str(tmp_path)).columns(["id", "height"])


def test_flipped_bytes_are_read_or_refused_in_a_sentence(tmp_path):
    write(tmp_path, [row(i) for i in range(40)])
    good = (tmp_path / "images.parquet").read_bytes()
    names = ["id", "shard", "height", "reencoded", "gt/masks", "ms/decode"]
    rng = np.random.default_rng(5)
    said = []
    for _ in range(300):
        bad = bytearray(good)
        for _ in range(int(rng.integers(1, 4))):
            bad[int(rng.integers(len(bad)))] ^= 1 << int(rng.integers(8))
        (tmp_path / "images.parquet").write_bytes(bytes(bad))
        try:
            ImagesTable(str(tmp_path)).columns(names)
        except DamageError as error:
            said.append(str(error))
    assert len(said) > 50
    assert max(map(len, said)) < 600
    assert not any("\n" in text for text in said)
