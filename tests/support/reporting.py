"""What the report's tests share: records made by hand, and slow references."""

import hashlib

import numpy as np

from maskmill.pipelines.measuring.overlap_stats import OverlapAccumulator
from maskmill.pipelines.measuring.series import series_of
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.pipelines.report.document import make_document
from maskmill.pipelines.report.model import Build, Document, LedgerRow, Throughput, to_json
from maskmill.pipelines.report.remeasure import measure_example
from maskmill.schemas import rle
from maskmill.schemas.example import ImageExample
from maskmill.schemas.image import Annotations
from maskmill.schemas.mask import Layer, MaskSet

LAYERS = (
    Layer("a-1", "a", {}, disjoint=False),
    Layer("a-2", "a", {}, disjoint=False),
    Layer("grid-2", "grid", {"n": 2}, disjoint=False),
)


def blobs(rng: np.random.Generator, count: int, height: int, width: int) -> list[np.ndarray]:
    """Random rectangles, some of one pixel, some of the whole picture: bool[height, width] each."""
    made = []
    for _ in range(count):
        top, bottom = np.sort(rng.integers(0, height + 1, 2))
        left, right = np.sort(rng.integers(0, width + 1, 2))
        mask = np.zeros((height, width), bool)
        mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
        mask[0, 0] |= not mask.any()
        made.append(mask)
    return made


def to_annotations(pictures, category, crowd) -> Annotations:
    n = len(pictures)
    return Annotations(
        tuple(rle.encode_mask(p) for p in pictures),
        np.array([p.sum() for p in pictures], np.int64),
        np.array(category, np.int64),
        np.arange(n),
        np.array(crowd, bool),
    )


def random_record(seed: int, *, layers: int = len(LAYERS), truth: bool = True, side: tuple[int, int] = (23, 31)):
    """An ImageExample of random masks and the pictures it was made of: (example, masks per layer, truth pictures)."""
    rng = np.random.default_rng(seed)
    height, width = side
    masks = [blobs(rng, int(rng.integers(0, 9)), height, width) for _ in range(layers)]
    pictures = blobs(rng, int(rng.integers(0, 5)) if truth else 0, height, width)
    n = len(pictures)
    annotations = to_annotations(pictures, rng.choice([1, 3, 90], n), rng.random(n) < 0.2)
    example = ImageExample(
        encoded=None,
        format="PNG",
        height=height,
        width=width,
        filename=f"{seed:06d}.png",
        sha256=hashlib.sha256(b"%d" % seed).hexdigest(),
        masks=tuple(MaskSet.unranked([rle.encode_mask(m) for m in one], [m.sum() for m in one]) for one in masks),
        annotations=annotations,
        best_iou=np.zeros((layers, n), np.float32),
    )
    return example, masks, pictures


def stats_of(examples, layers=LAYERS) -> ReportStats:
    """Statistics of some records, as the report counts them."""
    stats = ReportStats.zero(len(layers), len(series_of(layers)))
    rows, overlaps = [], OverlapAccumulator()
    for example in examples:
        row, own = measure_example(example, layers, example.annotations)
        rows.append(row)
        overlaps.add(own)
    stats.add_rows(rows)
    stats.add_overlaps(overlaps.result())
    return stats


NO_TIMES = Throughput([], [], None)


def build_of(layers=LAYERS, written: int = 0, **changes) -> Build:
    """A build's description as a report holds it."""
    fields = {
        "dataset": "drawn",
        "split": "train",
        "counts": {"inputs": written, "written": written, "failed": 0, "skipped": 0, "dropped_annotations": 0},
        "config": {},
        "config_digest": "0" * 64,
        "plan_digest": "",
        "layers": list(layers),
        "categories": {"1": "person", "3": "car", "90": "toothbrush", "7": "train"},
        "labels": "",
        "decoder": {},
        "versions": {},
        "shards": [],
        "audit": None,
    }
    return Build(**{**fields, **changes})


def document_of(stats: ReportStats, layers=LAYERS, failures: list[LedgerRow] | None = None, **changes) -> Document:
    """The document of some statistics."""
    build = build_of(layers, **{"written": stats.sums.images, **changes})
    return make_document(build, stats, failures or [], NO_TIMES)


def json_of(stats: ReportStats, layers=LAYERS, **changes) -> dict:
    """The same as JSON-able values."""
    return to_json(document_of(stats, layers, **changes))
