"""All that a build on a cluster needs, asked before it starts. Nothing is built, and nothing is left behind."""

import contextlib
import dataclasses
import os
import secrets
from collections.abc import Iterator

from maskmill.pipelines.clusters.checks import Check, Doubt, Found, Question, answers, questions
from maskmill.pipelines.clusters.price import Cloud, Work, simulate
from maskmill.pipelines.clusters.runners import Runner, choose
from maskmill.pipelines.driver.build import output_errors, paths_of_workers, refuse_other, usable_cores
from maskmill.pipelines.driver.estimate import Estimate, estimate, free_space
from maskmill.pipelines.driver.probe import LOOKS, look_around, software
from maskmill.pipelines.driver.progress import amount, duration, volume, work
from maskmill.pipelines.parts import memory
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.generators import parse_specs
from maskmill.pipelines.parts.plan import difference, images_per_part, load_plan
from maskmill.pipelines.reading.location import MAX_FILE_BYTES
from maskmill.pipelines.reading.patience import opened
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, UsageError
from maskmill.schemas.manifest import WORK

FILES = 16  # of a data set in more shards so many are listed here; workers list them all when it is built


@dataclasses.dataclass
class _Known:
    """What the answers so far tell."""

    found: Found
    estimate: Estimate | None = None
    picture: str = ""


def check_cluster(
    config: BuildConfig, out: str, run: RunOptions, *, quick: bool = False, job: bool = False
) -> Iterator[Check]:
    """Every question and its answer, as they come.

    Args:
        config: what would be built.
        out: where it would go.
        run: how; its `beam_args` say on which cluster.
        quick: nothing is listed or timed; then space and price are not known.
        job: a small job looks around on the workers, too.
    """
    yield from answers(_questions(config, out, run, quick, job))


