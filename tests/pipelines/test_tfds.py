"""A build's folder, and two splits of a data set, opened by tensorflow_datasets itself."""

import dataclasses
import json
import os
import random
import shutil

import pytest
from archives import flip
from drawn import write_coco

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.dataset.validate import find_damage, find_damage_above
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError
from maskmill.schemas.manifest import LAYER_NAMES, load_manifest
from maskmill.schemas.reader import Dataset

IN_PROCESS = RunOptions(workers=0)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Folders of train, of 9 pictures, and val, of 5."""
    folder = tmp_path_factory.mktemp("splits")
    made = {}
    for split, count in (("train", 9), ("val", 5)):
        images, annotations = write_coco(folder / f"in-{split}", count)
        config = BuildConfig("coco", images, ("grid(n=(2, 5))", "gt()"), annotations=annotations, split=split)
        made[split] = folder / split
        build(dataclasses.replace(config, num_shards=2), str(made[split]), IN_PROCESS, quiet=True)
    return made


@pytest.fixture(scope="module")
def tfds():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return pytest.importorskip("tensorflow_datasets", reason="the dev extra is not installed")


def test_train_and_val_open_together(splits, tfds):
    builder = tfds.builder_from_directories([str(splits["train"]), str(splits["val"])])
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 9, "val": 5}
    for split, folder in splits.items():
        read = [row["image/key/sha256"].decode() for row in tfds.as_numpy(builder.as_dataset(split=split))]
        assert sorted(read) == sorted(example.sha256 for example in Dataset.open(str(folder)))
    assert len(list(builder.as_dataset(split="train[:4]"))) == 4


def test_layers_have_their_names(splits, tfds):
    builder = tfds.builder_from_directory(str(splits["train"]))
    label = builder.info.features["masks/layer"].feature
    assert label.names == ["grid-2", "grid-5", "gt"]
    row = next(iter(tfds.as_numpy(builder.as_dataset(split="train"))))
    example = next(e for e in Dataset.open(str(splits["train"])) if e.filename == row["image/filename"].decode())
    named = [
        layer.name
        for layer, masks in zip(load_manifest(str(splits["train"])).layers, example.masks, strict=True)
        for _ in range(len(masks))
    ]
    assert [label.int2str(int(number)) for number in row["masks/layer"]] == named


def test_it_says_what_it_is_whose_and_whom_to_cite(splits, tfds):
    info = tfds.builder_from_directory(str(splits["val"])).info
    assert info.description.startswith(
        "Masks of 5 pictures (coco, val) by maskmill, in the layers grid-2 (4.0 masks per"
    )
    assert "CC BY 4.0" in info.redistribution_info.license
    assert all(text in info.citation for text in ("henaff2021detcon", "lin2014coco", r"H{\'e}naff"))
    assert info.homepage == "https://github.com/maskmill/maskmill"


def test_pictures_of_unknown_origin_get_no_invented_terms(splits, tmp_path):
    from maskmill.pipelines.driver.tfds_metadata import dataset_info_json

    manifest = dataclasses.replace(load_manifest(str(splits["train"])), config={"dataset": "folder"})
    told = dataset_info_json({"": manifest}).decode()
    assert "Not stated: the terms of the pictures' and annotations' owners" in told
    assert "lin2014coco" not in told
    assert "henaff2021detcon" in told


def test_the_names_are_vouched_for_like_every_file(splits, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(splits["train"], copy)
    assert list(find_damage(Dataset.open(str(copy)))) == []
    (copy / LAYER_NAMES).write_text("grid-5\ngrid-2\ngt\n")
    assert [line for line in find_damage(Dataset.open(str(copy))) if line.startswith(LAYER_NAMES)]


def command(folder, split: str, count: int, *more: str) -> list[str]:
    """A build of `count` drawn pictures as one of the splits of folder/out."""
    place = folder / f"in-{split}"
    images, annotations = (
        (str(place / "images"), str(place / "instances.json")) if place.exists() else write_coco(place, count)
    )
    given = ["--images", images, "--annotations", annotations, "--out", str(folder / "out" / "{split}"), *more]
    masks = [] if "--masks" in more else ["--masks", "grid(n=(2, 5))", "--masks", "gt()"]
    return ["build", "--dataset", "coco", "--split", split, "--workers", "0", "--num-shards", "2", *masks, *given]


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A folder with the splits train, of 9 pictures, and val, of 5, beside one another."""
    folder = tmp_path_factory.mktemp("beside")
    assert main(command(folder, "train", 9)) == 0
    assert main(command(folder, "val", 5)) == 0
    return folder


