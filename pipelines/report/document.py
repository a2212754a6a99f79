"""The report as one JSON document: every number that the page shows, and the integers they follow from.

A document is a function of what it holds under `builds`, `failures`, `statistics` and `throughput`; the rest is derived.
That is what makes documents of disjoint parts merge to the document of the whole.
"""

import math
from collections.abc import Sequence

from maskmill.pipelines.measuring.bootstrap import interval
from maskmill.pipelines.measuring.facts import BUDGETS
from maskmill.pipelines.measuring.series import GROUND_TRUTH, Series, series_of
from maskmill.pipelines.measuring.statistics import IOU_BINS, SIZES, ReportStats
from maskmill.pipelines.report.checks import find_checks, worst_state
from maskmill.pipelines.report.ledger import merge_ledgers
from maskmill.pipelines.report.throughput import merge_throughput
from maskmill.schemas.errors import UsageError
from maskmill.schemas.manifest import Manifest, canonical_json
from maskmill.schemas.mask import Layer
from maskmill.schemas.stats import IOU_UNIT

SCHEMA_VERSION = 1
THRESHOLDS = tuple(k / IOU_BINS for k in range(10, IOU_BINS))  # .50 .55 ... .95
SHOWN_EXAMPLES = 12
NO_IMAGES = "there are no images"
NO_INSTANCES = "there is no ground-truth instance that is not a crowd"


def metric(value: float | None, why: str) -> dict:
    """A number, or null with the reason why there is none."""
    return {"value": None, "why": why} if value is None else {"value": value}


def ratio(numerator: float, denominator: float, why: str) -> dict:
    """A quotient, or null with a reason where it would divide by zero."""
    return metric(numerator / denominator if denominator else None, why)


def describe_build(manifest: Manifest, audit: dict | None = None) -> dict:
    """What a report says of where its numbers come from: an allow-list, so that no machine's secrets reach a page.

    Args:
        manifest: of the build.
        audit: what `--annotations` brought in place of the build's own ground truth, or None.
    """
    return {
        "dataset": manifest.dataset,
        "split": manifest.split,
        "counts": manifest.counts,
        "config": manifest.config,
        "config_digest": manifest.config_digest,
        "plan_digest": manifest.plan_digest,
        "layers": [
            {
                "name": x.name,
                "generator": x.generator,
                "params": x.params,
                "provenance": x.provenance,
                "disjoint": x.disjoint,
            }
            for x in manifest.layers
        ],
        "categories": manifest.categories if audit is None else audit["categories"],
        "labels": manifest.labels,
        "decoder": manifest.decoder,
        "versions": manifest.versions,
        "shards": [
            {"name": s.name, "records": s.records, "bytes": s.bytes, "sha256": s.sha256, "crc32c": s.crc32c}
            for s in manifest.shards
        ],
        "audit": None if audit is None else {name: value for name, value in audit.items() if name != "categories"},
    }


def make_document(builds: list[dict], stats: ReportStats, failures: list[dict], throughput: dict) -> dict:
    """The document of these parts.

    Args:
        builds: from `describe_build`, one per build; all with the same layers.
        stats: of all their records.
        failures: from `read_ledger`.
        throughput: from `read_throughput`.
    """
    layers = [Layer(**layer) for layer in builds[0]["layers"]]
    series = series_of(layers)
    sums = stats.sums
    facts = sums["facts"]
    total = sum(facts["instances"])
    counts = {
        name: sum(build["counts"].get(name, 0) for build in builds)
        for name in ("inputs", "written", "failed", "skipped", "dropped_annotations")
    }
    document: dict = {
        "schema_version": SCHEMA_VERSION,
        "builds": builds,
        "images": {
            **counts,
            "measured": sums["images"],
            "annotated": sums["annotated_images"],
            "pixels": sums["image_px"],
        },
        "instances": {"all": total, "crowds": sums["crowds"], **dict(zip(SIZES, facts["instances"], strict=True))},
        "recall_thresholds": list(THRESHOLDS),
        "iou_edges": [k / IOU_BINS for k in range(IOU_BINS + 1)],
        "series": [_series(one, i, layers, sums) for i, one in enumerate(series)],
        "layers": [_layer(layer, i, layers, stats) for i, layer in enumerate(layers)],
        "categories": _categories(builds, facts),
        "agreement": _agreement(stats, layers) if not total else None,
        "examples": choose_examples(stats),
        "failures": failures,
        "statistics": stats.to_json(),
        "throughput": throughput,
    }
    document["headline"] = _headline(document)
    document["checks"] = find_checks(document)
    document["verdict"] = worst_state(document["checks"])
    return document


