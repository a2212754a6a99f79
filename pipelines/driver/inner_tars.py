"""Tars inside a tar on gs://, listed by a cluster's workers: Create(tars) -> Reshuffle -> list.

ImageNet's tar for training holds a tar for each class, and 1.3 million headers. The machine that plans reads the thousand
headers of the outer one; workers read the others, near the bucket and all at once, and leave what they found beside the build.
"""

import contextlib
import dataclasses
import gzip
import json
import secrets
from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from maskmill.pipelines.clusters.runners import Runner, explain, make_pipeline, quiet_streams
from maskmill.pipelines.reading import tar_index
from maskmill.pipelines.reading.inputs import Refusal
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.tar_index import Entry, InnerTar
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import WORK

_WORTH_A_JOB = 32  # tars; fewer are listed here before a job has started


def _to_line(entry: Entry) -> bytes:
    name, found = entry
    told = dataclasses.asdict(found) if isinstance(found, Refusal) else [found.offset, found.size]
    return json.dumps([name, told]).encode() + b"\n"


def _from_line(path: str, line: bytes) -> Entry:
    name, told = json.loads(line)
    return name, Refusal(**told) if isinstance(told, dict) else Location(path, told[0], told[1], False, told[1])


def list_one(tar: tuple[int, InnerTar], path: str, place: str) -> None:
    """Lists a tar inside the tar at `path`, and writes what it holds below `place`."""
    number, inner = tar
    lines = b"".join(map(_to_line, tar_index.list_inner(path, inner)))
    storage.write_bytes(storage.join(place, f"{number:06d}.jsonl.gz"), gzip.compress(lines, 6, mtime=0))


def _read_one(path: str, file: str) -> list[Entry]:
    try:
        return [_from_line(path, line) for line in gzip.decompress(storage.read_bytes(file)).splitlines()]
    except (FileNotFoundError, EOFError, ValueError, gzip.BadGzipFile) as error:
        raise DamageError(f"{file}, which a worker wrote, cannot be read: {error}") from error


@contextlib.contextmanager
def listed_by_workers(runner: Runner, folder: str) -> Iterator[None]:
    """While the block runs, tars inside tars on gs:// are listed by the workers of a cluster.

    Args:
        runner: the cluster; a local one changes nothing, nor does a job that is only written down as a template.
        folder: the build's, where workers leave what they found until it has been read.
    """
    if runner.is_local or runner.has("template_location"):
        yield
        return

    def lister(path: str, inner: Sequence[InnerTar]) -> Iterator[list[Entry]]:
        if len(inner) < _WORTH_A_JOB or not storage.is_remote(path):
            yield from tar_index.list_here(path, inner)
            return
        place = storage.join(folder, WORK, f"listing-{secrets.token_hex(4)}")
        files = [storage.join(place, f"{number:06d}.jsonl.gz") for number in range(len(inner))]
        try:
            pipeline = make_pipeline(PipelineOptions(runner.flags(tasks=len(inner))))
            _ = (
                pipeline
                | "Tars" >> beam.Create(list(enumerate(inner)), reshuffle=False)
                | "BreakFusion" >> beam.Reshuffle()
                | "List" >> beam.Map(list_one, path=path, place=place)
            )
            try:
                with quiet_streams():
                    pipeline.run().wait_until_finish()
            except Exception as error:  # the runner's own
                raise explain(error, runner) from error
            yield from storage.in_parallel(lambda file: _read_one(path, file), files, folder)
        finally:
            storage.remove_all(files)

    with tar_index.inner_tars_by(lister):
        yield
