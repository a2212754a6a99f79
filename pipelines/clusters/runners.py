"""Beam's flags: which runner is meant, what is set for it unless said otherwise, and what its failures mean in words."""

import argparse
import contextlib
import dataclasses
import json
import math
import re
import shutil
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from maskmill.schemas.errors import DamageError, InputError, MaskmillError, UsageError, nearest

if TYPE_CHECKING:
    from apache_beam import Pipeline
    from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult
    from apache_beam.runners.runner import PipelineResult

LOCAL = "FnApiRunner"  # by name: plain DirectRunner may try to fetch another runner from the network
_LOCAL_NAMES = ("DirectRunner", "SwitchingDirectRunner", "BundleBasedDirectRunner", LOCAL)
_MODULES = {"DaskRunner": "apache_beam.runners.dask.dask_runner"}  # runners that Beam does not know by their name alone
_MACHINE, _RAM = "n2-standard-4", "16GB"  # 4 GB a core; a child that makes masks of 50 megapixels needs more than 1
_MACHINE_MINUTES = 20  # of work for each machine that a job starts with; with less, more is paid for starting
_LISTENER = "wait_until_finish_read"  # Beam's name of the thread that reads a job's messages
_MACHINES = 100  # a job starts with at most, where the user sets no limit


class JobError(MaskmillError):
    """A job failed on its cluster, for a reason that is neither the user's input nor ours to know better."""