def merge_documents(a: dict, b: dict) -> dict:
    """The report of two disjoint parts of a data set as the report of the whole.

    Raises:
        UsageError: the parts have other layers, or were written by another version of the report.
    """
    for document in (a, b):
        if document["schema_version"] != SCHEMA_VERSION:
            raise UsageError(
                f"a report of schema version {document['schema_version']} cannot be merged; this is version {SCHEMA_VERSION}"
            )
    if a["builds"][0]["layers"] != b["builds"][0]["layers"]:
        raise UsageError("the two reports are of different layers; only parts of one data set merge")
    return make_document(
        sorted([*a["builds"], *b["builds"]], key=canonical_json),
        ReportStats.from_json(a["statistics"]) + ReportStats.from_json(b["statistics"]),
        merge_ledgers(a["failures"], b["failures"]),
        merge_throughput(a["throughput"], b["throughput"]),
    )


def _series(series: Series, index: int, layers: list[Layer], sums: dict) -> dict:
    facts = sums["facts"]
    own = facts["series"][index]
    instances = facts["instances"]
    total = sum(instances)
    bounds = interval(sums["replicates"]["iou"][index], sums["replicates"]["instances"], IOU_UNIT)
    enough = sums["annotated_images"] > 1
    per_category = [own["categories"][c] / IOU_UNIT / n for c, n in sorted(facts["categories"].items())]
    hist = [sum(size[k] for size in own["hist"]) for k in range(IOU_BINS)]
    recalls = [_recall(hist, k) for k in range(10, IOU_BINS)]
    masks = sum(sums["rows"][i]["masks"] for i in series.members)
    return {
        "name": series.name,
        "kind": series.kind,
        "generators": sorted({layers[i].generator for i in series.members}),
        "layers": [layers[i].name for i in series.members],
        "abo": ratio(sum(own["iou"]) / IOU_UNIT, total, NO_INSTANCES),
        "interval": metric_pair(
            bounds if enough else None, NO_INSTANCES if not total else "it takes more than one annotated image"
        ),
        "class_mean_abo": ratio(math.fsum(per_category), len(per_category), NO_INSTANCES),
        "recall": [ratio(hit, total, NO_INSTANCES) for hit in recalls],
        "average_recall": ratio(sum(recalls) / len(recalls), total, NO_INSTANCES),
        "by_size": [
            {
                "size": size,
                "instances": n,
                "abo": ratio(own["iou"][s] / IOU_UNIT, n, f"there is no {size} instance"),
                "average_recall": ratio(
                    sum(_recall(own["hist"][s], k) for k in range(10, IOU_BINS)) / len(THRESHOLDS),
                    n,
                    f"there is no {size} instance",
                ),
            }
            for s, (size, n) in enumerate(zip(SIZES, instances, strict=True))
        ],
        "best_iou_hist": hist if total else None,
        "masks_per_image": ratio(masks, sums["images"], NO_IMAGES),
    }


def metric_pair(bounds: tuple[float, float] | None, why: str) -> dict:
    """An interval, or null with a reason."""
    return {"value": None, "why": why} if bounds is None else {"value": list(bounds)}


def _recall(hist: list[int], first_bin: int) -> int:
    """Instances whose best overlap is at least the lower edge of a bin."""
    return sum(hist[first_bin:])


