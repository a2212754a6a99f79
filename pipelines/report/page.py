"""The report as one self-contained page.

Everything from a data set passes Jinja's autoescape and `clean`; the page has no scripts and a policy that would stop any.
Its size is bounded: tables are cut at fixed lengths, and thumbnails get what room the numbers leave.
"""

import functools
import importlib.resources
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from maskmill.pipelines.measuring.bootstrap import REPLICATES
from maskmill.pipelines.measuring.overlaps import AREA_BINS
from maskmill.pipelines.measuring.series import series_of, widest
from maskmill.pipelines.measuring.statistics import COUNT_BINS, COVERAGE_BINS, SAMPLE
from maskmill.pipelines.report import figures
from maskmill.pipelines.report.compare import Comparison
from maskmill.pipelines.report.model import Document, LayerRow, SeriesRow
from maskmill.pipelines.report.thumbnails import Thumbnail
from maskmill.schemas.manifest import Shard

MAX_BYTES = 5_000_000
ROWS_SHOWN, COLUMNS_SHOWN, CATEGORIES_SHOWN, LEDGER_SHOWN, SHARDS_SHOWN, BUILDS_SHOWN = 24, 12, 150, 60, 32, 8
FIGURE_LINES = 16
EXAMPLE_GROUPS = (
    ("worst", "Worst"),
    ("median", "About the median"),
    ("best", "Best"),
    ("random", "Drawn at random"),
)


def clean(text: object, limit: int = 80) -> str:
    """Text of a data set made harmless to read: no control, format or half characters, at most `limit` long.

    Autoescape keeps markup out; this keeps out what reorders, hides or breaks lines of text around it.
    """
    text = str(text)
    if len(text) > limit:
        head = limit * 2 // 3
        text = f"{text[:head]}…{text[-(limit - head - 1) :]}"
    # Cc, Cf, Cs, Co, Cn; joiners are kept, because scripts and emoji need them.
    return "".join(c if c in "\u200c\u200d" or unicodedata.category(c)[0] != "C" else "\ufffd" for c in text)


def _bytes(value: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:,.1f} {unit}"
    return f"{value:,} bytes"


def _share(value: float, digits: int) -> str:
    """A percentage that says "all" and "nothing" only where they are true: 0.9999 is 99.9%, not 100.0%."""
    percent = 100 * value
    low, high = 10.0**-digits, 100 - 10.0**-digits
    if 0 < percent < low / 2:
        return f"<{low:.{digits}f}%"
    if high + low / 2 <= percent < 100:
        return f">{high:.{digits}f}%"
    return f"{percent:.{digits}f}%"


def resource(name: str) -> str:
    """Text of a file of this package."""
    return importlib.resources.files("maskmill.pipelines.report").joinpath(name).read_text(encoding="utf-8")


@functools.lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """Jinja as this package uses it: everything escaped, a missing name is an error."""
    env = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    env.filters |= {
        "clean": clean,
        "number": lambda value, digits: "none" if value is None else f"{value:,.{digits}f}",
        "thousands": lambda value: f"{value:,}",
        "share": _share,
        "bytes": _bytes,
        "tojson_text": lambda value: json.dumps(value, sort_keys=True),
    }
    return env


def render_page(document: Document, thumbnails: Mapping[str, Thumbnail]) -> bytes:
    """A document to the page's bytes.

    Args:
        document: from `make_document`.
        thumbnails: by example id; those missing are shown as missing.
    """
    counted = [c for c in document.categories if c.instances]
    every = [shard for build in document.builds for shard in build.shards]
    layers = document.builds[0].layers
    timed = [stage for stage in document.throughput.stages if stage.images]
    spent = sum(stage.total_us for stage in timed)
    drawn = draw_figures(document)
    names = [f"{build.dataset}/{build.split}" for build in document.builds]
    truth = document.instances.all > 0
    scored = [
        ("abo", "ABO"),
        ("size", "By size"),
        ("category", "By category"),
        ("recall", "Recall"),
        ("kept", "Masks kept"),
    ]
    sections = [
        *(scored if truth else [("agreement", "Agreement")]),
        ("distributions", "Masks"),
        ("examples", "Examples"),
        ("failures", "Failures"),
        ("throughput", "Throughput"),
        ("shards", "Shards"),
        ("provenance", "Provenance"),
        ("definitions", "Definitions"),
    ]
    text = (
        environment()
        .get_template("report.html.j2")
        .render(
            doc=document,
            css=resource("report.css"),
            title=", ".join(dict.fromkeys(names)),
            sections=sections,
            figures=drawn,
            thumbnails=thumbnails,
            example_groups=EXAMPLE_GROUPS,
            ranking=series_of(layers)[widest(layers)].name,
            categories=counted[:CATEGORIES_SHOWN],
            categories_left=max(0, len(counted) - CATEGORIES_SHOWN),
            categories_empty=len(document.categories) - len(counted),
            columns_shown=COLUMNS_SHOWN,
            columns_left=max(0, len(document.series) - COLUMNS_SHOWN),
            rows_shown=ROWS_SHOWN,
            ledger_shown=LEDGER_SHOWN,
            builds_shown=BUILDS_SHOWN,
            shards_shown=SHARDS_SHOWN,
            shards=_shard_summary(every),
            stages=[(stage, stage.total_us / spent if spent else 0.0) for stage in timed],
            replicates=REPLICATES,
            sample=SAMPLE,
        )
    )
    return text.encode("utf-8", "backslashreplace")


