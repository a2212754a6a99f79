"""From statistics to the report's document: every number that the page shows, and the integers they follow from."""

import math
from collections.abc import Sequence

from maskmill.pipelines.measuring.bootstrap import interval
from maskmill.pipelines.measuring.overlap_stats import IOU_BINS, SIZES, OverlapStats
from maskmill.pipelines.measuring.overlaps import BUDGETS, DECISION_BUDGET, HEAT_UNIT
from maskmill.pipelines.measuring.repeats import Repeats
from maskmill.pipelines.measuring.series import GROUND_TRUTH, Series, series_of
from maskmill.pipelines.measuring.statistics import Pick, ReportStats, ordered
from maskmill.pipelines.report.checks import find_checks, worst_state
from maskmill.pipelines.report.model import (
    Agreement,
    AuditSource,
    BudgetABO,
    Build,
    CategoryRow,
    Document,
    Example,
    Examples,
    Images,
    Instances,
    Interval,
    Kept,
    LayerExamples,
    LayerRow,
    LedgerRow,
    Metric,
    Numbers,
    ObjectMap,
    RankedLayer,
    Ranking,
    RepeatedPictures,
    SeriesRow,
    SizeRow,
    Throughput,
)
from maskmill.schemas.manifest import Manifest
from maskmill.schemas.mask import Layer
from maskmill.schemas.stats import IOU_UNIT

THRESHOLDS = tuple(k / IOU_BINS for k in range(10, IOU_BINS))  # .50 .55 ... .95
SHOWN_EXAMPLES = 6
SHOWN_BY_LAYER = (0.1, 0.5, 0.9)  # the images under every layer: at these shares of the sample, by the best layer's fit
TABLE_BUDGETS = (4, 8, 16, 32)
PRESETS = {"imagenet": "detcon_b_in1k_300"}  # by `--dataset`; detcon_b_coco for all others
NO_IMAGES = "there are no images"
ONE_IMAGE = "it takes more than one annotated image"
NO_NEXT = "there is no layer after it"
SHOWN_REPEATS = 20
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
    overlaps = sums.overlaps
    inputs, written, failed, skipped, dropped = (
        build.counts.get(name, 0) for name in ("inputs", "written", "failed", "skipped", "dropped_annotations")
    )
    series = [_series(one, i, layers, stats) for i, one in enumerate(series_of(layers))]
    rows = [_layer(layer, i, stats) for i, layer in enumerate(layers)]
    total = sum(overlaps.instances)
    ranking = rank_layers(build, stats, series, rows)
    numbers = Numbers(
        build=build,
        images=Images(inputs, written, failed, skipped, dropped, sums.images, sums.annotated_images, sums.image_px),
        instances=Instances(total, sums.crowds, *overlaps.instances),
        ranking=ranking,
        series=series,
        layers=rows,
        categories=_categories(build, overlaps),
        agreement=agreement if not total else None,
        object_map=_object_map(overlaps.heat, total),
        repeats=_repeats(stats.repeats),
        examples=choose_examples(stats, layers, ranking),
        failures=failures,
        statistics=sums,
        throughput=throughput,
        recall_thresholds=list(THRESHOLDS),
        iou_edges=[k / IOU_BINS for k in range(IOU_BINS + 1)],
    )
    checks = find_checks(numbers)
    return Document(**vars(numbers), checks=checks, verdict=worst_state(checks))


