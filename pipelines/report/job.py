"""The Beam job that measures records: Create(shards) -> Reshuffle -> MeasureShard -> CombineReport -> Save.

As little logic as possible here: measuring is `pipelines.report.remeasure`, adding up is `pipelines.measuring.statistics`.
"""

import contextlib
import dataclasses
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam

from maskmill.pipelines.measuring.overlap_stats import BATCH, fold_overlaps
from maskmill.pipelines.measuring.overlaps import ImageOverlaps
from maskmill.pipelines.measuring.series import series_of
from maskmill.pipelines.measuring.statistics import ReportStats, Row
from maskmill.pipelines.report.audit import AuditTask
from maskmill.pipelines.report.remeasure import measure_shard
from maskmill.schemas import storage
from maskmill.schemas.manifest import Manifest, Shard
from maskmill.schemas.mask import Layer

# Exceptions of shards measured in this process, for the driver: Beam passes only their text on.
LOCAL_ERRORS: list[Exception] = []


@dataclasses.dataclass
class _Accumulator:
    stats: ReportStats
    rows: list[Row]
    overlaps: list[ImageOverlaps]


class CombineReport(beam.CombineFn):
    """(row, overlaps) -> the JSON form of `ReportStats`. What is in flight is bounded: at most `BATCH` images wait.

    Attributes:
        layers: of the data set.
    """

    def __init__(self, layers: Sequence[Layer]):
        self.layers = tuple(layers)

    def create_accumulator(self) -> _Accumulator:
        return _Accumulator(ReportStats.zero(len(self.layers), len(series_of(self.layers))), [], [])

    def add_input(self, accumulator: _Accumulator, element: tuple[Row, ImageOverlaps]) -> _Accumulator:
        accumulator.rows.append(element[0])
        accumulator.overlaps.append(element[1])
        return self._fold(accumulator) if len(accumulator.rows) >= BATCH else accumulator

    def _fold(self, accumulator: _Accumulator) -> _Accumulator:
        accumulator.stats.add_rows(accumulator.rows)
        accumulator.stats.add_overlaps(fold_overlaps(accumulator.overlaps))
        accumulator.rows, accumulator.overlaps = [], []
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Accumulator]) -> _Accumulator:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged.stats += self._fold(accumulator).stats
        return merged

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        return self._fold(accumulator)

    def extract_output(self, accumulator: _Accumulator) -> dict[str, Any]:
        return self._fold(accumulator).stats.to_json()


def _save(stats: dict[str, Any], path: str) -> None:
    storage.write_bytes(path, json.dumps(stats).encode())


def measured_stats(
    folder: str, manifest: Manifest, work: str, tasks: Sequence[AuditTask] = (), flags: Sequence[str] = ()
) -> ReportStats:
    """Statistics measured anew from the records, as a Beam job.

    Args:
        folder: a finished build.
        manifest: its manifest.
        work: folder for a temporary file that all workers reach.
        tasks: from `Audit.tasks`; empty to measure against the records' own ground truth.
        flags: for Beam; the local runner where there are none.

    Raises:
        DamageError: a shard is broken.
        InputError, UsageError: the flags name no runner, or a cluster that is not there.
    """
    from apache_beam.options.pipeline_options import PipelineOptions

    from maskmill.pipelines.clusters import runners
    from maskmill.pipelines.clusters.checks import check

    runner = runners.choose(tuple(flags))
    check(runner, folder=folder, out=work)
    shards = tasks or [AuditTask(i, 0, 0, False) for i in range(len(manifest.shards))]
    path = storage.join(work, f"report-{os.getpid()}-{secrets.token_hex(4)}.json")
    options = PipelineOptions(runner.flags(tasks=len(shards)))
    LOCAL_ERRORS.clear()
    try:
        with runners.make_pipeline(options) as pipeline:
            _ = (
                pipeline
                | "Shards" >> beam.Create(list(shards), reshuffle=False)
                | "BreakFusion" >> beam.Reshuffle()
                | "MeasureShard" >> beam.FlatMap(_guarded, folder, manifest.shards, manifest.layers)
                | "CombineReport" >> beam.CombineGlobally(CombineReport(manifest.layers))
                | "Save" >> beam.Map(_save, path)
            )
        return ReportStats.from_json(json.loads(storage.read_bytes(path)))
    except Exception as error:  # Beam passes only the text of what went wrong on; here the cause is at hand
        if LOCAL_ERRORS or runner.is_local:
            raise next(iter(LOCAL_ERRORS), None) or runners.cause_of(error) or error from error
        raise runners.explain(error, runner) from error
    finally:
        with contextlib.suppress(OSError):
            storage.remove(path)


def _guarded(
    task: AuditTask, folder: str, shards: Sequence[Shard], layers: Sequence[Layer]
) -> Iterator[tuple[Row, ImageOverlaps]]:
    try:
        yield from measure_shard(task, folder, shards, layers)
    except Exception as error:
        LOCAL_ERRORS.append(error)
        raise
