"""Two data sets of the same pictures, image by image: which masks fit better, and how sure that is.

The difference is paired: both sides are weighed with the same bootstrap draws, so what is common to both (hard images)
cancels, and a small but steady gain shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from maskmill.pipelines.dataset.images_table import ImagesTable, iou_units_column, masks_column
from maskmill.pipelines.measuring.bootstrap import REPLICATES, image_key, interval, weights
from maskmill.pipelines.measuring.series import series_of, widest
from maskmill.pipelines.parts.plan import difference
from maskmill.pipelines.report.document import NO_INSTANCES
from maskmill.pipelines.report.model import Interval, Metric
from maskmill.schemas.errors import InputError, UsageError
from maskmill.schemas.manifest import Manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.stats import IOU_UNIT

if TYPE_CHECKING:
    from jaxtyping import Int64

MOVERS = 10
DELTA_BINS = 40  # of 0.05, from -1 to 1
_CHUNK = 4096


def _names(manifest: Manifest) -> list[str]:
    return [one.name for one in series_of(manifest.layers)]


def _members(manifest: Manifest) -> dict[str, list[str]]:
    """Series -> the names of its layers."""
    return {one.name: [manifest.layers[i].name for i in one.members] for one in series_of(manifest.layers)}


def side_names(old: str, new: str) -> tuple[str, str]:
    """What two folders are called: their last component, or as many as it takes to tell them apart."""
    paths = [[part for part in folder.split("/") if part] or [folder] for folder in (old, new)]
    for count in range(1, max(map(len, paths)) + 1):
        left, right = ("/".join(parts[-count:]) for parts in paths)
        if left != right:
            return left, right
    return f"{old} (old)", f"{new} (new)"


def pair_series(old: Manifest, new: Manifest, asked: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Which layers are compared: those asked for as OLD=NEW, else those of one name, else the widest of each.

    Unions of layers are compared only where they are of the same layers: with one more layer any union fits better.

    Raises:
        UsageError: a pair that is not OLD=NEW, or names what there is not.
    """
    pairs = []
    for text in asked:
        left, _, right = text.partition("=")
        right = right or left
        for name, manifest, side in ((left, old, "OLD"), (right, new, "NEW")):
            if name not in _names(manifest):
                raise UsageError(f"--layers {text!r}: {side} has no {name!r}; it has {', '.join(_names(manifest))}")
        pairs.append((left, right))
    if not pairs:
        there = _members(new)
        pairs = [(name, name) for name, layers in _members(old).items() if there.get(name) == layers]
    return pairs or [(_names(old)[widest(old.layers)], _names(new)[widest(new.layers)])]


@dataclasses.dataclass(frozen=True)
class _Table:
    """What a comparison needs of `images.parquet`: id -> row, and columns."""

    rows: dict[str, int]
    columns: dict[str, np.ndarray]


def _read(dataset: Dataset, names: Sequence[str]) -> _Table:
    layers = [layer for name in names for layer in _members(dataset.manifest)[name]]
    wanted = ["id", "instances", *dict.fromkeys(iou_units_column(name) for name in names)]
    wanted += dict.fromkeys(masks_column(layer) for layer in layers)
    columns = ImagesTable(dataset.folder, len(dataset)).columns(wanted)
    return _Table({identity: i for i, identity in enumerate(columns.pop("id"))}, columns)


@dataclasses.dataclass(frozen=True)
class ComparedImages:
    """How many images there are: on each side, in both, of them with other ground truth, and compared."""

    old: int
    new: int
    both: int
    other_ground_truth: int
    compared: int


@dataclasses.dataclass(frozen=True)
class Mover:
    """An image that moved: its mean best IoU on both sides."""

    id: str
    instances: int
    old: Metric
    new: Metric
    difference: Metric


@dataclasses.dataclass(frozen=True)
class Difference:
    """How the images differ between two sides: both ABOs, and what moved."""

    old_abo: Metric
    new_abo: Metric
    difference: Metric
    interval: Interval
    better: int
    worse: int
    equal: int
    difference_hist: list[int]
    movers: list[Mover]


