"""The report at the end of a build, made again from its folder, from its shards, and against other annotations."""

import dataclasses
import json
import re
import shutil
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import write_coco

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.report.json_schema import make_schema, to_text
from maskmill.schemas import rle
from maskmill.schemas.manifest import load_manifest
from maskmill.schemas.reader import Dataset

IN_PROCESS = RunOptions(workers=0)


def schema_text() -> str:
    return resources.files("maskmill.schemas").joinpath("report.schema.json").read_text()


def schema() -> jsonschema.Draft202012Validator:
    content = json.loads(schema_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return jsonschema.Draft202012Validator(content)


def read(folder) -> dict:
    return json.loads((Path(folder) / "report.json").read_bytes())


def without_times(folder) -> tuple[dict, str]:
    """Both files of a report without their one section of times."""
    document = read(folder)
    assert document.pop("throughput")["stages"]
    page = (Path(folder) / "report.html").read_text()
    page, cuts = re.subn(r'<section id="throughput">.*?</section>', "", page, flags=re.DOTALL)
    assert cuts == 1
    return document, page


@pytest.fixture(scope="module")
def built(coco, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "out"
    build(coco, str(out), IN_PROCESS, quiet=True)
    return out


def test_a_build_ends_with_a_report_that_its_schema_describes(built):
    document = read(built)
    schema().validate(document)
    manifest = load_manifest(str(built))
    assert document["images"]["written"] == manifest.counts["written"] == 40
    for row in document["series"]:
        if row["kind"] == "layer":
            assert row["abo"]["value"] == manifest.abo[row["name"]]["abo"]
            assert row["masks_per_image"]["value"] == manifest.abo[row["name"]]["masks_per_image"]
    assert [r["abo"]["value"] for r in document["series"] if r["name"] == "gt"] == [1.0]
    assert len((built / "report.html").read_bytes()) < 5_000_000


def test_the_schema_is_generated_from_the_types():
    assert to_text(make_schema()) == schema_text(), "make schema writes it again"


def test_every_number_of_the_page_is_in_the_json(built):
    """Numbers of the ABO table, the size table and the tiles, read off the page."""
    page = (built / "report.html").read_text()
    for row in read(built)["series"]:
        if row["generators"] == ["gt"]:
            continue  # 1 by construction: the page says so once
        for size in row["by_size"]:
            if size["abo"]["value"] is not None:
                assert f">{size['abo']['value']:.3f}<" in page
    ranking = read(built)["ranking"]
    for layer in (*ranking["layers"], *ranking["references"]):
        for budget in layer["budgets"]:
            assert f">{budget['abo']['value']:.3f}<" in page
    assert " ".join(ranking["train"]) in page
    for layer in read(built)["layers"]:
        assert f">{layer['masks']:,}<" in page


def test_the_schema_refuses_zero_for_want_of_data(built):
    document = read(built)
    document["series"][0]["abo"] = {"value": None}
    assert not schema().is_valid(document)
    document["series"][0]["abo"] = {"value": None, "why": ""}
    assert not schema().is_valid(document)


@pytest.mark.parametrize("flags", [[], ["--from-shards"], ["--from-shards", "--", "--runner=FnApiRunner"]])
def test_the_report_is_the_same_bytes_from_the_folder_and_from_the_shards(flags, built, tmp_path, capsys):
    assert main(["report", str(built), "--out", str(tmp_path), *flags]) == 0
    out = capsys.readouterr().out
    assert "verdict: good" in out
    assert "with 16 masks per image, as a view of DetCon samples: grid-5 0." in out
    assert f"next: detcon train --preset detcon_b_coco --data {built} --workdir RUN --set data.layers=grid-5\n" in out
    for name in ("report.json", "report.html"):
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_a_folder_copied_without_its_work_is_measured_anew(built, tmp_path, capsys):
    shutil.copytree(built, tmp_path / "copy", ignore=shutil.ignore_patterns("_work", "report.*"))
    assert main(["report", str(tmp_path / "copy"), "--json"]) == 0
    wanted = read(built)
    assert wanted["throughput"].pop("cost") is not None
    measured = json.loads(capsys.readouterr().out)
    assert measured["throughput"].pop("cost") is None  # the accounts are in the folder that was left out
    assert measured == wanted
    line = re.search(r"\n<p>[^<]* core-hours inside [^<]*</p>", (built / "report.html").read_text())[0]
    assert (tmp_path / "copy" / "report.html").read_text() == (built / "report.html").read_text().replace(line, "")


def test_two_builds_of_one_data_set_differ_in_nothing_but_times(built, coco, tmp_path):
    build(coco, str(tmp_path), RunOptions(workers=0, part_size=7), quiet=True)
    assert without_times(tmp_path) == without_times(built)


def test_annotations_of_their_own_give_the_report_of_a_build_with_them(coco, tmp_path, capsys):
    bare = BuildConfig("folder", coco.images, ("grid(n=(2, 5))",))
    build(bare, str(tmp_path / "bare"), IN_PROCESS, quiet=True)
    full = dataclasses.replace(coco, masks=("grid(n=(2, 5))",))
    build(full, str(tmp_path / "full"), IN_PROCESS, quiet=True)
    before = read(tmp_path / "bare")
    assert before["series"][0]["abo"]["value"] is None
    assert before["agreement"]["images"] == 40
    assert "Agreement between layers" in (tmp_path / "bare" / "report.html").read_text()
    assert main(["report", str(tmp_path / "bare"), "--annotations", coco.annotations]) == 0
    assert "none" not in capsys.readouterr().out
    audited, whole = read(tmp_path / "bare"), read(tmp_path / "full")
    schema().validate(audited)
    for name in ("series", "layers", "ranking", "categories", "examples", "instances", "agreement", "statistics"):
        assert audited[name] == whole[name], name
    audit = audited["build"]["audit"]
    assert (audit["images_matched"], audit["images_without_entry"], audit["dropped_annotations"]) == (40, 0, 0)
    assert not list((tmp_path / "bare" / "_work").glob("audit-*"))


def test_what_the_annotations_lack_or_contradict_is_counted(coco, tmp_path, capsys):
    build(BuildConfig("folder", coco.images, ("grid(n=2)",)), str(tmp_path / "out"), IN_PROCESS, quiet=True)
    content = json.loads(Path(coco.annotations).read_text())
    gone = content["images"].pop(0)
    content["images"][0]["height"] += 1
    content["images"].append({"id": 999, "file_name": "elsewhere.jpg", "height": 1, "width": 1})
    target = content["images"][1]["id"]
    content["annotations"].append({"id": 5000, "image_id": target, "category_id": 1, "segmentation": [[1, 2]]})
    path = tmp_path / "other.json"
    path.write_text(json.dumps(content))
    assert main(["report", str(tmp_path / "out"), "--annotations", str(path)]) == 0
    audit = read(tmp_path / "out")["build"]["audit"]
    assert gone["file_name"].endswith(".jpg")
    assert audit["images_matched"] == 39
    assert audit["images_without_entry"] == 1
    assert audit["entries_without_image"] == 1
    assert audit["size_mismatches"] == 1
    assert audit["dropped_annotations"] == 1
    assert read(tmp_path / "out")["verdict"] == "warn"
    path.write_text(json.dumps({**content, "images": content["images"][-1:]}))
    assert main(["report", str(tmp_path / "out"), "--annotations", str(path)]) == 4
    assert "lists none of the pictures" in capsys.readouterr().err


def test_a_damaged_shard_is_named(built, tmp_path, capsys):
    shutil.copytree(built, tmp_path / "copy")
    shard = sorted((tmp_path / "copy").glob("*.tfrecord-*"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 255
    shard.write_bytes(data)
    assert main(["report", str(tmp_path / "copy"), "--from-shards"]) == 5
    assert shard.name in capsys.readouterr().err


def test_a_report_that_cannot_be_made_costs_no_data_set(coco, tmp_path, monkeypatch, caplog):
    def fail(*_, **__):
        raise ValueError("the page has a flaw")

    monkeypatch.setattr("maskmill.pipelines.report.write.render_page", fail)
    outcome = build(dataclasses.replace(coco, limit=3), str(tmp_path), IN_PROCESS, quiet=True)
    assert outcome.manifest.counts["written"] == 3
    assert "maskmill report" in caplog.text


@pytest.mark.parametrize("masks", [("gt()",), ("grid(n=1)",), ("grid(n=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))", "gt()")])
def test_one_image_makes_a_page(masks, tmp_path):
    images, annotations = write_coco(tmp_path / "data", 1)
    build(BuildConfig("coco", images, masks, annotations=annotations), str(tmp_path / "out"), IN_PROCESS, quiet=True)
    document = read(tmp_path / "out")
    schema().validate(document)
    assert document["series"][0]["interval"]["value"] is None
    assert document["ranking"]["layers"][0]["lead_interval"]["value"] is None
    assert document["images"]["measured"] == 1


def test_all_failed_makes_a_page(tmp_path):
    images, annotations = write_coco(tmp_path / "data", 3)
    for path in Path(images).iterdir():
        path.write_bytes(b"not a picture")
    build(
        BuildConfig("coco", images, ("gt()",), annotations=annotations), str(tmp_path / "out"), IN_PROCESS, quiet=True
    )
    document = read(tmp_path / "out")
    schema().validate(document)
    assert document["verdict"] == "bad"
    assert document["failures"][0]["count"] == 3
    assert document["series"][0]["abo"]["value"] is None
    assert "not_an_image" in (tmp_path / "out" / "report.html").read_text()


def test_only_crowds_is_no_ground_truth(tmp_path):
    images, annotations = write_coco(tmp_path / "data", 2)
    content = json.loads(Path(annotations).read_text())
    content["annotations"] = [a for a in content["annotations"] if a["iscrowd"]]
    Path(annotations).write_text(json.dumps(content))
    config = BuildConfig("coco", images, ("grid(n=(1, 2))",), annotations=annotations)
    build(config, str(tmp_path / "out"), IN_PROCESS, quiet=True)
    document = read(tmp_path / "out")
    assert document["instances"]["all"] == 0
    assert document["instances"]["crowds"] == 1
    agreement = document["agreement"]["mean_best_iou"]
    assert [[cell["value"] for cell in row] for row in agreement] == [[1.0, 0.25], [0.25, 1.0]]
    assert "1 crowd is left out" in (tmp_path / "out" / "report.html").read_text()


def test_a_table_that_contradicts_the_shards_is_named(built, tmp_path, capsys):
    shutil.copytree(built, tmp_path / "copy")
    path = tmp_path / "copy" / "images.parquet"
    table = pq.read_table(path)
    sizes = table.column("record_bytes").to_pylist()
    wrong = {"record_bytes": [size + 1 for size in sizes], "shard": [99] * len(sizes)}
    for (name, values), expected in zip(
        wrong.items(), (r"tfrecord-0000\d-of-00002 from byte \d+ on", "in shard 99 of 2"), strict=True
    ):
        column = table.schema.get_field_index(name)
        pq.write_table(table.set_column(column, name, pa.array(values, table.schema.field(name).type)), path)
        assert main(["report", str(tmp_path / "copy")]) == 5, name
        assert re.search(expected, capsys.readouterr().err)
    path.unlink()
    assert main(["report", str(tmp_path / "copy")]) == 5
    assert "images.parquet is missing" in capsys.readouterr().err


def test_photographs_score_as_their_drawn_masks_do(test_data, tmp_path):
    """ABO of real pictures against overlaps of decoded rasters, annotation by annotation."""
    config = BuildConfig(
        "coco",
        str(test_data / "coco" / "images"),
        ("grid(n=(2, 5))", "gt()"),
        annotations=str(test_data / "coco" / "instances.json"),
        limit=8,
    )
    build(config, str(tmp_path), IN_PROCESS, quiet=True)
    best: dict[str, list[float]] = {name: [] for name in ("grid-2", "grid-5", "gt")}
    for example in Dataset.open(str(tmp_path)):
        truth = [rle.decode_mask(c, example.height, example.width) for c in example.annotations.counts]
        truth = [mask for mask, crowd in zip(truth, example.annotations.is_crowd, strict=True) if not crowd]
        for name, masks in zip(best, example.masks, strict=True):
            drawn = [rle.decode_mask(c, example.height, example.width) for c in masks.counts]
            best[name] += [max((m & t).sum() / (m | t).sum() for m in drawn) for t in truth]
    document = read(tmp_path)
    assert document["instances"]["all"] == len(best["gt"]) > 10
    for row in document["series"][:3]:
        assert row["abo"]["value"] == pytest.approx(np.mean(best[row["name"]]), abs=1e-9)
        assert row["recall"][4]["value"] == pytest.approx(np.mean(np.array(best[row["name"]]) >= 0.7), abs=1e-9)


def test_a_report_in_markdown(built, coco, tmp_path, capsys):
    assert main(["report", str(built), "--out", str(tmp_path / "out"), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ranking = read(built)["ranking"]
    assert lines[0] == "### Mask quality of coco/train"
    assert any(line.startswith(r"**grid-5** fits the objects best with 16 masks per image") for line in lines)
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == ["layer", "grid-5", "grid-2", "gt (the labels themselves)"]
    for row, layer in zip(rows[1:], (*ranking["layers"], *ranking["references"]), strict=True):
        assert [float(v) for v in row[2:7]] == [pytest.approx(b["abo"]["value"], abs=5e-4) for b in layer["budgets"]]
    build(BuildConfig("folder", coco.images, ("grid(n=2)",), limit=3), str(tmp_path / "bare"), IN_PROCESS, quiet=True)
    assert main(["report", str(tmp_path / "bare"), "--markdown"]) == 0
    out = capsys.readouterr().out
    assert "There is no ground truth to score masks against." in out
    assert "| grid-2 | 4.0 | 100.0% |" in out
    assert main(["report", str(built), "--markdown", "--json"]) == 2
    assert "--json: not allowed with argument --markdown" in capsys.readouterr().err


def test_the_documentation_reads_the_table_as_it_is(built, monkeypatch):
    """The columns that docs/report.md lists are those there are, and its example gives the report's ABO."""
    text = (Path(__file__).parents[2] / "docs" / "report.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(code.replace("OUT/", f"{built}/").replace("fh-1000", "grid-5"), names)
    assert names["abo"] == pytest.approx(load_manifest(str(built)).abo["grid-5"]["abo"], abs=1e-12)
    section = text.split("## `images.parquet`")[1]
    listed = set(re.findall(r"`([^`]+)`", " ".join(re.findall(r"^\| (`[^|]+) \|", section, re.MULTILINE))))
    patterns = {"^ms/.*": "ms/STAGE", "^.*/iou_units": "SERIES/iou_units", "^.*/(masks|coverage)$": r"LAYER/\1"}
    found = set()
    for name in names["table"].column_names:
        for pattern, general in patterns.items():
            name = re.sub(pattern, general, name)
        found.add(name)
    assert listed == found
