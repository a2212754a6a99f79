"""Generators of installed packages: found by entry point, loaded when named, and never in the place of another."""

import sys
from pathlib import Path

import numpy as np
import pytest

from maskmill.masks import registry
from maskmill.masks.registry import canonical_spec, parse_spec
from maskmill.schemas.errors import UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.testing import check_generator

MODULE = """
import dataclasses
import numpy as np
from maskmill.masks.runs import encode_label_map
from maskmill.schemas.mask import Layer

@dataclasses.dataclass(frozen=True)
class Halves:
    at: int = 2

    @property
    def layers(self):
        return (Layer("halves", "halves", {"at": self.at}),)

    def __call__(self, record):
        labels = np.zeros((record.height, record.width), np.int32)
        labels[self.at:] = 1
        return (encode_label_map(labels),)

class NoGenerator:
    pass
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A package as pip would leave it: a module, and its metadata with entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(package: str, points: dict[str, str], source: str = MODULE, version: str = "1.2") -> None:
        info = Path(tmp_path / f"{package}-{version}.dist-info")
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = "".join(f"{name} = {target}\n" for name, target in points.items())
        (info / "entry_points.txt").write_text(f"[maskmill.generators]\n{lines}")
        (tmp_path / f"{package}.py").write_text(source)
        monkeypatch.delitem(sys.modules, package, raising=False)
        registry._plugin_class.cache_clear()

    return add


def test_a_plugins_generator_is_one_like_any_other(install):
    install("halver", {"halves": "halver:Halves"})
    generator = parse_spec("halves(at=3)")
    assert canonical_spec(generator) == "halves(at=3)"
    check_generator("halves(at=3)")
    (masks,) = generator(ImageRecord("a", np.zeros((8, 5, 3), np.uint8)))
    assert masks.area.tolist() == [15, 25]
    with pytest.raises(UsageError, match=r"halves has no parameter 'ta'; it takes at"):
        parse_spec("halves(ta=3)")
    with pytest.raises(UsageError, match="did you mean 'halves'"):
        parse_spec("halve")


def test_it_is_not_imported_before_it_is_named(install):
    install("halver", {"halves": "halver:Halves"})
    parse_spec("grid(n=2)")
    with pytest.raises(UsageError, match=r"unknown mask generator 'nothing'; there are .*halves"):
        parse_spec("nothing")
    assert "halver" not in sys.modules
    parse_spec("halves")
    assert "halver" in sys.modules


def test_its_package_is_known_by_version(install):
    install("halver", {"halves": "halver:Halves"})
    assert registry.packages_of([parse_spec("halves"), parse_spec("grid")]) == {"halver": "1.2"}


def test_no_plugin_takes_a_name_that_is_taken(install):
    install("halver", {"halves": "halver:Halves", "grid": "halver:Halves"})
    with pytest.raises(
        UsageError, match=r"'grid' is offered by maskmill itself and by halver 1\.2; uninstall all but one"
    ):
        parse_spec("grid(n=2)")
    parse_spec("halves")  # the others are good
    install("other", {"halves": "other:Halves"})
    with pytest.raises(UsageError, match=r"'halves' is offered by halver 1\.2 and by other 1\.2"):
        parse_spec("halves")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("import no_such_module", "broken:Halves", r"cannot be loaded \(ModuleNotFoundError: No module named 'no_such"),
        ("1 / 0", "broken:Halves", r"cannot be loaded \(ZeroDivisionError"),
        ("def f(:", "broken:Halves", r"cannot be loaded \(SyntaxError"),
        (MODULE, "broken:Quarters", r"cannot be loaded \(AttributeError"),
        (MODULE, "broken:NoGenerator", "is broken:NoGenerator, which is no dataclass with `layers`"),
        (MODULE, "broken:np", "is broken:np, which is no dataclass"),
    ],
)
def test_a_broken_plugin_is_one_sentence(install, source, target, message):
    install("broken", {"halves": target}, source, version="0.3")
    with pytest.raises(UsageError, match=message) as caught:
        parse_spec("halves")
    assert str(caught.value).startswith("mask generator 'halves' of package broken 0.3 ")
    assert str(caught.value).endswith("mend or uninstall that package")
    assert "\n" not in str(caught.value)
    parse_spec("grid(n=2)")  # who does not name it is not troubled
