"""What is asked of a cluster before a job goes there, question by question.

Runners answer a wrong flag or an absent cluster late, at length, or never. Everything that can be known beforehand is asked
here, within seconds: a build stops at the first bad answer, `maskmill cluster check` shows all of them.
"""

import argparse
import dataclasses
import logging
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions
from apache_beam.version import __version__ as beam_version

from maskmill.pipelines.clusters.preflight import REACH_S, check_dask, check_flink, check_job_service, check_pool
from maskmill.pipelines.clusters.runners import Runner, beam_name
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, MaskmillError, UsageError, did_you_mean

_LOG = logging.getLogger("maskmill")
_EMBEDDED = ("", "embed", "[local]", "[auto]", "[collection]")
_ADDRESSES = {
    "job_endpoint": "job server",
    "flink_master": "Flink",
    "spark_master_url": "Spark",
    "dask_client_address": "Dask",
}
_GB_A_CORE = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}  # of most families of Google's machines
_GB_A_CORE_N1 = {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9}


class Doubt(Exception):
    """An answer that may be wrong, or right: a warning, in one sentence."""


@dataclasses.dataclass(frozen=True)
class Question:
    """Something to be known before a job starts.

    Attributes:
        about: in a word or two.
        ask: says what was found, in a sentence; raises Doubt, or UsageError or InputError where the job could not work.
        needs: questions without a good answer to which this one need not be asked.
    """

    about: str
    ask: Callable[[], str]
    needs: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Check:
    """A question and its answer."""

    about: str
    state: Literal["ok", "warn", "refused"]
    text: str


@dataclasses.dataclass
class Found:
    """What the answers tell of a cluster; None where they do not.

    Attributes:
        slots: parts that are built at once.
        slot_bytes: memory for each of them.
    """

    slots: int | None = None
    slot_bytes: int | None = None


def check(runner: Runner, **paths: str) -> None:
    """Refuses what cannot work; what is doubtful is a line of the log.

    Args:
        runner: where the job is to go.
        paths: what the workers read and write, by the name of its option.

    Raises:
        UsageError: flags missing or wrong, or paths that workers elsewhere cannot see.
        InputError: no credentials, a package missing here, or nobody answers where the cluster should be.
    """
    for question in questions(runner, paths, Found()):
        try:
            question.ask()
        except Doubt as doubt:
            _LOG.warning("%s", doubt)


def answers(asked: Iterable[Question]) -> Iterator[Check]:
    """Every question's answer, as they come; those that rest on a refused one are left out."""
    refused: set[str] = set()
    for question in asked:
        if refused.intersection(question.needs):
            refused.add(question.about)
            continue
        try:
            yield Check(question.about, "ok", question.ask())
        except Doubt as doubt:
            yield Check(question.about, "warn", str(doubt))
        except MaskmillError as error:
            refused.add(question.about)
            yield Check(question.about, "refused", " ".join(str(error).split()))  # a list of differences has lines
        except OSError as error:
            refused.add(question.about)
            yield Check(question.about, "refused", f"{error.filename or question.about}: {error.strerror or error}")


def questions(runner: Runner, paths: dict[str, str], found: Found) -> Iterator[Question]:
    """What to ask of a runner and its cluster; `found` is filled in by the answers."""
    if runner.is_local:
        yield Question("runner", lambda: "Beam's local runner: this machine is the cluster")
        return
    yield Question("paths", lambda: _see_paths(runner, paths))
    yield Question("runner", lambda: _load(runner))
    if runner.name == "DataflowRunner":
        yield Question("options", lambda: _check_dataflow(runner, found))
        if not runner.has("no_auth"):
            yield Question("credentials", _check_credentials, ("runner",))
    elif runner.name == "PortableRunner" and not runner.has("job_endpoint"):
        yield Question("options", _no_job_service)
    cluster = _Cluster(runner, found)
    given = [option for option in _ADDRESSES if parse_address(runner.option(option))]
    for option in given:
        yield Question(_ADDRESSES[option], lambda option=option: cluster.meet(option), ("runner",))  # type: ignore[misc]
    if runner.name in ("FlinkRunner", "SparkRunner") and not runner.has("job_endpoint"):
        yield Question("Java", cluster.check_job_server)
        if runner.name == "FlinkRunner" and "flink_master" in given:
            yield Question("Flink's version", cluster.check_flink, ("Flink", "Java"))
    masters = {"job_endpoint", "flink_master", "spark_master_url"}
    if masters.intersection(given) and runner.name in ("PortableRunner", "FlinkRunner", "SparkRunner"):
        yield Question("workers", cluster.check_workers, ("job server", "Flink", "Spark"))


