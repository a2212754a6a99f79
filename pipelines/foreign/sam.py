"""Segment Anything's automatic masks: a .json per picture.

    amg.py --convert-to-rle     STEM.json, a list of masks; so do people dump what SAM 2's generator returns
    SA-1B                       sa_N.json, an object with `image` and `annotations`

A mask has `segmentation` (RLE), `predicted_iou` and `stability_score`; the list is in no order of quality.
"""

import json
from typing import TYPE_CHECKING

from maskmill.pipelines.foreign.formats import FORMATS, Listing
from maskmill.pipelines.foreign.join import stem
from maskmill.pipelines.foreign.per_picture import files_named, index_files, load_one, reading
from maskmill.pipelines.foreign.results import read_entries
from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError, InputError
from maskmill.schemas.mask import MaskSet

if TYPE_CHECKING:
    from maskmill.pipelines.foreign.generator import Imported
    from maskmill.pipelines.foreign.store import Spool

_LOOK_BYTES = 16 << 20


digest, _ = reading("sam", ".json")


def index(path: str, spool: "Spool") -> Listing:
    """See `formats.Reader`. The smallest file is looked into, so that another format is known before anything is built."""
    files = files_named(path, "sam", ".json")
    name = min(files, key=lambda name: (files[name], name))
    if files[name] <= _LOOK_BYTES:
        try:
            content = json.loads(storage.read_bytes(storage.join(path, *name.split("/"))))
        except (ValueError, RecursionError):
            content = []  # damaged; a failure of its picture and of no other
        if isinstance(content, dict) and isinstance(content.get("images"), list):
            raise InputError(
                f"{path} holds {name}, COCO's instances of many pictures; import that file, not its folder"
            )
        entries = content.get("annotations") if isinstance(content, dict) else content
        first = next(iter(entries), {"segmentation": None}) if isinstance(entries, list) else None
        if isinstance(first, dict) and "image_id" in first and isinstance(content, list):
            raise InputError(f"{path} holds {name}, COCO's results of many pictures; import that file, not its folder")
        if not isinstance(first, dict) or "segmentation" not in first:
            raise InputError(
                f"{path} holds {name}, which lists no masks with a segmentation; sam is {FORMATS['sam'].looks}"
            )
    return index_files(files, spool)


def read(block: bytes, key: str, height: int, width: int, wanted: "Imported") -> MaskSet:
    """See `formats.Reader`."""
    name, data = load_one(wanted.path, block)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError("bad_annotation", "imported", f"{name} is not valid JSON: {error}") from error
    if isinstance(content, dict):
        _check_image(name, content.get("image"), height, width)
        content = content.get("annotations")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise ImageError("bad_annotation", "imported", f"{name} is no list of masks, nor an object with annotations")
    return read_entries(content, height, width, wanted)


def _check_image(name: str, image: object, height: int, width: int) -> None:
    """What SA-1B says of the picture must not contradict where the file was found."""
    if not isinstance(image, dict):
        return
    stated = image.get("file_name")
    if isinstance(stated, str) and stem(stated).rsplit("/", 1)[-1] != stem(name).rsplit("/", 1)[-1]:
        raise ImageError("unmatched", "imported", f"{name} says that its masks are those of {stated[:100]!r}")
    size = [image.get("height", height), image.get("width", width)]
    if size != [height, width]:
        raise ImageError(
            "size_mismatch",
            "imported",
            f"{name} says {str(size[1])[:20]} x {str(size[0])[:20]} pixels, the picture has {width} x {height}",
        )
