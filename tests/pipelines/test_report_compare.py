"""Comparing two builds, and one record as a page of layers."""

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from browser import run_browser
from pages import HOSTILE, assert_sound
from PIL import Image
from reporting import random_record

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.measuring.bootstrap import image_key
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.report.compare import compare, difference_of, side_names
from maskmill.pipelines.report.model import to_json
from maskmill.pipelines.report.record_page import draw_overlay, render_layers
from maskmill.schemas import rle
from maskmill.schemas.reader import Dataset
from maskmill.schemas.stats import IOU_UNIT

IN_PROCESS = RunOptions(workers=0)


@pytest.fixture(scope="module")
def pair(coco, tmp_path_factory) -> tuple[str, str]:
    """Two builds of the same pictures with other masks, one of them of fewer pictures."""
    root = tmp_path_factory.mktemp("pair")
    old = dataclasses.replace(coco, masks=("grid(n=(1, 2))", "gt()"))
    new = dataclasses.replace(coco, masks=("grid(n=(2, 5))", "gt()"), limit=30)
    build(old, str(root / "old"), IN_PROCESS, quiet=True)
    build(new, str(root / "new"), IN_PROCESS, quiet=True)
    return str(root / "old"), str(root / "new")


def images(folder) -> dict[str, dict]:
    return {row["id"]: row for row in pq.read_table(Path(folder) / "images.parquet").to_pylist()}


def test_differences_are_paired_by_image(pair):
    old, new = (images(folder) for folder in pair)
    result = to_json(compare(Dataset.open(pair[0]), Dataset.open(pair[1]), ("grid-2", "gt", "grid-*")))
    assert result["sides"] == ["old", "new"]
    assert result["images"] == {"old": 40, "new": 30, "both": 30, "other_ground_truth": 0, "compared": 30}
    assert [(row["old"], row["new"]) for row in result["pairs"]] == [
        ("grid-2", "grid-2"),
        ("gt", "gt"),
        ("grid-*", "grid-*"),
    ]
    for row in result["pairs"]:
        before = sum(old[i][f"{row['old']}/iou_units"] for i in new)
        after = sum(new[i][f"{row['new']}/iou_units"] for i in new)
        instances = sum(new[i]["instances"] for i in new)
        assert row["old_abo"]["value"] == pytest.approx(before / IOU_UNIT / instances, abs=1e-12)
        assert row["difference"]["value"] == pytest.approx((after - before) / IOU_UNIT / instances, abs=1e-12)
        assert row["better"] + row["worse"] + row["equal"] == sum(row["difference_hist"]) == 30
        layers = {
            "grid-2": (["grid-2"],) * 2,
            "gt": (["gt"],) * 2,
            "grid-*": (["grid-1", "grid-2"], ["grid-2", "grid-5"]),
        }
        for side, rows, members in zip(("old", "new"), (old, new), layers[row["old"]], strict=True):
            masks = sum(rows[i][f"{layer}/masks"] for i in new for layer in members)
            assert row[f"{side}_masks"]["value"] == masks / 30
    same, union = result["pairs"][0], result["pairs"][2]
    assert same["difference"]["value"] == 0.0
    assert same["interval"]["value"] == [0.0, 0.0]
    assert same["movers"] == []
    assert union["interval"]["value"][0] <= union["difference"]["value"] <= union["interval"]["value"][1]
    moved = [abs(m["difference"]["value"]) for m in union["movers"]]
    assert moved == sorted(moved, reverse=True)
    each = {i: (new[i]["grid-*/iou_units"] - old[i]["grid-*/iou_units"]) / IOU_UNIT / new[i]["instances"] for i in new}
    assert moved[0] == pytest.approx(max(abs(v) for v in each.values()), abs=1e-12)
    assert any(line.startswith("masks:") for line in result["configuration"])
    assert any(line.startswith("limit: 0 -> 30") for line in result["configuration"])


