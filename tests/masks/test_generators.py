"""What every generator owes the build, over the whole registry, and what each owes its definition."""

import dataclasses

import numpy as np
import pytest

from maskmill.masks import registry
from maskmill.masks.grid import grid_label_map
from maskmill.masks.registry import GENERATORS, parse_spec, parse_specs
from maskmill.schemas.errors import UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.testing import check_generator, pictures


@pytest.fixture(params=sorted(GENERATORS))
def generator(request):
    return parse_spec(request.param)


def test_it_keeps_the_contract(generator):
    check_generator(generator)


def test_its_parameters_cannot_be_set(generator):
    if dataclasses.fields(generator):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(generator, dataclasses.fields(generator)[0].name, 1)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 2), (3, 5)])
def test_tiny_pictures_have_masks_too(generator, size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    record = ImageRecord("tiny", image)
    for layer, masks in zip(generator.layers, generator(record), strict=True):
        assert len(masks) >= (layer.name != "gt")


@pytest.mark.parametrize(("height", "width", "n"), [(7, 9, 1), (7, 9, 3), (480, 640, 10), (3, 50, 5), (1, 1, 4)])
def test_a_grid_is_n_by_n_and_as_even_as_can_be(height, width, n):
    labels = grid_label_map(height, width, n)
    rows, columns = min(n, height), min(n, width)
    assert sorted(np.unique(labels)) == list(range(rows * columns))
    sizes = np.bincount(labels.ravel())
    assert sizes.max() <= -(-height // rows) * -(-width // columns)
    assert sizes.min() >= (height // rows) * (width // columns)
    for label in range(rows * columns):  # every cell is a full rectangle
        y, x = np.nonzero(labels == label)
        assert (np.ptp(y) + 1) * (np.ptp(x) + 1) == y.size


def test_ground_truth_leaves_crowds_out_and_orders_by_first_pixel():
    scene = pictures()[0]
    masks = parse_spec("gt()")(scene)[0]
    gt = scene.annotations
    assert masks.counts == (gt.counts[0], gt.counts[1])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gird(n=5)", r"unknown mask generator 'gird'.*did you mean 'grid'"),
        ("grid(m=5)", r"grid has no parameter 'm'; it takes n"),
        ("fh(scale=5)", r"did you mean 'scales'"),
        (
            "mcg(quality=high)",
            r"no parameter 'quality'; it takes contour, ranker, top; it was taken out in 0\.2: it cost",
        ),
        ("grid(5)", "write parameters by name; grid takes n"),
        ("grid(n=5, n=6)", "given twice"),
        ("grid(n=0)", r"whole numbers in 1\.\.1000, got 0"),
        ("grid(n=True)", "got True"),
        ("grid(n=(1, 1))", "each size once"),
        ("grid(n=2.5)", "got 2.5"),
        ("grid(n=open('x'))", "plain values"),
        ("grid(**{'n': 5})", "no parameter None"),
        ("__import__('os').system('true')", "not of the form"),
        ("grid(n=5", "not of the form"),
        ("", "not of the form"),
        ("1 + 1", "not of the form"),
        ("fh(scales=())", "one or more finite numbers"),
        ("fh(scales=(500, -1))", "finite numbers >= 0"),
        ("fh(scales=(500, 0))", "above 0"),
        ("fh(scales=(500, 500))", "each given once"),
        ("fh(scales=(500,), min_sizes=(1, 2))", "one whole number >= 0, or one per scale"),
        ("fh(sigma=-1)", r"sigma must be a number in 0 \.\. 1000"),
        ("gt(x=1)", "it takes none"),
    ],
)
def test_bad_specs_are_answered_in_words(spec, message):
    with pytest.raises(UsageError, match=message):
        parse_spec(spec)


def test_one_layer_cannot_be_made_twice():
    with pytest.raises(
        UsageError, match=r"layer 'grid-5' is asked for twice: by 'grid\(n=5\)' and by 'grid\(n=\(2, 5\)\)'"
    ):
        parse_specs(["grid(n=5)", "grid(n=(2, 5))"])


def test_layer_names_and_parameters():
    fh = parse_spec("fh(scales=(500, 1000.5), min_sizes=20)")
    assert [layer.name for layer in fh.layers] == ["fh-500", "fh-1000.5"]
    assert fh.layers[1].params == {"scale": 1000.5, "min_size": 20, "sigma": 0.8}
    assert [layer.params["min_size"] for layer in parse_spec("fh").layers] == [500, 1000, 1500]


def test_a_room_above_adds_its_generators_and_cannot_replace_one(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", {})
    registry.register("mine", "maskmill.masks.grid:Grid")
    registry.register("mine", "maskmill.masks.grid:Grid")  # a module may be imported twice
    assert registry.generator_class("mine") is registry.generator_class("grid")
    for name in ("mine", "fh"):
        with pytest.raises(ValueError, match=f"a mask generator '{name}' is there already"):
            registry.register(name, "elsewhere:Other")
