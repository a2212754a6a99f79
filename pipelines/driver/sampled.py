"""A data set of which only some files are listed, to know about how much there is before anybody waits for all of it."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

from maskmill.pipelines.reading import tar_index
from maskmill.pipelines.reading.inputs import Input, Refusal, Source
from maskmill.pipelines.reading.shard_files import Classes, InPieces, list_shard
from maskmill.pipelines.reading.tar_index import Entry, InnerTar

_Item = TypeVar("_Item")


@dataclasses.dataclass
class Sampled:
    """A source that lists at most `most` shards of another one, or tars inside its tar on gs://, evenly spaced.

    Attributes:
        source: the other one.
        most: files.
        listed, there: files that were listed, and that there are; equal where all were.
    """

    source: Source
    most: int
    listed: int = 1
    there: int = 1

    @property
    def categories(self) -> dict[int, str]:
        """See `Source`."""
        return self.source.categories

    @property
    def labels(self) -> str:
        """See `Source`; not known where not all is listed."""
        return self.source.labels if self.listed == self.there else ""

    def about(self, count: int) -> int:
        """How many there are in all files, by how many there are in those that were listed."""
        return round(count * self.there / self.listed)

    def list_inputs(self) -> Iterator[Input | Refusal]:
        """What is in some of the files."""
        shards = self.source.find() if isinstance(self.source, InPieces) else None
        if shards is None or len(shards.files) <= self.most:
            with tar_index.inner_tars_by(self._list_some):
                yield from self.source.list_inputs()
            return
        yield from shards.left
        for shard in self._some(shards.files):
            yield from (one for one in list_shard(shards.list_one, shard) if not isinstance(one, Classes))

    def _some(self, files: Sequence[_Item]) -> list[_Item]:
        self.listed, self.there = self.most, len(files)
        return [files[i * len(files) // self.most] for i in range(self.most)]

    def _list_some(self, path: str, inner: Sequence[InnerTar]) -> Iterator[list[Entry]]:
        if len(inner) <= self.most:
            yield from tar_index.list_here(path, inner)
            return
        some = self._some(range(len(inner)))
        found = dict(zip(some, tar_index.list_here(path, [inner[i] for i in some]), strict=True))
        yield from (found.get(i, []) for i in range(len(inner)))
