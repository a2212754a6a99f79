"""The report as one self-contained page.

Everything from a data set passes Jinja's autoescape and `clean`; the page has no scripts and a policy that would stop any.
Its size is bounded: tables are cut at fixed lengths, and thumbnails get what room the numbers leave.
"""

import importlib.resources
import json
import unicodedata

import jinja2
from markupsafe import Markup

from pipelines.report import figures
from pipelines.report.bootstrap import REPLICATES
from pipelines.report.series import series_of, widest
from pipelines.report.statistics import AREA_BINS, COUNT_BINS, COVERAGE_BINS, SAMPLE
from schemas.mask import Layer

MAX_BYTES = 5_000_000
ROWS_SHOWN, COLUMNS_SHOWN, CATEGORIES_SHOWN, LEDGER_SHOWN, SHARDS_SHOWN, BUILDS_SHOWN = 24, 12, 150, 60, 32, 8
FIGURE_LINES = 16
EXAMPLE_GROUPS = (
    ("worst", "Worst"),
    ("median", "About the median"),
    ("best", "Best"),
    ("random", "Drawn at random"),
)


def clean(text, limit: int = 80) -> str:
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
    return importlib.resources.files("pipelines.report").joinpath(name).read_text(encoding="utf-8")


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


def render_page(document: dict, thumbnails: dict[str, dict]) -> bytes:
    """A document to the page's bytes.

    Args:
        document: from `make_document`.
        thumbnails: example id -> {"url", "width", "height"}; those missing are shown as missing.
    """
    counted = [c for c in document["categories"] if c["instances"]]
    every = [shard for build in document["builds"] for shard in build["shards"]]
    layers = [Layer(**layer) for layer in document["builds"][0]["layers"]]
    spent = sum(stage["total_us"] for stage in document["throughput"]["stages"])
    stages = [
        {**stage, "share": stage["total_us"] / spent if spent else 0.0}
        for stage in document["throughput"]["stages"]
        if stage["images"]
    ]
    names = [f"{build['dataset']}/{build['split']}" for build in document["builds"]]
    truth = document["instances"]["all"] > 0
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
            figures={key: Markup(svg) for key, svg in draw_figures(document).items()},
            thumbnails=thumbnails,
            example_groups=EXAMPLE_GROUPS,
            ranking=series_of(layers)[widest(layers)].name,
            categories=counted[:CATEGORIES_SHOWN],
            categories_left=max(0, len(counted) - CATEGORIES_SHOWN),
            categories_empty=len(document["categories"]) - len(counted),
            columns_shown=COLUMNS_SHOWN,
            columns_left=max(0, len(document["series"]) - COLUMNS_SHOWN),
            rows_shown=ROWS_SHOWN,
            ledger_shown=LEDGER_SHOWN,
            builds_shown=BUILDS_SHOWN,
            shards_shown=SHARDS_SHOWN,
            shards=_shard_summary(every),
            stages=stages,
            replicates=REPLICATES,
            sample=SAMPLE,
        )
    )
    return text.encode("utf-8", "backslashreplace")


def render_comparison(result: dict) -> bytes:
    """A comparison (`pipelines.report.compare`) to a page's bytes."""
    places = [0, 10, 20, 30, 40]
    shown = [row for row in result["pairs"] if result["images"]["compared"]][:FIGURE_LINES]
    rows = [
        (row["old"] if row["old"] == row["new"] else f"{row['old']} → {row['new']}", row["difference_hist"])
        for row in shown
    ]
    figure = (
        figures.histograms(
            "f-difference",
            "Histogram of the difference of each image's mean best IoU, per layer",
            [(label, [n / result["images"]["compared"] for n in hist]) for label, hist in rows],
            (places, [f"{(k - 20) / 20:+g}" if k != 20 else "0" for k in places]),
            "difference of mean best IoU",
        )
        if rows
        else ""
    )
    page = (
        environment()
        .get_template("compare.html.j2")
        .render(result=result, css=resource("report.css"), figure=Markup(figure))
    )
    return page.encode("utf-8", "backslashreplace")


