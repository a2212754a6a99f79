"""A category of the report leads to some of its objects, and to what the best layer's masks make of them."""

import base64
import io
import json
import re
from collections import defaultdict

import numpy as np
import pytest
from drawn import write_coco
from pages import assert_sound
from PIL import Image
from reporting import random_record, to_annotations

from maskmill.masks.overlap import iou_matrix
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.report import objects
from maskmill.pipelines.report.thumbnails import EXCESS, HIT, MISS, draw_object
from maskmill.schemas import rle
from maskmill.schemas.mask import MaskSet
from maskmill.schemas.reader import Dataset


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    images, annotations = write_coco(folder / "in", 24)
    config = BuildConfig("coco", images, ("grid(n=(2, 3))",), annotations=annotations)
    build(config, str(folder / "out"), RunOptions(workers=0), quiet=True)
    return folder / "out"


def test_the_objects_of_a_category_are_those_of_the_shards(built):
    """Against the IoU of every object of the data set, each by itself."""
    document = json.loads((built / "report.json").read_text())
    layer = document["examples"]["layer"]
    data = Dataset.open(str(built))
    at = data.manifest.layer_index(layer)
    fitted = defaultdict(list)
    for example in data:
        own = example.annotations
        for i in np.flatnonzero(~own.is_crowd):
            pair = iou_matrix(example.masks[at].counts, (own.counts[i],), example.height, example.width)
            fitted[int(own.category_id[i])].append((float(pair.max()), example.filename, int(own.annotation_id[i])))
    shown = document["examples"]["by_category"]
    assert [kind["category"] for kind in shown] == [c["id"] for c in document["categories"] if c["instances"]]
    for kind in shown:
        rows = sorted(fitted[kind["category"]])
        assert kind["looked_at"] == len(rows)
        assert [e["best_iou"] for e in kind["objects"]] == [rows[int(s * len(rows))][0] for s in (0.1, 0.5, 0.9)]
        assert {(e["best_iou"], e["id"], e["annotation"]) for e in kind["objects"]} <= set(rows)


def test_every_category_of_the_table_leads_to_pictures(built):
    page = (built / "report.html").read_bytes()
    tags = assert_sound(page)
    links = [value for name, value in tags.attributes if name == "href"]
    kinds = [link for link in links if link.startswith("#category-")]
    assert len(kinds) == 3
    assert {link[1:] for link in links} <= set(tags.ids)
    text = page.decode()
    for link in kinds:
        figure = re.search(rf'<figure class="kind" id="{link[1:]}">(.*?)</figure>', text, re.DOTALL)[1]
        pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', figure)
        assert len(pictures) == 3
        for picture in pictures:
            with Image.open(io.BytesIO(base64.b64decode(picture))) as drawn:
                assert max(drawn.size) == objects.LONGER_PX


def test_rare_categories_beyond_the_bound_have_numbers_and_no_pictures(built, monkeypatch, tmp_path):
    from maskmill.pipelines.commands.cli import main

    monkeypatch.setattr(objects, "CATEGORIES", 1)
    assert main(["report", str(built), "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "report.json").read_text())
    assert len(document["examples"]["by_category"]) == 1
    assert (tmp_path / "report.html").read_text().count('href="#category-') == 1


def test_an_object_is_cut_out_with_what_its_best_mask_hits_misses_and_adds():
    example, _, _ = random_record(1, side=(200, 300))
    own, mask, other = (np.zeros((200, 300), bool) for _ in range(3))
    own[80:120, 100:160] = True
    mask[80:120, 130:175] = True  # hits the right half, and adds a strip
    other[150:, :] = True
    masks = MaskSet.unranked([rle.encode_mask(m) for m in (other, mask)], [m.sum() for m in (other, mask)])
    picture = draw_object(example, to_annotations([own], [1], [0]), 0, masks, 150)
    assert picture.size == (150, 117)  # 60 x 40 pixels and a quarter of 60 on each side: 90 x 70
    pixels = np.asarray(picture, int)
    scale = 150 / 90

    def colour(y, x):
        row, column = round((y - 65) * scale), round((x - 85) * scale)
        around = pixels[row - 5 : row + 6, column - 5 : column + 6].reshape(-1, 3).mean(axis=0)
        known = {"hit": HIT, "miss": MISS, "excess": EXCESS, "bare": (128, 128, 128)}
        return min(known, key=lambda name: np.abs(around - known[name]).sum())

    assert [colour(100, x) for x in (115, 145, 168)] == ["miss", "hit", "excess"]
    assert colour(70, 115) == "bare"


@pytest.mark.parametrize("place", [(0, 0), (199, 299), (100, 0)])
def test_an_object_of_a_pixel_at_the_border_has_a_picture(place):
    example, _, _ = random_record(1, side=(200, 300))
    own = np.zeros((200, 300), bool)
    own[place] = True
    empty = MaskSet.unranked([], [])
    picture = draw_object(example, to_annotations([own], [1], [0]), 0, empty, 150)
    assert max(picture.size) == 150


def test_pictures_that_find_no_room_leave_their_numbers(built, monkeypatch, tmp_path):
    from maskmill.pipelines.commands.cli import main
    from maskmill.pipelines.report import write

    monkeypatch.setattr(write, "_OBJECTS_BYTES", 100)
    assert main(["report", str(built), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "report.html").read_text()
    assert text.count("no picture") == 9
    assert_sound(text.encode())


def test_large_pictures_are_looked_at_until_they_are_enough(built, monkeypatch, tmp_path):
    from maskmill.pipelines.commands.cli import main

    data = Dataset.open(str(built))
    monkeypatch.setattr(objects, "READ_BYTES", len(data[0].encoded) + len(data[1].encoded) - 1)
    assert main(["report", str(built), "--out", str(tmp_path)]) == 0
    shown = json.loads((tmp_path / "report.json").read_text())["examples"]["by_category"]
    assert {e["id"] for kind in shown for e in kind["objects"]} <= {data[0].filename, data[1].filename}
    looked_at = sum(int((~data[i].annotations.is_crowd).sum()) for i in (0, 1))
    assert sum(kind["looked_at"] for kind in shown) == looked_at


def test_ties_are_told_apart_by_name():
    found = [objects._Found(0.5, name, 0, 1) for name in "cab"]
    assert [f.id for f in sorted(found)] == ["a", "b", "c"]