def _layer(layer: Layer, index: int, layers: list[Layer], stats: ReportStats) -> dict:
    rows, facts = stats.sums["rows"][index], stats.sums["facts"]["layers"][index]
    own = stats.sums["facts"]["series"][index]
    images, pixels, masks = stats.sums["images"], stats.sums["image_px"], rows["masks"]
    total = sum(stats.sums["facts"]["instances"])
    no_masks = "the layer has no masks"
    curve = [
        {
            "masks": budget,
            "first": ratio(facts["first"][i] / IOU_UNIT, total, NO_INSTANCES),
            "drawn": ratio(facts["drawn"][i] / IOU_UNIT, total, NO_INSTANCES),
        }
        for i, budget in enumerate(BUDGETS)
    ]
    every = ratio(sum(own["iou"]) / IOU_UNIT, total, NO_INSTANCES)
    return {
        "name": layer.name,
        "generator": layer.generator,
        "masks": masks,
        "masks_per_image": ratio(masks, images, NO_IMAGES),
        "most_masks": metric(stats.most_masks[index] if images else None, NO_IMAGES),
        "images_without": rows["masks_hist"][0],
        "ranked": facts["ranked_images"] > 0,
        "coverage": ratio(rows["covered_px"], pixels, NO_IMAGES),
        "overlap": ratio(facts["area_px"] - rows["covered_px"], pixels, NO_IMAGES),
        "mean_area": ratio(facts["area_px"], masks, no_masks),
        "fragments": ratio(facts["fragments"], masks, no_masks),
        "duplicates": ratio(facts["duplicates"], masks, no_masks),
        "masks_hist": rows["masks_hist"],
        "coverage_hist": rows["coverage_hist"],
        "area_hist": facts["area_hist"],
        "kept": [*curve, {"masks": "all", "first": every, "drawn": every}],
    }


def _categories(builds: list[dict], facts: dict) -> list[dict]:
    """Every category, named or met, with its ABO per series; those with instances first, by their number."""
    names = {c: name for build in builds for c, name in build["categories"].items()}
    rows = [
        {
            "id": int(c),
            "name": names.get(c, c),
            "instances": facts["categories"].get(c, 0),
            "abo": [
                ratio(
                    own["categories"].get(c, 0) / IOU_UNIT,
                    facts["categories"].get(c, 0),
                    "the category has no instance",
                )
                for own in facts["series"]
            ],
        }
        for c in {*names, *facts["categories"]}
    ]
    return sorted(rows, key=lambda row: (-row["instances"], row["id"]))


def _agreement(stats: ReportStats, layers: list[Layer]) -> dict | None:
    """How well each layer's masks are matched in each other layer, over the images drawn at random."""
    tables = [entry["agreement"] for entry in stats.picks["sample"] if "agreement" in entry]
    if len(layers) < 2 or not tables:
        return None
    rows = []
    for i in range(len(layers)):
        row = []
        for j in range(len(layers)):
            units, masks = (sum(table[i][j][k] for table in tables) for k in (0, 1))
            row.append(ratio(units / IOU_UNIT, masks, "the layer has no masks in these images"))
        rows.append(row)
    return {"images": len(tables), "layers": [layer.name for layer in layers], "mean_best_iou": rows}


def choose_examples(stats: ReportStats) -> dict[str, list[dict]]:
    """The images shown: the worst, those about the median of the random sample, the best, and the first of the sample."""
    scored = sorted(
        (e for e in stats.picks["sample"] if e["score"] is not None), key=lambda e: (e["score"], e["key"], e["id"])
    )
    start = max(0, (len(scored) - SHOWN_EXAMPLES) // 2)
    chosen: dict[str, Sequence[dict]] = {
        "worst": stats.picks["worst"],
        "median": scored[start : start + SHOWN_EXAMPLES],
        "best": stats.picks["best"],
        "random": stats.picks["sample"],
    }
    return {
        name: [
            {
                "id": e["id"],
                "instances": e["instances"],
                "mean_best_iou": metric(
                    None if e["score"] is None else e["score"] / IOU_UNIT, "the image has no instance"
                ),
            }
            for e in entries[:SHOWN_EXAMPLES]
        ]
        for name, entries in chosen.items()
    }


def _headline(document: dict) -> dict | None:
    """The single layer that the page's first line speaks of: the one of highest ABO, ground truth aside."""
    own = [s for s in document["series"] if s["kind"] == "layer"]
    made = [s for s in own if s["generators"] != [GROUND_TRUTH]] or own
    if not made:
        return None
    best = max(made, key=lambda s: -1.0 if s["abo"]["value"] is None else s["abo"]["value"])
    layer = next(x for x in document["layers"] if x["name"] == best["name"])
    return {
        "series": best["name"],
        "abo": best["abo"],
        "interval": best["interval"],
        "recall_50": best["recall"][0],
        "average_recall": best["average_recall"],
        "masks_per_image": best["masks_per_image"],
        "coverage": layer["coverage"],
    }