@dataclasses.dataclass(frozen=True)
class Pair(Difference):
    """One layer or union of layers on each side, their masks per image, and how they differ."""

    old: str
    new: str
    old_masks: Metric
    new_masks: Metric

    @property
    def label(self) -> str:
        """Its name, or both."""
        return self.old if self.old == self.new else f"{self.old} -> {self.new}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two data sets of the same pictures; `sides` are their names."""

    sides: tuple[str, str]
    images: ComparedImages
    pairs: list[Pair]
    configuration: list[str]


def compare(old: Dataset, new: Dataset, asked: Sequence[str] = ()) -> Comparison:
    """Compares two data sets.

    Args:
        old, new: finished builds of the same pictures, or of some that both hold.
        asked: pairs of layers, OLD=NEW.

    Returns:
        Counts of images, a row per pair of layers with both ABOs over the images in both, their difference with its
        interval, and the images that moved most; and how the configurations differ.

    Raises:
        InputError: no picture is in both. UsageError: see `pair_series`.
    """
    pairs = pair_series(old.manifest, new.manifest, asked)
    left, right = _read(old, [a for a, _ in pairs]), _read(new, [b for _, b in pairs])
    ids = sorted(set(left.rows) & set(right.rows))
    if not ids:
        raise InputError(f"{old.folder} and {new.folder} have no picture in common: their ids all differ")
    at_left = np.asarray([left.rows[i] for i in ids])
    at_right = np.asarray([right.rows[i] for i in ids])
    instances = left.columns["instances"][at_left].astype(np.int64)
    same_truth = instances == right.columns["instances"][at_right]
    kept = same_truth & (instances > 0)
    keys = np.asarray([image_key(i) for i in ids], np.int64)[kept]
    names = [i for i, keep in zip(ids, kept.tolist(), strict=True) if keep]
    rows = []
    for a, b in pairs:
        before = left.columns[iou_units_column(a)][at_left][kept].astype(np.int64)
        after = right.columns[iou_units_column(b)][at_right][kept].astype(np.int64)
        masks = [
            Metric.ratio(_masks(side, dataset, name)[at][kept].sum().item(), len(names), "no image is compared")
            for side, dataset, name, at in ((left, old, a, at_left), (right, new, b, at_right))
        ]
        difference = difference_of(names, keys, instances[kept], before, after)
        rows.append(Pair(**vars(difference), old=a, new=b, old_masks=masks[0], new_masks=masks[1]))
    return Comparison(
        sides=side_names(old.folder, new.folder),
        images=ComparedImages(
            old=len(left.rows),
            new=len(right.rows),
            both=len(ids),
            other_ground_truth=int((~same_truth).sum()),
            compared=len(names),
        ),
        pairs=rows,
        configuration=_configuration(old.manifest, new.manifest),
    )


def _masks(table: _Table, dataset: Dataset, series: str) -> np.ndarray:
    """Masks of a series in every image: int64[n]."""
    columns = [table.columns[masks_column(layer)] for layer in _members(dataset.manifest)[series]]
    total: np.ndarray = np.stack(columns).astype(np.int64).sum(axis=0)
    return total