def test_splits_beside_one_another_open_as_one_data_set(beside, tfds):
    builder = tfds.builder_from_directory(str(beside / "out"))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {"train": 9, "val": 5}
    for split in ("train", "val"):
        read = [row["image/key/sha256"].decode() for row in tfds.as_numpy(builder.as_dataset(split=split))]
        assert sorted(read) == sorted(example.sha256 for example in Dataset.open(str(beside / "out" / split)))
    assert len(list(builder.as_dataset(split="train[2:5]"))) == 3
    assert len(list(builder.as_dataset(split="train+val"))) == 14
    assert builder.info.features["masks/layer"].feature.names == ["grid-2", "grid-5", "gt"]
    assert builder.info.description.count("Masks of") == 2


def test_each_split_is_a_data_set_of_its_own(beside, splits, capsys):
    """The same bytes as alone, but for where the pictures came from."""
    for split in ("train", "val"):
        folder = beside / "out" / split
        assert main(["validate", str(folder)]) == 0
        shards = [(shard.name, shard.sha256) for shard in load_manifest(str(folder)).shards]
        assert shards == [(shard.name, shard.sha256) for shard in load_manifest(str(splits[split])).shards]
        assert (folder / "report.html").is_file()
    assert main(command(beside, "val", 5)) == 0
    assert "was complete already" in capsys.readouterr().out


def test_the_folder_above_says_which_splits_it_holds(beside, capsys):
    assert main(["view", str(beside / "out")]) == 4
    assert (
        f"holds the splits train, val, each a data set; name one: {beside / 'out' / 'train'}" in capsys.readouterr().err
    )


