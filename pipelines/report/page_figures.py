"""The figures of a report's page, from its document: which lines, in which colours, on which axes."""

from collections.abc import Sequence

from markupsafe import Markup

from maskmill.pipelines.measuring.overlaps import AREA_BINS
from maskmill.pipelines.measuring.series import GROUND_TRUTH
from maskmill.pipelines.measuring.statistics import COUNT_BINS, COVERAGE_BINS
from maskmill.pipelines.report import figures
from maskmill.pipelines.report.figures import Look
from maskmill.pipelines.report.model import Document, LayerRow
from maskmill.pipelines.report.templating import clean

FIGURE_LINES = 16
_AREA_TICKS = (
    (0, "all"),
    (3, "1/8"),
    (6, "1/64"),
    (10, "1/1,000"),
    (13, "1/8,000"),
    (17, "1/131,000"),
    (20, "1/1,000,000"),
)
_Row = tuple[str, Look, Sequence[float]]


def _label(name: str) -> str:
    return clean(name, 40)


def _looks(document: Document) -> dict[str, Look]:
    """Layer -> its look: ground truth is grey, the others go through the colours by rank."""
    looks = {layer.name: figures.look(i) for i, layer in enumerate(document.ranking.layers)}
    return {layer.name: looks.get(layer.name, figures.look(-1)) for layer in document.layers}


def draw_figures(document: Document) -> dict[str, Markup]:
    """The figures as SVG, by name; only those that have something to show.

    Ground truth is left out where there are other layers: it is 1 in all of them by construction.
    """
    looks = _looks(document)
    made = [layer for layer in document.layers if layer.generator != GROUND_TRUTH] or document.layers
    made = made[:FIGURE_LINES]
    drawn: dict[str, Markup] = {}
    total, images = document.instances.all, document.images.measured
    if total and made:
        series = {s.name: s for s in document.series}
        shown = [series[layer.name] for layer in made]
        drawn["recall"] = figures.curves(
            "Recall against the IoU threshold, per layer",
            [(_label(s.name), looks[s.name], [r.value or 0.0 for r in s.recall]) for s in shown],
            [f"{t:.2f}"[1:] for t in document.recall_thresholds],
            "IoU threshold",
            "recall",
        )
        drawn["best"] = figures.histograms(
            "Histogram of the best IoU of each instance, per layer",
            [(_label(s.name), looks[s.name], [n / total for n in s.best_iou_hist or ()]) for s in shown],
            [f"IoU {k / 20:.2f} to {(k + 1) / 20:.2f}" for k in range(20)],
            [(k, f"{k / 20:g}") for k in range(0, 21, 5)],
            "best IoU of an instance",
        )
        drawn["kept"] = figures.curves(
            "ABO against the number of masks kept, per layer",
            [
                (_label(x.name), looks[x.name], [(k.first if x.ranked else k.drawn).value or 0.0 for k in x.kept])
                for x in made
            ],
            [str(k.masks) for k in made[0].kept],
            "masks kept per image",
            "ABO",
        )
        if document.object_map is not None:
            drawn["heat"] = figures.heat("Where objects lie in the picture", document.object_map.share)
    if images and made:
        drawn |= _distributions(document.layers[:FIGURE_LINES], looks, images)
    return drawn


def _distributions(layers: list[LayerRow], looks: dict[str, Look], images: int) -> dict[str, Markup]:
    # The axes end where the data do. Counts: 0, 1, 2, then up to 4, 8 ...; areas: a halving of the picture per bin.
    counts = min(COUNT_BINS, 1 + max((k for x in layers for k, n in enumerate(x.masks_hist) if n), default=1))
    count_names = ["0", "1", *(f"≤{2 ** (k - 1):,}" for k in range(2, counts))]
    areas = min(AREA_BINS, 1 + max((k for x in layers for k, n in enumerate(x.area_hist) if n), default=1))
    return (
        _varying(
            "count",
            "Histogram of masks per image, per layer",
            [(_label(x.name), looks[x.name], [n / images for n in x.masks_hist[:counts]]) for x in layers],
            ["no mask", "1 mask", *(f"{name} masks" for name in count_names[2:])],
            [(k + 0.5, name) for k, name in enumerate(count_names)],
            "masks per image",
        )
        | _varying(
            "area",
            "Histogram of mask area as a share of the picture, per layer",
            [(_label(x.name), looks[x.name], [n / max(1, x.masks) for n in x.area_hist[:areas]]) for x in layers],
            [
                "more than half of the picture",
                *(f"1/{2 * 2**k:,} to 1/{2**k:,} of the picture" for k in range(1, areas)),
            ],
            [(place, text) for place, text in _AREA_TICKS if place <= areas],
            "area of a mask, as a share of the picture",
        )
        | _varying(
            "coverage",
            "Histogram of the share of the picture covered by masks, per layer",
            [(_label(x.name), looks[x.name], [n / images for n in x.coverage_hist]) for x in layers],
            [f"{5 * k}% to {5 * (k + 1)}%" for k in range(COVERAGE_BINS)],
            [(k, f"{100 * k // COVERAGE_BINS}%") for k in range(0, COVERAGE_BINS + 1, 5)],
            "coverage of a picture",
        )
    )


def _varying(
    name: str, title: str, rows: list[_Row], bins: list[str], ticks: list[tuple[float, str]], x_name: str
) -> dict[str, Markup]:
    """A figure of the rows that have more than one bin to show, and `NAME_constant`: the others, in words."""
    varying = [row for row in rows if sum(share > 0 for share in row[2]) > 1]
    alike: dict[str, list[str]] = {}
    for label, _, shares in rows:
        filled = [word for word, share in zip(bins, shares, strict=True) if share > 0]
        if len(filled) == 1:
            alike.setdefault(filled[0], []).append(label)
    constant = "; ".join(f"{', '.join(labels)} ({word})" for word, labels in alike.items())
    drawn = {name: figures.histograms(title, varying, bins, ticks, x_name)} if varying else {}
    return drawn | ({f"{name}_constant": Markup.escape(constant)} if constant else {})
