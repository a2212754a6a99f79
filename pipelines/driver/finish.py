"""The end of a build: every input accounted for, the tables written, the manifest last."""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Iterator
from typing import cast

from maskmill.pipelines.dataset.checksums import HashedStream, file_of, read_file, write_checksums
from maskmill.pipelines.dataset.images_table import ImageRow, ImagesWriter
from maskmill.pipelines.dataset.publish import publish_config, publish_layer, publish_message
from maskmill.pipelines.driver import tfds_metadata
from maskmill.pipelines.driver.splits import join_splits
from maskmill.pipelines.measuring.series import series_of
from maskmill.pipelines.measuring.statistics import ReportStats, Row
from maskmill.pipelines.parts.assemble import load_shards
from maskmill.pipelines.parts.generators import Prepared, parse_specs
from maskmill.pipelines.parts.part import Sidecar, load_sidecar, sidecar_path
from maskmill.pipelines.parts.plan import PartTask, Plan, read_part, read_refused
from maskmill.pipelines.reading.decode import DECODER
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.example import SCHEMA_VERSION
from maskmill.schemas.manifest import (
    FAILURES,
    FEATURES_JSON,
    IMAGES,
    INFO_JSON,
    LAYER_NAMES,
    MANIFEST,
    REPORT_HTML,
    REPORT_JSON,
    File,
    Manifest,
    digest,
    load_manifest,
)
from maskmill.schemas.stats import LayerSums

_LOG = logging.getLogger("maskmill")
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


@dataclasses.dataclass
class Totals:
    """What the sidecars add up to."""

    written: int = 0
    failed: int = 0
    skipped: int = 0
    unmatched: int = 0
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


def finished(folder: str, plan: Plan) -> Manifest | None:
    """The manifest of a build of this plan that was finished, its shards still there; else None."""
    try:
        manifest = load_manifest(folder)
    except (InputError, DamageError):  # a damaged one is written again: the parts know what it held
        return None
    if manifest.plan_digest != plan.digest:
        return None
    return manifest if len(load_shards(folder, plan)) == plan.num_shards else None


def too_many_failures(manifest: Manifest, max_failure_rate: float) -> bool:
    """Whether a larger share of the images failed than may; those skipped are not counted."""
    counts = manifest.counts
    return counts["failed"] > max_failure_rate * (counts["written"] + counts["failed"])


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
    generators = parse_specs(list(plan.config.masks))
    layers = [layer for generator in generators for layer in generator.layers]
    names = [layer.name for layer in layers]
    stages = [*_STAGES, *dict.fromkeys(layer.generator for layer in layers)]
    series = series_of(layers)
    totals = Totals(sums=[LayerSums() for _ in layers])
    stats = ReportStats.zero(len(layers), len(series))
    with (
        storage.create(storage.join(folder, FAILURES)) as ledger_file,
        storage.create(storage.join(folder, IMAGES)) as table_file,
    ):
        ledger, table = HashedStream(ledger_file), HashedStream(table_file)
        for refusal in read_refused(folder):
            totals.failed += refusal.outcome == "failed"
            totals.skipped += refusal.outcome == "skipped"
            totals.unmatched += refusal.reason == "unmatched"
            ledger.write(_ledger_line(dataclasses.asdict(refusal), plan))
        with ImagesWriter(table, series, stages) as writer:
            for sidecar in read_sidecars(folder, plan):
                for failure in sidecar.failures:
                    totals.failed += 1
                    ledger.write(_ledger_line(failure, plan))
                for row in sidecar.rows:
                    totals.add(row)
                stats.add_rows(cast("list[Row]", sidecar.rows))
                stats.add_overlaps(sidecar.overlaps)
                writer.write([ImageRow.of_built(row, sidecar.shard) for row in sidecar.rows])
    counts = {
        "inputs": plan.inputs + plan.refused,
        "written": totals.written,
        "failed": totals.failed,
        "skipped": totals.skipped,
        "dropped_annotations": totals.dropped_annotations,
    }
    if any(isinstance(generator, Prepared) and generator.joins_pictures for generator in generators):
        counts |= {"matched": plan.inputs, "unmatched": totals.unmatched}
    if counts["inputs"] != totals.written + totals.failed + totals.skipped:
        raise DamageError(f"inputs are not written + failed + skipped: {counts}")
    published = publish_config(plan.config.to_dict())
    manifest = Manifest(
        dataset=plan.config.name,
        split=plan.config.split,
        config=published,
        config_digest=digest(published),
        layers=tuple(publish_layer(layer) for layer in layers),
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
    described = {
        FEATURES_JSON: tfds_metadata.features_json(len(layers), masks_only=plan.config.masks_only),
        INFO_JSON: tfds_metadata.dataset_info_json({"": manifest}),
        LAYER_NAMES: tfds_metadata.layer_names(manifest),
    }
    for name, data in described.items():
        storage.write_bytes(storage.join(folder, name), data)
    files = [ledger.file(FAILURES), *(file_of(name, data) for name, data in described.items())]
    manifest = dataclasses.replace(manifest, files=tuple(files))
    reports = _report(folder, manifest, stats)
    content = manifest.to_json()
    files += [table.file(IMAGES), *reports, file_of(MANIFEST, content)]
    shard_digests = {shard.name: shard.sha256 for shard in manifest.shards}
    write_checksums(folder, shard_digests | {file.name: file.sha256 for file in files})
    storage.write_bytes(storage.join(folder, MANIFEST), content)
    join_splits(folder)
    return manifest


def _report(folder: str, manifest: Manifest, stats: ReportStats) -> list[File]:
    """Writes the report and returns its files.

    A page that cannot be made costs nobody a data set: it can be made again from the folder.
    """
    from maskmill.pipelines.report.write import write_report

    try:
        write_report(folder, manifest, stats)
        return [read_file(folder, name) for name in (REPORT_HTML, REPORT_JSON)]
    except OSError:
        raise  # the folder cannot be written, which the manifest would meet next
    except Exception as error:
        _LOG.exception(
            "the report could not be made (%s); the data set is whole. Try: maskmill report %s", error, folder
        )
        for name in (REPORT_HTML, REPORT_JSON):  # of an earlier build, or half of this one's
            storage.remove(storage.join(folder, name))
        return []


def _ledger_line(fields: dict, plan: Plan) -> bytes:
    told = {**fields, "message": publish_message(fields["message"], plan.config.to_dict())}
    return json.dumps(told, sort_keys=True).encode() + b"\n"
