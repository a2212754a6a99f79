"""The report's statistics: integers only, so that parts of a data set merge to the whole, in any order, to the last bit.

A `ReportStats` is of bounded size however many images it counts: sums and histograms grow with layers and categories, the
choices of example images hold a fixed number of ids. Two feeders fill it: `fold_rows` from the rows that a build keeps of
every image anyway, and `pipelines.measuring.overlap_stats` from measurements that are folded part by part and then dropped.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np

from maskmill.pipelines.measuring.bootstrap import REPLICATES, image_key, weights
from maskmill.pipelines.measuring.overlap_stats import BATCH, OverlapStats, add

COVERAGE_BINS = 20
COUNT_BINS = 18  # masks per image: 0, 1, 2, 3-4, 5-8, ... 65537 and more
EXTREMES = 12  # worst and best images kept
SAMPLE = 256  # images drawn at random, whatever the size of the data set


class Row(TypedDict):
    """What the report needs of an image's row, as a build's sidecar keeps it; L layers, S series.

    `iou_units` are S sums of best IoUs in units; `audit_dropped` and `size_mismatch` are of an audit against another file.
    """

    id: str
    height: int
    width: int
    instances: int
    crowds: int
    masks: list[int]
    covered_px: list[int]
    iou_units: list[int]
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
    """Bootstrap replicates: instances drawn in each, and per series the sum of their best IoUs in units."""

    instances: list[int]
    iou: list[list[int]]

    @classmethod
    def zero(cls, series: int) -> "Replicates":
        """Of no image."""
        return cls([0] * REPLICATES, [[0] * REPLICATES for _ in range(series)])


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
    facts: OverlapStats

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Sums":
        """The inverse of `dataclasses.asdict`."""
        return cls(
            **{
                **fields,
                "audit": AuditStats(**fields["audit"]),
                "replicates": Replicates(**fields["replicates"]),
                "rows": [LayerRowStats(**row) for row in fields["rows"]],
                "facts": OverlapStats.from_json(fields["facts"]),
            }
        )


@dataclasses.dataclass(frozen=True)
class Pick:
    """An image chosen as an example.

    Attributes:
        id: the record's.
        key: its place in all random choices.
        score: its mean best IoU in the widest series, in units, rounded down; None without instances.
        instances: that are no crowds.
    """

    id: str
    key: int
    score: int | None
    instances: int


# Who is kept of two candidates: what sorts first by these, per choice. Ties are broken by the image's key, then its id.
def _worst(pick: Pick) -> tuple[int, int, str]:
    return (pick.score or 0, pick.key, pick.id)


def _best(pick: Pick) -> tuple[int, int, str]:
    return (-(pick.score or 0), pick.key, pick.id)


def _drawn(pick: Pick) -> tuple[int, str]:
    return (pick.key, pick.id)


@dataclasses.dataclass(frozen=True)
class Picks:
    """Images chosen as examples, in order: of the lowest and the highest score, and at random."""

    worst: list[Pick] = dataclasses.field(default_factory=list)
    best: list[Pick] = dataclasses.field(default_factory=list)
    sample: list[Pick] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, candidates: Sequence[Pick]) -> "Picks":
        """The choice among some images."""
        scored = [pick for pick in candidates if pick.score is not None]
        return cls(_keep(scored, EXTREMES, _worst), _keep(scored, EXTREMES, _best), _keep(candidates, SAMPLE, _drawn))

    def __add__(self, other: "Picks") -> "Picks":
        return Picks(
            _keep(self.worst + other.worst, EXTREMES, _worst),
            _keep(self.best + other.best, EXTREMES, _best),
            _keep(self.sample + other.sample, SAMPLE, _drawn),
        )


def _keep(picks: Sequence[Pick], limit: int, order: Callable[[Pick], Any]) -> list[Pick]:
    return sorted(picks, key=order)[:limit]


@dataclasses.dataclass
class ReportStats:
    """Statistics of a set of images; `+` merges those of disjoint sets.

    Attributes:
        sums: what adds up.
        most_masks: per layer, the most masks in one image.
        picks: example images.
    """

    sums: Sums
    most_masks: list[int]
    picks: Picks

    @classmethod
    def zero(cls, layers: int, series: int) -> "ReportStats":
        """Of no image."""
        rows = [LayerRowStats() for _ in range(layers)]
        facts = OverlapStats.zero(layers, series)
        sums = Sums(0, 0, 0, 0, AuditStats(), Replicates.zero(series), rows, facts)
        return cls(sums, [0] * layers, Picks())

    def __add__(self, other: "ReportStats") -> "ReportStats":
        return ReportStats(
            add(self.sums, other.sums),
            [max(pair) for pair in zip(self.most_masks, other.most_masks, strict=True)],
            self.picks + other.picks,
        )

    def add_rows(self, rows: Sequence[Row], ranking: int) -> None:
        """Counts rows of images, any number; see `fold_rows`."""
        for start in range(0, len(rows), BATCH):
            more = fold_rows(rows[start : start + BATCH], len(self.most_masks), len(self.sums.facts.series), ranking)
            total = self + more
            self.sums, self.most_masks, self.picks = total.sums, total.most_masks, total.picks

    def add_overlaps(self, overlaps: OverlapStats) -> None:
        """Counts the overlaps of images, already added up."""
        self.sums = dataclasses.replace(self.sums, facts=self.sums.facts + overlaps)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; the inverse of `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ReportStats":
        """From what `to_json` gave."""
        picks = {name: [Pick(**pick) for pick in entries] for name, entries in fields["picks"].items()}
        return cls(Sums.from_json(fields["sums"]), fields["most_masks"], Picks(**picks))


def fold_rows(rows: Sequence[Row], layers: int, series: int, ranking: int) -> ReportStats:
    """Rows of some images (those of a sidecar) to statistics, without what only overlaps tell.

    Args:
        rows: of at most `BATCH` images (sums are formed in 64 bits).
        layers, series: L and S.
        ranking: index of the series whose mean best IoU ranks images as examples.
    """
    if not rows:
        return ReportStats.zero(layers, series)
    keys = [image_key(row["id"]) for row in rows]
    instances = np.asarray([row["instances"] for row in rows], np.int64)
    pixels = np.asarray([row["height"] * row["width"] for row in rows], np.int64)
    iou = np.asarray([row["iou_units"] for row in rows], np.int64).reshape(len(rows), series)
    replicates = Replicates.zero(series)
    if instances.any():
        drawn = weights(np.asarray(keys, np.int64))
        replicates = Replicates((instances @ drawn).tolist(), (iou.T @ drawn).tolist())
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
        facts=OverlapStats.zero(layers, series),
    )
    candidates = [
        Pick(
            row["id"],
            key,
            row["iou_units"][ranking] // row["instances"] if row["instances"] else None,
            row["instances"],
        )
        for row, key in zip(rows, keys, strict=True)
    ]
    return ReportStats(sums, masks.max(axis=0).tolist(), Picks.of(candidates))


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
