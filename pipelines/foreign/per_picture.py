"""Formats with one file per picture, named like it: what their readers share."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from maskmill.pipelines.foreign.folders import ending_of, files_of, load, names_and_sizes
from maskmill.pipelines.foreign.formats import FORMATS, Listing
from maskmill.pipelines.foreign.join import Name, stem

if TYPE_CHECKING:
    from maskmill.pipelines.foreign.store import Spool


def files_named(path: str, form: str, ending: str) -> dict[str, int]:
    """The files below a folder that end so, with their sizes; InputError where there is none."""
    return files_of(path, lambda name: ending_of(name) == ending, FORMATS[form].looks)


def index_files(files: dict[str, int], spool: "Spool") -> Listing:
    """Each file into the spool with its size, and its name without the ending."""
    spool.add((name, json.dumps([name, size]).encode() + b"\n") for name, size in files.items())
    return Listing([Name(name, stem(name), "stem") for name in files], names_and_sizes(files))


def reading(form: str, ending: str) -> "tuple[Callable[[str], str], Callable[[str, Spool], Listing]]":
    """`digest` and `index` of a `formats.Reader` whose files all end in `ending` (with its dot)."""

    def digest(path: str) -> str:
        return names_and_sizes(files_named(path, form, ending))

    def index(path: str, spool: "Spool") -> Listing:
        return index_files(files_named(path, form, ending), spool)

    return digest, index


def load_one(folder: str, block: bytes) -> tuple[str, bytes]:
    """The file of a picture: (name, bytes); see `folders.load`."""
    name, size = json.loads(block)
    return name, load(folder, name, size)