def _questions(config: BuildConfig, out: str, run: RunOptions, quick: bool, job: bool) -> Iterator[Question]:
    runner = choose(run.beam_args)
    known = _Known(Found(run.workers or usable_cores(), memory.machine_bytes() // usable_cores()))
    if not runner.is_local:
        known.found = Found()
    yield Question("software", lambda: opened(out, lambda: _software(config, out)))
    asked = list(questions(runner, paths_of_workers(config, out), known.found))
    yield from asked
    yield Question("pictures", lambda: opened(config.images, lambda: _pictures(config, known)))
    for option in ("annotations", "ground_truth", "synsets"):
        if path := getattr(config, option):
            yield Question(option.replace("_", "-"), lambda path=path: opened(path, lambda: _file(path)))  # type: ignore[misc]
    yield Question("output", lambda: opened(out, lambda: _writable(out, storage.join(out, WORK))))
    if runner.name == "DataflowRunner" and storage.is_remote(temporary := runner.option("temp_location")):
        yield Question("temporary", lambda: _writable(temporary, temporary), ("options",))
    if job:
        needs = ("software", "output", *(question.about for question in asked))
        yield Question("job", lambda: _look(runner, out, known), needs)
    yield Question("memory", lambda: _memory(config, known.found))
    if not quick:
        yield Question("pace", lambda: _pace(config, out, known), ("pictures", "annotations"))
        yield Question("space", lambda: _space(out, known.estimate), ("pace", "output"))
        yield Question("price", lambda: _price(runner, known), ("pace",))


def _software(config: BuildConfig, out: str) -> str:
    plan = load_plan(out)
    if plan is not None:
        refuse_other(plan, config, out)
    here = software()
    words = f"maskmill {here['maskmill']}, numpy {here['numpy']}, Beam {here['apache-beam']}"
    return f"{words}; workers with others refuse" + (f"; {out} holds a build of just this" if plan else "")


def _pictures(config: BuildConfig, known: _Known) -> str:
    """Reads the first bytes of the first file that there is."""
    path = config.images
    folder = path[: min((at for mark in "{*?" if (at := path.find(mark)) >= 0), default=len(path))]
    if folder != path:
        folder = folder.rpartition("/")[0] or "."
    try:
        if folder == path and (storage.exists(path) if storage.is_remote(path) else os.path.isfile(path)):
            first = path
        else:
            name = next((name for name, _ in storage.walk(folder) if not name.startswith(".")), None)
            if name is None:
                raise InputError(f"{folder} is empty; --images takes pictures, or files that hold them")
            first = storage.join(folder, *name.split("/"))
        storage.read_bytes(first, 0, 16)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} not found ({error.strerror}); --images takes what there is") from error
    except OSError as error:
        raise InputError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
    known.picture = first
    return f"{first} can be read"


def _file(path: str) -> str:
    try:
        size = storage.size(path)
        storage.read_bytes(path, 0, 16)
    except FileNotFoundError as error:
        raise InputError(f"{path} not found") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return f"{path}, {volume(size)}"


def _writable(folder: str, place: str) -> str:
    """Writes, reads, lists and removes a file, as a build does all the time."""
    if not storage.is_remote(folder):
        place = os.path.abspath(folder)
        while not os.path.lexists(place):
            place = os.path.dirname(place)
    name, data = f"check-{secrets.token_hex(4)}", b"maskmill cluster check\n"
    path = storage.join(place, name)
    with output_errors(folder):
        try:
            storage.write_bytes(path, data)
            if storage.read_bytes(path) != data or name not in storage.names(place):
                raise InputError(f"{place} does not show what was written to it a moment ago")
        except BaseException:
            with contextlib.suppress(OSError):
                storage.remove(path)
            raise
        storage.remove(path)
    return f"files can be written to {folder}, read, listed and removed"


def _look(runner: Runner, out: str, known: _Known) -> str:
    if runner.has("template_location"):
        raise UsageError("--job runs a job, and --template_location would only write it down; leave one of them out")
    found = look_around(runner, known.picture, out, max(LOOKS, min(4 * (known.found.slots or 0), 256)))
    theirs, ours = [one["versions"] for one in found], software()
    if other := next((one for one in theirs if one != ours), None):
        raise UsageError(f"workers have other software than is here: {'; '.join(difference(ours, other))}")
    if why := next((one["pictures"] for one in found if one["pictures"]), ""):
        raise InputError(f"workers cannot read {why}")
    machines = {one["machine"]: one for one in found}
    workers = {(one["machine"], one["process"]) for one in found}
    least = min(one["bytes"] // one["cores"] for one in found)
    known.found.slot_bytes = min(least, known.found.slot_bytes or least)
    cores = sum(one["cores"] for one in machines.values())
    return (
        f"{amount(len(workers), 'worker')} on {amount(len(machines), 'machine')} with {amount(cores, 'core')} looked: this "
        f"software, {volume(least)} a core, pictures to be read, {out} the same folder"
    )


def _memory(config: BuildConfig, found: Found) -> str:
    """A worker with the largest picture, against what a worker has."""
    generators = parse_specs(list(config.masks))
    most, idle = memory.worker_bytes(generators, config.max_pixels), memory.BASE_BYTES
    needs = (
        f"a worker takes {volume(idle)}, and {volume(most)} for a picture of {config.max_pixels:,} pixels, "
        f"{volume(memory.FILE_BYTES)} more for a file of {volume(MAX_FILE_BYTES)}, the largest that is read"
    )
    if found.slot_bytes is None:
        raise Doubt(f"{needs}; what the workers have is not known here")
    if found.slot_bytes < 2 * idle:
        raise Doubt(f"{needs}; {volume(found.slot_bytes)} a core is too little: use machines with more memory")
    fits = (found.slot_bytes - idle) // memory.bytes_per_pixel(generators)
    if fits < config.max_pixels:
        return f"{needs}; workers have {volume(found.slot_bytes)} each, pictures above {fits:,} pixels wait for one another"
    return f"{needs}; workers have {volume(found.slot_bytes)} each"


def _pace(config: BuildConfig, out: str, known: _Known) -> str:
    cost = known.estimate = estimate(config, out, usable_cores(), most_files=FILES)
    if cost.seconds_per_image is None or cost.core_seconds is None:
        raise InputError(
            f"of {cost.sampled} pictures none could be built; see why with a small build here: maskmill build --limit 20"
        )
    failed = f", {cost.sample_failures} of {cost.sampled} failed" if cost.sample_failures else ""
    about = ""
    if cost.listed < cost.there:
        about = f"by {cost.listed} of {cost.there:,} files, the others were not looked at: about "
    return (
        f"{about}{cost.to_build:,} of {amount(cost.inputs, 'input')} to build, {cost.seconds_per_image:.3f} s each on a core "
        f"of this machine{failed}: {work(cost.core_seconds)}"
    )


def _space(out: str, cost: Estimate | None) -> str:
    assert cost is not None
    assert cost.out_bytes is not None
    free = free_space(out)
    # Parts and the shard that is made of them are there at the same time.
    needs = f"{volume(cost.out_bytes)} of shards, and as much again while parts are joined"
    if free is None:
        return f"{needs}; gs:// has no limit of its own"
    if free < cost.out_bytes:
        raise InputError(f"{needs}, but {volume(free)} are free at {out}")
    if free < 2 * cost.out_bytes:
        raise Doubt(f"{needs}; {volume(free)} are free at {out}")
    return f"{needs}; {volume(free)} are free"


def _price(runner: Runner, known: _Known) -> str:
    cost, slots = known.estimate, known.found.slots
    assert cost is not None
    assert cost.core_seconds is not None
    assert cost.seconds_per_image is not None
    hours = work(cost.core_seconds)
    if slots is None:
        raise Doubt(f"{hours}, in the time of so many cores as the cluster has, which is not known here")
    dataflow = runner.name == "DataflowRunner"
    cores = runner.machine_cores if dataflow else 1
    machines = runner.machines(cost.core_seconds) if dataflow else slots
    job = Work(cost.to_build, cost.seconds_per_image, part_images=images_per_part(cost.seconds_per_image))
    outcome = simulate(job, Cloud(machines, cores, start_s=180.0 if dataflow else 0.0))
    where = f"{amount(machines, 'machine')} of {cores} cores" if dataflow else amount(slots, "core")
    dollars = f", ${outcome.dollars:,.2f} at list prices" if dataflow else ""
    return f"{hours}, about {duration(outcome.wall_s)} on {where}{dollars}, by simulation (docs/cloud.md)"
