"""A build in pieces: what a large data set looks like says what a small one does, and its readers see no difference."""

import dataclasses
import json
import os
import re
import shutil
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batches import same, take
from drawn import write_coco
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.dataset.random_access import read_examples
from maskmill.pipelines.dataset.validate import find_damage
from maskmill.pipelines.driver import graph
from maskmill.pipelines.driver.build import build, forget_failures
from maskmill.pipelines.folding import pieces
from maskmill.pipelines.parts import plan_lines
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.part_index import PartIndex
from maskmill.schemas import manifest as manifest_module
from maskmill.schemas import shard_table
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import load_manifest
from maskmill.schemas.reader import Dataset
from maskmill.training.config import DataConfig
from maskmill.training.data_set import open_data_set
from maskmill.training.input import Batches
from maskmill.training.order import Order

RUN = RunOptions(workers=0, part_size=3)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> BuildConfig:
    images, annotations = write_coco(tmp_path_factory.mktemp("pictures"), 40)
    Path(images, "000000000007.png").write_bytes(b"no picture")
    return BuildConfig("coco", images, ("grid(n=(2, 5))", "gt()"), annotations=annotations, num_shards=7)


@pytest.fixture(scope="module")
def small(config, tmp_path_factory) -> Path:
    """As a data set of 40 pictures is."""
    out = tmp_path_factory.mktemp("small")
    build(config, str(out), RUN, quiet=True)
    return out


def as_large(patch: pytest.MonkeyPatch) -> None:
    """As if 40 pictures and 7 shards were many, and 10 pictures a piece."""
    patch.setattr(pieces, "ROWS_PER_GROUP", 10)
    patch.setattr(pieces, "ONE_TABLE", 20)
    patch.setattr(plan_lines, "IMAGES_PER_PIECE", 10)
    patch.setattr(manifest_module, "SHARDS_INSIDE", 3)


@pytest.fixture(scope="module")
def large(config, tmp_path_factory) -> Path:
    """As a data set of millions is."""
    out = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch:
        as_large(patch)
        build(config, str(out), RUN, quiet=True)
    return out


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*folder.glob("*.tfrecord-*"), folder / "failures.jsonl"]}


def test_the_same_shards_and_sums_whatever_the_pieces(small, large):
    assert shards(large) == shards(small)
    one, many = load_manifest(str(small)), load_manifest(str(large))
    assert dataclasses.replace(many, files=()) == dataclasses.replace(one, files=())
    assert json.loads((large / "manifest.json").read_text())["shards"] == []
    assert sorted(os.listdir(large / "images")) == [f"{i:05d}.parquet" for i in range(4)]
    assert not (large / "images.parquet").exists()
    assert len(os.listdir(large / "_work" / "pieces")) == len(os.listdir(large / "_work" / "plan")) == 4
    assert (small / "_work" / "plan.jsonl.gz").exists()
    assert len(os.listdir(small / "_work" / "pieces")) == 2
    documents = [json.loads((folder / "report.json").read_text()) for folder in (small, large)]
    for document in documents:
        del document["throughput"]
    assert documents[0] == documents[1]


def test_readers_see_no_difference(small, large, tmp_path, capsys):
    assert list(find_damage(Dataset.open(str(large)))) == []
    one, many = Dataset.open(str(small)), Dataset.open(str(large))
    assert [many[i].filename for i in range(len(many))] == [example.filename for example in one]
    tables = [ImagesTable(str(folder)) for folder in (small, large)]
    names = ["id", "shard", "record_bytes", "grid-5/masks", "grid-*/iou_units"]
    for a, b in zip(*(table.columns(names).values() for table in tables), strict=True):
        assert list(a) == list(b)
    ids = tables[1].columns(["id"])["id"][::9]
    assert set(read_examples(str(large), many.manifest, ids)) == set(ids)
    orders = [
        Order(dataset.manifest, global_batch=4, seed=1, group_bytes=1 << 20).records(3) for dataset in (one, many)
    ]
    assert np.array_equal(*orders)
    report = [(large / name).read_bytes() for name in ("report.json", "report.html")]
    for flags in ([], ["--from-shards"]):
        assert main(["report", str(large), "--out", str(tmp_path), *flags]) == 0
        assert [(tmp_path / name).read_bytes() for name in ("report.json", "report.html")] == report
    assert main(["validate", str(large)]) == 0
    assert main(["view", str(large), ids[2], "--out", str(tmp_path / "view.png")]) == 0
    capsys.readouterr()


