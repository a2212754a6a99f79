"""The end of a build: every input accounted for, the tables written, the manifest last."""

import dataclasses
import json
import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq

from maskmill.masks.registry import parse_specs
from maskmill.pipelines.driver import tfds_metadata
from maskmill.pipelines.measuring.series import Series, series_of
from maskmill.pipelines.measuring.statistics import ReportStats, Row
from maskmill.pipelines.parts.assemble import load_shards
from maskmill.pipelines.parts.part import Sidecar, load_sidecar, sidecar_path
from maskmill.pipelines.parts.plan import PartTask, Plan, read_part, read_refused
from maskmill.pipelines.reading.decode import DECODER
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.example import SCHEMA_VERSION
from maskmill.schemas.manifest import FAILURES, IMAGES, MANIFEST, Manifest, digest
from maskmill.schemas.stats import LayerSums

_LOG = logging.getLogger("maskmill")
_NOT_COLUMNS = ("masks", "covered_px", "iou_units", "first_units", "drawn_units", "sha256", "ms")
_STAGES = ("decode", "annotate", "overlap", "encode")


def read_sidecars(folder: str, plan: Plan) -> Iterator[Sidecar]:
    """Every part's sidecar, in plan order.

    Raises:
        DamageError: one is missing, or its records and failures are not exactly its planned inputs, by id.
    """
    return storage.in_parallel(lambda task: _checked_sidecar(folder, task), plan.tasks, folder)


def _checked_sidecar(folder: str, task: PartTask) -> Sidecar:
    sidecar = load_sidecar(folder, task)
    if sidecar is None:
        storage.remove(sidecar_path(folder, task.name))  # unreadable: from here on it is missing
        raise DamageError(f"part {task.name} has no sidecar; the same build command builds it")
    planned = Counter(item.id for item in read_part(folder, task))
    seen = Counter([row["id"] for row in sidecar.rows] + [failure["id"] for failure in sidecar.failures])
    if planned != seen:
        lost, extra = list((planned - seen).elements())[:3], list((seen - planned).elements())[:3]
        raise DamageError(f"part {sidecar.name} does not account for its inputs: lost {lost}, unplanned {extra}")
    return sidecar


