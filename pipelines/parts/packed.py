"""The sidecars of a joined shard's parts, in one file beside the shard's own: `_work/shards/NAME.parts.gz`.

A gzip member for each part, in order, and nothing else. That is one file a shard where there were a dozen, and a tenth of
their bytes; and what a shard was joined from is still all there, so that it can be taken apart again. Attempts at one shard
write what they have read of the same sidecars, so whose file it is in the end does not matter.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence

from maskmill.pipelines.parts.part import Sidecar, parse_sidecar
from maskmill.pipelines.parts.part_index import PartTask
from maskmill.schemas import storage

SUFFIX = ".parts.gz"
_LEVEL = 1  # the fastest: higher ones save a tenth of the bytes and cost as much time as the picture's masks


def pack(sidecar: bytes) -> bytes:
    """One part's member of the file."""
    return gzip.compress(sidecar, _LEVEL, mtime=0)


def unpack(path: str, tasks: Sequence[PartTask]) -> Iterator[Sidecar]:
    """The sidecars of these parts, which are all that the file holds; one at a time in memory.

    Raises:
        ValueError: the file is missing or damaged, or of other parts.
    """
    try:
        rest = storage.read_bytes(path)
    except FileNotFoundError:
        raise ValueError("it is missing") from None
    for task in tasks:
        member = zlib.decompressobj(wbits=31)
        try:
            sidecar = parse_sidecar(member.decompress(rest), task)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if not member.eof or sidecar is None or sidecar.name != task.name:
            raise ValueError(f"it does not hold part {task.name}")
        rest = member.unused_data
        yield sidecar
    if rest:
        raise ValueError("it holds more parts than the shard has")