@dataclasses.dataclass(frozen=True)
class Runner:
    """A runner and the flags it was given.

    Attributes:
        name: Beam's class name.
        given: the user's flags, without --runner.
    """

    name: str = LOCAL
    given: tuple[str, ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether workers are threads and children of this process."""
        return self.name == LOCAL

    def option(self, name: str) -> str:
        """The value of a flag as given, or ""."""
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument(f"--{name}", dest="value", nargs="?", const="", default="")
        return parser.parse_known_args(list(self.given))[0].value

    def has(self, *names: str) -> bool:
        """Whether any of these flags is given."""
        given = {flag.partition("=")[0] for flag in self.given}
        return any(f"--{name}" in given for name in names)

    def flags(self, job: str = "", workers: int = 1, tasks: int = 0, seconds: float = 0) -> list[str]:
        """All flags for Beam: the user's, and ours where the user has none.

        Args:
            job: name of a build's job (see `job_name`); empty for others.
            workers: threads of a local run, each driving one child process.
            tasks: parts to be built.
            seconds: of work in them, on one core; 0 where that is unknown.
        """
        own = [f"--runner={beam_name(self.name)}"]
        if not self.has("save_main_session", "no_save_main_session"):
            own.append("--no_save_main_session")  # everything a worker needs is importable; nothing of ours is pickled
        if self.is_local and workers > 1 and not self.has("direct_running_mode", "direct_num_workers"):
            own += ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]
        if self.name == "DaskRunner" and tasks and not self.has("dask_npartitions", "dask_partition_size"):
            own.append(f"--dask_npartitions={tasks}")  # else 128 parts would be one piece of work
        if self.name == "DataflowRunner":
            own += [f"--{name}={value}" for name, value in _dataflow_defaults(job).items() if not self.has(name)]
            if job and not self.has("num_workers"):
                own.append(f"--num_workers={self.machines(seconds)}")
            if not self.has("machine_type", "resource_hints", "resource_hint"):
                # For the whole job: a hint of one step alone would be a second environment, with processes of its own.
                own.append(f"--resource_hints=min_ram={_RAM}")
            if self.has("sdk_container_image") and not self.has("sdk_location"):
                own.append("--sdk_location=container")  # the image has Beam; staging it again costs minutes
        return own + list(self.given)

    @property
    def machine_type(self) -> str:
        """Of Dataflow's machines."""
        return self.option("machine_type") or _MACHINE

    @property
    def machine_cores(self) -> int:
        """Of one of Dataflow's machines, by the name of its type."""
        named = re.search(r"custom-(\d+)-\d+$|-(\d+)$", self.machine_type)
        return int(named[1] or named[2]) if named else 1

    @property
    def most_machines(self) -> int:
        """How many machines of Dataflow's a job may have."""
        limit = self.option("max_num_workers")
        return int(limit) if limit.isdecimal() else _MACHINES

    def machines(self, seconds: float) -> int:
        """How many machines a job starts with, for so many seconds of work on one core.

        Dataflow starts with one, and adds others by the bytes that wait: ours are few.
        """
        if (given := self.option("num_workers")).isdecimal():
            return int(given)
        return max(1, min(self.most_machines, math.ceil(seconds / (self.machine_cores * 60 * _MACHINE_MINUTES))))

    def check_detached(self) -> None:
        """Refuses to leave a job alone that would end with this process.

        Raises:
            UsageError: there is nothing that goes on without it.
        """
        if self.name == "DataflowRunner" or (
            self.has("job_endpoint") and self.option("environment_type") != "LOOPBACK"
        ):
            return
        what = "the build runs in this process" if self.is_local else f"{self.name} is served by this process"
        raise UsageError(
            f"--detach leaves a job to its cluster, but {what}; use --runner=DataflowRunner, or --job_endpoint=HOST:PORT of a "
            "job server that runs elsewhere, after --"
        )


def choose(beam_args: tuple[str, ...]) -> Runner:
    """The runner that the arguments after `--` ask for; local where they ask for none.

    Raises:
        UsageError: there is no such runner.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--runner", nargs="?", const="", default=LOCAL)
    found, rest = parser.parse_known_args(list(beam_args))
    known = {name.lower(): name for name in (*StandardOptions.KNOWN_RUNNER_NAMES, *_LOCAL_NAMES, *_MODULES)}
    wanted = found.runner
    name = known.get(wanted.lower()) or known.get(f"{wanted.lower()}runner")
    if name is None and "." not in wanted:
        near = nearest(wanted.lower(), known)
        hint = f"; did you mean {known[near]}?" if near else f"; there are {', '.join(sorted(set(known.values())))}"
        raise UsageError(f"there is no runner {wanted!r}{hint}")
    name = name or wanted
    return Runner(LOCAL if name in _LOCAL_NAMES else name, tuple(rest))


def make_pipeline(options: PipelineOptions) -> "Pipeline":
    """An empty pipeline that leaves nothing in the folder for temporary files, however its run ends.

    Beam makes a folder there for steps in other languages, of which we have none, and removes it after the run only.
    """
    from maskmill.pipelines.clusters.notebook import PlainPipeline

    pipeline = PlainPipeline(options=options)
    shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)
    return pipeline


def beam_name(name: str) -> str:
    """A runner's name as Beam finds it."""
    return f"{_MODULES[name]}.{name}" if name in _MODULES else name


def cause_of(error: BaseException) -> MaskmillError | OSError | None:
    """The error of ours, or of its system's, that a worker in another process ended with; None where there is none.

    Beam passes on nothing but the text of the worker's traceback; in it, the class is named in full.
    """
    text = str(error).replace("\\n", "\n")
    if ours := re.findall(r"^maskmill\.schemas\.errors\.(\w+): (.+)$", text, re.M):
        kind = {e.__name__: e for e in (UsageError, InputError, DamageError)}.get(ours[-1][0])
        if kind is not None:
            return kind(re.sub(r" \[while running .*", "", ours[-1][1]))
    if system := re.findall(
        r"^(?:\w+Error): \[Errno (\d+)\] ([^:\n]+?)(?:: '([^'\n]*)')?(?: \[while .*)?$", text, re.M
    ):
        number, why, path = system[-1]
        return OSError(int(number), why, path) if path else OSError(int(number), why)
    return None


def explain(error: Exception, runner: Runner) -> MaskmillError:
    """A runner's exception, often a traceback of a worker inside a message, as one sentence."""
    if isinstance(found := cause_of(error), MaskmillError):
        return found
    text = str(error) or type(error).__name__
    if type(error).__module__.startswith("grpc") and "UNAVAILABLE" in text:
        return JobError(
            f"the job server at --job_endpoint={runner.option('job_endpoint')} does not answer any more, and nobody else says "
            "how the job goes, which may still run on its cluster; finished parts are kept, and the same command goes on "
            "once a job server is there"
        )
    if missing := re.search(r"No module named '(maskmill)", text):
        return InputError(
            f"the workers of {runner.name} do not have maskmill (no module {missing[1]!r}); run them from an image with "
            "this version of it: docker/worker.Dockerfile"
        )
    if other := re.findall(
        r"this worker's software is not the one [^{\n]*?: [^{\n]+", text
    ):  # not the traceback's line of code
        said = re.sub(r"\s+|\\n", " ", re.sub(r" \[while running .*", "", other[-1])).strip()
        return InputError(f"the workers of {runner.name} refused: {said}")
    if server := re.search(r"Unable to fetch remote job server jar at (\S+): (.+?)(?:\. (?:If|Also) |$)", text):
        return InputError(
            f"Beam's job server for {runner.name} cannot be fetched from {server[1]} ({server[2]}); fetch it where that is "
            f"possible and give it as --{runner.name.removesuffix('Runner').lower()}_job_server_jar=FILE after --"
        )
    text = re.sub(r"^Pipeline \S+ failed in state \w+: ", "", text)  # Beam's name of the job, which the user never gave
    nested = (
        r"^(?:[\w.$]+(?:Error|Exception): )+(?=[\w.$]+(?:Error|Exception): )"  # Java repeats each cause in the next
    )
    text = re.sub(nested, "", text, flags=re.M)
    causes = re.findall(r"^(?:[\w.]+\.)?(\w+(?:Error|Exception|Exit)): (.+)$", text, re.M)
    cause = f"{causes[-1][0]}: {causes[-1][1]}" if causes else next(iter(text.splitlines()), type(error).__name__)
    cause = re.sub(r" \[while running .*", "", cause.replace("\\n", " ").replace('\\"', '"'))
    return JobError(
        f"the job on {runner.name} failed ({cause[:500]}); its workers' logs say more, finished parts are kept, and the "
        "same command resumes"
    )


@contextlib.contextmanager
def quiet_streams() -> Iterator[None]:
    """Keeps a thread of Beam's, which listens to what a job says, from printing a traceback when its job server goes.

    The thread that waits for the job meets the same end, and its exception is the one that is told.
    """
    usual = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (args.exc_type.__module__.startswith("grpc") and getattr(args.thread, "name", "") == _LISTENER):
            usual(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        for thread in threading.enumerate():
            if thread.name == _LISTENER:
                thread.join(2)  # it ends a moment later
        threading.excepthook = usual


def job_url(result: "PipelineResult", options: PipelineOptions) -> str:
    """Where a Dataflow job can be watched, or "" on other runners."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    if type(result).__name__ != "DataflowPipelineResult" or not getattr(result, "has_job", False):
        return ""
    job = cast("DataflowPipelineResult", result).job_id()  # told by its name, to import nothing of Dataflow's
    cloud = options.view_as(GoogleCloudOptions)
    return f"https://console.cloud.google.com/dataflow/jobs/{cloud.region}/{job}?project={cloud.project}"


def _dataflow_defaults(job: str) -> dict[str, str]:
    named = {"job_name": job} if job else {}
    return {
        **named,
        "labels": json.dumps({"application": "maskmill"}),
        "machine_type": _MACHINE,
        "disk_size_gb": "50",  # nothing but the image is kept there
        "number_of_worker_harness_threads": "1",  # Dataflow runs a process per core; each drives one child
    }


def job_name(dataset: str, split: str, digest: str) -> str:
    """Equal names are equal builds: Dataflow refuses a second job of the name of one that runs."""
    title = re.sub(r"[^a-z0-9-]+", "-", f"maskmill-{dataset}-{split}".lower()).strip("-")
    return f"{title[:50].rstrip('-')}-{digest[:8]}"