class _Cluster:
    """A cluster that is being asked; what one answer tells the next.

    Attributes:
        here: it seems to be on this machine.
        sure: it is known where it is.
    """

    def __init__(self, runner: Runner, found: Found):
        self.runner, self.found = runner, found
        self.masters = [m for o in ("flink_master", "spark_master_url") if parse_address(m := runner.option(o))]
        self.here, self.sure = any(_is_here(address) for address in self.masters), True

    def meet(self, option: str) -> str:
        """Connects to an address, and asks who is there."""
        address = self.runner.option(option)
        _reach(option, address)
        if option == "job_endpoint":
            of_a_cluster = check_job_service(address)
            if not self.masters:
                # A job server in front of a cluster says nothing of where that is; any other one runs its workers beside it.
                self.here, self.sure = _is_here(address), not of_a_cluster
            return f"a Beam job service answers at {address}" + (
                ", in front of a Flink or Spark cluster" if of_a_cluster else ""
            )
        if option == "dask_client_address" and self.runner.name == "DaskRunner":
            dask = check_dask(address)
            self.found.slots, self.found.slot_bytes = dask.threads, dask.thread_bytes
            each = f", {dask.thread_bytes / 1e9:.1f} GB of memory each" if dask.thread_bytes else ""
            return f"the scheduler at {address} has {dask.workers} workers, {dask.threads} threads{each}"
        return f"somebody answers at {address}"

    def check_job_server(self) -> str:
        """These runners start a Java program of Beam's here, which talks to the cluster."""
        kind = self.runner.name.removesuffix("Runner").lower()
        jar = self.runner.option(f"{kind}_job_server_jar")
        if jar and "://" not in jar and not os.path.exists(jar):
            raise InputError(f"--{kind}_job_server_jar={jar} not found; without it Beam fetches its job server itself")
        launcher = self.runner.option("job_server_java_launcher") or "java"
        if shutil.which(launcher) is None:
            raise InputError(
                f"{self.runner.name} starts Beam's job server with {launcher!r}, which is not on this machine; install a "
                "Java runtime (11 or 17), or give --job_endpoint=HOST:PORT of a job server that runs elsewhere"
            )
        return f"{launcher} will run {jar or 'the job server that Beam fetches'}"

    def check_flink(self) -> str:
        """Which Flink it is."""
        address, published = self.runner.option("flink_master"), FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
        own = self.runner.option("flink_job_server_jar")  # whose version is not ours to know
        flink = check_flink(address, "" if own else self.runner.option("flink_version") or published[-1], published)
        self.found.slots = flink.slots
        return f"Flink {flink.version} at {address} has {flink.slots} task slots"

    def check_workers(self) -> str:
        """Workers that cannot start make a job wait for ever, or fail it late."""
        kind, where = self.runner.option("environment_type").upper(), self.runner.option("environment_config")
        if not kind and not where and not self.runner.has("sdk_container_image"):
            raise UsageError(
                f"workers of {self.runner.name} would start from Beam's own image, which has no maskmill; give "
                "--environment_type=EXTERNAL --environment_config=HOST:PORT of a worker pool, or "
                "--environment_type=DOCKER --environment_config=IMAGE after --"
            )
        if kind != "EXTERNAL":
            return f"workers start as {kind or 'DOCKER'} from {where or self.runner.option('sdk_container_image') or 'here'}"
        if not self.here:  # the address is one of the workers' machines, not to be seen from here
            return f"workers come from the pool at {where} of each worker's machine, which cannot be asked from here"
        try:
            _reach("environment_config", where)
            check_pool(where)
        except InputError as error:
            if self.sure:
                raise
            raise Doubt(
                f"{error} (on this machine; as it should be where the pools run on others, else the job waits)"
            ) from error
        return f"the pool at {where} starts workers"


