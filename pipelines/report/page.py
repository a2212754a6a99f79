"""The report as one self-contained page.

Everything from a data set passes Jinja's autoescape and `clean`; the page has no scripts and a policy that would stop any.
Its size is bounded: tables are cut at fixed lengths, and thumbnails get what room the numbers leave.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from maskmill.pipelines.measuring.bootstrap import REPLICATES
from maskmill.pipelines.measuring.series import GROUND_TRUTH
from maskmill.pipelines.measuring.statistics import SAMPLE
from maskmill.pipelines.report import page_figures
from maskmill.pipelines.report.labels import best_without, labels_of, used_labels
from maskmill.pipelines.report.model import Document, SeriesRow
from maskmill.pipelines.report.objects import ObjectKey
from maskmill.pipelines.report.templating import environment, resource
from maskmill.pipelines.report.thumbnails import MASKS_DRAWN, Thumbnail
from maskmill.schemas.manifest import Shard

ROWS_SHOWN, COLUMNS_SHOWN, CATEGORIES_SHOWN, LEDGER_SHOWN, SHARDS_SHOWN = 24, 12, 150, 60, 32
CARDS_SHOWN = 16  # layers of which pictures are shown
EXAMPLE_GROUPS = (("worst", "Worst"), ("median", "About the median"), ("best", "Best"))
OBJECTS, MATCH = "", "*"  # in place of a layer's name, which is neither: the objects, and the best layer's match


class PictureKey(NamedTuple):
    """What a picture of the page shows: a layer's masks (or `OBJECTS`, or `MATCH`) on a record's picture."""

    layer: str
    id: str


def natural(name: str) -> list[str | int]:
    """A sort key under which fh-1000 follows fh-500."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


def _told_apart(series: Sequence[SeriesRow]) -> list[int]:
    """Places of the series that tables compare: layers by name, then unions; ground truth only where it is alone."""
    made = [i for i, s in enumerate(series) if s.generators != [GROUND_TRUTH]] or list(range(len(series)))
    return sorted(made, key=lambda i: (series[i].kind != "layer", series[i].kind == "all", natural(series[i].name)))


def _highest(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)


def render_page(document: Document, pictures: Mapping[PictureKey | ObjectKey, Thumbnail]) -> bytes:
    """A document to the page's bytes.

    Args:
        document: from `make_document`.
        pictures: of its examples; those missing are shown as missing.
    """
    counted = [c for c in document.categories if c.instances]
    timed = [stage for stage in document.throughput.stages if stage.images]
    spent = sum(stage.total_us for stage in timed)
    told = _told_apart(document.series)
    columns = told[:COLUMNS_SHOWN]
    rows = [document.series[i] for i in told[:ROWS_SHOWN]]
    ranking = document.ranking
    cards = ranking.layers[:CARDS_SHOWN]
    by_layer = {own.layer: own.images for own in document.examples.by_layer}
    truth = document.instances.all > 0
    text = (
        environment()
        .get_template("report.html.j2")
        .render(
            doc=document,
            css=resource("report.css"),
            title=f"{document.build.dataset}/{document.build.split}",
            sections=_sections(truth),
            figures=page_figures.draw_figures(document),
            pictures=pictures,
            ranked=[*ranking.layers, *ranking.references][:ROWS_SHOWN],
            highest_abo=_highest([b.abo.value for layer in ranking.layers for b in layer.budgets]),
            learnt_from=labels_of(document.build, ranking.layers[0].name) if ranking.layers else [],
            label_free=next((x for x in ranking.layers if x.name == best_without(document.build, ranking)), None),
            used_labels={x.name: used_labels(document.build, x.name) for x in (*ranking.layers, *ranking.references)},
            bars_end=_highest(
                [v for layer in ranking.layers for v in (layer.abo.value, *(layer.interval.value or ()))]
            ),
            cards=[(i, layer, by_layer.get(layer.name, [])) for i, layer in enumerate(cards)],
            card_of={layer.name: i for i, layer in enumerate(cards)},
            common=document.examples.by_layer[0].images if document.examples.by_layer else [],
            example_groups=EXAMPLE_GROUPS,
            series=rows,
            highest_size=[
                _highest([size.abo.value for row in rows for size in row.by_size]),
                _highest([size.average_recall.value for row in rows for size in row.by_size]),
            ],
            columns=[(i, document.series[i].name) for i in columns],
            highest_category=_highest(
                [c.abo[i].value for c in counted for i in columns if document.series[i].kind == "layer"]
            ),
            categories=counted[:CATEGORIES_SHOWN],
            kinds={kind.category: kind for kind in document.examples.by_category},
            categories_left=max(0, len(counted) - CATEGORIES_SHOWN),
            categories_empty=len(document.categories) - len(counted),
            columns_left=max(0, len(told) - COLUMNS_SHOWN),
            layers=sorted(document.layers, key=lambda layer: natural(layer.name))[:ROWS_SHOWN],
            rows_shown=ROWS_SHOWN,
            ledger_shown=LEDGER_SHOWN,
            shards_shown=SHARDS_SHOWN,
            masks_drawn=MASKS_DRAWN,
            shards=_shard_summary(document.build.shards),
            stages=[(stage, stage.total_us / spent if spent else 0.0) for stage in timed],
            train=shlex.join(ranking.train),  # a layer may be called anything, and this line is for a shell
            replicates=REPLICATES,
            sample=SAMPLE,
        )
    )
    return text.encode("utf-8", "backslashreplace")


def _sections(truth: bool) -> list[tuple[str, str]]:
    scored = [
        ("decision", "Which layer"),
        ("pictures", "Pictures"),
        ("objects", "Objects"),
        ("category", "By category"),
    ]
    return [
        *(scored if truth else [("agreement", "Agreement"), ("pictures", "Pictures")]),
        *([("curves", "Curves")] if truth else []),
        ("distributions", "Masks"),
        *([("examples", "Examples")] if truth else []),
        ("failures", "Failures"),
        ("throughput", "Throughput"),
        ("provenance", "Provenance"),
        ("definitions", "Definitions"),
    ]


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
