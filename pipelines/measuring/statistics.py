"""The report's statistics: integers only, so that parts of a data set merge to the whole, in any order, to the last bit.

A `ReportStats` is of bounded size however many images it counts: sums and histograms grow with layers and categories, the
choices of example images hold a fixed number of ids. Two feeders fill it: `fold_rows` from the rows that a build keeps of
every image anyway, and `pipelines.measuring.overlap_stats` from measurements that are folded part by part and then dropped.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from maskmill.pipelines.measuring.bootstrap import REPLICATES, image_key, weights
from maskmill.pipelines.measuring.overlap_stats import BATCH, OverlapStats, add
from maskmill.pipelines.measuring.repeats import Repeats

COVERAGE_BINS = 20
COUNT_BINS = 18  # masks per image: 0, 1, 2, 3-4, 5-8, ... 65537 and more
EXTREMES = 6  # worst and best images kept, per layer
SAMPLE = 256  # images drawn at random, whatever the size of the data set


class Row(TypedDict):
    """What the report needs of an image's row, as a build's sidecar keeps it; L layers, S series.

    `iou_units` are S sums of best IoUs in units, `first_units` and `drawn_units` L of them at the decision's budget (see
    `Measured`); `sha256` is of the original file; `audit_dropped` and `size_mismatch` are of an audit against another file.
    """

    id: str
    height: int
    width: int
    instances: int
    crowds: int
    masks: list[int]
    covered_px: list[int]
    iou_units: list[int]
    first_units: list[int]
    drawn_units: list[int]
    sha256: str
    audit_dropped: NotRequired[int]
    size_mismatch: NotRequired[int]


@dataclasses.dataclass(frozen=True)
class LayerRowStats:
    """Sums over images of one layer's numbers of masks and covered pixels, and their histograms."""

    masks: int = 0
    covered_px: int = 0
    masks_hist: list[int] = dataclasses.field(default_factory=lambda: [0] * COUNT_BINS)
    coverage_hist: list[int] = dataclasses.field(default_factory=lambda: [0] * COVERAGE_BINS)


@dataclasses.dataclass(frozen=True)
class AuditStats:
    """What an audit left out: annotations without a usable mask, pictures whose entry is of another size."""

    dropped_annotations: int = 0
    size_mismatches: int = 0


@dataclasses.dataclass(frozen=True)
class Replicates:
    """Bootstrap replicates: instances drawn in each, and sums of their best IoUs in units.

    Attributes:
        instances: per replicate.
        iou: per series, with all its masks.
        first, drawn: per layer, with the first `DECISION_BUDGET` masks, and with as many drawn at random.
    """

    instances: list[int]
    iou: list[list[int]]
    first: list[list[int]]
    drawn: list[list[int]]

    @classmethod
    def zero(cls, layers: int, series: int) -> "Replicates":
        """Of no image."""
        iou, first, drawn = ([[0] * REPLICATES for _ in range(n)] for n in (series, layers, layers))
        return cls([0] * REPLICATES, iou, first, drawn)


@dataclasses.dataclass(frozen=True)
class Sums:
    """Nested integers that add up over disjoint sets of images. IoUs are in units of 2**-40."""

    images: int
    annotated_images: int
    image_px: int
    crowds: int
    audit: AuditStats
    replicates: Replicates
    rows: list[LayerRowStats]
    overlaps: OverlapStats

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Sums":
        """The inverse of `dataclasses.asdict`."""
        return cls(
            **{
                **fields,
                "audit": AuditStats(**fields["audit"]),
                "replicates": Replicates(**fields["replicates"]),
                "rows": [LayerRowStats(**row) for row in fields["rows"]],
                "overlaps": OverlapStats.from_json(fields["overlaps"]),
            }
        )


@dataclasses.dataclass(frozen=True)
class Pick:
    """An image chosen as an example.

    Attributes:
        id: the record's.
        key: its place in all random choices.
        instances: that are no crowds.
        units: per layer, the sum of their best IoUs in units.
    """

    id: str
    key: int
    instances: int
    units: list[int]

    def score(self, layer: int) -> int | None:
        """Mean best IoU in a layer, in units, rounded down; None without instances."""
        return self.units[layer] // self.instances if self.instances else None


def ordered(picks: Iterable[Pick], layer: int, *, best: bool = False) -> list[Pick]:
    """Picks with instances from the lowest score in a layer, or from the highest; ties by the image's key, then its id."""
    scored = [(score, pick) for pick in picks if (score := pick.score(layer)) is not None]
    return [pick for _, pick in sorted(scored, key=lambda p: (-p[0] if best else p[0], p[1].key, p[1].id))]


@dataclasses.dataclass(frozen=True)
class Picks:
    """Images chosen as examples, in order: per layer those of the lowest and the highest score, and some at random."""

    worst: list[list[Pick]]
    best: list[list[Pick]]
    sample: list[Pick]

    @classmethod
    def of(cls, candidates: Sequence[Pick], layers: int) -> "Picks":
        """The choice among some images."""
        return cls(
            [ordered(candidates, i)[:EXTREMES] for i in range(layers)],
            [ordered(candidates, i, best=True)[:EXTREMES] for i in range(layers)],
            sorted(candidates, key=lambda pick: (pick.key, pick.id))[:SAMPLE],
        )

    def ids(self) -> set[str]:
        """Of all images chosen."""
        return {pick.id for pick in itertools.chain(*self.worst, *self.best, self.sample)}

    def __add__(self, other: "Picks") -> "Picks":
        pairs = zip(self.worst, other.worst, strict=True)
        worst = [ordered(a + b, i)[:EXTREMES] for i, (a, b) in enumerate(pairs)]
        pairs = zip(self.best, other.best, strict=True)
        best = [ordered(a + b, i, best=True)[:EXTREMES] for i, (a, b) in enumerate(pairs)]
        return Picks(worst, best, sorted(self.sample + other.sample, key=lambda pick: (pick.key, pick.id))[:SAMPLE])

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Picks":
        """The inverse of `dataclasses.asdict`."""
        worst, best = ([[Pick(**pick) for pick in own] for own in fields[name]] for name in ("worst", "best"))
        return cls(worst, best, [Pick(**pick) for pick in fields["sample"]])


