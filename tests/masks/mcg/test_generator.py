import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from maskmill.masks.mcg import generator as generator_module
from maskmill.masks.mcg.generator import Mcg
from maskmill.masks.mcg.proposals import STANDARD, propose_image, working_scale
from maskmill.masks.registry import canonical_spec, parse_spec
from maskmill.schemas.errors import UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.rle import decode_mask


def odd_pictures():
    random = np.random.default_rng(0)
    checkers = np.indices((64, 64)).sum(axis=0) % 2 * 255
    shapes = {"pixel": (1, 1), "row": (1, 300), "column": (300, 1), "two": (2, 2), "small": (3, 5), "thin": (3, 900)}
    pictures = {name: random.integers(0, 256, (*shape, 3)) for name, shape in shapes.items()}
    pictures["flat"] = np.full((50, 60, 3), 77)
    pictures["noise"] = random.integers(0, 256, (90, 120, 3))
    pictures["checkerboard"] = np.dstack([checkers] * 3)
    pictures["text"] = np.full((60, 90, 3), 255)
    pictures["text"][8:52:6, 5:85:2] = 0
    return {name: picture.astype(np.uint8) for name, picture in pictures.items()}


ODD = odd_pictures()
SPECS = ("mcg(top=16)", "mcg(top=16, contour=gradient, ranker=none)")
SEVERAL = "mcg(top=(16, 100, 1000))"


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ODD)
def test_every_picture_gives_valid_masks(name, spec):
    picture = ODD[name].copy()
    picture.setflags(write=False)
    (masks,) = parse_spec(spec)(ImageRecord("a", picture))
    assert 1 <= len(masks) <= 16
    drawn = [decode_mask(counts, *picture.shape[:2]) for counts in masks.counts]
    assert [d.sum() for d in drawn] == masks.area.tolist()
    assert masks.area.min() >= 1
    assert np.isfinite(masks.score).all()
    assert len(set(masks.counts)) == len(masks)


@pytest.mark.parametrize("name", ["flat", "pixel", "row"])
def test_a_picture_without_structure_is_one_mask(name):
    picture = np.full(ODD[name].shape, 9, np.uint8)
    (masks,) = Mcg()(ImageRecord("a", picture))
    assert masks.area.tolist() == [picture.shape[0] * picture.shape[1]]


def test_pictures_over_the_budget_are_worked_on_smaller_and_answered_in_full(monkeypatch, oracle):
    small = dataclasses.replace(STANDARD, max_pixels=2000)
    monkeypatch.setattr(generator_module, "STANDARD", small)
    picture = oracle.blobs(90, 110)
    found = propose_image(picture, None, small)
    assert found.hierarchy.labels.size <= 2000
    (masks,) = Mcg(contour="gradient", ranker="none")(ImageRecord("a", picture))
    assert decode_mask(masks.counts[0], 90, 110).shape == (90, 110)


def test_extreme_shapes_are_within_the_side_limit():
    settings = STANDARD
    for height, width in ((1, 10**6), (2 * 10**6, 3), (9000, 9000), (640, 640)):
        scale = working_scale(height, width, settings)
        assert height * scale * width * scale <= settings.max_pixels * 1.001
        assert max(height, width) * scale <= settings.max_side * 1.001
    assert working_scale(480, 640, settings) == 1


def test_bounds_hold_on_noise():
    settings = STANDARD
    picture = np.random.default_rng(1).integers(0, 256, (300, 400, 3), np.uint8)
    found = propose_image(picture, None, settings)
    assert len(found.regions.area) <= settings.max_leaves
    assert len(found.candidates) <= sum(sum(row) for row in settings.quotas)
    assert all((found.candidates.parts == k).sum() <= sum(q[k - 1] for q in settings.quotas) for k in (1, 2, 3, 4))


def test_a_longer_list_begins_with_the_shorter(oracle):
    record = ImageRecord("a", oracle.blobs(80, 100))
    (few,), (many,) = Mcg(top=5)(record), Mcg(top=40)(record)
    assert many.counts[:5] == few.counts
    assert len(many) > 16


def test_several_lengths_cost_one_search_and_are_the_single_ones(oracle, monkeypatch):
    searches = []
    whole = generator_module.propose_image
    monkeypatch.setattr(generator_module, "propose_image", lambda *a, **k: searches.append(1) or whole(*a, **k))
    record = ImageRecord("a", oracle.blobs(80, 100))
    several = Mcg(top=(40, 5, 9000))
    assert [layer.name for layer in several.layers] == ["mcg-40", "mcg-5", "mcg-9000"]
    found = several(record)
    assert len(searches) == 1
    for top, layer, masks in zip((40, 5, 9000), several.layers, found, strict=True):
        single = Mcg(top=top)
        assert single.layers == (layer,)
        (alone,) = single(record)
        assert alone.counts == masks.counts
        np.testing.assert_array_equal(alone.area, masks.area)
        np.testing.assert_array_equal(alone.score, masks.score)
    assert 5 == len(found[1]) < len(found[0]) < len(found[2])