def test_the_folder_above_is_valid_until_a_bit_of_it_flips(beside, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(beside / "out", copy)
    assert main(["validate", str(copy)]) == 0
    assert capsys.readouterr().out.startswith("valid: 14 records in 4 shards of 2 splits; ")
    rng = random.Random(2)
    above = sorted(path for path in copy.iterdir() if path.is_file())
    assert [path.name for path in above] == [
        "SHA256SUMS",
        "dataset_info.json",
        "features.json",
        "masks.layer.labels.txt",
        "split-train.json",
        "split-val.json",
    ]
    for path in above:
        data = path.read_bytes()
        for _ in range(4):
            path.write_bytes(flip(data, rng.randrange(8 * len(data))))
            assert list(find_damage_above(str(copy))) != [], path.name
        path.unlink()
        assert list(find_damage_above(str(copy))) != [], path.name
        path.write_bytes(data)
    table = copy / "val" / "images.parquet"
    table.write_bytes(flip(table.read_bytes(), 999))
    assert main(["validate", str(copy)]) == 5
    assert "val: images.parquet: its checksum is not that of SHA256SUMS" in capsys.readouterr().err


def test_other_layers_do_not_come_beside(beside, capsys):
    before = (beside / "out" / "dataset_info.json").read_bytes()
    assert main(command(beside, "test", 3, "--masks", "grid(n=3)")) == 2
    said = capsys.readouterr().err
    assert "layers: ['grid-2', 'grid-5', 'gt'] there, ['grid-3'] here" in said
    assert not (beside / "out" / "test").exists()
    assert (beside / "out" / "dataset_info.json").read_bytes() == before


def test_a_refused_build_changes_nothing_of_what_the_splits_have_in_common(tmp_path, capsys):
    """The configuration that counts is that of the split's folder, not of the last command that named it."""
    assert main(command(tmp_path, "train", 3)) == 0
    assert main(command(tmp_path, "train", 3, "--masks", "grid(n=3)")) == 2
    assert "holds a build of another configuration" in capsys.readouterr().err
    assert main(command(tmp_path, "val", 3, "--masks", "grid(n=3)")) == 2
    assert "['grid-2', 'grid-5', 'gt'] there, ['grid-3'] here" in capsys.readouterr().err
    assert main(command(tmp_path, "val", 3, "--name", "other")) == 2
    assert "name: coco there, other here" in capsys.readouterr().err
    assert main(command(tmp_path, "val", 3)) == 0


def test_splits_that_began_at_once_and_differ_do_not_open_together(tmp_path, monkeypatch, caplog):
    assert main(command(tmp_path, "train", 3)) == 0
    with monkeypatch.context() as patch:
        patch.setattr("maskmill.pipelines.driver.splits._of_folder", lambda folder: None)  # not planned yet
        assert main(command(tmp_path, "val", 3, "--masks", "grid(n=3)")) == 0
    assert "val has other layers, or another name, than ['train']" in caplog.text
    told = json.loads((tmp_path / "out" / "dataset_info.json").read_bytes())
    assert [split["name"] for split in told["splits"]] == ["train"]


def test_what_opens_together_is_made_anew_when_a_split_changes(tmp_path, tfds):
    """A finished split is seen at once, an unfinished one not; after a loss it is the same again."""
    assert main(command(tmp_path, "train", 9)) == 0
    info, manifest = tmp_path / "out" / "dataset_info.json", tmp_path / "out" / "val" / "manifest.json"
    assert main(command(tmp_path, "val", 5)) == 0
    both = info.read_bytes()
    manifest.unlink()  # as an interrupted build leaves it
    assert main(command(tmp_path, "train", 9)) == 0
    assert [split["name"] for split in json.loads(info.read_bytes())["splits"]] == ["train"]
    assert list(tfds.builder_from_directory(str(tmp_path / "out")).info.splits) == ["train"]
    info.unlink()
    assert main(command(tmp_path, "val", 5)) == 0
    assert info.read_bytes() == both


def test_a_split_that_is_being_built_anew_is_not_among_those_that_open(tmp_path, monkeypatch):
    info = tmp_path / "out" / "dataset_info.json"
    seen = []

    def interrupted(*args, **kwargs):
        seen.append([split["name"] for split in json.loads(info.read_bytes())["splits"]] if info.exists() else [])
        raise KeyboardInterrupt

    assert main(command(tmp_path, "train", 4)) == 0
    assert main(command(tmp_path, "val", 3)) == 0
    with monkeypatch.context() as patch:
        patch.setattr("maskmill.pipelines.driver.graph.build_part", interrupted)
        assert main(command(tmp_path, "val", 3, "--overwrite")) == 130
        assert main(command(tmp_path, "train", 4, "--overwrite")) == 130
    assert seen == [["train"], []]
    assert main(command(tmp_path, "val", 3)) == 0
    assert main(command(tmp_path, "train", 4)) == 0
    assert [split["name"] for split in json.loads(info.read_bytes())["splits"]] == ["train", "val"]


@pytest.mark.parametrize("out", ["{split}", "a/{split}/b", "a/x-{split}", "{split}/{split}", "gs://{split}"])
def test_the_pattern_is_the_last_folder_or_refused(out, tmp_path, capsys):
    images, annotations = str(tmp_path / "images"), str(tmp_path / "instances.json")
    given = ["--images", images, "--annotations", annotations, "--masks", "gt()", "--out", out]
    assert main(["build", "--dataset", "coco", *given]) == 2
    assert "stands for the last folder" in capsys.readouterr().err


def test_splits_in_a_bucket_open_together(gcs, tmp_path, tfds):
    folder = "gs://mill/coco"
    for split, count in (("train", 4), ("val", 3)):
        words = command(tmp_path, split, count)
        words[words.index("--out") + 1] = f"{folder}/{{split}}"
        assert main(words) == 0
    told = json.loads(storage.read_bytes(f"{folder}/dataset_info.json"))
    assert [(split["name"], sum(map(int, split["shardLengths"]))) for split in told["splits"]] == [
        ("train", 4),
        ("val", 3),
    ]
    with pytest.raises(InputError, match="holds the splits train, val"):
        load_manifest(folder)
