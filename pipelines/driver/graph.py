"""The one Beam graph, on every runner: parts -> Reshuffle -> BuildPart -> by shard -> AssembleShard -> by piece -> FoldPiece.

As little logic as possible here: every step calls an importable function of another module. Work items are references of
a few dozen bytes; pictures and records never cross a shuffle.
"""

import collections
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.typehints.decorators import no_annotations

from maskmill.pipelines.clusters.runners import JobError, job_url, make_pipeline, quiet_streams
from maskmill.pipelines.folding.pieces import fold_piece, piece_of_shard
from maskmill.pipelines.parts.assemble import assemble_shard, committed_part
from maskmill.pipelines.parts.config import RunOptions
from maskmill.pipelines.parts.isolation import ChildProcess, InProcess
from maskmill.pipelines.parts.part import Sidecar, Step, build_part
from maskmill.pipelines.parts.part_index import PartTask
from maskmill.pipelines.parts.plan import Plan, difference, load_plan
from maskmill.pipelines.parts.preparing import prepared_folder
from maskmill.pipelines.parts.provenance import mask_packages, versions
from maskmill.pipelines.parts.spent import Spent, book
from maskmill.schemas import storage

_LOG = logging.getLogger("maskmill")

# Exceptions of parts built in this process, for the driver: Beam passes only their text on. Remote workers' are in its logs.
LOCAL_ERRORS: list[BaseException] = []
_SEEDS = 1000


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Leaves an exception for the driver (see `LOCAL_ERRORS`) on its way up."""
    try:
        yield
    except BaseException as error:
        LOCAL_ERRORS.append(error)
        raise


@functools.lru_cache(maxsize=2)
def _plan(folder: str, plan_digest: str) -> Plan:
    """The plan, read once per process; `plan_digest` tells plans of one folder apart."""
    plan = load_plan(folder)
    if plan is None or plan.digest != plan_digest:
        raise RuntimeError(f"the plan in {folder} is gone or was replaced while this job ran")
    return plan


class Counters:
    """A worker's counters, for the engine's own pages. They move with every image, inside a part.

    Names: images_written, images_failed, failed_REASON, msec_STAGE, bytes_read, bytes_written. What a part had counted that is
    built again is counted again, as engines do with everything that is attempted.
    """

    def __init__(self) -> None:
        self._ms: dict[str, float] = collections.defaultdict(float)  # what is less than a millisecond yet
        self._found: dict[str, Any] = {}
        self.read_bytes = self.written_bytes = 0

    def add(self, name: str, amount: int) -> None:
        """Counts, under a name that may be new."""
        if amount:
            self._found.setdefault(name, Metrics.counter("maskmill", name)).inc(amount)

    def watch(self, step: Step) -> None:
        """Counts one step of a part."""
        if step.images:
            self.add(f"failed_{step.reason}" if step.reason else "images_written", step.images)
            self.add("images_failed", step.images if step.reason else 0)
        self.add("bytes_read", step.read_bytes)
        self.add("bytes_written", step.written_bytes)
        self.read_bytes += step.read_bytes
        self.written_bytes += step.written_bytes
        for stage, ms in step.ms.items():
            self._ms[stage] += ms
            whole = int(self._ms[stage])
            self._ms[stage] -= whole
            self.add(f"msec_{stage}", whole)

    def committed(self, sidecar: Sidecar) -> None:
        """Counts a part that an earlier job has built."""
        self.add("images_written", sidecar.records)
        for failure in sidecar.failures:
            self.add("images_failed", 1)
            self.add(f"failed_{failure['reason']}", 1)


class BuildPart(beam.DoFn):
    """PartTask -> (shard, part); see `pipelines.parts.part.build_part`.

    Attributes:
        folder: the build's folder.
        plan_digest: of the plan being built.
        image_timeout: seconds per image.
        isolate: whether images are built in a child process.
    """

    def __init__(self, folder: str, plan_digest: str, image_timeout: float, isolate: bool):
        self.folder, self.plan_digest, self.image_timeout, self.isolate = folder, plan_digest, image_timeout, isolate
        self.beam = beam.__version__  # the driver's; changes no byte, so it is not part of the plan
        self.part_ms = Metrics.distribution("maskmill", "part_msec")

    def setup(self) -> None:
        plan = _plan(self.folder, self.plan_digest)
        ours = {**versions(), **mask_packages(plan.config.masks), "apache-beam": beam.__version__}
        theirs = {**plan.versions, "apache-beam": self.beam}
        if theirs != ours:
            lines = "; ".join(difference(theirs, ours))
            raise RuntimeError(f"this worker's software is not the one the plan was made with: {lines}")
        settings = plan.config.settings(prepared_folder(self.folder))
        self.builder = ChildProcess(settings, self.image_timeout) if self.isolate else InProcess(settings)
        self.counters = Counters()
        self.read_ahead = 8 if storage.is_remote(plan.config.images) else 2

    @no_annotations  # Beam would choose coders by them
    def process(self, task: PartTask) -> Iterator[tuple[int, int]]:
        with _told():
            plan = _plan(self.folder, self.plan_digest)
            sidecar = committed_part(self.folder, plan, task)
            if sidecar is None:
                sidecar = self._build(task)
            else:
                self.counters.committed(sidecar)
        yield task.shard, task.part

    def _build(self, task: PartTask) -> Sidecar:
        start, counters = time.perf_counter(), self.counters
        read, written = counters.read_bytes, counters.written_bytes
        try:
            sidecar = build_part(task, self.folder, self.builder, self.read_ahead, self.image_timeout, counters.watch)
        finally:
            spent = Spent(1, time.perf_counter() - start, counters.read_bytes - read, counters.written_bytes - written)
            book(self.folder, spent)
        self.part_ms.update(int(sidecar.seconds * 1e3))
        failed, rate = len(sidecar.failures), sidecar.images / max(sidecar.seconds, 1e-3)
        words = "part %s: %d images, %d failed, %.1f s, %.1f images/s"
        _LOG.info(words, sidecar.name, sidecar.images, failed, sidecar.seconds, rate)
        return sidecar

    def teardown(self) -> None:
        self.builder.close()


def assemble(keyed_parts: tuple[int, object], folder: str, plan_digest: str) -> int:
    """(shard, its parts) -> shard; see `pipelines.parts.assemble.assemble_shard`."""
    with _told():
        assemble_shard(folder, _plan(folder, plan_digest), keyed_parts[0])
        book(folder, Spent())  # the requests that it took
    return keyed_parts[0]


def seeds(plan: Plan, shards: Iterable[int]) -> list[tuple[int, int]]:
    """The parts of some shards as ranges of their numbers, at most about `_SEEDS` where the shards follow one another.

    Parts are made of them where the job runs. A runner keeps what a job begins with inside the job's description: a service
    refuses one of more than some megabytes, which half a million parts would be.
    """
    firsts = plan.parts.firsts()
    runs: list[list[int]] = []
    for shard in sorted(shards):
        first, end = firsts[shard : shard + 2].tolist()
        if runs and runs[-1][1] == first:
            runs[-1][1] = end
        else:
            runs.append([first, end])
    step = max(1, sum(end - first for first, end in runs) // _SEEDS)
    return [(at, min(at + step, end)) for first, end in runs for at in range(first, end, step)]


@no_annotations
def parts_of(seed: tuple[int, int], folder: str, plan_digest: str) -> Iterator[PartTask]:
    """A seed -> its parts."""
    parts = _plan(folder, plan_digest).parts
    return (parts.task(number) for number in range(*seed))


def by_piece(shard: int, folder: str, plan_digest: str) -> tuple[int, int]:
    """Shard -> (the piece it belongs to, shard)."""
    return piece_of_shard(_plan(folder, plan_digest), shard), shard


def fold(keyed_shards: tuple[int, object], folder: str, plan_digest: str) -> int:
    """(piece, its shards) -> piece; see `pipelines.folding.pieces.fold_piece`."""
    with _told():
        fold_piece(folder, _plan(folder, plan_digest), keyed_shards[0])
        book(folder, Spent())  # the requests that it took
    return keyed_shards[0]


@dataclasses.dataclass
class BuildShards(beam.PTransform):
    """Seeds -> indices of folded pieces."""

    folder: str
    plan_digest: str
    image_timeout: float
    isolate: bool

    @no_annotations
    def expand(self, seeds: beam.PCollection) -> beam.PCollection:
        return (
            seeds
            | "Parts" >> beam.FlatMap(parts_of, folder=self.folder, plan_digest=self.plan_digest)
            | "BreakFusion" >> beam.Reshuffle()
            | "BuildPart" >> beam.ParDo(BuildPart(self.folder, self.plan_digest, self.image_timeout, self.isolate))
            | "GroupByShard" >> beam.GroupByKey()
            | "AssembleShard" >> beam.Map(assemble, folder=self.folder, plan_digest=self.plan_digest)
            | "ByPiece" >> beam.Map(by_piece, folder=self.folder, plan_digest=self.plan_digest)
            | "GroupByPiece" >> beam.GroupByKey()
            | "FoldPiece" >> beam.Map(fold, folder=self.folder, plan_digest=self.plan_digest)
        )


def finish(pieces: int, folder: str, plan_digest: str, max_failure_rate: float) -> None:
    """Finishes the build as the job's last step; see `pipelines.driver.finish.finish_build`.

    What a driver would say by its exit code, a job without one can say only by failing.

    Raises:
        DamageError: a shard is not whole.
        JobError: more images failed than may; the data set is there, with everything good.
    """
    # Tables and the report: nothing that other steps need.
    from maskmill.pipelines.driver.finish import finish_build, finished, too_many_failures

    plan = _plan(folder, plan_digest)
    manifest = finished(folder, plan) or finish_build(folder, plan)
    if too_many_failures(manifest, max_failure_rate):
        raise JobError(
            f"{manifest.counts['failed']:,} images failed, a share above --max-failure-rate {max_failure_rate:.2%}; everything "
            f"good is in {folder}, and its failures.jsonl says what failed and why"
        )


def run(
    seeds: list[tuple[int, int]],
    folder: str,
    plan_digest: str,
    options: RunOptions,
    flags: list[str],
    announce: Callable[[str], None] = lambda url: None,
) -> bool:
    """Runs the graph over some parts, and waits for it unless it is to run alone; raises what the runner raises.

    Args:
        seeds: the parts, from `seeds`.
        folder, plan_digest: the build.
        options: how it runs.
        flags: Beam's, complete.
        announce: called with the address where the job can be watched, where there is one.

    Returns:
        Whether the job ran; False when it was only started, or written down as a template: then it finishes the build itself.
    """
    beam_options = PipelineOptions(flags)
    _plan.cache_clear()  # one of the same digest may have been dealt into other parts meanwhile, by --overwrite
    alone = options.detach or bool(beam_options.view_as(GoogleCloudOptions).template_location)
    pipeline = make_pipeline(beam_options)
    pieces = (
        pipeline
        | "Seeds" >> beam.Create(seeds, reshuffle=False)
        | "BuildShards" >> BuildShards(folder, plan_digest, options.image_timeout, isolate=options.workers != 0)
    )
    if alone:  # no driver will be there to do it
        _ = (
            pieces
            | "AllPieces" >> beam.combiners.Count.Globally()
            | "Finish"
            >> beam.Map(finish, folder=folder, plan_digest=plan_digest, max_failure_rate=options.max_failure_rate)
        )
    result = pipeline.run()
    if url := job_url(result, beam_options):
        announce(url)
    try:
        if not alone:
            with quiet_streams():
                result.wait_until_finish()
    finally:
        if (client := getattr(result, "client", None)) is not None:
            client.close()  # Dask's; left open, it complains when the cluster goes
    return not alone
