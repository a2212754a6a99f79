"""The families of formats: what each looks like, and which one a path holds."""

import dataclasses
import importlib
from collections import Counter
from typing import TYPE_CHECKING, Protocol

from maskmill.pipelines.foreign.folders import ending_of, list_folder, seen
from maskmill.pipelines.foreign.join import Name
from maskmill.schemas.errors import InputError, UsageError
from maskmill.schemas.mask import MaskSet

if TYPE_CHECKING:
    from maskmill.pipelines.foreign.generator import Imported
    from maskmill.pipelines.foreign.store import Spool


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a path holds.

    Attributes:
        names: what the entries say of their pictures.
        sha256: of the file; of a folder's names and sizes, since reading every file would be a build of its own.
    """

    names: list[Name]
    sha256: str


class Reader(Protocol):
    """A module that reads one family."""

    def index(self, path: str, spool: "Spool") -> Listing:
        """Every entry of `path` into the spool, and what the entries say of their pictures; read as a stream."""

    def digest(self, path: str) -> str:
        """`Listing.sha256` again, without reading what it does not need."""

    def read(self, block: bytes, key: str, height: int, width: int, wanted: "Imported") -> MaskSet:
        """The masks of one picture from its entries; ImageError says what is wrong with them."""


@dataclasses.dataclass(frozen=True)
class Format:
    """One line of the table.

    Attributes:
        module: its reader.
        looks: what it looks like, for messages.
        top: how many masks a picture gets where nobody says; 0: all of them, as a partition has no best ones.
    """

    module: str
    looks: str
    top: int


FORMATS = {
    "coco": Format(
        "maskmill.pipelines.foreign.results",
        "a .json of COCO results or instances: Detectron2, CutLER, MaskCut, FastSAM, ultralytics",
        100,
    ),
    "sam": Format(
        "maskmill.pipelines.foreign.sam",
        "a folder with a .json per picture: SAM's amg.py --convert-to-rle, SAM 2, SA-1B",
        100,
    ),
    "sam-png": Format(
        "maskmill.pipelines.foreign.sam_png",
        "a folder with a folder per picture, of PNG masks and metadata.csv: amg.py",
        100,
    ),
    "mcg": Format(
        "maskmill.pipelines.foreign.mat", "a folder with a .mat per picture: MCG as published, or im2mcg's struct", 100
    ),
    "label-png": Format(
        "maskmill.pipelines.foreign.label_maps",
        "a folder with a label PNG per picture: superpixels, instances, panoptic (red + 256 green + 65536 blue)",
        0,
    ),
}
_ENDINGS = {".json": "sam", ".mat": "mcg", ".png": "label-png"}


def reader_of(name: str) -> Reader:
    """The module that reads a format."""
    return importlib.import_module(FORMATS[name].module)  # type: ignore[return-value]


def known() -> str:
    """All formats in words."""
    return "; ".join(f"{name} ({form.looks})" for name, form in FORMATS.items())


def detect(path: str) -> str:
    """The format of what lies at `path`.

    Raises:
        InputError: nothing is there, or nothing of a known format, or of several.
    """
    try:
        files = list_folder(path)
    except FileNotFoundError:
        raise InputError(f"{path} not found; masks can be imported from {known()}") from None
    if files is None:
        if path.endswith(".json"):
            return "coco"
        raise InputError(f"{path} is a file, but not a .json; known are {known()}")
    if any(name.endswith("/metadata.csv") for name in files):
        return "sam-png"
    endings = Counter(ending_of(name) for name in files)
    found = [form for ending, form in _ENDINGS.items() if endings[ending]]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"{path} holds {seen(files)}, and no masks of a known format; known are {known()}")
    raise InputError(f"{path} holds {seen(files)}; say which are the masks: --format {' or --format '.join(found)}")


def check_format(name: str) -> None:
    """UsageError for a name that is not in the table."""
    if name not in FORMATS:
        raise UsageError(f"format {name!r} is not known; known are {known()}")