def _series(series: Series, index: int, layers: list[Layer], stats: ReportStats) -> SeriesRow:
    sums, overlaps = stats.sums, stats.sums.overlaps
    own, instances = overlaps.series[index], overlaps.instances
    total = sum(instances)
    bounds = interval(sums.replicates.iou[index], sums.replicates.instances, IOU_UNIT)
    per_category = [own.categories[c] / IOU_UNIT / n for c, n in sorted(overlaps.categories.items())]
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
            NO_INSTANCES if not total else ONE_IMAGE,
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
    rows, overlaps = stats.sums.rows[index], stats.sums.overlaps.layers[index]
    own = stats.sums.overlaps.series[index]
    images, pixels, masks = stats.sums.images, stats.sums.image_px, rows.masks
    total = sum(stats.sums.overlaps.instances)
    no_masks = "the layer has no masks"
    curve = [
        Kept(
            masks=budget,
            first=Metric.ratio(overlaps.first[i] / IOU_UNIT, total, NO_INSTANCES),
            drawn=Metric.ratio(overlaps.drawn[i] / IOU_UNIT, total, NO_INSTANCES),
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
        ranked=overlaps.ranked_images > 0,
        coverage=Metric.ratio(rows.covered_px, pixels, NO_IMAGES),
        overlap=Metric.ratio(overlaps.area_px - rows.covered_px, pixels, NO_IMAGES),
        mean_area=Metric.ratio(overlaps.area_px, masks, no_masks),
        fragments=Metric.ratio(overlaps.fragments, masks, no_masks),
        duplicates=Metric.ratio(overlaps.duplicates, masks, no_masks),
        masks_hist=rows.masks_hist,
        coverage_hist=rows.coverage_hist,
        area_hist=overlaps.area_hist,
        kept=[*curve, Kept("all", every, every)],
    )


def _categories(build: Build, overlaps: OverlapStats) -> list[CategoryRow]:
    """Every category, named or met, with its ABO per series; those with instances first, by their number."""
    rows = [
        CategoryRow(
            id=int(c),
            name=build.categories.get(c, c),
            instances=overlaps.categories.get(c, 0),
            abo=[
                Metric.ratio(
                    own.categories.get(c, 0) / IOU_UNIT,
                    overlaps.categories.get(c, 0),
                    "the category has no instance",
                )
                for own in overlaps.series
            ],
        )
        for c in {*build.categories, *overlaps.categories}
    ]
    return sorted(rows, key=lambda row: (-row.instances, row.id))


def rank_layers(build: Build, stats: ReportStats, series: Sequence[SeriesRow], rows: Sequence[LayerRow]) -> Ranking:
    """Layers at `DECISION_BUDGET` masks, the best first; in the manifest's order where there is no ground truth.

    The interval of a lead is paired: both layers are weighed with the same bootstrap draws, so that what is common to both
    (hard images) cancels.
    """
    made = [i for i, layer in enumerate(build.layers) if layer.generator != GROUND_TRUTH]
    references = [i for i in range(len(rows)) if i not in made]
    if not made:  # ground truth is all there is to train on
        made, references = references, []
    made.sort(key=lambda i: (-(_at_budget(rows[i]).value or 0.0), i))
    following = [*made[1:], None] if made else []
    ranked = [_ranked(stats, series, rows, i, after) for i, after in zip(made, following, strict=True)]
    train: list[str] = []
    if made and _at_budget(rows[made[0]]).value is not None:
        preset = PRESETS.get(str(build.config.get("dataset", "")), "detcon_b_coco")
        train = ["detcon", "train", "--preset", preset, "--data", "OUT", "--workdir", "RUN", "--set"]
        train.append(f"data.layers={rows[made[0]].name}")
    return Ranking(DECISION_BUDGET, ranked, [_ranked(stats, series, rows, i, None) for i in references], train)


def _at_budget(row: LayerRow) -> Metric:
    kept = next(kept for kept in row.kept if kept.masks == DECISION_BUDGET)
    return kept.first if row.ranked else kept.drawn


def _ranked(
    stats: ReportStats, series: Sequence[SeriesRow], rows: Sequence[LayerRow], index: int, after: int | None
) -> RankedLayer:
    row, own = rows[index], series[index]
    abo = _at_budget(row)
    drawn = stats.sums.replicates.instances
    enough = stats.sums.annotated_images > 1
    why = NO_INSTANCES if abo.value is None else ONE_IMAGE

    def replicates(i: int) -> list[int]:
        return (stats.sums.replicates.first if rows[i].ranked else stats.sums.replicates.drawn)[i]

    bounds = interval(replicates(index), drawn, IOU_UNIT) if enough else None
    lead, lead_interval = Metric.of(None, NO_NEXT), Interval.of(None, NO_NEXT)
    if after is not None:
        other = _at_budget(rows[after]).value
        lead = Metric.of(None if abo.value is None or other is None else abo.value - other, NO_INSTANCES)
        apart = [a - b for a, b in zip(replicates(index), replicates(after), strict=True)]
        lead_interval = Interval.of(interval(apart, drawn, IOU_UNIT) if enough else None, why)
    return RankedLayer(
        name=row.name,
        generator=row.generator,
        ranked=row.ranked,
        masks_per_image=row.masks_per_image,
        budgets=[
            BudgetABO(kept.masks, kept.first if row.ranked else kept.drawn)
            for kept in row.kept
            if kept.masks == "all" or kept.masks in TABLE_BUDGETS
        ],
        abo=abo,
        interval=Interval.of(bounds, why),
        lead=lead,
        lead_interval=lead_interval,
        recall_50=own.recall[THRESHOLDS.index(0.5)],
        recall_70=own.recall[THRESHOLDS.index(0.7)],
        average_recall=own.average_recall,
    )


def _object_map(heat: list[list[int]], total: int) -> ObjectMap | None:
    if not total:
        return None
    return ObjectMap([[min(1.0, cell / HEAT_UNIT / total) for cell in row] for row in heat])


def _repeats(repeats: Repeats) -> RepeatedPictures:
    found = sorted((c for c in repeats.pictures.values() if c.count > 1), key=lambda c: (-c.count, c.ids))
    return RepeatedPictures(
        looked_at=len(repeats.pictures),
        all_looked_at=repeats.complete,
        pictures=len(found),
        records=sum(copies.count - 1 for copies in found),
        ids=[copies.ids for copies in found[:SHOWN_REPEATS]],
    )


def choose_examples(stats: ReportStats, layers: Sequence[Layer], ranking: Ranking) -> Examples:
    """The images shown: a few under every layer, and the worst, middle and best of the best layer."""
    names = [layer.name for layer in layers]
    if not ranking.layers:
        return Examples("", [], [], [], [], [])
    best = names.index(ranking.layers[0].name)
    scored = ordered(stats.picks.sample, best)
    shown = (
        [scored[int(share * len(scored))] for share in SHOWN_BY_LAYER] if len(scored) >= len(SHOWN_BY_LAYER) else scored
    )
    if not scored:
        shown = stats.picks.sample[: len(SHOWN_BY_LAYER)]
    start = max(0, (len(scored) - SHOWN_EXAMPLES // 2) // 2)
    return Examples(
        layer=names[best],
        by_layer=[LayerExamples(name, _shown(shown, i)) for i, name in enumerate(names)],
        by_category=[],  # found in the records, see `pipelines.report.objects`
        worst=_shown(stats.picks.worst[best][:SHOWN_EXAMPLES], best),
        median=_shown(scored[start : start + SHOWN_EXAMPLES // 2], best),
        best=_shown(stats.picks.best[best][: SHOWN_EXAMPLES // 2], best),
    )


def _shown(picks: Sequence[Pick], layer: int) -> list[Example]:
    why = "the image has no instance"
    scores = [pick.score(layer) for pick in picks]
    return [
        Example(pick.id, pick.instances, Metric.of(None if score is None else score / IOU_UNIT, why))
        for pick, score in zip(picks, scores, strict=True)
    ]