def difference_of(
    names: list[str],
    keys: Int64[np.ndarray, " n"],
    instances: Int64[np.ndarray, " n"],
    before: Int64[np.ndarray, " n"],
    after: Int64[np.ndarray, " n"],
) -> Difference:
    """How n images differ between two sides.

    Args:
        names: their ids.
        keys: int64[n], of `image_key`.
        instances: int64[n], each at least 1.
        before, after: int64[n], sums of best IoUs in units of 1 / `IOU_UNIT`.

    Returns:
        Both ABOs, their difference and its interval, a histogram of the images' differences, those that moved most.
    """
    total = int(instances.sum())
    delta = after - before
    numerators, denominators = [0] * REPLICATES, [0] * REPLICATES
    for start in range(0, len(keys), _CHUNK):
        drawn = weights(keys[start : start + _CHUNK])
        part = slice(start, start + _CHUNK)
        numerators = [x + y for x, y in zip(numerators, (delta[part] @ drawn).tolist(), strict=True)]
        denominators = [x + y for x, y in zip(denominators, (instances[part] @ drawn).tolist(), strict=True)]
    bounds = interval(numerators, denominators, IOU_UNIT) if len(keys) > 1 else None
    mean = delta / np.maximum(instances, 1) / IOU_UNIT
    bins = np.clip(np.floor((mean + 1) * DELTA_BINS / 2).astype(int), 0, DELTA_BINS - 1)
    order = sorted(range(len(names)), key=lambda i: (-abs(mean[i]), names[i]))[:MOVERS]
    return Difference(
        old_abo=Metric.ratio(int(before.sum()) / IOU_UNIT, total, NO_INSTANCES),
        new_abo=Metric.ratio(int(after.sum()) / IOU_UNIT, total, NO_INSTANCES),
        difference=Metric.ratio(int(delta.sum()) / IOU_UNIT, total, NO_INSTANCES),
        interval=Interval.of(bounds, NO_INSTANCES if not total else "it takes more than one annotated image"),
        better=int((delta > 0).sum()),
        worse=int((delta < 0).sum()),
        equal=int((delta == 0).sum()),
        difference_hist=np.bincount(bins, minlength=DELTA_BINS).tolist(),
        movers=[
            Mover(
                id=names[i],
                instances=int(instances[i]),
                old=Metric(float(before[i] / instances[i] / IOU_UNIT)),
                new=Metric(float(after[i] / instances[i] / IOU_UNIT)),
                difference=Metric(float(mean[i])),
            )
            for i in order
            if delta[i]
        ],
    )


def _configuration(old: Manifest, new: Manifest) -> list[str]:
    """Lines that say how two builds differ in what was asked for, made with and found."""
    lines = [*difference(old.config, new.config), *difference(old.versions, new.versions)]
    sides = [{layer.name: layer.params for layer in manifest.layers} for manifest in (old, new)]
    lines += difference({f"layer {k}": v for k, v in sides[0].items()}, {f"layer {k}": v for k, v in sides[1].items()})
    lines += difference({"decoder": old.decoder.get("name")}, {"decoder": new.decoder.get("name")})
    lines += difference(
        {f"counts {k}": v for k, v in old.counts.items()}, {f"counts {k}": v for k, v in new.counts.items()}
    )
    return [line.strip() for line in lines]


def compare_lines(result: Comparison) -> list[str]:
    """A comparison in text."""
    n, (old, new) = result.images, result.sides
    columns = [max(6, len(name)) for name in (old, new)]
    lines = [
        f"{n.both:,} images in both ({old} {n.old:,}, {new} {n.new:,}), {n.compared:,} compared: "
        f"with instances, and equally many on both sides (others {n.other_ground_truth:,})"
    ]
    width = max(5, *(len(pair.label) for pair in result.pairs))
    lines.append(
        f"{'layer':<{width}}  {old:>{columns[0]}}  {new:>{columns[1]}}  {'difference':>10}  {'95% interval':>17}  "
        f"{'masks/image':>16}  {'better':>7}  {'worse':>7}"
    )
    for row in result.pairs:
        bounds = row.interval.value
        between = "none" if bounds is None else f"{bounds[0]:+.4f} {bounds[1]:+.4f}"
        cells = ["none" if abo.value is None else f"{abo.value:.4f}" for abo in (row.old_abo, row.new_abo)]
        masks = " -> ".join("none" if m.value is None else f"{m.value:.1f}" for m in (row.old_masks, row.new_masks))
        delta = "none" if row.difference.value is None else f"{row.difference.value:+.4f}"
        lines.append(
            f"{row.label:<{width}}  {cells[0]:>{columns[0]}}  {cells[1]:>{columns[1]}}  {delta:>10}  {between:>17}  {masks:>16}  "
            f"{row.better:>7,}  {row.worse:>7,}"
        )
    last = result.pairs[-1]
    if last.movers:
        lines.append(f"moved most ({last.label}, mean best IoU of an image's instances):")
        lines += [
            f"  {m.difference.value:+.3f}  {m.old.value:.3f} -> {m.new.value:.3f}  {m.id[:120]}" for m in last.movers
        ]
    lines.append("configurations are equal" if not result.configuration else "configurations differ:")
    lines += [f"  {line[:300]}" for line in result.configuration]
    return lines
