"""Beam's flags: which runner is meant, what is set for it unless said otherwise, and what is refused before anything starts.

Runners answer a wrong flag or an absent cluster late, at length, or never. Everything that can be known beforehand is
checked here, within seconds.
"""

import argparse
import dataclasses
import json
import logging
import math
import os
import re
import shutil
import socket
from typing import TYPE_CHECKING, Any, cast

from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions, StandardOptions

from maskmill.pipelines.clusters.preflight import REACH_S, check_dask, check_flink, check_job_service, check_pool
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError, MaskmillError, UsageError, did_you_mean, nearest

if TYPE_CHECKING:
    from apache_beam import Pipeline
    from apache_beam.runners.dataflow.dataflow_runner import DataflowPipelineResult
    from apache_beam.runners.runner import PipelineResult

_LOG = logging.getLogger("maskmill")
LOCAL = "FnApiRunner"  # by name: plain DirectRunner may try to fetch another runner from the network
_LOCAL_NAMES = ("DirectRunner", "SwitchingDirectRunner", "BundleBasedDirectRunner", LOCAL)
_MODULES = {"DaskRunner": "apache_beam.runners.dask.dask_runner"}  # runners that Beam does not know by their name alone
_MACHINE, _RAM = "n2-standard-4", "16GB"  # 4 GB a core; a child that makes masks of 50 megapixels needs more than 1
_MACHINE_MINUTES = 20  # of work for each machine that a job starts with; with less, more is paid for starting
_MACHINES = 100  # a job starts with at most, where the user sets no limit
_EMBEDDED = ("", "embed", "[local]", "[auto]", "[collection]")


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
        own = [f"--runner={_path(self.name)}"]
        if not self.has("save_main_session", "no_save_main_session"):
            own.append("--no_save_main_session")  # everything a worker needs is importable; nothing of ours is pickled
        if self.is_local and workers > 1 and not self.has("direct_running_mode", "direct_num_workers"):
            own += ["--direct_running_mode=multi_threading", f"--direct_num_workers={workers}"]
        if self.name == "DaskRunner" and tasks and not self.has("dask_npartitions", "dask_partition_size"):
            own.append(f"--dask_npartitions={tasks}")  # else 128 parts would be one piece of work
        if self.name == "DataflowRunner":
            own += [f"--{name}={value}" for name, value in _dataflow_defaults(job).items() if not self.has(name)]
            if job and not self.has("num_workers"):
                own.append(f"--num_workers={self._machines(seconds)}")
            if not self.has("machine_type", "resource_hints", "resource_hint"):
                # For the whole job: a hint of one step alone would be a second environment, with processes of its own.
                own.append(f"--resource_hints=min_ram={_RAM}")
            if self.has("sdk_container_image") and not self.has("sdk_location"):
                own.append("--sdk_location=container")  # the image has Beam; staging it again costs minutes
        return own + list(self.given)

    def _machines(self, seconds: float) -> int:
        """How many machines a job starts with. Dataflow starts with one, and adds others by the bytes that wait: ours are few."""
        machine_type = self.option("machine_type") or _MACHINE
        cores = int(match[1]) if (match := re.search(r"-(\d+)$", machine_type)) else 1
        limit = self.option("max_num_workers")
        most = int(limit) if limit.isdecimal() else _MACHINES
        return max(1, min(most, math.ceil(seconds / (cores * 60 * _MACHINE_MINUTES))))

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

    def check(self, **paths: str) -> None:
        """Refuses what cannot work.

        Args:
            paths: what the workers read and write, by the name of its option.

        Raises:
            UsageError: flags missing or wrong, or paths that workers elsewhere cannot see.
            InputError: no credentials, a package missing here, or nobody answers where the cluster should be.
        """
        if self.is_local:
            return
        for option, path in paths.items():
            if self.name == "DataflowRunner" and not storage.is_remote(path):
                raise UsageError(
                    f"--{option} {path} is on this machine, where Dataflow's workers cannot see it; use gs://"
                )
            if not storage.is_remote(path) and not path.startswith("/"):
                raise UsageError(
                    f"--{option} {path} is relative, and workers of {self.name} have other working folders; "
                    "give an absolute path that all of them see, or gs://"
                )
        _import_runner(self.name)
        if self.name == "DataflowRunner":
            self._check_dataflow()
        elif self.name == "PortableRunner" and not self.has("job_endpoint"):
            raise UsageError("--runner=PortableRunner needs --job_endpoint=HOST:PORT, the job service of your cluster")
        clusters = ("job_endpoint", "flink_master", "spark_master_url", "dask_client_address")
        for option in clusters:
            _reach(option, self.option(option))
        masters = [address for option in ("flink_master", "spark_master_url") if _parse(address := self.option(option))]
        here, sure = any(_is_here(address) for address in masters), True
        if _parse(job_server := self.option("job_endpoint")):
            of_a_cluster = check_job_service(job_server)
            if not masters:
                # A job server in front of a cluster says nothing of where that is; any other one runs its workers beside it.
                here, sure = _is_here(job_server), not of_a_cluster
        if self.name == "DaskRunner" and self.has("dask_client_address"):
            check_dask(self.option("dask_client_address"))
        if self.name in ("FlinkRunner", "SparkRunner") and not self.has("job_endpoint"):
            self._check_job_server()
        if (masters or _parse(job_server)) and self.name in ("PortableRunner", "FlinkRunner", "SparkRunner"):
            self._check_workers(here, sure)

    def _check_job_server(self) -> None:
        """These runners start a Java program of Beam's here, which talks to the cluster."""
        kind = self.name.removesuffix("Runner").lower()
        jar, master = self.option(f"{kind}_job_server_jar"), self.option("flink_master")
        if jar and "://" not in jar and not os.path.exists(jar):
            raise InputError(f"--{kind}_job_server_jar={jar} not found; without it Beam fetches its job server itself")
        if shutil.which(launcher := self.option("job_server_java_launcher") or "java") is None:
            raise InputError(
                f"{self.name} starts Beam's job server with {launcher!r}, which is not on this machine; install a Java "
                "runtime (11 or 17), or give --job_endpoint=HOST:PORT of a job server that runs elsewhere"
            )
        if kind == "flink" and _parse(master):
            published = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
            check_flink(master, "" if jar else self.option("flink_version") or published[-1], published)

    def _check_workers(self, here: bool, sure: bool) -> None:
        """Workers that cannot start make a job wait for ever, or fail it late.

        Args:
            here: the cluster seems to be on this machine.
            sure: it is.
        """
        kind, where = self.option("environment_type").upper(), self.option("environment_config")
        if not kind and not where and not self.has("sdk_container_image"):
            raise UsageError(
                f"workers of {self.name} would start from Beam's own image, which has no maskmill; give "
                "--environment_type=EXTERNAL --environment_config=HOST:PORT of a worker pool, or "
                "--environment_type=DOCKER --environment_config=IMAGE after --"
            )
        if kind == "EXTERNAL" and here:  # else the address is one of the workers' machines, not to be seen from here
            try:
                _reach("environment_config", where)
                check_pool(where)
            except InputError as error:
                if sure:
                    raise
                _LOG.warning(
                    "%s (on this machine; as it should be where the pools run on others, else the job waits)", error
                )

    def _check_dataflow(self) -> None:
        _refuse_unknown(self.given)
        for option, meaning in (("project", "PROJECT"), ("region", "REGION"), ("temp_location", "gs://BUCKET/tmp")):
            if not self.has(option):
                raise UsageError(f"--runner=DataflowRunner needs --{option}={meaning} after --")
        if not storage.is_remote(self.option("temp_location")):
            raise UsageError(f"--temp_location must be on gs://, got {self.option('temp_location')!r}")
        if not self.has("sdk_container_image", "setup_file", "extra_package", "requirements_file"):
            raise UsageError(
                "Dataflow's workers need maskmill: build an image from docker/worker.Dockerfile and give it as "
                "--sdk_container_image=IMAGE after --"
            )
        if not self.has("no_auth"):
            _check_credentials()


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


