"""A small job that looks around where a build's workers will be: Create(numbers) -> Reshuffle -> look.

What a worker sees cannot be known from anywhere else: which software it has, how large its machine is, and whether the folder
that it writes to is the one that is read here.
"""

import json
import os
import platform
import secrets
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from maskmill.pipelines.clusters.runners import Runner, explain, make_pipeline, quiet_streams
from maskmill.pipelines.parts import memory
from maskmill.pipelines.parts.provenance import versions
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError
from maskmill.schemas.manifest import WORK

LOOKS = 16


def software() -> dict[str, str]:
    """What must be alike where a build is planned and where it is built."""
    return {**versions(), "apache-beam": beam.__version__}


def look(number: int, pictures: str, place: str) -> None:
    """Writes down what there is on this machine.

    Args:
        number: of this look.
        pictures: a file that workers will read, or "".
        place: a folder below the build's.
    """
    found: dict[str, Any] = {
        "machine": platform.node(),
        "process": os.getpid(),
        "cores": os.cpu_count() or 1,
        "bytes": memory.machine_bytes(),
        "versions": software(),
        "pictures": "",
    }
    if pictures:
        try:
            storage.read_bytes(pictures, 0, 16)
        except OSError as error:
            found["pictures"] = f"{pictures}: {error.strerror or error}"
    storage.write_bytes(storage.join(place, f"{number}.json"), json.dumps(found).encode())


def look_around(runner: Runner, pictures: str, out: str, looks: int = LOOKS) -> list[dict[str, Any]]:
    """Runs the job.

    Args:
        runner: where.
        pictures: a file that workers will read, or "".
        out: the folder of the build to come.
        looks: how many work items; as many as there are slots reach most workers.

    Returns:
        What each look found; see `look`.

    Raises:
        InputError: workers have no maskmill, or what they write is not to be seen here. JobError: the job failed otherwise.
    """
    place = storage.join(out, WORK, f"check-{secrets.token_hex(4)}")
    try:
        pipeline = make_pipeline(PipelineOptions(runner.flags(workers=min(looks, os.cpu_count() or 1), tasks=looks)))
        _ = (
            pipeline
            | "Looks" >> beam.Create(range(looks), reshuffle=False)
            | "BreakFusion" >> beam.Reshuffle()
            | "Look" >> beam.Map(look, pictures=pictures, place=place)
        )
        with quiet_streams():
            pipeline.run().wait_until_finish()
    except Exception as error:  # the runner's own
        _remove(place)
        raise explain(error, runner) from error
    found = [json.loads(storage.read_bytes(storage.join(place, name))) for name in sorted(storage.names(place))]
    _remove(place)
    if len(found) < looks:
        raise InputError(
            f"the job ended well, but of {looks} files that its workers wrote below {out} {len(found)} are to be seen here; "
            "give a folder that is the same on all machines, or gs://"
        )
    return found


def _remove(place: str) -> None:
    storage.remove_all(storage.join(place, name) for name in storage.names(place))
    if not storage.is_remote(place) and os.path.isdir(place):
        os.rmdir(place)
