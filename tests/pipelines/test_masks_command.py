"""`maskmill masks`: every generator, whose it is, and what it takes; a broken one is a line."""

import json
import sys
from pathlib import Path

import pytest

from maskmill.masks import registry
from maskmill.pipelines.commands import cli
from maskmill.pipelines.commands.masks import describe, meanings_of

PLUGIN = '''
import dataclasses
from maskmill.masks.grid import Grid
from maskmill.schemas.mask import Layer

@dataclasses.dataclass(frozen=True)
class Thirds:
    """Three parts of a picture.

    Attributes:
        at: where they meet, pixels. More is lower.
        way: a word
            on two lines.
    """

    at: int = 2
    way: str = "down"

    @property
    def layers(self):
        return (Layer("thirds", "thirds", {}, disjoint=False),)

    def __call__(self, record):
        return Grid(3)(record)
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package `thirder` with one good generator, one that cannot be loaded, and one that takes a name of ours."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "thirder", raising=False)
    info = Path(tmp_path / "thirder-1.4.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thirder\nVersion: 1.4\n")
    lines = "thirds = thirder:Thirds\nlost = thirder:Lost\ngt = thirder:Thirds\n"
    (info / "entry_points.txt").write_text(f"[maskmill.generators]\n{lines}")
    (tmp_path / "thirder.py").write_text(PLUGIN)
    registry._plugin_class.cache_clear()


def test_all_generators_are_listed_and_a_broken_one_is_a_line(plugin, capsys):
    assert cli.main(["masks", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert {"fh", "grid", "gt", "mcg", "imported", "onnx", "features", "thirds", "lost"} <= set(entries)
    assert entries["thirds"] == {
        "name": "thirds",
        "package": "thirder 1.4",
        "summary": "Three parts of a picture.",
        "parameters": [
            {"name": "at", "default": "2", "meaning": "where they meet, pixels"},
            {"name": "way", "default": "'down'", "meaning": "a word on two lines"},
        ],
        "layers": [{"name": "thirds", "overlap": True}],
    }
    assert entries["lost"]["error"].startswith("mask generator 'lost' of package thirder 1.4 cannot be loaded")
    assert "offered by maskmill itself and by thirder 1.4" in entries["gt"]["error"]
    assert [layer["name"] for layer in entries["fh"]["layers"]] == ["fh-500", "fh-1000", "fh-1500"]
    assert entries["mcg"]["layers"] == [{"name": "mcg-16", "overlap": True}]
    assert "needs path=" in entries["onnx"]["needs"]
    assert "needs model=" in entries["features"]["needs"]


def test_every_parameter_of_ours_is_explained():
    for name in ("fh", "grid", "gt", "mcg", "imported", "onnx", "features"):
        assert [p["name"] for p in describe(name, time=False)["parameters"] if not p["meaning"]] == []


def test_as_text(plugin, capsys):
    assert cli.main(["masks"]) == 0
    text = capsys.readouterr().out
    assert (
        "thirds  (thirder 1.4)\n  Three parts of a picture.\n  layer thirds: masks may overlap\n  at=2  where" in text
    )
    assert "layer grid-5: masks do not overlap" in text


def test_cost_is_measured_where_a_picture_is_enough():
    assert 0 < describe("grid", time=True)["ms_per_image"] < 60_000
    assert describe("onnx", time=True)["ms_per_image"] is None


def test_no_attributes_no_meanings():
    assert meanings_of("A thing.") == {}
