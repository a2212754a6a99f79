"""A build's folder, and two splits of a data set, opened by tensorflow_datasets itself."""

import dataclasses
import os

import pytest
from drawn import write_coco

from maskmill.pipelines.dataset.validate import find_damage
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
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
    told = dataset_info_json(manifest).decode()
    assert "Not stated: the terms of the pictures' and annotations' owners" in told
    assert "lin2014coco" not in told
    assert "henaff2021detcon" in told


def test_the_names_are_vouched_for_like_every_file(splits, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(splits["train"], copy)
    assert list(find_damage(Dataset.open(str(copy)))) == []
    (copy / LAYER_NAMES).write_text("grid-5\ngrid-2\ngt\n")
    assert [line for line in find_damage(Dataset.open(str(copy))) if line.startswith(LAYER_NAMES)]
