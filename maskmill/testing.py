"""What every mask generator owes a build, as one call for the tests of a package that offers one.

    from maskmill.testing import check_generator

    def test_contract():
        check_generator("mine(size=3)")

A breach is an AssertionError whose first words name the clause; `CLAUSES` lists them.
"""

import dataclasses
import json
import pickle
import tempfile
from collections.abc import Sequence

import numpy as np

from maskmill.masks.ground_truth import first_pixel
from maskmill.masks.registry import Generator, Prepared, canonical_spec, parse_spec
from maskmill.schemas import rle
from maskmill.schemas.image import Annotations, ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

CLAUSES = {
    "frozen": "a generator is a frozen dataclass",
    "layers": "`layers` is a tuple of `Layer` of different names whose fields can be written as JSON",
    "pickles": "a generator pickles, and comes back equal",
    "spec": "the spec with every parameter written out gives an equal generator",
    "results": "a call gives a tuple with one `MaskSet` per layer",
    "unmodified": "the record is not modified",
    "same bytes": "the same picture gives the same masks and scores",
    "valid RLE": "every mask is the compressed RLE of the picture's size",
    "area": "areas are int64, the pixels of the masks, at least 1",
    "score": "scores are finite float32",
    "some masks": "an ordinary picture has at least one mask in every layer",
    "disjoint": "masks of a layer that says `disjoint` do not overlap",
    "order": "masks without a rank (all scores 1) come by first pixel in raster order",
}


def pictures() -> list[ImageRecord]:
    """Two ordinary pictures with annotations: discs and a bar on a slope, upright and lying."""
    return [_scene(60, 80), _scene(75, 50)]


def _scene(height: int, width: int) -> ImageRecord:
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 2, y * 3, (x + y)], axis=-1).astype(np.uint8)
    shapes = [
        (y - height * 0.3) ** 2 + (x - width * 0.3) ** 2 < (height / 6) ** 2,
        (y - height * 0.6) ** 2 + (x - width * 0.7) ** 2 < (height / 5) ** 2,
        (y > height * 0.9),
    ]
    for shape, colour in zip(shapes, [(250, 20, 30), (20, 240, 60), (200, 200, 250)], strict=True):
        image[shape] = colour
    counts = tuple(rle.encode_mask(s) for s in shapes)
    areas = np.array([s.sum() for s in shapes])
    crowd = np.array([False, False, True])
    gt = Annotations(counts, areas, np.array([1, 2, 90]), np.array([30, 20, 10]), crowd)
    return ImageRecord(f"scene-{height}x{width}", image, gt)


def check_generator(generator: str | Generator, records: Sequence[ImageRecord] | None = None) -> None:
    """Holds a generator against every clause of `CLAUSES`.

    Args:
        generator: a spec, `"mine(size=3)"`, or an instance. One that prepares is prepared for the pictures, in a folder
            that is removed afterwards, and then called as a worker would.
        records: ordinary pictures, in each of which every layer has a mask; default `pictures()`.

    Raises:
        AssertionError: a clause does not hold; says which, and what was found.
        UsageError: no such generator.
    """
    made = parse_spec(generator) if isinstance(generator, str) else generator
    records = pictures() if records is None else list(records)
    cls = type(made)
    frozen = dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    _hold(frozen, "frozen", f"{cls.__name__} is none")
    _check_layers(made)
    try:
        same = pickle.loads(pickle.dumps(made)) == made
    except Exception as error:
        raise _breach("pickles", f"{type(error).__name__}: {error}") from error
    _hold(same, "pickles", "it comes back different")
    _check_spec(made)
    if not isinstance(made, Prepared):
        return _check_calls(made, records)
    with tempfile.TemporaryDirectory() as folder:
        ready = made.prepare([(r.key, "") for r in records], {r.key for r in records}, folder).generator
        assert isinstance(ready, Prepared)
        _check_layers(ready)
        _check_spec(ready)
        ready.verify(folder)
        _check_calls(ready.opened(folder), records)


def _check_spec(made: Generator) -> None:
    try:
        spec = canonical_spec(made)
        again = parse_spec(spec)
    except StopIteration:
        raise _breach("spec", "its class is under no name in the entry points `maskmill.generators`") from None
    except ValueError as error:
        raise _breach("spec", str(error)) from error
    _hold(again == made, "spec", f"{spec} gives {again!r}")


def _check_layers(made: Generator) -> None:
    layers = made.layers
    good = isinstance(layers, tuple) and layers and all(isinstance(layer, Layer) for layer in layers)
    _hold(good, "layers", f"got {layers!r}")
    names = [layer.name for layer in layers]
    _hold(len(set(names)) == len(names), "layers", f"names are {names}")
    try:
        json.dumps([dataclasses.asdict(layer) for layer in layers], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _breach("layers", str(error)) from error


def _check_calls(made: Generator, records: Sequence[ImageRecord]) -> None:
    for record in records:
        before = pickle.dumps(record)
        given = dataclasses.replace(record, image=record.image.copy())
        first, second = made(given), made(dataclasses.replace(record, image=record.image.copy()))
        intact = np.array_equal(given.image, record.image) and pickle.dumps(record) == before
        _hold(intact, "unmodified", f"after {record.key} it is another one")
        good = isinstance(first, tuple) and all(isinstance(masks, MaskSet) for masks in first)
        _hold(good and len(first) == len(made.layers), "results", f"got {type(first).__name__} for {record.key}")
        for layer, one, two in zip(made.layers, first, second, strict=True):
            where = f"layer {layer.name} of {record.key}"
            alike = one.counts == two.counts and np.array_equal(one.score, two.score, equal_nan=True)
            _hold(alike, "same bytes", f"two calls differ in {where}")
            _check_masks(layer, one, record, where)


def _check_masks(layer: Layer, masks: MaskSet, record: ImageRecord, where: str) -> None:
    height, width = record.height, record.width
    try:
        drawn = [rle.decode_mask(counts, height, width) for counts in masks.counts]
    except (ValueError, TypeError) as error:
        raise _breach("valid RLE", f"{where}: {error}") from error
    areas = [int(mask.sum()) for mask in drawn]
    good = masks.area.dtype == np.int64 and masks.area.tolist() == areas and all(areas)
    _hold(good, "area", f"{where} says {masks.area.dtype}{masks.area.tolist()[:5]}, the masks have {areas[:5]}")
    good = masks.score.dtype == np.float32 and np.isfinite(masks.score).all()
    _hold(good, "score", f"{where} has {masks.score.dtype}{masks.score.tolist()[:5]}")
    _hold(len(drawn) > 0, "some masks", f"{where} has none")
    if layer.disjoint:
        _hold(np.sum(drawn, axis=0).max() <= 1, "disjoint", f"they do in {where}")
    if (masks.score == 1).all():
        firsts = [first_pixel(counts, height, width) for counts in masks.counts]
        _hold(firsts == sorted(firsts), "order", f"not in {where}")


def _hold(good: object, clause: str, found: str) -> None:
    if not good:
        raise _breach(clause, found)


def _breach(clause: str, found: str) -> AssertionError:
    return AssertionError(f"{clause}: {CLAUSES[clause]}; {found}")
