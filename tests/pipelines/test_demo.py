"""The demonstration, and our own annotations of it."""

import json
from importlib import resources
from pathlib import Path

from PIL import Image

from maskmill.pipelines.commands import cli, demo
from maskmill.pipelines.dataset.validate import find_damage
from maskmill.schemas.manifest import load_manifest
from maskmill.schemas.reader import Dataset


def test_the_annotations_are_what_the_readme_promises():
    content = json.loads(resources.files("maskmill.pipelines.commands").joinpath("demo_instances.json").read_text())
    singles = [a for a in content["annotations"] if not a["iscrowd"]]
    annotated = {a["image_id"] for a in content["annotations"]}
    assert len(annotated) >= 6
    assert len(singles) >= 12
    assert any(a["iscrowd"] for a in content["annotations"])
    assert any(len(a["segmentation"]) > 1 for a in singles)
    assert annotated < {i["id"] for i in content["images"]}


def test_the_demonstration_runs_and_its_data_set_is_valid(tmp_path, capsys):
    assert demo.main(["--out", str(tmp_path)]) == 0
    manifest = load_manifest(str(tmp_path / "dataset"))
    assert manifest.counts["inputs"] == manifest.counts["written"] == 8
    assert manifest.abo["gt"]["abo"] == 1.0
    assert manifest.abo["grid-1"]["abo"] < manifest.abo["fh-1000"]["abo"] < 1
    assert list(find_damage(Dataset.open(str(tmp_path / "dataset")))) == []
    said = capsys.readouterr().out
    assert said.index("kernels ready in ") < said.index("inputs 8 = written 8 + failed 0 + skipped 0")
    picture, report = (line.split()[0] for line in said.splitlines()[-2:])  # what a first visitor is told to open
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
    assert "<html" in Path(report).read_text(encoding="utf-8")[:500]


def test_kernels_of_no_generator_are_refused_before_any_is_compiled(capsys):
    assert cli.main(["warmup", "--masks", "gt()", "--masks", "fhh(scales=3)"]) == 2
    assert "did you mean 'fh'?" in capsys.readouterr().err
