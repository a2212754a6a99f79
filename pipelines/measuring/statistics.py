"""The report's statistics: integers only, so that parts of a data set merge to the whole, in any order, to the last bit.

A `ReportStats` is of bounded size however many images it counts: sums and histograms grow with layers and categories, the
choices of example images hold a fixed number of ids. Two feeders fill it: `fold_rows` from the rows that a build keeps of
every image anyway, and `fold_facts` from measurements that are folded part by part and then dropped.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from maskmill.pipelines.measuring.bootstrap import REPLICATES, image_key, weights
from maskmill.pipelines.measuring.facts import AREA_BINS, BUDGETS
from maskmill.schemas.stats import IOU_UNIT

IOU_BINS = 20  # of 0.05: their edges are also the recall thresholds .50, .55 ... .95
COVERAGE_BINS = 20
COUNT_BINS = 18  # masks per image: 0, 1, 2, 3-4, 5-8, ... 65537 and more
SIZE_LIMITS = (32**2, 96**2)  # COCO's: small, medium from 1024 pixels on, large from 9216 on
SIZES = ("small", "medium", "large")
EXTREMES = 12  # worst and best images kept
FOLD = 128  # images folded at once: enough to be fast, few enough for 64 bits
SAMPLE = 256  # images drawn at random, whatever the size of the data set
_EDGES = np.asarray([round(k * IOU_UNIT / IOU_BINS) for k in range(1, IOU_BINS)], np.int64)
# Who is kept of two candidates: what sorts first by these, per choice. Ties are broken by the image's key, then its id.
_ORDERS = {
    "worst": (EXTREMES, lambda e: (e["score"], e["key"], e["id"])),
    "best": (EXTREMES, lambda e: (-e["score"], e["key"], e["id"])),
    "sample": (SAMPLE, lambda e: (e["key"], e["id"])),
}


def add(a, b):
    """Sum of two nested structures of integers: lists of one length elementwise, dicts by key with absent as zero."""
    if isinstance(a, dict):
        return {
            key: add(a[key], b[key]) if key in a and key in b else a.get(key, b.get(key))
            for key in (*a, *(b.keys() - a.keys()))
        }
    if isinstance(a, list):
        return [add(x, y) for x, y in zip(a, b, strict=True)]
    return a + b


@dataclasses.dataclass
class ReportStats:
    """Statistics of a set of images; `+` merges those of disjoint sets.

    Attributes:
        sums: nested integers that add up.
        most_masks: per layer, the most masks in one image.
        picks: "worst", "best", "sample" -> entries {"id", "key", "score", "instances"}, in order. `score` is the image's mean
            best IoU in the widest series, in units of 1 / `IOU_UNIT`, rounded down; None without instances.
    """

    sums: dict
    most_masks: list[int]
    picks: dict[str, list[dict]]

    @classmethod
    def zero(cls, layers: int, series: int) -> "ReportStats":
        """Of no image."""
        per_layer = {
            "masks": 0,
            "covered_px": 0,
            "masks_hist": [0] * COUNT_BINS,
            "coverage_hist": [0] * COVERAGE_BINS,
        }
        sums = {
            "images": 0,
            "annotated_images": 0,
            "image_px": 0,
            "crowds": 0,
            "audit": {"dropped_annotations": 0, "size_mismatches": 0},
            "replicates": {"instances": [0] * REPLICATES, "iou": [[0] * REPLICATES for _ in range(series)]},
            "rows": [json.loads(json.dumps(per_layer)) for _ in range(layers)],
            "facts": {
                "instances": [0] * len(SIZES),
                "categories": {},
                "layers": [_no_layer() for _ in range(layers)],
                "series": [_no_series() for _ in range(series)],
            },
        }
        return cls(sums, [0] * layers, {name: [] for name in _ORDERS})

    def __add__(self, other: "ReportStats") -> "ReportStats":
        return ReportStats(
            add(self.sums, other.sums),
            [max(pair) for pair in zip(self.most_masks, other.most_masks, strict=True)],
            {name: _keep(name, self.picks[name] + other.picks[name]) for name in _ORDERS},
        )

    def add_rows(self, rows: Sequence[dict], ranking: int) -> None:
        """Counts rows of images, any number; see `fold_rows`."""
        for start in range(0, len(rows), FOLD):
            more = fold_rows(
                rows[start : start + FOLD], len(self.most_masks), len(self.sums["facts"]["series"]), ranking
            )
            total = self + more
            self.sums, self.most_masks, self.picks = total.sums, total.most_masks, total.picks

    def add_facts(self, folded: dict) -> None:
        """Counts what `fold_facts` made of some images."""
        self.sums["facts"] = add(self.sums["facts"], folded)

    def to_json(self) -> dict:
        """JSON-able; the inverse of `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: dict) -> "ReportStats":
        """From a report's `statistics`."""
        return cls(fields["sums"], fields["most_masks"], fields["picks"])


def _keep(name: str, entries: list[dict]) -> list[dict]:
    limit, order = _ORDERS[name]
    return sorted(entries, key=order)[:limit]


def _no_layer() -> dict:
    lists = {"area_hist": [0] * AREA_BINS, "first": [0] * len(BUDGETS), "drawn": [0] * len(BUDGETS)}
    return {"area_px": 0, "fragments": 0, "duplicates": 0, "ranked_images": 0, **lists}


def _no_series() -> dict:
    return {"iou": [0] * len(SIZES), "hist": [[0] * IOU_BINS for _ in SIZES], "categories": {}}


def fold_facts(facts: Sequence[dict]) -> dict:
    """Measurements of some images (`Measured.facts`) to their sums.

    Args:
        facts: of at most `FOLD` images (sums are formed in 64 bits).

    Returns:
        {"instances": by size, "categories": id -> instances, "layers": per layer, "series": per series}; {} for no image.
    """
    if not facts:
        return {}
    layers, series = len(facts[0]["layers"]), len(facts[0]["best"])
    area = np.asarray([a for f in facts for a in f["area"]], np.int64)
    category = np.asarray([c for f in facts for c in f["category"]], np.int64)
    size = np.searchsorted(SIZE_LIMITS, area, side="right")
    ids, where = np.unique(category, return_inverse=True)
    names = [str(c) for c in ids.tolist()]
    best = np.concatenate([np.asarray(f["best"], np.int64).reshape(series, -1) for f in facts], axis=1)
    folded: dict = {
        "instances": np.bincount(size, minlength=len(SIZES)).tolist(),
        "categories": dict(zip(names, np.bincount(where, minlength=len(names)).tolist(), strict=True)),
        "layers": [
            {
                "area_px": sum(f["layers"][i]["area_px"] for f in facts),
                "area_hist": _columns([f["layers"][i]["area_bins"] for f in facts], AREA_BINS),
                "fragments": sum(f["layers"][i]["fragments"] for f in facts),
                "duplicates": sum(f["layers"][i]["duplicates"] for f in facts),
                "ranked_images": sum(f["layers"][i]["ranked"] for f in facts),
                "first": _columns([f["layers"][i]["first"] for f in facts], len(BUDGETS)),
                "drawn": _columns([f["layers"][i]["drawn"] for f in facts], len(BUDGETS)),
            }
            for i in range(layers)
        ],
        "series": [],
    }
    for units in best:
        bins = np.searchsorted(_EDGES, units, side="right")
        by_size, by_category = np.zeros(len(SIZES), np.int64), np.zeros(len(ids), np.int64)
        np.add.at(by_size, size, units)
        np.add.at(by_category, where, units)
        hist = np.bincount(size * IOU_BINS + bins, minlength=len(SIZES) * IOU_BINS).reshape(len(SIZES), IOU_BINS)
        folded["series"].append(
            {
                "iou": by_size.tolist(),
                "hist": hist.tolist(),
                "categories": dict(zip(names, by_category.tolist(), strict=True)),
            }
        )
    return folded


class FactsFolder:
    """Folds measurements as they come, holding at most `FOLD` of them."""

    def __init__(self) -> None:
        self._sums: dict = {}
        self._waiting: list[dict] = []

    def add(self, facts: dict) -> None:
        """Counts one image."""
        self._waiting.append(facts)
        if len(self._waiting) >= FOLD:
            self.result()

    def result(self) -> dict:
        """The sums so far."""
        self._sums = add(self._sums, fold_facts(self._waiting))
        self._waiting = []
        return self._sums


def _columns(rows: list[list[int]], width: int) -> list[int]:
    return np.asarray(rows, np.int64).reshape(-1, width).sum(axis=0).tolist()


def fold_rows(rows: Sequence[dict], layers: int, series: int, ranking: int) -> ReportStats:
    """Rows of some images (those of a sidecar) to statistics, without what only `fold_facts` knows.

    Args:
        rows: of at most `FOLD` images (sums are formed in 64 bits).
        layers, series: L and S.
        ranking: index of the series whose mean best IoU ranks images as examples.
    """
    stats = ReportStats.zero(layers, series)
    if not rows:
        return stats
    keys = [image_key(row["id"]) for row in rows]
    instances = np.asarray([row["instances"] for row in rows], np.int64)
    pixels = np.asarray([row["height"] * row["width"] for row in rows], np.int64)
    iou = np.asarray([row["iou_units"] for row in rows], np.int64).reshape(len(rows), series)
    stats.sums |= {
        "images": len(rows),
        "annotated_images": int((instances > 0).sum()),
        "image_px": int(pixels.sum()),
        "crowds": sum(row["crowds"] for row in rows),
        "audit": {
            "dropped_annotations": sum(row.get("audit_dropped", 0) for row in rows),
            "size_mismatches": sum(row.get("size_mismatch", 0) for row in rows),
        },
    }
    if instances.any():
        drawn = weights(np.asarray(keys, np.int64))
        stats.sums["replicates"] = {"instances": (instances @ drawn).tolist(), "iou": (iou.T @ drawn).tolist()}
    for i, layer in enumerate(stats.sums["rows"]):
        masks = np.asarray([row["masks"][i] for row in rows], np.int64)
        covered = np.asarray([row["covered_px"][i] for row in rows], np.int64)
        # 0 and 1 stand alone, then (1, 2], (2, 4], (4, 8] ...
        count_bin = np.where(masks == 0, 0, np.frexp(np.maximum(masks - 1, 0).astype(np.float64))[1] + 1)
        layer["masks"], layer["covered_px"] = int(masks.sum()), int(covered.sum())
        layer["masks_hist"] = np.bincount(np.minimum(count_bin, COUNT_BINS - 1), minlength=COUNT_BINS).tolist()
        share = np.minimum(covered * COVERAGE_BINS // pixels, COVERAGE_BINS - 1)
        layer["coverage_hist"] = np.bincount(share, minlength=COVERAGE_BINS).tolist()
        stats.most_masks[i] = int(masks.max())
    entries = [
        {
            "id": row["id"],
            "key": key,
            "score": row["iou_units"][ranking] // row["instances"] if row["instances"] else None,
            "instances": row["instances"],
        }
        for row, key in zip(rows, keys, strict=True)
    ]
    scored = [entry for entry in entries if entry["score"] is not None]
    stats.picks = {
        "worst": _keep("worst", scored),
        "best": _keep("best", scored),
        "sample": _keep("sample", entries),
    }
    return stats
