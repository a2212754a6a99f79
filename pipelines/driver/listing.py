"""Shards of a data set listed by a cluster's workers, so that no tar has to pass through the machine that plans.

Each worker leaves what it finds in a shard as lines in a file of its own, below `_work/listing`; the driver reads these in the
order of the shards, so the plan is, byte for byte, the one it would have made of the shards itself.
"""

import contextlib
import dataclasses
import gzip
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

from maskmill.pipelines.clusters.runners import Runner, explain, make_pipeline
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.parquet import Columns
from maskmill.pipelines.reading.shard_files import InShards, ShardFile, list_here, list_shard
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, MaskmillError
from maskmill.schemas.manifest import WORK

LISTING = "listing"
MIN_SHARDS = 64  # of fewer the driver has listed its share before workers have started
_SECONDS = 2.0  # that a shard takes, of a core; says how many machines to begin with

ListOne = Callable[[ShardFile], list[Any]]


def encode(found: Sequence[Any]) -> bytes:
    """What is known of a shard, as lines."""
    return b"".join(_line(one) + b"\n" for one in found)


def _line(one: object) -> bytes:
    if isinstance(one, Input):
        return b"input " + one.to_json()
    kind = "refusal" if isinstance(one, Refusal) else "columns" if isinstance(one, Columns) else "error"
    fields = {"text": str(one)} if kind == "error" else dataclasses.asdict(one)  # type: ignore[call-overload]
    return f"{kind} {json.dumps(fields)}".encode()


def decode(lines: bytes) -> list[Any]:
    """The inverse of `encode`.

    Raises:
        InputError: the shard could not be listed.
    """
    return [_one(*line.split(b" ", 1)) for line in lines.splitlines()]


def _one(kind: bytes, line: bytes) -> Input | Refusal | Columns:
    if kind == b"input":
        return Input.from_json(line)
    fields = json.loads(line)
    if kind == b"refusal":
        return Refusal(**fields)
    if kind == b"columns":
        return Columns(**{**fields, "names": tuple(fields["names"])})
    raise InputError(fields["text"])


def _path(folder: str, number: int) -> str:
    return storage.join(folder, WORK, LISTING, f"{number:06d}.gz")


def list_and_leave(numbered: tuple[int, ShardFile], list_one: ListOne, folder: str) -> int:
    """(number, shard) -> number, with what is in the shard left in its file. That it cannot be listed is left there too."""
    number, shard = numbered
    try:
        lines = encode(list_shard(list_one, shard))
    except InputError as error:
        lines = encode([error])
    storage.write_bytes(_path(folder, number), gzip.compress(lines, 1, mtime=0))
    return number


@dataclasses.dataclass(frozen=True)
class OnWorkers:
    """Lists shards as `pipelines.reading.shard_files.list_here` does, on the workers of a cluster.

    Attributes:
        folder: the build's folder, which workers see.
        runner: the cluster's.
        say: told that a job was started.
    """

    folder: str
    runner: Runner
    say: Callable[[str], None] = lambda line: None

    def __call__(self, list_one: ListOne, shards: list[ShardFile]) -> Iterator[list[Any]]:
        """What is in each shard, in order.

        Raises:
            InputError: a shard cannot be listed. JobError: the job failed.
        """
        options = PipelineOptions(
            self.runner.flags(f"maskmill-listing-{secrets.token_hex(4)}", 1, len(shards), _SECONDS * len(shards))
        )
        template = options.view_as(GoogleCloudOptions).template_location  # which is a job written down, not run
        if len(shards) < MIN_SHARDS or template:
            yield from list_here(list_one, shards)
            return
        self.say(f"{len(shards):,} shards are listed on the workers of {self.runner.name}, so that a plan can be made")
        try:
            self._run(list_one, shards, options)
            yield from storage.in_parallel(self._read, range(len(shards)), self.folder)
        finally:
            with contextlib.suppress(OSError):
                storage.remove_all(_path(self.folder, number) for number in range(len(shards)))

    def _read(self, number: int) -> list[Any]:
        return decode(gzip.decompress(storage.read_bytes(_path(self.folder, number))))

    def _run(self, list_one: ListOne, shards: list[ShardFile], options: PipelineOptions) -> None:
        try:
            with make_pipeline(options) as pipeline:
                _ = (
                    pipeline
                    | "Shards" >> beam.Create(list(enumerate(shards)), reshuffle=False)
                    | "BreakFusion" >> beam.Reshuffle()
                    | "ListShard" >> beam.Map(list_and_leave, list_one=list_one, folder=self.folder)
                )
        except MaskmillError:
            raise
        except Exception as error:
            raise explain(error, self.runner) from error


def let_workers_list(source: object, folder: str, runner: Runner, say: Callable[[str], None]) -> None:
    """Lets a cluster's workers list a source, where it is in shards."""
    if isinstance(source, InShards):
        source.lister = OnWorkers(folder, runner, say)