def _see_paths(runner: Runner, paths: dict[str, str]) -> str:
    for option, path in paths.items():
        if runner.name == "DataflowRunner" and not storage.is_remote(path):
            raise UsageError(f"--{option} {path} is on this machine, where Dataflow's workers cannot see it; use gs://")
        if not storage.is_remote(path) and not path.startswith("/"):
            raise UsageError(
                f"--{option} {path} is relative, and workers of {runner.name} have other working folders; "
                "give an absolute path that all of them see, or gs://"
            )
    local = [f"--{option} {path}" for option, path in paths.items() if not storage.is_remote(path)]
    return f"absolute; all workers must see {' and '.join(local)}" if local else "all on gs://"


def _load(runner: Runner) -> str:
    from apache_beam.runners.runner import create_runner

    extra = {"DataflowRunner": "maskmill[gcp]", "DaskRunner": "dask distributed"}.get(runner.name, "apache-beam")
    try:
        create_runner(beam_name(runner.name))
        if runner.name == "DaskRunner":
            import distributed  # noqa: F401
    except (ImportError, AttributeError, TypeError) as error:
        raise InputError(f"{runner.name} cannot be loaded ({error}); install it with: pip install '{extra}'") from error
    return f"{runner.name} of Beam {beam_version}"


def _no_job_service() -> str:
    raise UsageError("--runner=PortableRunner needs --job_endpoint=HOST:PORT, the job service of your cluster")


def _check_dataflow(runner: Runner, found: Found) -> str:
    _refuse_unknown(runner.given)
    for option, meaning in (("project", "PROJECT"), ("region", "REGION"), ("temp_location", "gs://BUCKET/tmp")):
        if not runner.has(option):
            raise UsageError(f"--runner=DataflowRunner needs --{option}={meaning} after --")
    if not storage.is_remote(runner.option("temp_location")):
        raise UsageError(f"--temp_location must be on gs://, got {runner.option('temp_location')!r}")
    if not runner.has("sdk_container_image", "setup_file", "extra_package", "requirements_file"):
        raise UsageError(
            "Dataflow's workers need maskmill: build an image from docker/worker.Dockerfile and give it as "
            "--sdk_container_image=IMAGE after --"
        )
    machines, cores = runner.most_machines, runner.machine_cores
    found.slots, found.slot_bytes = machines * cores, machine_core_bytes(runner.machine_type)
    each = f" and {found.slot_bytes * cores / 2**30:.0f} GB" if found.slot_bytes else ""
    return f"{runner.option('region')}; at most {machines} machines {runner.machine_type} of {cores} cores{each}"


def machine_core_bytes(machine_type: str) -> int | None:
    """Memory for each core of one of Google's machine types, by its name; None where the name does not tell."""
    if own := re.search(r"custom-(\d+)-(\d+)$", machine_type):  # cores and MB
        return (int(own[2]) << 20) // max(1, int(own[1]))
    named = re.fullmatch(r"(\w+)-(standard|highmem|highcpu)-\d+", machine_type)
    if named is None:
        return None
    return int((_GB_A_CORE_N1 if named[1] == "n1" else _GB_A_CORE)[named[2]] * 2**30)


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


def parse_address(address: str) -> tuple[str, int] | None:
    """Host and port of an address, with or without a scheme; None where it names no machine."""
    match = re.fullmatch(r"(?:\w+://)?(\[?[\w.:-]+?\]?):(\d{1,5})/?", address)
    return (match[1].strip("[]"), int(match[2])) if match and address not in _EMBEDDED else None


def _is_here(address: str) -> bool:
    """Whether an address names this machine by its loopback."""
    parsed = parse_address(address)
    return parsed is not None and (parsed[0] in ("localhost", "::1") or parsed[0].startswith("127."))


def _reach(option: str, address: str) -> None:
    """Connects and hangs up. InputError when nobody answers."""
    if (parsed := parse_address(address)) is None:
        return
    try:
        socket.create_connection(parsed, timeout=REACH_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"nobody answers at --{option}={address} ({getattr(error, 'strerror', None) or error}); is the cluster up, and "
            "reachable from here?"
        ) from error


def _check_credentials() -> str:
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    except (GoogleAuthError, OSError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"no usable Google Cloud credentials ({why}); {storage.LOGIN}") from error
    return f"found, of {getattr(credentials, 'service_account_email', None) or 'the user who is logged in'}"
