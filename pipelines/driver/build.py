"""The driver of a build: plan or resume, run the graph until every shard is whole, finish."""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import glob
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from maskmill.pipelines.driver.finish import finish_build, finished, too_many_failures
from maskmill.pipelines.driver.progress import Tally, show_progress
from maskmill.pipelines.driver.splits import join_splits
from maskmill.pipelines.folding.pieces import PIECES, forget_piece
from maskmill.pipelines.parts.assemble import (
    SHARDS,
    find_joined,
    load_parts,
    load_shards,
    shard_sidecar_path,
    split_shard,
    sweep_parts,
)
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.part import PARTS, load_sidecar
from maskmill.pipelines.parts.plan import Plan, check_files, difference, load_plan, make_plan
from maskmill.pipelines.parts.preparing import paths_of_masks, prepared_folder, verify_prepared
from maskmill.pipelines.parts.provenance import mask_packages, versions
from maskmill.pipelines.parts.spent import SPENT, Spent, book
from maskmill.pipelines.reading.patience import PATIENCE_S, entered, opened
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, MaskmillError, UsageError
from maskmill.schemas.manifest import (
    CHECKSUMS,
    FAILURES,
    FEATURES_JSON,
    IMAGES,
    IMAGES_FOLDER,
    INFO_JSON,
    LAYER_NAMES,
    MANIFEST,
    REPORT_HTML,
    REPORT_JSON,
    WORK,
    Manifest,
    images_files,
    is_shard_name,
)
from maskmill.schemas.shard_table import SHARD_TABLE

if TYPE_CHECKING:
    from maskmill.pipelines.clusters.runners import Runner

