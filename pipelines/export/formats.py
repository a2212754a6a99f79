"""The formats by name, and how an export of many files goes on where it was interrupted.

Every file appears whole or not at all. A folder begins with `export.json`, which says what is being exported; the same
export finds its own and writes the files that are missing, any other is refused.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable

from maskmill.pipelines.dataset.leftovers import cleared
from maskmill.pipelines.export import coco, hugging_face, label_png, webdataset
from maskmill.pipelines.export.chosen import Chosen
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError, UsageError

BEGUN = "export.json"
Counts = dict[str, int]  # images, masks, files written; kept: files that were there


@dataclasses.dataclass(frozen=True)
class Format:
    """One form of export.

    Attributes:
        write: (what, where to) -> counts.
        truth: whether it can hold ground truth.
    """

    write: Callable[[Chosen, str], Counts]
    truth: bool


def _write_shards(
    chosen: Chosen,
    folder: str,
    name: Callable[[Chosen, int], str],
    write: Callable[[Chosen, int, str], tuple[int, int]],
) -> Counts:
    counts = {"images": 0, "masks": 0, "files": 0, "kept": 0}
    for index in range(len(chosen.manifest.shards)):
        path = storage.join(folder, name(chosen, index))
        if storage.exists(path):
            counts["kept"] += 1
            continue
        images, masks = write(chosen, index, path)
        counts["images"] += images
        counts["masks"] += masks
        counts["files"] += 1
    return counts


def _webdataset(chosen: Chosen, folder: str) -> Counts:
    _begin("webdataset", chosen, folder)
    return _write_shards(chosen, folder, webdataset.tar_name, webdataset.write_tar)


def _parquet(chosen: Chosen, folder: str) -> Counts:
    _begin("parquet", chosen, folder)
    counts = _write_shards(chosen, folder, hugging_face.parquet_name, hugging_face.write_parquet)
    storage.write_bytes(storage.join(folder, "README.md"), hugging_face.card(chosen))
    return counts


def _label_png(chosen: Chosen, folder: str) -> Counts:
    label_png.check_layer(chosen)
    label_png.check_names(chosen)
    _begin("label-png", chosen, folder)
    counts = {"images": 0, "masks": 0, "files": 0, "kept": 0}
    for example in chosen.all_records():
        try:
            path = storage.join(folder, storage.check_relative(label_png.png_name(example.filename)))
        except ValueError as error:
            raise DamageError(f"a record's name: {error}") from error
        if storage.exists(path):
            counts["kept"] += 1
            continue
        counts["masks"] += label_png.write_png(chosen, example, path)
        counts["images"] += 1
        counts["files"] += 1
    return counts


FORMATS = {  # what each is: `pipelines.commands.export`, which --help prints without loading this
    "coco": Format(coco.write_instances, truth=True),
    "coco-results": Format(coco.write_results, truth=False),
    "webdataset": Format(_webdataset, truth=True),
    "parquet": Format(_parquet, truth=True),
    "label-png": Format(_label_png, truth=False),
}


def export(chosen: Chosen, name: str, to: str) -> Counts:
    """Writes a data set, or what is chosen of it, in another form; atomic file by file, the same bytes every time.

    Args:
        chosen: what.
        name: of `FORMATS`.
        to: file or folder, local or gs://.

    Raises:
        UsageError: a format that is none, or cannot hold what is chosen.
        InputError: the folder holds something else. DamageError: the data set is damaged. OSError.
    """
    if name not in FORMATS:
        raise UsageError(f"--format {name!r} is none; the formats are {', '.join(FORMATS)}")
    if chosen.truth and not FORMATS[name].truth:
        able = ", ".join(other for other, format in FORMATS.items() if format.truth)
        raise UsageError(f"{name} holds masks of layers, not ground truth; leave out --gt, or take one of {able}")
    if storage.is_same(to, chosen.dataset.folder):
        raise UsageError(f"--to {to} is the data set itself; name another place")
    with _cleared(chosen, to):
        return FORMATS[name].write(chosen, to)


def _cleared(chosen: Chosen, to: str) -> contextlib.AbstractContextManager[None]:
    """Clears away what an export that was killed left there, and nothing of others."""
    if to.endswith(".json"):
        folder, name = os.path.split(to)
        return cleared(folder, f"{name}.")
    if _is_ours(to):
        return cleared(to, deep=True)
    return cleared(to, f"{BEGUN}.", *(f"{name}.json." for name in chosen.names))


def _is_ours(folder: str) -> bool:
    """Whether an export of many files was begun in the folder."""
    return BEGUN in storage.names(folder)


def _begin(name: str, chosen: Chosen, folder: str) -> None:
    """Marks a folder as the place of this export. Raises InputError where it is another's."""
    told = {"format": name, "data": chosen.manifest.digest, "layers": chosen.names, "gt": chosen.truth}
    content = json.dumps(told, indent=1, sort_keys=True).encode() + b"\n"
    path = storage.join(folder, BEGUN)
    try:
        found = storage.read_whole(path, 1 << 20)
    except FileNotFoundError:
        if storage.names(folder):
            raise InputError(f"{folder} is not empty and holds no export of ours; name a new folder") from None
        storage.write_bytes(path, content)
        return
    if found != content:
        raise InputError(f"{folder} holds another export ({BEGUN} says which); name a new folder, or remove that one")
