"""Records by their number, and shares of a data set."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest
from scenes import scene_example, write_build

from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.schemas import record_index, storage
from maskmill.schemas.errors import DamageError, UsageError
from maskmill.schemas.manifest import IMAGES
from maskmill.schemas.reader import Dataset


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> str:
    """A build of 23 pictures in 4 shards, by the package itself, so with `images.parquet`."""
    import cv2

    folder = tmp_path_factory.mktemp("built")
    (folder / "in").mkdir()
    rng = np.random.default_rng(1)
    for i in range(23):
        cv2.imwrite(str(folder / "in" / f"{i:02d}.png"), rng.integers(0, 256, (8 + i, 12, 3), np.uint8))
    config = BuildConfig("folder", str(folder / "in"), ("grid(n=2)",), num_shards=4)
    build(config, str(folder / "out"), RunOptions(workers=0), quiet=True)
    return str(folder / "out")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> str:
    """7 records in 5 shards, two of them of one record; without `images.parquet`."""
    folder = str(tmp_path_factory.mktemp("scenes"))
    write_build(folder, [scene_example(i, 0, 16, 16) for i in range(7)], shards=5)
    return folder


@pytest.fixture(params=["built", "scenes"])
def folder(request) -> str:
    return request.getfixturevalue(request.param)


def names(examples) -> list[str]:
    return [example.filename for example in examples]


def test_records_by_number_are_those_of_the_iteration(folder):
    dataset = Dataset.open(folder)
    in_order = names(dataset)
    assert len(dataset) == len(in_order)
    backwards = range(len(dataset) - 1, -1, -1)
    assert names(dataset[i] for i in backwards) == in_order[::-1]
    assert names(dataset[-i - 1] for i in backwards) == in_order
    assert dataset[np.int64(3)].filename == in_order[3]


@pytest.mark.parametrize("index", [7, -8, 10**12])
def test_there_are_no_others(scenes, index):
    with pytest.raises(IndexError, match=rf"record {index} of a data set of 7"):
        Dataset.open(scenes)[index]
    with pytest.raises(TypeError):
        Dataset.open(scenes)[1.0]


def test_the_table_and_the_shards_give_the_same_index(built, monkeypatch):
    dataset = Dataset.open(built)
    by_table = record_index._of_table(built, dataset.manifest)
    by_shards = np.concatenate([record_index._of_shard(built, shard) for shard in dataset.manifest.shards])
    assert np.array_equal(by_table, by_shards)
    assert len(by_table) == 23


@pytest.mark.parametrize("fault", ["missing", "damaged", "of another data set", "a pipe"])
def test_a_table_that_is_not_the_shards_is_not_believed(built, tmp_path, fault):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in os.listdir(built):
        if os.path.isfile(os.path.join(built, name)):
            (copy / name).write_bytes(storage.read_bytes(os.path.join(built, name)))
    (copy / IMAGES).unlink()
    if fault == "damaged":
        (copy / IMAGES).write_bytes(b"PAR1 and then nothing")
    elif fault == "of another data set":
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pq.read_table(pa.BufferReader(storage.read_bytes(os.path.join(built, IMAGES))))
        pq.write_table(table.slice(0, 22), copy / IMAGES)
    elif fault == "a pipe":
        os.mkfifo(copy / IMAGES)
    dataset = Dataset.open(str(copy))
    assert record_index._of_table(str(copy), dataset.manifest) is None
    assert names(dataset[i] for i in range(23)) == names(Dataset.open(built))


def test_nothing_is_written_into_the_folder(built):
    before = sorted(os.listdir(built))
    assert Dataset.open(built)[5] is not None
    assert sorted(os.listdir(built)) == before


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8, 40])
def test_shares_are_the_whole_and_even(folder, workers):
    dataset = Dataset.open(folder)
    shares = [names(dataset.iterate(worker, workers)) for worker in range(workers)]
    assert [name for share in shares for name in share] == names(dataset)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_no_byte_is_read_by_two_workers(built, monkeypatch):
    """Payload bytes are counted where they are checked; headers alone may be met twice."""
    from maskmill.schemas import tfrecord

    seen = []
    plain = tfrecord.masked_crc
    monkeypatch.setattr(tfrecord, "masked_crc", lambda data: seen.append(len(data)) or plain(data))
    dataset = Dataset.open(built)
    assert dataset[0] is not None
    seen.clear()
    for worker in range(7):
        list(dataset.iterate(worker, 7))
    payloads = sum(size for size in seen if size != 8)
    assert payloads == sum(shard.bytes - 16 * shard.records for shard in dataset.manifest.shards)


def test_a_share_that_cannot_be_is_refused(scenes):
    for worker, workers in ((2, 2), (-1, 2), (0, 0)):
        with pytest.raises(UsageError, match=rf"worker {worker} of {workers}: workers are counted from 0"):
            Dataset.open(scenes).iterate(worker, workers)


def test_without_records_it_is_a_data_set_all_the_same(tmp_path):
    write_build(str(tmp_path), [], shards=1)
    dataset = Dataset.open(str(tmp_path))
    assert (len(dataset), bool(dataset), list(dataset), list(dataset.iterate(1, 3))) == (0, True, [], [])
    with pytest.raises(IndexError):
        dataset[0]


def test_it_pickles_with_its_index(built, monkeypatch):
    dataset = Dataset.open(built)
    first = dataset[0].filename
    copy = pickle.loads(pickle.dumps(dataset))
    monkeypatch.setattr(record_index, "_of_table", None)  # what a second look at the table would call
    assert (copy, copy[0].filename) == (dataset, first)


def _read(dataset: Dataset, indices: list[int]) -> list[str]:
    return names(dataset[i] for i in indices)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_it_however_they_are_started(built, method):
    dataset = Dataset.open(built)
    in_order = names(dataset)
    assert dataset[0].filename == in_order[0]  # opened and used before the fork
    work = [list(range(k, 23, 3)) * 20 for k in range(3)]
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(_read, [(dataset, indices) for indices in work])
    assert found == [[in_order[i] for i in indices] for indices in work]


def test_damage_names_the_record(scenes, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in os.listdir(scenes):
        (copy / name).write_bytes(storage.read_bytes(os.path.join(scenes, name)))
    dataset = Dataset.open(str(copy))
    at, second = dataset.manifest.shards[1].name, 3  # shards 0 and 1 have two records each
    offset = int(dataset._offsets[second])
    data = bytearray((copy / at).read_bytes())
    data[offset + 20] ^= 1
    (copy / at).write_bytes(data)
    wanted = rf"{at}: record 1 at byte {offset}: the checksum of the record does not match"
    for look in (lambda: dataset[second], lambda: list(dataset), lambda: list(dataset.iterate(3, 7))):
        with pytest.raises(DamageError, match=wanted):
            look()
    data[offset] ^= 1
    (copy / at).write_bytes(data)
    with pytest.raises(DamageError, match=rf"{at}: record 1 at byte {offset}: its header is damaged"):
        Dataset.open(str(copy))[0]
    (copy / at).write_bytes(data[:offset])
    with pytest.raises(DamageError, match=f"{at} holds 1 records"):
        Dataset.open(str(copy))[0]
    (copy / at).unlink()
    with pytest.raises(DamageError, match=f"{at} is missing"):
        Dataset.open(str(copy))[0]


def test_on_gs_a_record_is_one_request(gcs, built):
    from pathlib import Path

    gcs.upload(Path(built), "mill", "built")
    dataset = Dataset.open("gs://mill/built")
    local = Dataset.open(built)
    assert names(dataset[i] for i in (0, 11, -1)) == names(local[i] for i in (0, 11, -1))
    assert names(dataset.iterate(1, 3)) == names(local.iterate(1, 3))