def test_layers_of_other_names_are_compared_when_asked(pair, capsys, tmp_path):
    page = tmp_path / "page.html"
    assert main(["compare", *pair, "--layers", "grid-1=grid-5", "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "grid-1 -> grid-5" in out
    assert "configurations differ" in out
    assert_sound(page.read_bytes())
    assert main(["compare", *pair, "--layers", "grid-1=mcg-16"]) == 2
    assert "NEW has no 'mcg-16'; it has grid-2, grid-5, gt, grid-*" in capsys.readouterr().err
    assert main(["compare", *pair, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"]["compared"] == 30


def test_other_pictures_and_no_truth_are_said(pair, coco, tmp_path, capsys):
    bare = BuildConfig("folder", coco.images, ("grid(n=2)",))
    build(bare, str(tmp_path / "bare"), IN_PROCESS, quiet=True)
    page = tmp_path / "page.html"
    assert main(["compare", str(tmp_path / "bare"), str(tmp_path / "bare"), "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert "none" in out
    assert "configurations are equal" in out
    assert out.splitlines()[-1] == str(page)
    assert_sound(page.read_bytes())
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(other / "new.png")
    build(BuildConfig("folder", str(other), ("grid(n=2)",)), str(tmp_path / "out"), IN_PROCESS, quiet=True)
    assert main(["compare", pair[0], str(tmp_path / "out")]) == 4
    assert "no picture in common" in capsys.readouterr().err


def test_the_interval_finds_a_steady_gain_and_no_gain_in_noise():
    rng = np.random.default_rng(1)
    names = [f"{i}" for i in range(600)]
    keys = np.array([image_key(name) for name in names])
    instances = rng.integers(1, 6, 600)
    before = (rng.random(600) * instances * IOU_UNIT * 0.8).astype(np.int64)
    noise = (rng.normal(0, 0.02, 600) * instances * IOU_UNIT).astype(np.int64)
    gain = difference_of(
        names, keys, instances, before, before + noise + (instances * 0.01 * IOU_UNIT).astype(np.int64)
    )
    none = difference_of(names, keys, instances, before, before + noise)
    assert gain.interval.value[0] > 0
    assert none.interval.value[0] < 0 < none.interval.value[1]


def test_view_writes_a_page_of_layers(pair, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["view", pair[0], "3", "--html"]) == 0
    name = capsys.readouterr().out.strip()
    page = (tmp_path / name).read_bytes()
    assert name == "000000000002.masks.html"
    tags = assert_sound(page)
    assert tags.seen.count("input") == 5  # picture, three layers, ground truth
    assert main(["view", pair[0], "3", "--html", "--layers", "gt", "--out", "one.html"]) == 0
    assert (tmp_path / "one.html").read_bytes().count(b"<input") == 3


def test_overlays_tint_what_the_masks_cover():
    example, masks, _ = random_record(4)
    drawn = np.asarray(draw_overlay(example.masks[0].counts, 23, 31, (31, 23)))
    np.testing.assert_array_equal(drawn[:, :, 3] > 0, np.any(masks[0], axis=0))


def test_a_page_of_layers_is_bounded_and_safe():
    rng = np.random.default_rng(0)
    example, _, _ = random_record(4, side=(900, 1200))
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (900, 1200, 3), np.uint8)).save(buffer, "PNG")
    noise = rng.random((900, 1200)) < 0.5
    annotations = dataclasses.replace(example.annotations, counts=(rle.encode_mask(noise),) * len(example.annotations))
    example = dataclasses.replace(
        example, encoded=buffer.getvalue(), filename=HOSTILE[0], text=HOSTILE[1], annotations=annotations
    )
    page = render_layers(example, list(HOSTILE[:3]), {"1": HOSTILE[0], "3": HOSTILE[10], "90": HOSTILE[2]})
    assert_sound(page)


@pytest.mark.timeout(600)
def test_checkboxes_switch_layers_without_scripts(pair, tmp_path):
    """Pixels of the page in a browser: with the first layer's box checked, and with it unchecked."""
    assert main(["view", pair[0], "3", "--html", "--out", str(tmp_path / "on.html")]) == 0
    page = (tmp_path / "on.html").read_text()
    (tmp_path / "off.html").write_text(re.sub(r'id="s(\d)" checked', r'id="s\1"', page))
    shots = []
    for name in ("on", "off"):
        shot = tmp_path / f"{name}.png"
        run_browser(f"--screenshot={shot}", "--window-size=900,700", (tmp_path / f"{name}.html").as_uri())
        shots.append(np.asarray(Image.open(shot).convert("RGB"), int))
    assert (np.abs(shots[0] - shots[1]).sum(axis=2) > 30).sum() > 100
    assert base64.b64decode(re.search(r'id="lp" src="data:image/jpeg;base64,([^"]+)"', page)[1])[:2] == b"\xff\xd8"


def test_unions_are_compared_where_they_are_of_the_same_layers(pair):
    """With one more layer any union fits better, which says nothing of the masks."""
    old, new = Dataset.open(pair[0]), Dataset.open(pair[1])
    assert [p.label for p in compare(old, new).pairs] == ["grid-2", "gt"]
    assert [p.label for p in compare(old, old).pairs] == ["grid-1", "grid-2", "gt", "grid-*"]


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("/data/a", "/data/b/", ("a", "b")),
        ("/a/out", "gs://bucket/b/out", ("a/out", "b/out")),
        ("out", "/x/out", ("out", "x/out")),
        ("/x/out", "/x/out", ("/x/out (old)", "/x/out (new)")),
    ],
)
def test_sides_are_called_as_their_folders(old, new, names):
    assert side_names(old, new) == names


def test_images_that_moved_are_shown(pair, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["compare", *pair, "--layers", "grid-1=grid-5", "--html", str(page)]) == 0
    content = page.read_bytes()
    tags = assert_sound(content)
    assert tags.seen.count("img") == 4
    (size,) = {
        Image.open(io.BytesIO(base64.b64decode(found))).size for found in re.findall(rb"jpeg;base64,([^\"]+)", content)
    }
    assert size == (3 * 240 + 4, 180)  # the objects and two matches of pictures of 64 x 48
    assert "masks/image" in capsys.readouterr().out
    assert b"1.0 \xe2\x86\x92 25.0" in content


def test_view_without_an_id_offers_some(pair, capsys):
    assert main(["view", pair[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    ids = [line.strip() for line in lines[1:-1]]
    assert lines[0] == f"10 of 40 records of {pair[0]}:"
    assert len(ids) == len(set(ids) & set(images(pair[0]))) == 10
    assert lines[-1] == f"next: maskmill view {pair[0]} {ids[0]}"


@pytest.mark.timeout(600)
def test_switches_do_not_push_the_picture_down(pair, tmp_path):
    """With a dozen layers the picture still begins where it does with one: the page's text order puts it first."""
    assert main(["view", pair[0], "3", "--html", "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.index('class="stack"') < page.index('class="switches"')
