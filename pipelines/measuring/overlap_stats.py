"""Overlaps of many images added up: integers only, so that parts merge to the whole, in any order, to the last bit.

What is folded here is dropped image by image: a part's sidecar holds the sums alone. Memory is bounded, whatever the
number of images: sums and histograms grow with layers, series and categories.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from maskmill.pipelines.measuring.overlaps import AREA_BINS, BUDGETS, HEAT_CELLS, ImageOverlaps
from maskmill.schemas.stats import IOU_UNIT

IOU_BINS = 20  # of 0.05: their edges are also the recall thresholds .50, .55 ... .95
SIZE_LIMITS = (32**2, 96**2)  # COCO's: small, medium from 1024 pixels on, large from 9216 on
Size = Literal["small", "medium", "large"]
SIZES: tuple[Size, ...] = ("small", "medium", "large")
BATCH = 128  # images folded at once: enough to be fast, few enough for 64 bits
T = TypeVar("T")


def add(a: T, b: T) -> T:
    """Sum of two nested structures of integers.

    Dataclasses add by field, dicts by key with absent as zero, lists of one length elementwise; an empty list is zero.
    """
    total: Any
    if dataclasses.is_dataclass(a) and not isinstance(a, type):
        names = [field.name for field in dataclasses.fields(a)]
        total = dataclasses.replace(a, **{name: add(getattr(a, name), getattr(b, name)) for name in names})
    elif isinstance(a, dict) and isinstance(b, dict):
        total = a | {key: add(a[key], value) if key in a else value for key, value in b.items()}
    elif isinstance(a, list) and isinstance(b, list):
        if a and b and isinstance(a[0], int):  # thousands of numbers: as one step
            total = [x + y for x, y in zip(a, b, strict=True)]
        else:
            total = [add(x, y) for x, y in zip(a, b, strict=True)] if a and b else a or b
    else:
        total = a + b  # type: ignore[operator]
    return total


@dataclasses.dataclass(frozen=True)
class LayerOverlapStats:
    """Sums over images of `LayerOverlaps`; `ranked_images` counts images whose masks have scores."""

    area_px: int = 0
    area_hist: list[int] = dataclasses.field(default_factory=lambda: [0] * AREA_BINS)
    fragments: int = 0
    duplicates: int = 0
    ranked_images: int = 0
    first: list[int] = dataclasses.field(default_factory=lambda: [0] * len(BUDGETS))
    drawn: list[int] = dataclasses.field(default_factory=lambda: [0] * len(BUDGETS))


@dataclasses.dataclass(frozen=True)
class SeriesOverlapStats:
    """Sums over the instances of images, of one series.

    Attributes:
        iou: by size, sums of best IoUs in units.
        hist: by size, `IOU_BINS` numbers of instances by their best IoU.
        categories: category id as text -> sum of best IoUs in units.
    """

    iou: list[int] = dataclasses.field(default_factory=lambda: [0] * len(SIZES))
    hist: list[list[int]] = dataclasses.field(default_factory=lambda: [[0] * IOU_BINS for _ in SIZES])
    categories: dict[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class OverlapStats:
    """Overlaps of some images added up. The default is of no image, whatever the layers.

    Attributes:
        instances: by size.
        categories: category id as text -> instances.
        layers: per layer.
        series: per series.
        heat: where objects lie; see `ImageOverlaps`.
    """

    instances: list[int] = dataclasses.field(default_factory=list)
    categories: dict[str, int] = dataclasses.field(default_factory=dict)
    layers: list[LayerOverlapStats] = dataclasses.field(default_factory=list)
    series: list[SeriesOverlapStats] = dataclasses.field(default_factory=list)
    heat: list[list[int]] = dataclasses.field(default_factory=list)

    @classmethod
    def zero(cls, layers: int, series: int) -> "OverlapStats":
        """Of no image, with every sum in place."""
        return cls(
            instances=[0] * len(SIZES),
            layers=[LayerOverlapStats() for _ in range(layers)],
            series=[SeriesOverlapStats() for _ in range(series)],
            heat=[[0] * HEAT_CELLS for _ in range(HEAT_CELLS)],
        )

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "OverlapStats":
        """The inverse of `dataclasses.asdict`, through JSON or not."""
        return cls(
            instances=fields["instances"],
            categories=fields["categories"],
            layers=[LayerOverlapStats(**layer) for layer in fields["layers"]],
            series=[SeriesOverlapStats(**one) for one in fields["series"]],
            heat=fields["heat"],
        )

    def __add__(self, other: "OverlapStats") -> "OverlapStats":
        return add(self, other)


def fold_overlaps(images: Sequence[ImageOverlaps]) -> OverlapStats:
    """Overlaps of at most `BATCH` images (sums are formed in 64 bits) added up."""
    if not images:
        return OverlapStats()
    layers, series = len(images[0].layers), len(images[0].best)
    area = np.asarray([a for image in images for a in image.area], np.int64)
    category = np.asarray([c for image in images for c in image.category], np.int64)
    size = np.searchsorted(SIZE_LIMITS, area, side="right")
    ids, where = np.unique(category, return_inverse=True)
    names = [str(c) for c in ids.tolist()]
    best = np.concatenate([np.asarray(image.best, np.int64).reshape(series, -1) for image in images], axis=1)
    return OverlapStats(
        instances=np.bincount(size, minlength=len(SIZES)).tolist(),
        categories=dict(zip(names, np.bincount(where, minlength=len(names)).tolist(), strict=True)),
        layers=[_fold_layer(images, index) for index in range(layers)],
        series=[_fold_series(units, size, where, names) for units in best],
        heat=np.asarray([image.heat for image in images], np.int64).sum(axis=0).tolist(),
    )


def _fold_layer(images: Sequence[ImageOverlaps], index: int) -> LayerOverlapStats:
    own = [image.layers[index] for image in images]
    return LayerOverlapStats(
        area_px=sum(x.area_px for x in own),
        area_hist=_columns([x.area_bins for x in own], AREA_BINS),
        fragments=sum(x.fragments for x in own),
        duplicates=sum(x.duplicates for x in own),
        ranked_images=sum(x.ranked for x in own),
        first=_columns([x.first for x in own], len(BUDGETS)),
        drawn=_columns([x.drawn for x in own], len(BUDGETS)),
    )


_EDGES = np.asarray([round(k * IOU_UNIT / IOU_BINS) for k in range(1, IOU_BINS)], np.int64)


def _fold_series(units: np.ndarray, size: np.ndarray, where: np.ndarray, names: list[str]) -> SeriesOverlapStats:
    bins = np.searchsorted(_EDGES, units, side="right")
    by_size, by_category = np.zeros(len(SIZES), np.int64), np.zeros(len(names), np.int64)
    np.add.at(by_size, size, units)
    np.add.at(by_category, where, units)
    hist = np.bincount(size * IOU_BINS + bins, minlength=len(SIZES) * IOU_BINS).reshape(len(SIZES), IOU_BINS)
    return SeriesOverlapStats(
        iou=by_size.tolist(),
        hist=hist.tolist(),
        categories=dict(zip(names, by_category.tolist(), strict=True)),
    )


def _columns(rows: list[list[int]], width: int) -> list[int]:
    columns: list[int] = np.asarray(rows, np.int64).reshape(-1, width).sum(axis=0).tolist()
    return columns


class OverlapAccumulator:
    """Adds up overlaps as they come, holding at most `BATCH` images' at once."""

    def __init__(self) -> None:
        self._sums = OverlapStats()
        self._waiting: list[ImageOverlaps] = []

    def add(self, overlaps: ImageOverlaps) -> None:
        """Counts one image."""
        self._waiting.append(overlaps)
        if len(self._waiting) >= BATCH:
            self.result()

    def result(self) -> OverlapStats:
        """The sums so far."""
        self._sums += fold_overlaps(self._waiting)
        self._waiting = []
        return self._sums
