"""From statistics to the report's document: every number that the page shows, and the integers they follow from."""

import math
from collections.abc import Sequence

from maskmill.pipelines.measuring.bootstrap import interval
from maskmill.pipelines.measuring.overlap_stats import IOU_BINS, SIZES, OverlapStats
from maskmill.pipelines.measuring.overlaps import BUDGETS
from maskmill.pipelines.measuring.series import GROUND_TRUTH, Series, series_of
from maskmill.pipelines.measuring.statistics import Pick, ReportStats
from maskmill.pipelines.report.checks import find_checks, worst_state
from maskmill.pipelines.report.model import (
    Agreement,
    AuditSource,
    Build,
    CategoryRow,
    Document,
    Example,
    Examples,
    Headline,
    Images,
    Instances,
    Interval,
    Kept,
    LayerRow,
    LedgerRow,
    Metric,
    Numbers,
    SeriesRow,
    SizeRow,
    Throughput,
)
from maskmill.schemas.manifest import Manifest
from maskmill.schemas.mask import Layer
from maskmill.schemas.stats import IOU_UNIT

THRESHOLDS = tuple(k / IOU_BINS for k in range(10, IOU_BINS))  # .50 .55 ... .95
SHOWN_EXAMPLES = 12
NO_IMAGES = "there are no images"
NO_INSTANCES = "there is no ground-truth instance that is not a crowd"


def describe_build(
    manifest: Manifest, audit: AuditSource | None = None, categories: dict[str, str] | None = None
) -> Build:
    """What a report says of where its numbers come from: an allow-list, so that no machine's secrets reach a page.

    Args:
        manifest: of the build.
        audit: what `--annotations` brought in place of the build's own ground truth, or None.
        categories: category id as text -> name, where the manifest's are not those of the ground truth.
    """
    return Build(
        dataset=manifest.dataset,
        split=manifest.split,
        counts=manifest.counts,
        config=manifest.config,
        config_digest=manifest.config_digest,
        plan_digest=manifest.plan_digest,
        layers=list(manifest.layers),
        categories=manifest.categories if categories is None else categories,
        labels=manifest.labels,
        decoder=manifest.decoder,
        versions=manifest.versions,
        shards=list(manifest.shards),
        audit=audit,
    )


def make_document(
    build: Build,
    stats: ReportStats,
    failures: list[LedgerRow],
    throughput: Throughput,
    agreement: Agreement | None = None,
) -> Document:
    """The document of a data set.

    Args:
        build: from `describe_build`.
        stats: of all its records.
        failures: from `read_ledger`.
        throughput: from `read_throughput`.
        agreement: from `find_agreement`, where there is no ground truth.
    """
    layers = build.layers
    sums = stats.sums
    inputs, written, failed, skipped, dropped = (
        build.counts.get(name, 0) for name in ("inputs", "written", "failed", "skipped", "dropped_annotations")
    )
    series = [_series(one, i, layers, stats) for i, one in enumerate(series_of(layers))]
    rows = [_layer(layer, i, stats) for i, layer in enumerate(layers)]
    total = sum(sums.facts.instances)
    numbers = Numbers(
        builds=[build],
        images=Images(inputs, written, failed, skipped, dropped, sums.images, sums.annotated_images, sums.image_px),
        instances=Instances(total, sums.crowds, *sums.facts.instances),
        series=series,
        layers=rows,
        categories=_categories(build, sums.facts),
        agreement=agreement if not total else None,
        examples=choose_examples(stats),
        failures=failures,
        statistics=stats,
        throughput=throughput,
        recall_thresholds=list(THRESHOLDS),
        iou_edges=[k / IOU_BINS for k in range(IOU_BINS + 1)],
        headline=_headline(series, rows),
    )
    checks = find_checks(numbers)
    return Document(**vars(numbers), checks=checks, verdict=worst_state(checks))


def _series(series: Series, index: int, layers: list[Layer], stats: ReportStats) -> SeriesRow:
    sums, facts = stats.sums, stats.sums.facts
    own, instances = facts.series[index], facts.instances
    total = sum(instances)
    bounds = interval(sums.replicates.iou[index], sums.replicates.instances, IOU_UNIT)
    per_category = [own.categories[c] / IOU_UNIT / n for c, n in sorted(facts.categories.items())]
    hist = [sum(size[k] for size in own.hist) for k in range(IOU_BINS)]
    recalls = [_recall(hist, k) for k in range(10, IOU_BINS)]
    masks = sum(sums.rows[i].masks for i in series.members)
    return SeriesRow(
        name=series.name,
        kind=series.kind,
        generators=sorted({layers[i].generator for i in series.members}),
        layers=[layers[i].name for i in series.members],
        abo=Metric.ratio(sum(own.iou) / IOU_UNIT, total, NO_INSTANCES),
        interval=Interval.of(
            bounds if sums.annotated_images > 1 else None,
            NO_INSTANCES if not total else "it takes more than one annotated image",
        ),
        class_mean_abo=Metric.ratio(math.fsum(per_category), len(per_category), NO_INSTANCES),
        recall=[Metric.ratio(hit, total, NO_INSTANCES) for hit in recalls],
        average_recall=Metric.ratio(sum(recalls) / len(recalls), total, NO_INSTANCES),
        by_size=[
            SizeRow(
                size=size,
                instances=n,
                abo=Metric.ratio(own.iou[s] / IOU_UNIT, n, f"there is no {size} instance"),
                average_recall=Metric.ratio(
                    sum(_recall(own.hist[s], k) for k in range(10, IOU_BINS)) / len(THRESHOLDS),
                    n,
                    f"there is no {size} instance",
                ),
            )
            for s, (size, n) in enumerate(zip(SIZES, instances, strict=True))
        ],
        best_iou_hist=hist if total else None,
        masks_per_image=Metric.ratio(masks, sums.images, NO_IMAGES),
    )