_SCRIPT = """
import hashlib, numpy as np
from maskmill.masks.registry import parse_spec
from maskmill.schemas.image import ImageRecord
picture = np.random.default_rng(5).integers(0, 256, (70, 90, 3), np.uint8)
picture[20:50, 30:60] //= 4
(masks,) = parse_spec("mcg(top=30)")(ImageRecord("a", picture))
print(hashlib.sha256(b"|".join(masks.counts) + masks.score.tobytes()).hexdigest())
"""


def test_other_processes_give_the_same_bytes():
    import os

    digests = set()
    for threads, seed in (("1", "1"), ("4", "2")):
        env = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True, env=env)
        digests.add(done.stdout.strip())
    assert len(digests) == 1
    assert len(digests.pop()) == 64


def test_layer_names_parameters_and_provenance():
    (layer,) = Mcg(top=7).layers
    assert (layer.name, layer.generator, layer.disjoint) == ("mcg-7", "mcg", False)
    assert layer.params == {"top": 7, "contour": "default", "ranker": "default"}
    for model in ("contour", "ranker"):
        assert layer.provenance[model]["labels"]
        assert len(layer.provenance[model]["sha256"]) == 64
    (fallback,) = Mcg(contour="gradient", ranker="none").layers
    assert fallback.provenance["ranker"]["labels"] == []
    assert "fallback" in fallback.provenance["ranker"]["note"]


@pytest.mark.parametrize("spec", [*SPECS, SEVERAL, "mcg(top=[3, 2])"])
def test_the_canonical_spec_makes_an_equal_generator(spec):
    generator = parse_spec(spec)
    assert parse_spec(canonical_spec(generator)) == generator


def test_ranker_none_may_be_written_either_way():
    assert parse_spec("mcg(ranker=None)") == parse_spec("mcg(ranker=none)")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mcg(top=0)", r"top must be a whole number in 1\.\.10000, or several, got 0"),
        ("mcg(top=True)", "top must be"),
        ("mcg(top=2.5)", "top must be"),
        ("mcg(top=())", "top must be"),
        ("mcg(top=(16, 0))", "top must be"),
        ("mcg(top=(16, 16))", r"each length once, got \(16, 16\)"),
        ("mcg(quality=high)", "mcg has no parameter 'quality'; it takes contour, ranker, top"),
        ("mcg(ranker=5)", "ranker must be a word or a path"),
        ("mcg(contour='no/such/file.npz')", r"contour model no/such/file\.npz: No such file"),
        ("mcg(tops=16)", "did you mean 'top'"),
    ],
)
def test_wrong_parameters_say_what_is_allowed(spec, message):
    with pytest.raises(UsageError, match=message):
        parse_spec(spec)


@pytest.mark.slow
def test_the_order_beats_grids_and_fh_at_equal_numbers_on_real_pictures(test_data):
    """The shipped models have seen these pictures; only gross damage shows here. Measurements are in docs/mcg.md."""
    import json

    import cv2

    from maskmill.masks.grid import Grid
    from maskmill.masks.overlap import iou_matrix
    from maskmill.pipelines.reading.annotations import parse_annotations

    content = json.loads((test_data / "coco" / "instances.json").read_text())
    generators = {"mcg": Mcg(top=16), "none": Mcg(top=16, ranker="none"), "grid": Grid(n=4)}
    sums = dict.fromkeys(generators, 0.0)
    for image in content["images"][::60]:
        picture = cv2.imread(str(test_data / "coco" / "images" / image["file_name"]))[..., ::-1].copy()
        raw = tuple(a for a in content["annotations"] if a["image_id"] == image["id"])
        annotations, _ = parse_annotations(raw, image["height"], image["width"])
        for name, generator in generators.items():
            (masks,) = generator(ImageRecord("a", picture, annotations))
            singles = tuple(c for c, crowd in zip(annotations.counts, annotations.is_crowd, strict=True) if not crowd)
            if singles:
                sums[name] += iou_matrix(masks.counts, singles, image["height"], image["width"]).max(axis=0).sum()
    assert sums["mcg"] > 1.3 * max(sums["grid"], sums["none"])
