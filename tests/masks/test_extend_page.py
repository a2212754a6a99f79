"""The generator that docs/extend.md shows is one, and the tests that it shows for it pass, and fail for another."""

import dataclasses
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from maskmill.masks.registry import GENERATORS
from maskmill.masks.runs import encode_label_map
from maskmill.schemas import rle
from maskmill.schemas.image import ImageRecord


@pytest.fixture
def page(monkeypatch) -> dict[str, object]:
    """What the page's test file defines, its package installed."""
    text = (Path(__file__).parents[2] / "docs" / "extend.md").read_text(encoding="utf-8")
    package, tests = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    module = types.ModuleType("my_package.masks")
    monkeypatch.setitem(sys.modules, "my_package", types.ModuleType("my_package"))
    monkeypatch.setitem(sys.modules, "my_package.masks", module)
    exec(package, module.__dict__)
    monkeypatch.setitem(GENERATORS, "halves", "my_package.masks:Halves")
    space: dict[str, object] = {}
    exec(tests, space)
    return space


def test_the_example_of_the_page_makes_what_it_says(page):
    (masks,) = page["Halves"](at=3)(ImageRecord("x", np.zeros((8, 5, 3), np.uint8)))
    assert [layer.name for layer in page["Halves"](at=3).layers] == ["halves"]
    upper, lower = (rle.decode_mask(counts, 8, 5) for counts in masks.counts)
    expected = np.zeros((8, 5), bool)
    expected[3:] = True
    assert (lower == expected).all()
    assert (upper == ~expected).all()


def test_the_tests_of_the_page_pass(page):
    tests = [test for name, test in page.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test()


def test_the_tests_of_the_page_find_what_they_say(page, monkeypatch):
    """The controls: a generator that is wrong, and one that breaks the contract."""
    module = sys.modules["my_package.masks"]
    right, call = module.Halves, module.Halves.__call__

    @dataclasses.dataclass(frozen=True)
    class Halves(right):
        def __call__(self, record):
            labels = np.zeros((record.height, record.width), np.int32)
            labels[self.at + 1 :] = 1
            return (encode_label_map(labels),)

    monkeypatch.setitem(page, "Halves", Halves)
    with pytest.raises(AssertionError):
        page["test_the_lower_half_begins_where_it_says"]()

    def overlapping(self, record):
        (masks,) = call(self, record)
        whole = rle.encode_mask(np.ones((record.height, record.width), bool))
        size = record.height * record.width
        return (type(masks)((masks.counts[0], whole), np.array([masks.area[0], size]), masks.score),)

    monkeypatch.setattr(right, "__call__", overlapping)
    with pytest.raises(AssertionError, match="disjoint"):
        page["test_it_keeps_the_contract"]()