EXPORTS = {
    "coco": ["coco"],
    "coco of annotations": ["coco", "--gt"],
    "coco-results": ["coco-results"],
    "webdataset": ["webdataset", "--gt"],
    "parquet": ["parquet", "--gt"],
    "label-png": ["label-png", "--layers", "grid-5"],
}


@pytest.mark.parametrize("name", EXPORTS)
def test_exports_are_the_same_bytes(name, small, large, tmp_path):
    kind, *flags = EXPORTS[name]
    found = []
    for number, folder in enumerate((small, large)):
        to = tmp_path / str(number) / ("all.json" if kind == "coco" else "all")
        to.parent.mkdir()
        assert main(["export", str(folder), "--format", kind, "--to", str(to), *flags]) == 0
        found.append(
            {path.relative_to(to.parent): path.read_bytes() for path in to.parent.rglob("*") if path.is_file()}
        )
    assert found[0] == found[1]
    assert found[0]


def test_a_comparison_says_the_same(small, large, tmp_path, capsys):
    said, pages = [], []
    for number, (old, new) in enumerate(((small, small), (large, large), (small, large))):
        page = tmp_path / f"{number}.html"
        assert main(["compare", str(old), str(new), "--json", "--html", str(page)]) == 0
        said.append(json.loads(capsys.readouterr().out))
        pages.append(page.read_bytes())
    for one in said:
        one.pop("sides", None)
    assert said[0] == said[1] == said[2]
    assert said[0]["images"]["compared"] == 39
    assert all(len(page) > 10_000 for page in pages)


def test_masks_come_back_into_a_large_form(config, large, tmp_path, monkeypatch, capsys):
    """Exported from one and imported into another, which is large as well; every mask is on its own picture."""
    results = tmp_path / "grid-5.json"
    assert main(["export", str(large), "--format", "coco-results", "--to", str(results), "--layers", "grid-5"]) == 0
    as_large(monkeypatch)
    out = tmp_path / "out"
    given = ["--dataset", "coco", "--images", config.images, "--annotations", config.annotations, "--num-shards", "7"]
    said = ["import", str(results), *given, "--layer", "again", "--out", str(out), "--workers", "0", "--part-size", "3"]
    assert main([*said, "--max-failure-rate", "0.5"]) == 0
    assert "matched" in capsys.readouterr().err
    assert sorted(os.listdir(out / "images"))[0] == "00000.parquet"
    assert list(find_damage(Dataset.open(str(out)))) == []
    wanted = {example.filename: sorted(example.masks[1].counts) for example in Dataset.open(str(large))}
    found = {example.filename: sorted(example.masks[0].counts) for example in Dataset.open(str(out))}
    assert found == wanted


def test_the_trainer_draws_the_same_batches(small, large):
    config = DataConfig(image_size=32, layers=("grid-5",))
    (one, _), (many, _) = (open_data_set(str(folder), config) for folder in (small, large))
    assert one.num_records == many.num_records == 39
    drawn = []
    for folder in (small, large):
        batches = Batches(str(folder), config, global_batch=4, seed=0)
        drawn.append(take(batches, 0, 3))
    assert all(same(*pair) for pair in zip(*drawn, strict=True))


@pytest.mark.parametrize("name", ["plan/00002.jsonl.gz", "plan.json"])
def test_a_damaged_plan_in_pieces_is_said(name, config, tmp_path, monkeypatch, capsys):
    as_large(monkeypatch)
    build(config, str(tmp_path), RUN, quiet=True)
    (tmp_path / "manifest.json").unlink()
    path = tmp_path / "_work" / name
    whole = path.read_bytes()
    for few in (64, 1):  # of many pieces only the sizes are looked at before workers read them
        monkeypatch.setattr(plan_lines, "_FEW", few)
        path.write_bytes(whole[:-9])
        with pytest.raises(DamageError, match=rf"{name} cannot be read \(.*\); build with --overwrite"):
            build(config, str(tmp_path), RUN, quiet=True)
    path.unlink()
    if name != "plan.json":  # without which there is no plan, and a new one is made
        with pytest.raises(DamageError, match=r"\(it is missing\)"):
            build(config, str(tmp_path), RUN, quiet=True)
    path.write_bytes(whole)
    build(config, str(tmp_path), RUN, quiet=True)


@pytest.mark.parametrize("name", ["images/00002.parquet", "shards.parquet"])
@pytest.mark.parametrize("how", ["lost", "changed"])
def test_damage_is_named(name, how, large, capsys):
    whole = (large / name).read_bytes()
    try:
        if how == "lost":
            (large / name).unlink()
        else:
            (large / name).write_bytes(whole[:-1] + b"x")
        assert main(["validate", str(large)]) == 5
        said = capsys.readouterr()
        assert name in said.out + said.err
    finally:
        (large / name).write_bytes(whole)