def _path(name: str) -> str:
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


def _refuse_unknown(flags: tuple[str, ...]) -> None:
    """Beam drops flags that it does not know; on a service paid by the hour a typing error must not pass."""
    parser: Any = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    known = [name for action in parser._actions for name in action.option_strings]
    for flag in flags:
        name = flag.partition("=")[0]
        if name.startswith("--") and name not in known:
            raise UsageError(f"Beam has no option {name}{did_you_mean(name, known)}")


def _import_runner(name: str) -> None:
    from apache_beam.runners.runner import create_runner

    extra = {"DataflowRunner": "maskmill[gcp]", "DaskRunner": "dask distributed"}.get(name, "apache-beam")
    try:
        create_runner(_path(name))
        if name == "DaskRunner":
            import distributed  # noqa: F401
    except (ImportError, AttributeError, TypeError) as error:
        raise InputError(f"{name} cannot be loaded ({error}); install it with: pip install '{extra}'") from error


def _parse(address: str) -> tuple[str, int] | None:
    """Host and port of an address, with or without a scheme; None where it names no machine."""
    match = re.fullmatch(r"(?:\w+://)?(\[?[\w.:-]+?\]?):(\d{1,5})/?", address)
    return (match[1].strip("[]"), int(match[2])) if match and address not in _EMBEDDED else None


def _is_here(address: str) -> bool:
    """Whether an address names this machine by its loopback."""
    parsed = _parse(address)
    return parsed is not None and (parsed[0] in ("localhost", "::1") or parsed[0].startswith("127."))


def _reach(option: str, address: str) -> None:
    """Connects and hangs up. InputError when nobody answers."""
    if (parsed := _parse(address)) is None:
        return
    try:
        socket.create_connection(parsed, timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"nobody answers at --{option}={address} ({getattr(error, 'strerror', None) or error}); is the cluster up, and "
            "reachable from here?"
        ) from error


def _check_credentials() -> None:
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except (GoogleAuthError, OSError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"no usable Google Cloud credentials ({why}); {storage.LOGIN}") from error
