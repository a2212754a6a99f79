"""A folder of single pictures on gs:// in pieces that many can list at once: ranges of its objects' names.

A bucket lists names in their order, a thousand in each answer, and the next answer can only be asked for when the last one is
there: a hundred million take a day. But it can be asked for the first name behind any text. So the characters are found with
which names go on, one request each, and those behind them, until there are enough beginnings to be borders of ranges. Borders
are only borders: wherever they are, each name lies between two of them.
"""

import functools
import itertools
from collections.abc import Iterator

from maskmill.pipelines.reading.inputs import HIDDEN, Refusal, left_out
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.names import is_hidden
from maskmill.pipelines.reading.shard_files import ShardFile
from maskmill.schemas import storage

ENOUGH = 256  # ranges
FEW = 20_000  # names; so many are listed here faster than elsewhere
_DEEPEST = 200  # characters that all names have in common
_LAST = chr(0x10FFFF)


def find_ranges(folder: str) -> list[ShardFile]:
    """A gs:// folder as ranges of names, or as one where it holds few.

    Raises:
        FileNotFoundError, OSError: see `storage.walk`.
    """
    best = beginnings = [""]
    if sum(1 for _ in itertools.islice(storage.walk(folder), FEW)) == FEW:
        for _ in range(_DEEPEST):
            longer = storage.in_parallel(functools.partial(_go_on, folder), beginnings, folder)
            beginnings = list(itertools.chain.from_iterable(longer))
            best = max(best, beginnings, key=len)  # names that end are not among them
            if not beginnings or len(best) >= ENOUGH:
                break
    borders = ["", *best[1:], ""]  # what comes before the first beginning is none
    return [ShardFile(first, folder, end) for first, end in itertools.pairwise(borders)]


def _go_on(folder: str, beginning: str) -> list[str]:
    """The beginnings of names that are this one and a character."""
    found: list[str] = []
    first = beginning
    while (name := storage.next_name(folder, beginning, first)) is not None:
        if name == beginning:
            first = beginning + "\0"
            continue
        character = name[len(beginning)]
        found.append(beginning + character)
        if character == _LAST:
            break
        first = beginning + chr(0xE000 if character == "\ud7ff" else ord(character) + 1)
    return found


def walk_range(shard: ShardFile) -> Iterator[tuple[str, Location | Refusal]]:
    """The objects of a range, as `tree.list_tree` gives those of all."""
    for name, _ in storage.walk_between(shard.path, shard.name, shard.until):
        yield name, left_out(name, HIDDEN) if is_hidden(name) else Location(storage.join(shard.path, *name.split("/")))