def test_a_table_of_more_shards_than_a_data_set_has_is_not_read(large, tmp_path, monkeypatch, capsys):
    shutil.copytree(large, tmp_path / "copy")
    monkeypatch.setattr(shard_table, "MAX_SHARDS", 6)
    assert main(["status", str(tmp_path / "copy")]) == 5
    assert "cannot be read: it has 7 rows, and no data set more than 6 shards" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["compare", "COPY", "SMALL"], ["view", "COPY", "1"], ["export", "COPY", "--format", "coco", "--to", "TO.json"]],
)
def test_a_missing_piece_is_missed_by_every_reader(command, large, small, tmp_path, capsys):
    shutil.copytree(large, tmp_path / "copy")
    (tmp_path / "copy" / "images" / "00001.parquet").unlink()
    places = {"COPY": tmp_path / "copy", "SMALL": small, "TO.json": tmp_path / "to.json"}
    assert main([str(places.get(word, word)) for word in command]) == 5
    assert re.search(r"has \d+ rows(,? and the data set| for) 39 records", capsys.readouterr().err)


def test_an_index_of_more_rows_than_records_is_not_used(small, tmp_path):
    """Frames are counted in its place."""
    shutil.copytree(small, tmp_path / "copy")
    table = pq.ParquetFile(small / "images.parquet").read()
    pq.write_table(pa.concat_tables([table, table]), tmp_path / "copy" / "images.parquet")
    assert Dataset.open(str(tmp_path / "copy"))[7].filename == Dataset.open(str(small))[7].filename


def test_failures_are_retried_to_the_same_bytes_in_one_piece_or_many(config, large, tmp_path, monkeypatch):
    as_large(monkeypatch)
    images = tmp_path / "images"
    images.mkdir()
    for path in Path(config.images).iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    mended = dataclasses.replace(config, images=str(images))
    out = tmp_path / "out"
    victim = images / "000000000011.png"
    good = victim.read_bytes()
    victim.write_bytes(b"")
    build(mended, str(out), RUN, quiet=True)
    victim.write_bytes(good)
    folds = {path.name: path.read_bytes() for path in (out / "_work" / "pieces").iterdir()}
    plan, again = forget_failures(str(out), ("empty_file",))
    assert again == 1
    assert len(list((out / "_work" / "parts").glob("*.tfrecord"))) == 1  # of the shard's two parts the other
    build(plan.requested, str(out), RUN, quiet=True)
    assert shards(out) == shards(large)
    assert sum((out / "_work" / "pieces" / name).read_bytes() == data for name, data in folds.items()) == 3


def test_a_small_data_set_in_the_place_of_a_large_one(config, small, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        as_large(patch)
        build(config, str(tmp_path), RUN, quiet=True)
    build(config, str(tmp_path), RUN, overwrite=True, quiet=True)
    assert shards(tmp_path) == shards(small)
    assert not os.listdir(tmp_path / "images")
    assert not (tmp_path / "shards.parquet").exists()
    assert list(find_damage(Dataset.open(str(tmp_path)))) == []


def planned(shard_parts: list[int]) -> types.SimpleNamespace:
    index = PartIndex([[(0, 1, 1)] * parts for parts in shard_parts], "d" * 64)
    return types.SimpleNamespace(parts=index, num_shards=len(shard_parts), inputs=sum(shard_parts) * 100_000)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=40), st.data())
def test_seeds_are_the_parts_of_the_shards_asked_for(shard_parts, data):
    plan = planned(shard_parts)
    wanted = data.draw(st.sets(st.integers(0, len(shard_parts) - 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "_SEEDS", 5)
        patch.setattr(graph, "_plan", lambda folder, digest: plan)
        seeds = graph.seeds(plan, wanted)
        tasks = [task for seed in seeds for task in graph.parts_of(seed, "", "")]
    assert tasks == [task for shard in sorted(wanted) for task in plan.parts[shard]]
    assert [task.part for task in plan.parts[0]] == list(range(shard_parts[0]))
    runs = sum(1 for shard in wanted if shard - 1 not in wanted)
    assert len(seeds) <= 10 + runs
    assert plan.parts.num_parts == sum(shard_parts)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(0, 10_000_000))
def test_every_shard_is_in_one_piece(shard_count, images):
    plan = types.SimpleNamespace(num_shards=shard_count, inputs=images)
    found = [pieces.piece_of_shard(plan, shard) for shard in range(shard_count)]
    assert found == [number for number, own in enumerate(pieces.pieces_of(plan)) for _ in own]
