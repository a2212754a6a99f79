"""`maskmill import` as a process: every mask on its own picture, or on none."""

import json
import subprocess
import sys

import numpy as np
import pytest
from elsewhere import drawn, maskcut, results, write_json, write_pictures

from maskmill.schemas.reader import Dataset
from maskmill.schemas.rle import decode_mask


def run(*args, code=0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "maskmill.pipelines.commands.cli", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def masks_of(folder) -> dict[str, list[np.ndarray]]:
    """Picture -> its masks, as any reader of the data set sees them."""
    return {
        example.filename: [decode_mask(c, example.height, example.width) for m in example.masks for c in m.counts]
        for example in Dataset.open(str(folder))
    }


def ledger(folder) -> dict[str, str]:
    return {
        line["id"]: line["reason"] for line in map(json.loads, (folder / "failures.jsonl").read_text().splitlines())
    }


@pytest.fixture
def forty(tmp_path):
    """40 pictures of one size, numbered by a permutation of 1..40, and who is who in the order of a MaskCut run."""
    numbers = (np.random.default_rng(5).permutation(40) + 1).tolist()
    assert all(number != position for position, number in enumerate(numbers, 1))
    names = [f"n01440764/n01440764_{number}.JPEG" for number in numbers]
    write_pictures(tmp_path / "train", names)
    return tmp_path, names, numbers


def test_maskcut_masks_are_on_their_own_pictures(forty):
    folder, names, numbers = forty
    entries = [(i, name, drawn(n, 3)) for i, (name, n) in enumerate(zip(names, numbers, strict=True), 1)]
    file = write_json(folder / "imagenet_train_fixsize480_tau0.15_N3.json", maskcut(entries))
    out = folder / "out"
    text = run("import", file, "--dataset", "imagenet", "--images", folder / "train", "--out", out, "--workers", 1)
    assert "matched 40 of 40 pictures" in text
    found = masks_of(out)
    right = [name for _, name, masks in entries if np.array_equal(found[name], masks)]
    assert len(right) == 40
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert (counts["matched"], counts["unmatched"], counts["written"]) == (40, 0, 40)


def test_without_file_names_nothing_is_attached(forty):
    folder, names, numbers = forty
    content = maskcut([(i, name, drawn(n)) for i, (name, n) in enumerate(zip(names, numbers, strict=True), 1)])
    out = folder / "out"
    options = ("--dataset", "imagenet", "--images", folder / "train", "--out", out, "--workers", 0)
    text = run("import", write_json(folder / "list.json", content["annotations"]), *options, code=4)
    assert "matched 0 of 40 pictures" in text
    assert "numbers are ids of COCO, which --dataset coco joins, and of nothing else" in text
    for image in content["images"]:
        del image["file_name"]
    text = run("import", write_json(folder / "nameless.json", content), *options, code=4)
    assert "image 1 has no file_name" in text
    assert not list(out.rglob("*.tfrecord*"))
    assert not list(out.rglob("*.index"))
    assert not (out / "manifest.json").exists()


def test_what_has_no_masks_is_in_the_ledger_and_a_changed_file_is_noticed(tmp_path):
    names = [f"{k:02d}.png" for k in range(10)]
    write_pictures(tmp_path / "in", names)
    file = write_json(tmp_path / "r.json", results([(f"{k:02d}", drawn(k)) for k in range(6)]))
    out = tmp_path / "out"
    options = ("--dataset", "folder", "--images", tmp_path / "in", "--out", out, "--workers", 0)
    text = run("import", file, *options, "--layer", "mine", code=3)
    assert "r.json: matched 6 of 10 pictures" in text
    assert text.count("matched 6 of 10") == 1
    assert "unmatched 4" in text
    assert ledger(out) == dict.fromkeys(names[6:], "unmatched")
    assert [np.array_equal(masks_of(out)[name], drawn(k)) for k, name in enumerate(names[:6])] == [True] * 6
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["counts"]["matched"] == 6
    (layer,) = manifest["layers"]
    assert (layer["name"], layer["params"]["format"], layer["params"]["file"]) == ("mine", "coco", "r.json")
    shards = {p.name: p.read_bytes() for p in out.glob("*.tfrecord*")}

    # What is lost of a build is made again from what was joined, to the same bytes; nothing is parsed again.
    stamp = next((out / "_work" / "prepared").glob("*.data")).stat().st_mtime_ns
    (out / "manifest.json").unlink()
    for path in [*out.glob("*.tfrecord*"), *(out / "_work").rglob("*.tfrecord"), *(out / "_work" / "shards").glob("*")]:
        path.unlink()
    run("import", file, *options, "--layer", "mine", code=3)
    assert {p.name: p.read_bytes() for p in out.glob("*.tfrecord*")} == shards
    assert next((out / "_work" / "prepared").glob("*.data")).stat().st_mtime_ns == stamp

    write_json(tmp_path / "r.json", results([(f"{k:02d}", drawn(k + 1)) for k in range(6)]))
    text = run("import", file, *options, "--layer", "mine", code=4)
    assert "r.json is not what this build was begun with" in text
    assert "put the old one back, choose another --out, or --overwrite" in text


def test_plan_joins_as_well_and_other_layers_stand_beside(tmp_path):
    write_pictures(tmp_path / "in", ["a.png", "b.png"])
    file = write_json(tmp_path / "m.json", maskcut([(2, "a.png", drawn(1)), (1, "b.png", [])]))
    options = ("--dataset", "folder", "--images", tmp_path / "in")
    text = run("plan", *options, "--masks", f"imported(path={file!r})", "--masks", "grid(n=2)")
    assert "2 inputs, 2 to build" in text
    out = tmp_path / "out"
    run("import", file, *options, "--masks", "grid(n=2)", "--out", out, "--workers", 0)
    assert {name: len(masks) for name, masks in masks_of(out).items()} == {"a.png": 1 + 4, "b.png": 4}


def test_the_command_writes_the_spec():
    import argparse
    import importlib

    command = importlib.import_module("maskmill.pipelines.commands.import_masks")
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    args = parser.parse_args(["it's.json", "--layer", "sam", "--top", "5", "--score", "predicted_iou"])
    assert command.spec_of(args) == "imported(path=\"it's.json\", top=5, score='predicted_iou', name='sam')"


def test_the_help_lists_every_format():
    from maskmill.pipelines.foreign.formats import FORMATS

    text = run("import", "--help")
    assert all(f"\n  {name} " in text for name in FORMATS)