def _shard_summary(shards: list[dict]) -> dict:
    sizes, records = [s["bytes"] for s in shards], [s["records"] for s in shards]
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


def draw_figures(document: dict) -> dict[str, str]:
    """The page's figures as SVG, by name; only those that have something to show."""
    drawn = {}
    layers = document["layers"][:FIGURE_LINES]
    if document["instances"]["all"]:
        total = document["instances"]["all"]
        shown = [s for s in document["series"] if s["generators"] != ["gt"]][:FIGURE_LINES] or document["series"]
        drawn["recall"] = figures.curves(
            "f-recall",
            "Recall against the IoU threshold, per layer",
            [(s["name"], document["recall_thresholds"], [r["value"] for r in s["recall"]]) for s in shown],
            "IoU threshold",
            "recall",
        )
        edges = [0, 5, 10, 15, 20]
        drawn["best"] = figures.histograms(
            "f-best",
            "Histogram of the best IoU of each instance, per layer",
            [(s["name"], [n / total for n in s["best_iou_hist"]]) for s in shown],
            (edges, [f"{k / 20:g}" for k in edges]),
            "best IoU",
        )
        made = [layer for layer in layers if layer["generator"] != "gt"] or layers
        budgets = [str(k["masks"]) for k in made[0]["kept"]]
        drawn["kept"] = figures.curves(
            "f-kept",
            "ABO against the number of masks kept, per layer",
            [
                (
                    x["name"],
                    list(range(len(budgets))),
                    [k["first" if x["ranked"] else "drawn"]["value"] for k in x["kept"]],
                )
                for x in made
            ],
            "masks kept per image",
            "ABO",
            (list(range(len(budgets))), budgets),
        )
    images = document["images"]["measured"]
    if images and layers:
        drawn |= _distributions(layers, images)
    return drawn


def _distributions(layers: list[dict], images: int) -> dict[str, str]:
    # Bins 0, 1, 2, then (2, 4], (4, 8] ...: an axis that ends where the data do.
    used = max(k for x in layers for k, n in enumerate(x["masks_hist"]) if n)
    bins = min(COUNT_BINS, max(used + 2, 6))
    labels = ["0", "1", *(f"≤{2 ** (k - 1):,}" for k in range(2, bins))]
    count = figures.histograms(
        "f-count",
        "Histogram of masks per image, per layer",
        [(x["name"], [n / images for n in x["masks_hist"][:bins]]) for x in layers],
        ([k + 0.5 for k in range(bins)], labels),
        "masks per image",
    )
    last = max((k for x in layers for k, n in enumerate(x["area_hist"]) if n), default=1)
    width = min(AREA_BINS, max(last + 1, 6))
    octaves = [
        (0, "100%"),
        (3, "12.5%"),
        (6, "1.6%"),
        (10, "0.1%"),
        (13, "0.01%"),
        (17, "0.001%"),
        (20, "0.0001%"),
    ]
    ticks = [(place, text) for place, text in octaves if place <= width]
    area = figures.histograms(
        "f-area",
        "Histogram of mask area as a share of the picture, per layer",
        [(x["name"], [n / max(1, x["masks"]) for n in x["area_hist"][:width]]) for x in layers],
        ([p for p, _ in ticks], [t for _, t in ticks]),
        "area of a mask as a share of the picture",
    )
    edges = [0, 5, 10, 15, 20]
    coverage = figures.histograms(
        "f-coverage",
        "Histogram of the share of the picture covered by masks, per layer",
        [(x["name"], [n / images for n in x["coverage_hist"]]) for x in layers],
        (edges, [f"{100 * k // COVERAGE_BINS}%" for k in edges]),
        "coverage of a picture",
    )
    return {"count": count, "area": area, "coverage": coverage}
