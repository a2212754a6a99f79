"""The end of a build: every input accounted for, the tables written, the manifest last."""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping

from maskmill.pipelines.dataset.checksums import HashedStream, file_of, read_file, write_checksums
from maskmill.pipelines.dataset.images_table import join_tables
from maskmill.pipelines.dataset.publish import publish_config, publish_layer, publish_message
from maskmill.pipelines.driver import tfds_metadata
from maskmill.pipelines.driver.splits import join_splits
from maskmill.pipelines.folding.fold import Fold, Subject
from maskmill.pipelines.folding.pieces import check_ids, fold_piece, is_one_table, load_piece, pieces_of
from maskmill.pipelines.measuring.stage_times import StageTimes
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.pipelines.parts.assemble import load_shards
from maskmill.pipelines.parts.generators import Prepared, parse_specs
from maskmill.pipelines.parts.plan import Plan
from maskmill.pipelines.parts.plan_lines import read_refused
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
    Shard,
    digest,
    load_manifest,
)
from maskmill.schemas.shard_table import SHARD_TABLE

_LOG = logging.getLogger("maskmill")


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
        DamageError: a shard is missing or what is known of its parts, or an input is not accounted for.
    """
    shards = load_shards(folder, plan)
    for index in range(plan.num_shards):
        if index not in shards:
            raise DamageError(f"shard {index} is not complete; the same build command completes it")
    generators = parse_specs(list(plan.config.masks))
    subject = Subject.of(plan)
    names = [layer.name for layer in subject.layers]
    whole = Fold.zero(plan, subject)
    rows: list[File] = []
    examples: dict[str, int] = {}  # id -> number of its piece
    skipped = unmatched = 0
    with storage.create(storage.join(folder, FAILURES)) as file:
        ledger = HashedStream(file)
        for refusal in read_refused(folder):
            whole.totals.failed += refusal.outcome == "failed"
            skipped += refusal.outcome == "skipped"
            unmatched += refusal.reason == "unmatched"
            ledger.write(_ledger_line(dataclasses.asdict(refusal), plan))
        for index, fold in enumerate(_folds(folder, plan, shards)):
            check_ids(folder, plan, fold)
            for failure in fold.failures:
                ledger.write(_ledger_line(failure, plan))
            whole.totals.add(fold.totals)
            whole.stats += fold.stats
            whole.times.add(fold.times)
            rows.append(fold.rows)
            examples = {pick: examples.get(pick, index) for pick in whole.stats.picks.ids()}
    totals, stats = whole.totals, whole.stats
    table = _write_table(folder, plan, subject, rows)
    counts = {
        "inputs": plan.inputs + plan.refused,
        "written": totals.written,
        "failed": totals.failed,
        "skipped": skipped,
        "dropped_annotations": totals.dropped_annotations,
    }
    if any(isinstance(generator, Prepared) and generator.joins_pictures for generator in generators):
        counts |= {"matched": plan.inputs, "unmatched": unmatched}
    if counts["inputs"] != totals.written + totals.failed + skipped:
        raise DamageError(f"inputs are not written + failed + skipped: {counts}")
    published = publish_config(plan.config.to_dict())
    manifest = Manifest(
        dataset=plan.config.name,
        split=plan.config.split,
        config=published,
        config_digest=digest(published),
        layers=tuple(publish_layer(layer) for layer in subject.layers),
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
        FEATURES_JSON: tfds_metadata.features_json(len(names), masks_only=plan.config.masks_only),
        INFO_JSON: tfds_metadata.dataset_info_json({"": manifest}),
        LAYER_NAMES: tfds_metadata.layer_names(manifest),
    }
    for name, data in described.items():
        storage.write_bytes(storage.join(folder, name), data)
    files = [ledger.file(FAILURES), *(file_of(name, data) for name, data in described.items())]
    manifest = dataclasses.replace(manifest, files=tuple(files))
    reports = _report(folder, manifest, stats, whole.times, examples)
    content, shard_table = manifest.to_json(), manifest.shard_table()
    if shard_table is not None:
        storage.write_bytes(storage.join(folder, SHARD_TABLE), shard_table)
        files.append(file_of(SHARD_TABLE, shard_table))
    files += [*table, *reports, file_of(MANIFEST, content)]
    shard_digests = {shard.name: shard.sha256 for shard in manifest.shards}
    write_checksums(folder, shard_digests | {file.name: file.sha256 for file in files})
    storage.write_bytes(storage.join(folder, MANIFEST), content)
    join_splits(folder)
    return manifest


def _folds(folder: str, plan: Plan, shards: Mapping[int, Shard]) -> Iterator[Fold]:
    """Every piece's fold, in order: those that workers have made, and the others made here."""

    def load(index: int) -> Fold | None:
        return load_piece(folder, plan, index, [shards[shard].sha256 for shard in pieces_of(plan)[index]])

    for index, found in enumerate(storage.in_parallel(load, range(len(pieces_of(plan))), folder)):
        fold = found or fold_piece(folder, plan, index)
        if fold is None:
            raise DamageError(
                "a shard was removed while its build was being finished; the same build command completes it"
            )
        yield fold


def _write_table(folder: str, plan: Plan, subject: Subject, rows: list[File]) -> list[File]:
    """Writes `images.parquet` from the pieces' rows, or leaves these as they are where they are too many for one file."""
    if not is_one_table(plan):
        storage.remove(storage.join(folder, IMAGES))  # of an earlier build
        return rows
    with storage.create(storage.join(folder, IMAGES)) as file:
        stream = HashedStream(file)
        join_tables(
            [storage.join(folder, *one.name.split("/")) for one in rows], stream, subject.series, subject.stages
        )
    return [stream.file(IMAGES)]


def _report(
    folder: str, manifest: Manifest, stats: ReportStats, times: StageTimes, examples: Mapping[str, int]
) -> list[File]:
    """Writes the report and returns its files.

    A page that cannot be made costs nobody a data set: it can be made again from the folder.
    """
    from maskmill.pipelines.report.write import write_report

    try:
        write_report(folder, manifest, stats, times=times, pieces=examples)
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
