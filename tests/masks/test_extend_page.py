"""The generator that docs/extend.md shows is one."""

import re
from pathlib import Path

import numpy as np

from maskmill.schemas import rle
from maskmill.schemas.image import ImageRecord


def test_the_example_of_the_page_makes_what_it_says():
    page = (Path(__file__).parents[2] / "docs" / "extend.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    space = {"__name__": "my_package"}
    exec(code, space)
    generator = space["Halves"](at=3)
    (masks,) = generator(ImageRecord("x", np.zeros((8, 5, 3), np.uint8)))
    assert [layer.name for layer in generator.layers] == ["halves"]
    upper, lower = (rle.decode_mask(counts, 8, 5) for counts in masks.counts)
    expected = np.zeros((8, 5), bool)
    expected[3:] = True
    assert (lower == expected).all()
    assert (upper == ~expected).all()
