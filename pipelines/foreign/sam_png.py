"""Segment Anything's amg.py without --convert-to-rle: a folder per picture with 0.png, 1.png ... and metadata.csv."""

import csv
import io
import json
from typing import TYPE_CHECKING

import numpy as np

from maskmill.pipelines.foreign.folders import files_of, load, names_and_sizes
from maskmill.pipelines.foreign.formats import FORMATS, Listing
from maskmill.pipelines.foreign.join import Name
from maskmill.pipelines.foreign.png import read_png
from maskmill.pipelines.foreign.results import QUALITIES, best_masks
from maskmill.schemas import rle
from maskmill.schemas.errors import ImageError, InputError
from maskmill.schemas.mask import MaskSet

if TYPE_CHECKING:
    from maskmill.pipelines.foreign.generator import Imported
    from maskmill.pipelines.foreign.store import Spool

_TABLE = "metadata.csv"


def _files(path: str) -> dict[str, int]:
    files = files_of(path, lambda name: name.endswith((f"/{_TABLE}", ".png")) and "/" in name, FORMATS["sam-png"].looks)
    folders = {name.removesuffix(f"/{_TABLE}") for name in files if name.endswith(f"/{_TABLE}")}
    if not folders:
        raise InputError(f"{path} has PNGs in folders, but no {_TABLE} in any; wanted is {FORMATS['sam-png'].looks}")
    return {name: size for name, size in files.items() if name.rpartition("/")[0] in folders}


def digest(path: str) -> str:
    """Of the names and sizes."""
    return names_and_sizes(_files(path))


def index(path: str, spool: "Spool") -> Listing:
    """See `formats.Reader`."""
    files = _files(path)
    folders: dict[str, dict[str, int]] = {}
    for name, size in files.items():
        folder, _, last = name.rpartition("/")
        folders.setdefault(folder, {})[last] = size
    spool.add((folder, json.dumps([folder, inside]).encode() + b"\n") for folder, inside in folders.items())
    return Listing([Name(folder, folder, "stem") for folder in folders], names_and_sizes(files))


def read(block: bytes, key: str, height: int, width: int, wanted: "Imported") -> MaskSet:
    """See `formats.Reader`."""
    folder, files = json.loads(block)
    table = f"{folder}/{_TABLE}"
    text = load(wanted.path, table, files[_TABLE]).decode("utf-8", "replace")
    rows = list(csv.DictReader(io.StringIO(text)))
    entries = []
    for number, row in enumerate(rows):
        name = f"{row.get('id')}.png"
        if name not in files:
            raise ImageError("bad_annotation", "imported", f"{table} lists {name[:40]!r}, which is not in its folder")
        try:
            entries.append({quality: float(row[quality]) for quality in QUALITIES if row.get(quality) is not None})
        except ValueError:
            raise ImageError(
                "bad_annotation", "imported", f"{table}: line {number + 2} has a quality that is no number"
            ) from None

    def runs_of(number: int) -> np.ndarray:
        name = f"{rows[number]['id']}.png"
        mask = read_png(load(wanted.path, f"{folder}/{name}", files[name]), f"{folder}/{name}", height, width)
        return rle.mask_to_runs(mask != 0)

    return best_masks(entries, runs_of, wanted)