def _recall(hist: list[int], first_bin: int) -> int:
    """Instances whose best overlap is at least the lower edge of a bin."""
    return sum(hist[first_bin:])


def _layer(layer: Layer, index: int, stats: ReportStats) -> LayerRow:
    rows, facts = stats.sums.rows[index], stats.sums.facts.layers[index]
    own = stats.sums.facts.series[index]
    images, pixels, masks = stats.sums.images, stats.sums.image_px, rows.masks
    total = sum(stats.sums.facts.instances)
    no_masks = "the layer has no masks"
    curve = [
        Kept(
            masks=budget,
            first=Metric.ratio(facts.first[i] / IOU_UNIT, total, NO_INSTANCES),
            drawn=Metric.ratio(facts.drawn[i] / IOU_UNIT, total, NO_INSTANCES),
        )
        for i, budget in enumerate(BUDGETS)
    ]
    every = Metric.ratio(sum(own.iou) / IOU_UNIT, total, NO_INSTANCES)
    return LayerRow(
        name=layer.name,
        generator=layer.generator,
        masks=masks,
        masks_per_image=Metric.ratio(masks, images, NO_IMAGES),
        most_masks=Metric.of(stats.most_masks[index] if images else None, NO_IMAGES),
        images_without=rows.masks_hist[0],
        ranked=facts.ranked_images > 0,
        coverage=Metric.ratio(rows.covered_px, pixels, NO_IMAGES),
        overlap=Metric.ratio(facts.area_px - rows.covered_px, pixels, NO_IMAGES),
        mean_area=Metric.ratio(facts.area_px, masks, no_masks),
        fragments=Metric.ratio(facts.fragments, masks, no_masks),
        duplicates=Metric.ratio(facts.duplicates, masks, no_masks),
        masks_hist=rows.masks_hist,
        coverage_hist=rows.coverage_hist,
        area_hist=facts.area_hist,
        kept=[*curve, Kept("all", every, every)],
    )


def _categories(build: Build, facts: OverlapStats) -> list[CategoryRow]:
    """Every category, named or met, with its ABO per series; those with instances first, by their number."""
    rows = [
        CategoryRow(
            id=int(c),
            name=build.categories.get(c, c),
            instances=facts.categories.get(c, 0),
            abo=[
                Metric.ratio(
                    own.categories.get(c, 0) / IOU_UNIT,
                    facts.categories.get(c, 0),
                    "the category has no instance",
                )
                for own in facts.series
            ],
        )
        for c in {*build.categories, *facts.categories}
    ]
    return sorted(rows, key=lambda row: (-row.instances, row.id))


def choose_examples(stats: ReportStats) -> Examples:
    """The images shown: the worst, those about the median of the random sample, the best, and the first of the sample."""
    scored = sorted(
        ((p.score, p.key, p.id, p) for p in stats.picks.sample if p.score is not None), key=lambda entry: entry[:3]
    )
    start = max(0, (len(scored) - SHOWN_EXAMPLES) // 2)
    return Examples(
        worst=_shown(stats.picks.worst),
        median=_shown([pick for *_, pick in scored[start:]]),
        best=_shown(stats.picks.best),
        random=_shown(stats.picks.sample),
    )


def _shown(picks: Sequence[Pick]) -> list[Example]:
    why = "the image has no instance"
    return [
        Example(p.id, p.instances, Metric.of(None if p.score is None else p.score / IOU_UNIT, why))
        for p in picks[:SHOWN_EXAMPLES]
    ]


def _headline(series: Sequence[SeriesRow], layers: Sequence[LayerRow]) -> Headline | None:
    """The single layer that the page's first line speaks of: the one of highest ABO, ground truth aside."""
    own = [s for s in series if s.kind == "layer"]
    made = [s for s in own if s.generators != [GROUND_TRUTH]] or own
    if not made:
        return None
    best = max(made, key=lambda s: -1.0 if s.abo.value is None else s.abo.value)
    return Headline(
        series=best.name,
        abo=best.abo,
        interval=best.interval,
        recall_50=best.recall[0],
        average_recall=best.average_recall,
        masks_per_image=best.masks_per_image,
        coverage=next(x.coverage for x in layers if x.name == best.name),
    )
