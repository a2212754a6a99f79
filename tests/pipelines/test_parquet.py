"""Parquet: files written by Hugging Face's library and by pyarrow, read by row group."""

import collections
import dataclasses
import itertools
import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sources import GRID, built, left, photo, taken

from maskmill.pipelines.parts import plan
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.lines import order_key
from maskmill.pipelines.reading import row_group
from maskmill.pipelines.reading.inputs import Input
from maskmill.pipelines.reading.parquet import Parquet
from maskmill.pipelines.reading.read_ahead import read_ahead
from maskmill.schemas.errors import ImageError, InputError

datasets = pytest.importorskip("datasets", reason="the dev extra is not installed")

NAMES = ["tench, Tinca tinca", "goldfish", "n01484850"]
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def write(path, count: int, first: int = 0, **how) -> dict[str, tuple[bytes, int]]:
    """A file as `datasets` publishes it; returns id below the file -> (picture, label)."""
    pictures = [photo(i) for i in range(first, first + count)]
    names = [f"n0144_{i}.JPEG" for i in range(first, first + count)]
    rows = {"image": [{"bytes": b, "path": n} for b, n in zip(pictures, names, strict=True)]}
    rows["label"] = [i % 3 for i in range(first, first + count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows, features=FEATURES).to_parquet(str(path), **how)
    return {f"{i:08d}/{names[i]}": (pictures[i], rows["label"][i]) for i in range(count)}


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> tuple[str, dict[str, tuple[bytes, int]]]:
    """Two files of 23 and 10 pictures in row groups of 5, and what they hold by id."""
    folder = tmp_path_factory.mktemp("published")
    expected = {}
    for number, count in enumerate((23, 10)):
        name = f"data/train-{number:05d}-of-00002.parquet"
        rows = write(folder / name, count, 100 * number, batch_size=5)
        if number == 0:
            assert pq.ParquetFile(folder / name).num_row_groups == 5
        expected |= {f"{name}/{row}": v for row, v in rows.items()}
    return str(folder), expected


def test_what_the_library_writes_is_listed_with_its_classes(published):
    folder, expected = published
    source = Parquet(folder)
    found = taken(source)
    assert {name: (item.location.read(), item.label) for name, item in found.items()} == expected
    assert {item.text or item.synset for item in found.values()} == set(NAMES)
    assert not left(source)
    assert source.labels == "0..2 as they stand in the column label"


def test_a_build_has_pictures_and_classes_and_resumes(published, tmp_path):
    folder, expected = published
    config = BuildConfig("parquet", folder, GRID, num_shards=2)
    records = built(config, tmp_path / "out")
    assert {name: (data, label) for name, (data, label, _, _) in records.items()} == expected
    shards = sorted((tmp_path / "out").glob("parquet-train.tfrecord-*"))
    before = [shard.read_bytes() for shard in shards]
    shards[1].unlink()
    assert built(config, tmp_path / "out") == records
    assert [shard.read_bytes() for shard in shards] == before


def test_a_bucket_gives_the_same_shards_and_its_pictures_are_not_read_while_listing(published, gcs, tmp_path):
    folder, expected = published
    gcs.upload(Path(folder), "mill", "hub")
    gcs.requests.clear()
    found = taken(Parquet("gs://mill/hub"))
    # Per file what it is, its size twice over, and its footer; per row group labels and paths.
    assert len(gcs.requests) <= 2 + 2 * 5 + 7 * 2
    assert {name: (item.location.read(), item.label) for name, item in found.items()} == expected
    here = built(BuildConfig("parquet", folder, GRID), tmp_path / "here")
    assert built(BuildConfig("parquet", "gs://mill/hub", GRID), tmp_path / "there") == here
    for shard in (tmp_path / "here").glob("*.tfrecord-*"):
        assert (tmp_path / "there" / shard.name).read_bytes() == shard.read_bytes()


def test_row_groups_are_read_about_once(tmp_path, monkeypatch):
    """Parts of 128 from row groups of 100: each part reads those that its pictures lie in, and each of them once."""
    rows = [{"bytes": b"%06d" % i, "path": f"{i}.jpg"} for i in range(2000)]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    datasets.Dataset.from_dict({"image": rows}, features=features).to_parquet(
        str(tmp_path / "a.parquet"), batch_size=100
    )
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 20
    lines, refused = plan.list_inputs(
        BuildConfig("parquet", str(tmp_path / "a.parquet"), GRID), Parquet(str(tmp_path / "a.parquet"))
    )
    items = [Input.from_json(line) for line in lines]
    assert (len(items), refused) == (2000, [])

    loads = []
    real = row_group.read_column
    monkeypatch.setattr(row_group, "read_column", lambda *key: loads.append(key) or real(*key))

    def rows_read_per_picture(ordered: list[Input], threads: int) -> float:
        loads.clear()
        for start in range(0, 2000, 128):
            part = ordered[start : start + 128]
            got = [data for _, data in read_ahead(part, threads, 60)]
            assert got == [b"%06d" % int(item.id.split("/")[1]) for item in part]
        return len(loads) * 100 / 2000

    assert rows_read_per_picture(items, 2) <= 1.75  # (20 + 15 borders of parts) row groups for 20, at most
    until = time.monotonic() + 20
    while kept := [key for key in list(row_group._BLOCKS) if key[0].startswith(str(tmp_path))]:
        assert time.monotonic() < until, kept  # none is kept once the threads that read from it have ended
        time.sleep(0.01)
    # The control: in the order of other sources a part of 128 reads all 20 row groups, most of them several times.
    scattered = sorted(items, key=lambda item: order_key(0, item.id))
    assert rows_read_per_picture(scattered[:128] + items[128:], 1) > rows_read_per_picture(items, 1) + 4


def test_the_order_is_a_shuffle_of_row_groups_and_of_their_rows(published):
    folder, expected = published
    config = BuildConfig("parquet", folder, GRID)
    orders = []
    for seed in (0, 1):
        lines, _ = plan.list_inputs(dataclasses.replace(config, seed=seed), Parquet(folder))
        items = [Input.from_json(line) for line in lines]
        assert {item.id for item in items} == set(expected)
        groups = [item.together for item in items]
        borders = sum(a != b for a, b in itertools.pairwise(groups))
        assert borders + 1 == len(set(groups)) == 7
        orders.append([item.id for item in items])
        assert orders[-1] != sorted(orders[-1])
    assert orders[0] != orders[1]


def table(columns: dict, features: dict | None = None) -> pa.Table:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features is not None else None
    return pa.table(columns).replace_schema_metadata(metadata)


PLAIN = pa.array([photo(0), photo(1)], pa.binary())
STRUCT = pa.array([{"bytes": photo(0), "path": None}, {"bytes": photo(1), "path": "a\\b/c.jpg"}])


@pytest.mark.parametrize(
    ("columns", "features", "ids", "labels"),
    [
        ({"jpg": PLAIN, "cls": [4, 5]}, None, ["00000000", "00000001"], [4, 5]),
        ({"image": pa.array(PLAIN, pa.large_binary())}, None, ["00000000", "00000001"], [-1, -1]),
        ({"x": STRUCT, "label": ["7", "8"]}, {}, ["00000000", "00000001/c.jpg"], [7, 8]),
        ({"image": STRUCT, "thumb": PLAIN, "label": [[1], [2]]}, None, ["00000000", "00000001/c.jpg"], [-1, -1]),
        ({"image": PLAIN, "photo": STRUCT}, {"photo": {"_type": "Image"}}, ["00000000", "00000001/c.jpg"], [-1, -1]),
        (  # two kinds of classes, none of them called label: none is taken
            {"img": PLAIN, "fine_label": [1, 1], "coarse_label": [0, 0]},
            {n: {"_type": "ClassLabel", "names": ["a", "b"]} for n in ("fine_label", "coarse_label")},
            ["00000000", "00000001"],
            [-1, -1],
        ),
        (
            {"img": PLAIN, "breed": [1, 0]},
            {"breed": {"_type": "ClassLabel", "names": ["a", "b"]}},
            ["00000000", "00000001"],
            [1, 0],
        ),
    ],
)
def test_columns_are_found_by_what_they_hold(columns, features, ids, labels, tmp_path):
    pq.write_table(table(columns, features), tmp_path / "a.parquet")
    found = taken(Parquet(str(tmp_path / "a.parquet")))
    assert list(found) == [f"a.parquet/{i}" for i in ids]
    assert [item.label for item in found.values()] == labels
    assert [item.location.read() for item in found.values()] == [photo(0), photo(1)]


def test_rows_without_bytes_or_with_strange_classes_are_lines_of_the_ledger(tmp_path):
    images = [
        {"bytes": photo(0), "path": "0.jpg"},
        {"bytes": None, "path": "1.jpg"},
        None,
        {"bytes": b"", "path": None},
    ]
    columns = {"image": pa.array(images), "label": [0, 1, -1, 9]}
    pq.write_table(table(columns, {"label": {"_type": "ClassLabel", "names": ["a", "b"]}}), tmp_path / "a.parquet")
    source = Parquet(str(tmp_path / "a.parquet"))
    assert left(source) == {"a.parquet/00000003": ("failed", "bad_annotation")}
    found = taken(source)
    assert [item.label for item in found.values()] == [0, 1, -1]
    for name in ("00000001/1.jpg", "00000002"):
        with pytest.raises(ImageError, match="holds no bytes") as caught:
            found[f"a.parquet/{name}"].location.read()
        assert caught.value.reason == "not_found"
    records = built(BuildConfig("parquet", str(tmp_path / "a.parquet"), GRID), tmp_path / "out")
    assert list(records) == ["a.parquet/00000000/0.jpg"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    reasons = collections.Counter(line["reason"] for line in lines)
    assert reasons == {"not_found": 2, "bad_annotation": 1}


def test_a_damaged_page_costs_its_row_group(tmp_path):
    rows = {"image": pa.array([photo(i) for i in range(4)], pa.binary())}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(rows), path, row_group_size=2, use_dictionary=False, write_page_checksum=True)
    whole = path.read_bytes()
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    at = chunk.data_page_offset + chunk.total_compressed_size - 50
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    items = list(taken(Parquet(str(path))).values())
    assert [item.location.read() for item in items[:2]] == [photo(0), photo(1)]
    for item in items[2:]:
        with pytest.raises(ImageError, match=r"row \d of row group 1 of .* cannot be read") as caught:
            item.location.read()
        assert caught.value.reason == "unreadable"
    path.write_bytes(whole[:-100])
    with pytest.raises(ImageError, match="cannot be read"):
        items[0].location.read()
    path.unlink()
    with pytest.raises(ImageError, match="no file at"):
        items[0].location.read()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1], "b": ["x"]}, r"has no column of pictures; its columns are a, b, and one of them must"),
        ({"left": PLAIN, "right": PLAIN}, r"several columns of pictures \(left, right\); name the one to take 'image'"),
    ],
)
def test_files_without_one_column_of_pictures_are_refused(columns, message, tmp_path):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        list(Parquet(str(tmp_path / "a.parquet")).list_inputs())


def test_what_cannot_be_listed_is_said_in_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"this is no parquet file" * 9)
    with pytest.raises(InputError, match=r"a.parquet is damaged or no parquet file: Parquet magic bytes not found"):
        list(Parquet(str(tmp_path)).list_inputs())
    write(tmp_path / "a.parquet", 3)
    one = pa.table({"image": PLAIN, "label": [1, 2]})
    pq.write_table(one, tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b.parquet and .*a.parquet have other classes"):
        list(Parquet(str(tmp_path)).list_inputs())
    monkeypatch.setattr("maskmill.pipelines.reading.parquet.MAX_ROW_GROUP_BYTES", 1 << 10)
    with pytest.raises(InputError, match=r"3 pictures of 0 MB in one row group, .*row_group_size=100"):
        list(Parquet(str(tmp_path / "a.parquet")).list_inputs())