def image_schema(series: Sequence[Series], stages: list[str]) -> pa.Schema:
    """Columns of `images.parquet`: identity, size, then per layer masks, coverage and ABO sum, per union of layers the ABO
    sum, then ms per stage."""
    columns = [
        ("id", pa.string()),
        ("source_id", pa.string()),
        ("label", pa.int64()),
        ("synset", pa.string()),
        ("shard", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("stored_bytes", pa.int64()),
        ("record_bytes", pa.int64()),
        ("reencoded", pa.string()),
        ("instances", pa.int32()),
        ("crowds", pa.int32()),
        ("dropped_annotations", pa.int32()),
    ]
    for one in series:
        if one.kind == "layer":
            columns += [(f"{one.name}/masks", pa.int32()), (f"{one.name}/coverage", pa.float64())]
        columns.append((f"{one.name}/iou_units", pa.int64()))
    columns += [(f"ms/{stage}", pa.float64()) for stage in stages]
    return pa.schema(columns)


def image_row(row: dict, shard: int, series: Sequence[Series], stages: list[str]) -> dict:
    """A sidecar's row as a row of `image_schema`."""
    flat = {name: value for name, value in row.items() if name not in _NOT_COLUMNS}
    flat["shard"] = shard
    pixels = row["height"] * row["width"]
    for i, one in enumerate(series):
        if one.kind == "layer":
            flat[f"{one.name}/masks"] = row["masks"][i]
            flat[f"{one.name}/coverage"] = row["covered_px"][i] / pixels
        flat[f"{one.name}/iou_units"] = row["iou_units"][i]
    for stage in stages:
        flat[f"ms/{stage}"] = row["ms"].get(stage, math.nan)
    return flat


@dataclasses.dataclass
class Totals:
    """What the sidecars add up to."""

    written: int = 0
    failed: int = 0
    skipped: int = 0
    sums: list[LayerSums] = dataclasses.field(default_factory=list)
    reencoded: Counter = dataclasses.field(default_factory=Counter)
    dropped_annotations: int = 0

    def add(self, row: dict) -> None:
        """Counts one record."""
        self.written += 1
        self.dropped_annotations += row["dropped_annotations"]
        if row["reencoded"]:
            self.reencoded[row["reencoded"]] += 1
        pixels = row["height"] * row["width"]
        for i in range(len(self.sums)):
            self.sums[i] += LayerSums(
                1, row["masks"][i], row["instances"], row["iou_units"][i], row["covered_px"][i], pixels
            )


def finish_build(folder: str, plan: Plan) -> Manifest:
    """Checks that nothing was lost and writes everything that makes the folder a data set, the manifest last.

    Args:
        folder: the build's folder, every shard of `plan` committed.
        plan: what was built.

    Returns:
        The manifest written.

    Raises:
        DamageError: a shard or part is missing, or an input is not accounted for.
    """
    shards = load_shards(folder, plan)
    for index in range(plan.num_shards):
        if index not in shards:
            raise DamageError(f"shard {index} is not complete; the same build command completes it")
    generators = parse_specs(plan.config["masks"])
    layers = [layer for generator in generators for layer in generator.layers]
    names = [layer.name for layer in layers]
    stages = [*_STAGES, *dict.fromkeys(layer.generator for layer in layers)]
    series = series_of(layers)
    totals = Totals(sums=[LayerSums() for _ in layers])
    stats = ReportStats.zero(len(layers), len(series))
    schema = image_schema(series, stages)
    with (
        storage.create(storage.join(folder, FAILURES)) as ledger,
        storage.create(storage.join(folder, IMAGES)) as table,
    ):
        for refusal in read_refused(folder):
            totals.failed += refusal.outcome == "failed"
            totals.skipped += refusal.outcome == "skipped"
            ledger.write(_ledger_line(dataclasses.asdict(refusal)))
        with pq.ParquetWriter(table, schema, compression="zstd") as writer:
            for sidecar in read_sidecars(folder, plan):
                for failure in sidecar.failures:
                    totals.failed += 1
                    ledger.write(_ledger_line(failure))
                for row in sidecar.rows:
                    totals.add(row)
                stats.add_rows(cast("list[Row]", sidecar.rows))
                stats.add_overlaps(sidecar.overlaps)
                rows = [image_row(row, sidecar.shard, series, stages) for row in sidecar.rows]
                if rows:
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    counts = {
        "inputs": plan.inputs + plan.refused,
        "written": totals.written,
        "failed": totals.failed,
        "skipped": totals.skipped,
        "dropped_annotations": totals.dropped_annotations,
    }
    if counts["inputs"] != totals.written + totals.failed + totals.skipped:
        raise DamageError(f"inputs are not written + failed + skipped: {counts}")
    manifest = Manifest(
        dataset=plan.config["name"],
        split=plan.config["split"],
        config=plan.config,
        config_digest=digest(plan.config),
        layers=tuple(layers),
        shards=tuple(shards[index] for index in range(plan.num_shards)),
        counts=counts,
        decoder={"name": DECODER, "reencoded": dict(sorted(totals.reencoded.items()))},
        versions=plan.versions,
        abo={
            layer: {
                "abo": sums.abo,
                "instances": sums.instances,
                "masks_per_image": sums.masks_per_image,
                "coverage": sums.coverage,
            }
            for layer, sums in zip(names, totals.sums, strict=True)
        },
        labels=plan.labels,
        categories=plan.categories,
        plan_digest=plan.digest,
        schema_version=SCHEMA_VERSION,
    )
    storage.write_bytes(
        storage.join(folder, "features.json"), tfds_metadata.features_json(masks_only=plan.config["masks_only"])
    )
    storage.write_bytes(storage.join(folder, "dataset_info.json"), tfds_metadata.dataset_info_json(manifest))
    _report(folder, manifest, stats)
    storage.write_bytes(storage.join(folder, MANIFEST), manifest.to_json())
    return manifest


def _report(folder: str, manifest: Manifest, stats: ReportStats) -> None:
    """Writes the report. A page that cannot be made costs nobody a data set: it can be made again from the folder."""
    from maskmill.pipelines.report.write import write_report

    try:
        write_report(folder, manifest, stats)
    except OSError:
        raise  # the folder cannot be written, which the manifest would meet next
    except Exception as error:
        _LOG.exception(
            "the report could not be made (%s); the data set is whole. Try: maskmill report %s", error, folder
        )


def _ledger_line(fields: dict) -> bytes:
    return json.dumps(fields, sort_keys=True).encode() + b"\n"
