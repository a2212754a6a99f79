"""The one Beam graph, on every runner: Create(parts) -> Reshuffle -> BuildPart -> by shard -> AssembleShard.

As little logic as possible here: every step calls an importable function of another module. Work items are references of
a few dozen bytes; pictures and records never cross a shuffle.
"""

import dataclasses
import functools

import apache_beam as beam
from apache_beam.metrics import Metrics

from pipelines.assemble import assemble_shard
from pipelines.isolation import ChildProcess, InProcess
from pipelines.part import build_part, settings_of
from pipelines.plan import PartTask, Plan, difference, load_plan
from pipelines.provenance import versions
from schemas import storage

# Exceptions of parts built in this process, for the driver: Beam passes only their text on. Remote workers' are in its logs.
LOCAL_ERRORS: list[BaseException] = []


@functools.lru_cache(maxsize=2)
def _plan(folder: str, plan_digest: str) -> Plan:
    """The plan, read once per process; `plan_digest` tells plans of one folder apart."""
    plan = load_plan(folder)
    if plan is None or plan.digest != plan_digest:
        raise RuntimeError(f"the plan in {folder} is gone or was replaced while this job ran")
    return plan


class BuildPart(beam.DoFn):
    """PartTask -> (shard, part); see `pipelines.part.build_part`.

    Attributes:
        folder: the build's folder.
        plan_digest: of the plan being built.
        image_timeout: seconds per image.
        isolate: whether images are built in a child process.
    """

    def __init__(self, folder: str, plan_digest: str, image_timeout: float, isolate: bool):
        self.folder, self.plan_digest, self.image_timeout, self.isolate = folder, plan_digest, image_timeout, isolate
        self.images_ok = Metrics.counter("maskmill", "images_written")
        self.images_failed = Metrics.counter("maskmill", "images_failed")
        self.part_ms = Metrics.distribution("maskmill", "part_msec")

    def setup(self):
        plan = _plan(self.folder, self.plan_digest)
        if plan.versions != versions():
            lines = "; ".join(difference(plan.versions, versions()))
            raise RuntimeError(f"this worker's software is not the one the plan was made with: {lines}")
        settings = settings_of(plan)
        self.builder = ChildProcess(settings, self.image_timeout) if self.isolate else InProcess(settings)
        self.read_ahead = 8 if storage.is_remote(self.folder) else 2

    def process(self, task: PartTask):
        try:
            sidecar = build_part(task, self.folder, self.builder, self.read_ahead)
        except BaseException as error:
            LOCAL_ERRORS.append(error)
            raise
        self.images_ok.inc(sidecar.records)
        self.images_failed.inc(len(sidecar.failures))
        self.part_ms.update(int(sidecar.seconds * 1e3))
        yield task.shard, task.part

    def teardown(self):
        self.builder.close()


def assemble(keyed_parts: tuple[int, object], folder: str, plan_digest: str) -> int:
    """(shard, its parts) -> shard; see `pipelines.assemble.assemble_shard`."""
    try:
        assemble_shard(folder, _plan(folder, plan_digest), keyed_parts[0])
    except BaseException as error:
        LOCAL_ERRORS.append(error)
        raise
    return keyed_parts[0]


@dataclasses.dataclass
class BuildShards(beam.PTransform):
    """PartTasks -> indices of finished shards."""

    folder: str
    plan_digest: str
    image_timeout: float
    isolate: bool

    def expand(self, tasks):
        return (
            tasks
            | "BreakFusion" >> beam.Reshuffle()
            | "BuildPart" >> beam.ParDo(BuildPart(self.folder, self.plan_digest, self.image_timeout, self.isolate))
            | "GroupByShard" >> beam.GroupByKey()
            | "AssembleShard" >> beam.Map(assemble, folder=self.folder, plan_digest=self.plan_digest)
        )


def local_options(workers: int) -> list[str]:
    """Beam flags of a local run: one thread per worker, each driving a child process of its own.

    FnApiRunner by name: plain DirectRunner may try to fetch Prism.
    """
    flags = ["--runner=FnApiRunner", "--no_save_main_session"]
    if workers > 1:
        flags += ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]
    return flags


def run(tasks: list[PartTask], folder: str, plan_digest: str, image_timeout: float, isolate: bool, flags: list[str]):
    """Runs the graph over some parts and waits for it; raises what the runner raises."""
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        _ = (
            pipeline
            | "Parts" >> beam.Create(tasks, reshuffle=False)
            | "BuildShards" >> BuildShards(folder, plan_digest, image_timeout, isolate)
        )
    return pipeline.result