@dataclasses.dataclass
class ReportStats:
    """Statistics of a set of images; `+` merges those of disjoint sets.

    Attributes:
        sums: what adds up.
        most_masks: per layer, the most masks in one image.
        picks: example images.
        repeats: pictures that came more than once.
    """

    sums: Sums
    most_masks: list[int]
    picks: Picks
    repeats: Repeats

    @classmethod
    def zero(cls, layers: int, series: int) -> "ReportStats":
        """Of no image."""
        rows = [LayerRowStats() for _ in range(layers)]
        overlaps = OverlapStats.zero(layers, series)
        sums = Sums(0, 0, 0, 0, AuditStats(), Replicates.zero(layers, series), rows, overlaps)
        return cls(sums, [0] * layers, Picks.of([], layers), Repeats())

    def __add__(self, other: "ReportStats") -> "ReportStats":
        return ReportStats(
            add(self.sums, other.sums),
            [max(pair) for pair in zip(self.most_masks, other.most_masks, strict=True)],
            self.picks + other.picks,
            self.repeats + other.repeats,
        )

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Counts rows of images, any number; see `fold_rows`."""
        for start in range(0, len(rows), BATCH):
            total = self + fold_rows(rows[start : start + BATCH], len(self.most_masks), len(self.sums.overlaps.series))
            self.sums, self.most_masks = total.sums, total.most_masks
            self.picks, self.repeats = total.picks, total.repeats

    def add_overlaps(self, overlaps: OverlapStats) -> None:
        """Counts the overlaps of images, already added up."""
        self.sums = dataclasses.replace(self.sums, overlaps=self.sums.overlaps + overlaps)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; the inverse of `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ReportStats":
        """From what `to_json` gave."""
        return cls(
            Sums.from_json(fields["sums"]),
            fields["most_masks"],
            Picks.from_json(fields["picks"]),
            Repeats.from_json(fields["repeats"]),
        )


def fold_rows(rows: Sequence[Row], layers: int, series: int) -> ReportStats:
    """Rows of some images (those of a sidecar) to statistics, without what only overlaps tell.

    Args:
        rows: of at most `BATCH` images (sums are formed in 64 bits).
        layers, series: L and S.
    """
    if not rows:
        return ReportStats.zero(layers, series)
    keys = [image_key(row["id"]) for row in rows]
    instances = np.asarray([row["instances"] for row in rows], np.int64)
    pixels = np.asarray([row["height"] * row["width"] for row in rows], np.int64)
    units = [
        np.asarray([row["iou_units"] for row in rows], np.int64).reshape(len(rows), series),
        np.asarray([row["first_units"] for row in rows], np.int64).reshape(len(rows), layers),
        np.asarray([row["drawn_units"] for row in rows], np.int64).reshape(len(rows), layers),
    ]
    replicates = Replicates.zero(layers, series)
    if instances.any():
        drawn = weights(np.asarray(keys, np.int64))
        replicates = Replicates((instances @ drawn).tolist(), *((one.T @ drawn).tolist() for one in units))
    masks = np.asarray([row["masks"] for row in rows], np.int64).reshape(len(rows), layers)
    covered = np.asarray([row["covered_px"] for row in rows], np.int64).reshape(len(rows), layers)
    sums = Sums(
        images=len(rows),
        annotated_images=int((instances > 0).sum()),
        image_px=int(pixels.sum()),
        crowds=sum(row["crowds"] for row in rows),
        audit=AuditStats(
            dropped_annotations=sum(row.get("audit_dropped", 0) for row in rows),
            size_mismatches=sum(row.get("size_mismatch", 0) for row in rows),
        ),
        replicates=replicates,
        rows=[_fold_layer(masks[:, i], covered[:, i], pixels) for i in range(layers)],
        overlaps=OverlapStats.zero(layers, series),
    )
    candidates = [
        Pick(row["id"], key, row["instances"], list(row["iou_units"][:layers]))
        for row, key in zip(rows, keys, strict=True)
    ]
    return ReportStats(
        sums,
        masks.max(axis=0).tolist(),
        Picks.of(candidates, layers),
        Repeats.of((row["sha256"], row["id"]) for row in rows),
    )


def _fold_layer(masks: np.ndarray, covered: np.ndarray, pixels: np.ndarray) -> LayerRowStats:
    # 0 and 1 stand alone, then (1, 2], (2, 4], (4, 8] ...
    count_bin = np.where(masks == 0, 0, np.frexp(np.maximum(masks - 1, 0).astype(np.float64))[1] + 1)
    share = np.minimum(covered * COVERAGE_BINS // pixels, COVERAGE_BINS - 1)
    return LayerRowStats(
        masks=int(masks.sum()),
        covered_px=int(covered.sum()),
        masks_hist=np.bincount(np.minimum(count_bin, COUNT_BINS - 1), minlength=COUNT_BINS).tolist(),
        coverage_hist=np.bincount(share, minlength=COVERAGE_BINS).tolist(),
    )
