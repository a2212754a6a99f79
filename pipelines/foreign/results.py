"""COCO's JSON: results (a list), or instances (`images`, `annotations`), one file for all pictures, of any length.

    results     Detectron2 and CutLER: image_id a COCO id; FastSAM and ultralytics: image_id the file's stem, turned into
                a number where it is one, and in newer versions file_name
    instances   MaskCut: image_id counts the pictures, images[].file_name says which they are

The file is parsed as a stream and never held. Of an entry only its mask and its qualities are kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from maskmill.pipelines.foreign.formats import Listing
from maskmill.pipelines.foreign.join import Name
from maskmill.pipelines.foreign.json_stream import Items, digest, first_character
from maskmill.pipelines.reading.annotations import AnnotationError, segmentation_counts
from maskmill.pipelines.reading.coco import integer_id
from maskmill.schemas import rle
from maskmill.schemas.errors import ImageError, InputError
from maskmill.schemas.mask import MaskSet

if TYPE_CHECKING:
    from jaxtyping import Integer

    from maskmill.pipelines.foreign.generator import Imported
    from maskmill.pipelines.foreign.store import Spool

__all__ = ["digest", "index", "read"]  # see `formats.Reader`

MAX_ENTRIES = 100_000  # of one picture
QUALITIES = ("score", "predicted_iou", "stability_score")
_KEPT = ("segmentation", *QUALITIES)


def index(path: str, spool: Spool) -> Listing:
    """See `formats.Reader`.

    Raises:
        InputError: not found, not JSON, neither results nor instances, or ids that cannot mean one picture.
    """
    first = first_character(path)
    names: dict[str, Name] = {}
    if first == b"{":
        names = _images(path, spool)
        prefix = "annotations.item"
    elif first == b"[":
        prefix = "item"
    else:
        raise InputError(f"{path} is not valid JSON: it begins with {first!r}")
    items = Items(path, prefix)
    spool.add(_entries(path, items, names, listed=first == b"{"))
    return Listing(list(names.values()), items.sha256)


def _images(path: str, spool: Spool) -> dict[str, Name]:
    """The pictures of an instances file by source; each is in the spool, so that one without masks is known as such."""
    names: dict[str, Name] = {}
    heads = []
    for number, image in enumerate(Items(path, "images.item")):
        identity = _identity(image.get("id") if isinstance(image, dict) else None)
        if identity is None:
            raise InputError(f"{path}: image {number} has no id: {str(image)[:100]}")
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise InputError(
                f"{path}: image {str(image['id'])[:40]} has no file_name, and ids of a file's own pictures say nothing "
                "of others; write file names into images"
            )
        known = names.setdefault(identity, Name(identity, name, "file"))
        if known.text != name:
            raise InputError(
                f"{path}: image id {str(image['id'])[:40]} is that of {known.text!r} and of {name!r}; files of several "
                "jobs must be numbered anew when they are put together (CutLER: merge_jsons.py)"
            )
        size = [integer_id(image.get("height")), integer_id(image.get("width"))]
        heads.append((identity, json.dumps({"size": size}).encode() + b"\n"))
        if len(heads) == 10_000:
            spool.add(heads)
            heads = []
    spool.add(heads)
    if not names:
        raise InputError(
            f"{path} is an object without images, so not COCO instances; a file per picture, as of SAM or SA-1B, is "
            "imported by its folder"
        )
    return names


def _entries(
    path: str, items: Iterable[object], names: dict[str, Name], *, listed: bool
) -> Iterator[tuple[str, bytes]]:
    """(source, line) of every mask; names are learned on the way where the file lists none."""
    for number, entry in enumerate(items):
        if not isinstance(entry, dict):
            raise InputError(f"{path}: entry {number} is {type(entry).__name__}, not a result with image_id")
        if not number and "segmentation" not in entry:
            raise InputError(
                f"{path}: its entries have no segmentation; boxes alone are no masks, "
                "and panoptic results are imported as the folder of their PNGs"
            )
        if entry.get("iscrowd"):
            continue  # a region of many objects is nobody's mask
        source = _identity(entry.get("image_id"))
        file_name = entry.get("file_name")
        if not listed and isinstance(file_name, str) and file_name:
            source = f"file {file_name}"
            names.setdefault(source, Name(source, file_name, "file"))
        elif source is None:
            hint = "; a list per picture, as SAM's amg.py writes it, is imported by its folder" if not listed else ""
            raise InputError(f"{path}: entry {number} has no image_id{hint}")
        elif not listed:
            kind, _, text = source.partition(" ")
            names.setdefault(source, Name(source, text, kind))
        yield source, json.dumps({k: entry[k] for k in _KEPT if k in entry}).encode() + b"\n"


def _identity(value: object) -> str | None:
    """A JSON id as a source; text and numbers stay apart."""
    if isinstance(value, str):
        return f"text {value}" if value else None
    number = integer_id(value)
    return None if number is None else f"number {number}"


def read(block: bytes, key: str, height: int, width: int, wanted: Imported) -> MaskSet:
    """See `formats.Reader`."""
    entries = [json.loads(line) for line in block.splitlines()]
    stated = [entry["size"] for entry in entries if "size" in entry]
    for size in stated:
        if None not in size and size != [height, width]:
            raise ImageError(
                "size_mismatch",
                "imported",
                f"the masks' file says {size[1]} x {size[0]} pixels, the picture has {width} x {height}",
            )
    return read_entries([entry for entry in entries if "size" not in entry], height, width, wanted)


def read_entries(entries: list[dict], height: int, width: int, wanted: Imported) -> MaskSet:
    """Masks of one picture from entries with `segmentation` (polygons, run lengths or compressed counts) and qualities.

    Raises:
        ImageError: bad_rle or bad_annotation, naming the first entry that is no mask of this picture.
    """

    def runs_of(number: int) -> np.ndarray:
        segmentation = entries[number].get("segmentation")
        try:
            return rle.decode_counts(segmentation_counts(segmentation, height, width), height, width)
        except AnnotationError as error:
            raise ImageError(error.reason, "imported", f"mask {number}: {error}") from error

    return best_masks(entries, runs_of, wanted)


def best_masks(entries: list[dict], runs_of: Callable[[int], np.ndarray], wanted: Imported) -> MaskSet:
    """The best masks, best first, equal ones in the file's order, empty ones left out.

    Args:
        entries: their qualities.
        runs_of: the runs of an entry's mask, by its number; asked for those only that are needed.
        wanted: how many (`most`), by which quality (`score`).

    Raises:
        ImageError: too many entries, or one without the quality; and what `runs_of` raises.
    """
    if len(entries) > MAX_ENTRIES:
        raise ImageError("bad_annotation", "imported", f"has {len(entries)} masks, the limit is {MAX_ENTRIES}")
    scores = _scores(entries, wanted.score)
    counts: list[bytes] = []
    area: list[int] = []
    kept: list[float] = []
    for number in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if len(counts) == wanted.most:
            break
        runs = runs_of(number)
        if pixels := rle.area_of_runs(runs):
            counts.append(rle.encode_runs(one_form(runs)))
            area.append(pixels)
            kept.append(scores[number])
    return MaskSet(tuple(counts), np.asarray(area, np.int64), np.asarray(kept, np.float32))


def _scores(entries: list[dict], quality: str) -> list[float]:
    """The quality that ranks, of every entry; 1.0 where nothing does."""
    name = quality or next((name for name in QUALITIES[:2] if any(name in entry for entry in entries)), "")
    if not name:
        return [1.0] * len(entries)
    scores = []
    for number, entry in enumerate(entries):
        value = entry.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ImageError(
                "bad_annotation", "imported", f"mask {number} has {name} {str(value)[:20]!r}, not a number"
            )
        scores.append(float(value))
    return scores


def one_form(runs: Integer[np.ndarray, " runs"]) -> Integer[np.ndarray, " fewer"]:
    """The same mask without runs of length zero inside, so that equal masks have equal counts."""
    inside = runs > 0
    inside[0] = True
    if inside.all():
        return runs
    value, length = (np.arange(len(runs)) & 1)[inside], runs[inside]
    starts = np.flatnonzero(np.concatenate(([True], value[1:] != value[:-1])))
    return np.add.reduceat(length, starts)