_LOG = logging.getLogger("maskmill")
_ATTEMPTS = 3  # runs of the graph in one command; a killed worker fails a local run, and the rest is built by the next
_WORTH_TIMING = 2000  # images; below, a sample would take longer than it saves
_IDLE_S = 3600.0  # a writer on a cluster that has not written for so long is no more
_OWN_FILES = {
    MANIFEST,
    FAILURES,
    IMAGES,
    CHECKSUMS,
    FEATURES_JSON,
    INFO_JSON,
    LAYER_NAMES,
    REPORT_HTML,
    REPORT_JSON,
    SHARD_TABLE,
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a build ended.

    Attributes:
        manifest: of the finished data set; None when the job was left to itself, or written down as a template.
        built: whether anything was built; False when the folder was complete already.
        too_many_failures: whether the failure rate is above the limit.
    """

    manifest: Manifest | None
    built: bool
    too_many_failures: bool


@contextlib.contextmanager
def output_errors(folder: str) -> Iterator[None]:
    """What the operating system says about the output, in words that name the folder and the way on."""
    try:
        yield
    except OSError as error:
        why = {
            errno.ENOSPC: "the disk is full; free some space and run the same command to resume",
            errno.EDQUOT: "the disk quota is used up; free some space and run the same command to resume",
            errno.EROFS: "the file system is read-only",
            errno.EACCES: "no permission to write there",
            errno.EPERM: "no permission to write there",
            errno.ENOTDIR: "part of the path is a file",
            errno.EEXIST: "part of the path is a file",
        }.get(error.errno or 0, error.strerror or str(error))
        if storage.is_remote(folder):  # what storage says is as important as the kind of error
            kind = {errno.ENOENT: "there is no such bucket, or it is not ours to see: "}.get(error.errno or 0, "")
            why = f"{kind}{error.strerror or error}; the same command goes on from here once that is mended"
        where = f" ({error.filename})" if error.filename and str(error.filename) != folder else ""
        raise InputError(f"cannot write to {folder}{where}: {why}") from error


@contextlib.contextmanager
def _lock(folder: str, idle_s: float = 0.0) -> Iterator[None]:
    """Keeps a second build out of a local folder. The kernel frees the lock when this process ends, however it ends.

    A job that was left to its cluster holds no lock; `idle_s` says how long what it is writing must have lain still before it
    is taken for what an interrupted one left behind.

    gs:// has no locks: there, two builds of one plan write the same bytes, and one of another plan is refused. The file
    is written all the same: that a bucket is missing or closed to us must be known before a million inputs are listed.
    """
    if storage.is_remote(folder):
        storage.write_bytes(storage.join(folder, WORK, "lock"), b"")
        yield
        return
    _refuse_links(folder)
    os.makedirs(os.path.join(folder, WORK), exist_ok=True)
    # Without waiting, as opening a pipe would: the folder may come from elsewhere.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(os.path.join(folder, WORK, "lock"), flags, 0o666), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another build is writing to {folder}; wait for it, or choose another --out") from None
        _remove_incomplete(folder, idle_s)
        yield


def _refuse_links(folder: str) -> None:
    """Raises InputError where a folder that a build empties is a link: what it leads to may be anybody's."""
    for name in (WORK, IMAGES_FOLDER):
        path = os.path.join(folder, name)
        if os.path.islink(path):
            raise InputError(
                f"{path} is a link to {os.readlink(path)}, and a build removes files from this folder; remove the link, or give "
                "another --out"
            )


def _remove_incomplete(folder: str, idle_s: float) -> None:
    """Removes what interrupted writers left behind."""
    now = time.time_ns()
    for place in (
        folder,
        os.path.join(folder, WORK),
        os.path.join(folder, WORK, "parts"),
        os.path.join(folder, WORK, SHARDS),
        os.path.join(folder, WORK, SPENT),
        os.path.join(folder, WORK, PIECES),
        os.path.join(folder, IMAGES_FOLDER),
    ):
        for name, stamp in storage.stamps(place).items():
            if name.endswith(storage.INCOMPLETE) and (not idle_s or now - stamp.changed_ns > idle_s * 1e9):
                storage.remove(os.path.join(place, name))
    for place in glob.glob(os.path.join(glob.escape(folder), WORK, f"planning-*{storage.INCOMPLETE}")):
        shutil.rmtree(place, ignore_errors=True)  # a plan's lines, which may be many gigabytes
    if not idle_s:
        for place in glob.glob(os.path.join(glob.escape(folder), WORK, "listing-*")):
            shutil.rmtree(place, ignore_errors=True)


def _clear(folder: str) -> None:
    """Removes an earlier build's files, and nothing else that may lie in the folder."""
    storage.remove(storage.join(folder, MANIFEST))  # first: from here on this is not a data set
    own = [name for name in storage.names(folder) if name in _OWN_FILES or is_shard_name(name)]
    own += [name for name in images_files(folder) if name != IMAGES]
    storage.remove_all(storage.join(folder, *name.split("/")) for name in sorted(own))
    work = storage.join(folder, WORK)
    with contextlib.suppress(FileNotFoundError):
        # Removing the lock would let a second build lock a new file of the same name.
        storage.remove_all([storage.join(work, name) for name, _ in storage.walk(work) if name != "lock"])


def _pace(folder: str, config: BuildConfig, lines: list[bytes]) -> float | None:
    """How fast images are built, where it is worth knowing: for a cluster, and for more than a few parts."""
    from maskmill.pipelines.driver.estimate import seconds_per_image

    return seconds_per_image(config, lines, prepared_folder(folder)) if len(lines) >= _WORTH_TIMING else None


def refuse_other(plan: Plan, config: BuildConfig, folder: str) -> None:
    """Raises UsageError unless a folder's plan is one of this configuration and of the software that is here."""
    if plan.requested != config:
        lines = "\n".join(difference(plan.requested.to_dict(), config.to_dict()))
        raise UsageError(
            f"{folder} holds a build of another configuration:\n{lines}\nChoose another --out, or --overwrite to start anew"
        )
    now = {**versions(), **mask_packages(plan.config.masks)}
    if plan.versions != now:
        lines = "\n".join(difference(plan.versions, now))
        raise UsageError(
            f"{folder} was begun with other software, which could mix bytes:\n{lines}\n"
            "Install those versions, choose another --out, or --overwrite to start anew"
        )


def plan_or_resume(
    config: BuildConfig,
    folder: str,
    part_size: int = 0,
    *,
    cluster: "Runner | None" = None,
    quiet: bool = True,
    patience: float = PATIENCE_S,
) -> Plan:
    """The plan of the folder when it is one of this configuration, or a new one.

    Where it is built on a `cluster`, images are timed, and the cluster's workers list data sets that are in many shards.

    Raises:
        UsageError: the folder holds a build of another configuration or of other software versions.
        InputError: masks that it imports are no longer what they were.
    """
    plan = load_plan(folder)
    if plan is None:
        if storage.exists(storage.join(folder, MANIFEST)):
            raise UsageError(
                f"{folder} holds a finished data set without its {WORK} folder; choose another --out or --overwrite"
            )
        say = (lambda line: None) if quiet else _say
        if cluster is not None:
            from maskmill.pipelines.driver.inner_tars import listed_by_workers  # Beam takes a second to import
            from maskmill.pipelines.driver.listing import OnWorkers

            workers = None if cluster.has("template_location") else OnWorkers(cluster, say)  # a template runs nothing
            with listed_by_workers(cluster, folder):
                return make_plan(config, folder, part_size, functools.partial(_pace, folder), say, patience, workers)
        return make_plan(config, folder, part_size, say=say, patience=patience)
    refuse_other(plan, config, folder)
    verify_prepared(plan.config.masks, folder)
    return plan


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def paths_of_workers(config: BuildConfig, folder: str) -> dict[str, str]:
    """What a build's workers read and write, by the name of its option."""
    return {"images": config.images, "out": folder, **paths_of_masks(config.masks)}


def build(
    config: BuildConfig, folder: str, run: RunOptions, *, overwrite: bool = False, quiet: bool = False
) -> Outcome:
    """Builds a data set, or whatever of it is missing.

    Args:
        config: what to build.
        folder: where, local or gs://.
        run: how.
        overwrite: remove an earlier build in the folder first.
        quiet: no progress.

    Raises:
        InputError, UsageError, DamageError: see their texts; the folder can be resumed after each of them.
    """
    cluster = None
    if run.beam_args or run.detach:
        from maskmill.pipelines.clusters.checks import check  # Beam takes a second to import
        from maskmill.pipelines.clusters.runners import choose

        runner = choose(run.beam_args)
        if run.detach:
            runner.check_detached()
        check(runner, **paths_of_workers(config, folder))  # before inputs are listed, which can take long
        cluster = None if runner.is_local else runner
    lock = _lock(folder, _IDLE_S if cluster else 0.0)
    with output_errors(folder), entered(lock, folder, run.image_timeout):
        if overwrite:
            _clear(folder)
        plan = plan_or_resume(config, folder, run.part_size, cluster=cluster, quiet=quiet, patience=run.image_timeout)
        manifest = finished(folder, plan)
        if manifest is None:
            check_files(folder, plan)
            if not _run_until_whole(folder, plan, run, quiet):
                return Outcome(None, False, False)
            book(folder, Spent())  # the requests of this process, for the report
            manifest = finish_build(folder, plan)
            built = True
        else:
            join_splits(folder)  # which an interruption may have kept from it
            built = False
    return Outcome(manifest, built, too_many_failures(manifest, run.max_failure_rate))


def _run_until_whole(folder: str, plan: Plan, run: RunOptions, quiet: bool) -> bool:
    """Builds what is missing; False when the job was left to itself, or written down instead of run."""
    from maskmill.pipelines.clusters import runners  # Beam takes a second to import
    from maskmill.pipelines.driver import graph  # Beam takes a second to import

    storage.remove(storage.join(folder, MANIFEST))  # while shards are missing, the folder is not a data set
    join_splits(folder)
    runner = runners.choose(run.beam_args)
    tally = Tally(folder, plan)
    last_error: BaseException | None = None
    with show_progress(tally, quiet):
        for attempt in range(1, _ATTEMPTS + 1):
            joined = find_joined(folder, plan)
            missing = [i for i in range(plan.num_shards) if i not in joined.shards or i in joined.bare]
            if not missing:
                sweep_parts(folder, plan, joined)
                return True
            storage.remove_all(shard_sidecar_path(folder, plan, index) for index in joined.stale)
            committed = storage.names(storage.join(folder, WORK, PARTS))
            tasks = sum(len(plan.parts[index]) for index in missing)
            lost = sum(f"{task.name}.json" not in committed for index in missing for task in plan.parts[index])
            wanted = usable_cores() if run.workers is None else run.workers
            workers = max(1, min(wanted, lost))
            job = runners.job_name(plan.config.name, plan.config.split, plan.digest)
            flags = runner.flags(job, workers, tasks, plan.seconds_of(tasks))
            graph.LOCAL_ERRORS.clear()
            try:
                if not graph.run(graph.seeds(plan, missing), folder, plan.digest, run, flags, _announce):
                    return False
            except Exception as error:  # the runner's own; the cause, where it was in this process, is in LOCAL_ERRORS
                last_error = (
                    next(iter(graph.LOCAL_ERRORS), None) or (runner.is_local and runners.cause_of(error)) or error
                )
                if isinstance(last_error, OSError) or not isinstance(last_error, Exception):
                    raise last_error from error
                if not runner.is_local:  # which has tried again by itself, as often as it thinks right
                    known = isinstance(last_error, MaskmillError)
                    raise last_error if known else runners.explain(last_error, runner) from error
                _LOG.warning("attempt %d of %d ended early: %s", attempt, _ATTEMPTS, str(last_error).splitlines()[0])
    left = plan.num_shards - len(load_shards(folder, plan))
    if left:
        message = f"{left} of {plan.num_shards} shards could not be built in {_ATTEMPTS} attempts"
        if isinstance(last_error, MaskmillError):
            raise type(last_error)(f"{message}: {last_error}") from last_error
        raise RuntimeError(message) from last_error
    return True


def _announce(url: str) -> None:
    _say(f"the job runs at {url}")


def _say(line: str) -> None:
    print(f"maskmill: {line}", file=sys.stderr, flush=True)


def forget_failures(folder: str, reasons: tuple[str, ...] = ()) -> tuple[Plan, int]:
    """Uncommits the parts that hold failures, so that the next build makes them again.

    Args:
        folder: a build's folder.
        reasons: only failures with these reasons; all where empty.

    Returns:
        The plan and how many failures will be tried again. Inputs refused while listing are not among them.
    """
    plan = opened(folder, lambda: load_plan(folder))
    if plan is None:
        raise InputError(f"{folder} holds no build: it has no {WORK}/plan.json")
    again = 0
    with output_errors(folder), entered(_lock(folder), folder):
        check_files(folder, plan)
        shards = load_shards(folder, plan)

        def failed_parts(index: int) -> dict[str, int]:
            own = plan.parts[index]
            read = load_parts(folder, plan, index) if index in shards else (load_sidecar(folder, task) for task in own)
            counts = {
                sidecar.name: sum(not reasons or failure["reason"] in reasons for failure in sidecar.failures)
                for sidecar in read
                if sidecar is not None
            }
            return {name: count for name, count in counts.items() if count}

        for index, failed in enumerate(storage.in_parallel(failed_parts, range(plan.num_shards), folder)):
            if failed:
                again += sum(failed.values())
                storage.remove(storage.join(folder, MANIFEST))  # first: from here on this is not a data set
                forget_piece(folder, plan, index)
                split_shard(folder, plan, index, {task.name for task in plan.parts[index]} - failed.keys())
    return plan, again