def render_comparison(result: Comparison) -> bytes:
    """A comparison (`pipelines.report.compare`) to a page's bytes."""
    images = result.images.compared
    shown = result.pairs[:FIGURE_LINES] if images else []
    rows = [(clean(pair.label, 40), [n / images for n in pair.difference_hist]) for pair in shown]
    figure = figures.histograms(
        "Histogram of the difference of each image's mean best IoU, per layer",
        rows,
        [f"{(k - 20) / 20:+.2f} to {(k - 19) / 20:+.2f}" for k in range(40)],
        [(k, f"{(k - 20) / 20:+g}" if k != 20 else "0") for k in range(0, 41, 10)],
        "difference of mean best IoU",
    )
    page = (
        environment()
        .get_template("compare.html.j2")
        .render(result=result, css=resource("report.css"), figure=figure if rows else "")
    )
    return page.encode("utf-8", "backslashreplace")


def _shard_summary(shards: list[Shard]) -> dict[str, Any]:
    sizes, records = [s.bytes for s in shards], [s.records for s in shards]
    return {
        "count": len(shards),
        "records": sum(records),
        "bytes": sum(sizes),
        "smallest": min(sizes, default=0),
        "largest": max(sizes, default=0),
        "fewest": min(records, default=0),
        "most": max(records, default=0),
        "first": shards[:SHARDS_SHOWN],
    }


def draw_figures(document: Document) -> dict[str, Markup]:
    """The page's figures as SVG, by name; only those that have something to show."""
    drawn = {}
    layers = document.layers[:FIGURE_LINES]
    if total := document.instances.all:
        shown = [s for s in document.series if s.generators != ["gt"]][:FIGURE_LINES] or document.series
        drawn["recall"] = figures.curves(
            "Recall against the IoU threshold, per layer",
            [(_label(s), [r.value or 0.0 for r in s.recall]) for s in shown],
            [f"{t:.2f}"[1:] for t in document.recall_thresholds],
            "IoU threshold",
            "recall",
        )
        drawn["best"] = figures.histograms(
            "Histogram of the best IoU of each instance, per layer",
            [(_label(s), [n / total for n in s.best_iou_hist or ()]) for s in shown],
            [f"IoU {k / 20:.2f} to {(k + 1) / 20:.2f}" for k in range(20)],
            [(k, f"{k / 20:g}") for k in range(0, 21, 5)],
            "best IoU of an instance",
        )
        made = [layer for layer in layers if layer.generator != "gt"] or layers
        drawn["kept"] = figures.curves(
            "ABO against the number of masks kept, per layer",
            [(_label(x), [(k.first if x.ranked else k.drawn).value or 0.0 for k in x.kept]) for x in made],
            [str(k.masks) for k in made[0].kept],
            "masks kept per image",
            "ABO",
        )
    images = document.images.measured
    if images and layers:
        drawn |= _distributions(layers, images)
    return drawn


def _label(row: LayerRow | SeriesRow) -> str:
    return clean(row.name, 40)


def _distributions(layers: list[LayerRow], images: int) -> dict[str, Markup]:
    # The axes end where the data do. Counts: 0, 1, 2, then up to 4, 8 ...; areas: a halving of the picture per bin.
    counts = min(COUNT_BINS, 1 + max((k for x in layers for k, n in enumerate(x.masks_hist) if n), default=1))
    count_names = ["0", "1", *(f"≤{2 ** (k - 1):,}" for k in range(2, counts))]
    areas = min(AREA_BINS, 1 + max((k for x in layers for k, n in enumerate(x.area_hist) if n), default=1))
    area_ticks = [
        (0, "all"),
        (3, "1/8"),
        (6, "1/64"),
        (10, "1/1,000"),
        (13, "1/8,000"),
        (17, "1/131,000"),
        (20, "1/1,000,000"),
    ]
    return {
        "count": figures.histograms(
            "Histogram of masks per image, per layer",
            [(_label(x), [n / images for n in x.masks_hist[:counts]]) for x in layers],
            [f"{name} masks" for name in count_names],
            [(k + 0.5, name) for k, name in enumerate(count_names)],
            "masks per image",
        ),
        "area": figures.histograms(
            "Histogram of mask area as a share of the picture, per layer",
            [(_label(x), [n / max(1, x.masks) for n in x.area_hist[:areas]]) for x in layers],
            [f"at most 1/{2**k:,} of the picture, more than half of that" for k in range(areas)],
            [(place, text) for place, text in area_ticks if place <= areas],
            "area of a mask, as a share of the picture",
        ),
        "coverage": figures.histograms(
            "Histogram of the share of the picture covered by masks, per layer",
            [(_label(x), [n / images for n in x.coverage_hist]) for x in layers],
            [f"{5 * k}% to {5 * (k + 1)}%" for k in range(COVERAGE_BINS)],
            [(k, f"{100 * k // COVERAGE_BINS}%") for k in range(0, COVERAGE_BINS + 1, 5)],
            "coverage of a picture",
        ),
    }
