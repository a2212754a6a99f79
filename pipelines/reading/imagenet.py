"""ImageNet as published: synset folders, `ILSVRC2012_img_train.tar` with its tar per synset, or the flat validation folder
with a ground-truth file.

Labels are 0..K-1 in the order of sorted synsets (0..999 for ILSVRC). A subset keeps the labels of the whole when a list
of all synsets is given (`--synsets`, or `synsets.txt` / `LOC_synset_mapping.txt` at the root of the images).
"""

import dataclasses
import io
import re
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from maskmill.pipelines.reading.folder import skip_other_files
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.tree import is_archive, list_tree
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, one_line

_SYNSET = re.compile(r"^n\d{8}$")
_HELD = 2_000_000  # files in memory while it is not known which labels there are; 0.3 kB each
_LISTS = ("synsets.txt", "LOC_synset_mapping.txt")


def read_synsets(path: str) -> dict[str, str]:
    """A list of synsets, one a line, an optional name behind a tab or blank: synset -> name.

    Raises:
        InputError: the file is missing, empty, or a line does not start with a synset like n01440764.
    """
    names: dict[str, str] = {}
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        synset, _, name = line.strip().replace("\t", " ").partition(" ")
        if not _SYNSET.match(synset):
            raise InputError(f"{path}, line {number}: {synset[:40]!r} is not a synset like n01440764")
        names[synset] = name.strip()
    if not names:
        raise InputError(f"{path} lists no synsets")
    return names


def read_ground_truth(path: str, order: list[str] | None) -> list[tuple[str, str]]:
    """The validation ground truth as (file stem or "", synset) per line.

    Three forms are read: `LOC_val_solution.csv` (ImageId,PredictionString), lines of `file synset`, and the devkit's
    `ILSVRC2012_validation_ground_truth.txt`, whose numbers 1..1000 follow the devkit's own order, which is *not* that of
    sorted synsets; it therefore needs `order`.

    Raises:
        InputError: missing file, a line of no known form, or devkit numbers without `order`.
    """
    rows = []
    for number, line in enumerate(_read_text(path).splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words or words[0] == "ImageId":
            continue
        if words[0].isdigit() and len(words) == 1:
            if order is None:
                raise InputError(
                    f"{path} holds the devkit's own class numbers; give the devkit's meta.mat with --synsets, "
                    "or use LOC_val_solution.csv, or lines of 'file synset'"
                )
            if not 1 <= int(words[0]) <= len(order):
                raise InputError(f"{path}, line {number}: class {words[0]} is outside 1..{len(order)}")
            rows.append(("", order[int(words[0]) - 1]))
        elif len(words) >= 2 and _SYNSET.match(words[1]):
            rows.append((words[0].rsplit("/", 1)[-1].rsplit(".", 1)[0], words[1]))
        elif _SYNSET.match(words[0]):
            rows.append(("", words[0]))
        else:
            raise InputError(f"{path}, line {number}: {line[:60]!r} is neither 'file synset' nor a class number")
    return rows


def read_devkit_order(path: str) -> tuple[list[str], dict[str, str]]:
    """The devkit's `meta.mat`: synsets by ILSVRC2012_ID (1..1000), and their names."""
    from scipy.io import loadmat

    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"{path} not found") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        table = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        rows = sorted((int(row["ILSVRC2012_ID"]), str(row["WNID"]), str(row["words"])) for row in table)
    except Exception as error:  # scipy's reader raises almost anything on damaged files
        raise InputError(f"{path} is not the devkit's meta.mat: {one_line(error) or type(error).__name__}") from error
    rows = [row for row in rows if row[0] <= 1000]  # ids above are inner nodes of the hierarchy
    return [synset for _, synset, _ in rows], {synset: words for _, synset, words in rows}


def _read_text(path: str) -> str:
    try:
        return storage.read_bytes(path).decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} not found") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error


class _Files:
    """Files in the order in which they came: the first in memory, the others as lines of a temporary file."""

    def __init__(self) -> None:
        self._held: list[tuple[str, Location]] = []
        self._beyond: BinaryIO | None = None

    def add(self, name: str, location: Location) -> None:
        if len(self._held) < _HELD:
            self._held.append((name, location))
            return
        if self._beyond is None:
            beyond = tempfile.TemporaryFile(prefix="maskmill-files-")  # noqa: SIM115  # it goes with this object
            self._beyond = cast("BinaryIO", beyond)
        self._beyond.write(Input(name, location).to_json() + b"\n")

    def __bool__(self) -> bool:
        return bool(self._held)

    def __iter__(self) -> Iterator[tuple[str, Location]]:
        yield from self._held
        if self._beyond is not None:
            self._beyond.seek(0)
            for line in self._beyond:
                item = Input.from_json(line)
                yield item.id, cast("Location", item.location)


@dataclasses.dataclass
class ImageNet:
    """The `imagenet` data set.

    Attributes:
        images: root of synset folders, a tar, or the flat validation folder.
        ground_truth: validation ground-truth file, or "".
        synsets: file that lists all synsets, or the devkit's meta.mat, or "".
    """

    images: str
    ground_truth: str = ""
    synsets: str = ""
    categories: dict[int, str] = dataclasses.field(default_factory=dict)
    labels: str = ""

    def _known_synsets(self) -> tuple[list[str] | None, dict[str, str]]:
        if self.synsets.endswith(".mat"):
            return read_devkit_order(self.synsets)
        path = self.synsets
        if not path and not is_archive(self.images):
            path = next((p for p in (storage.join(self.images, n) for n in _LISTS) if storage.exists(p)), "")
        return None, read_synsets(path) if path else {}

    def list_inputs(self) -> Iterator[Input | Refusal]:
        order, names = self._known_synsets()
        files, synsets = _Files(), set[str]()
        lost: set[str] = set()
        for name, found in list_tree(self.images):
            if isinstance(found, Refusal):
                if found.outcome == "failed":  # its class keeps its label, even where the tar of a class is lost
                    lost.add(_synset_of(name.removesuffix(".tar") + "/"))
                yield found
            elif skipped := skip_other_files(name):
                yield skipped
            else:
                files.add(name, found)
                synsets.add(_synset_of(name))
        if self.ground_truth:
            by_file = self._match_ground_truth(files, read_ground_truth(self.ground_truth, order))
            present = set(by_file.values())
        else:
            present = (synsets | lost) - {""}
            if files and not present:
                raise InputError(
                    f"{self.images} has no synset folders (n01440764/...); for the flat validation set give "
                    "--ground-truth, for any other tree of pictures use --dataset folder"
                )
        known = sorted(names if names else present)
        index = {synset: label for label, synset in enumerate(known)}
        whole = f"all {len(known)} of the list given" if names else f"the {len(known)} synsets present"
        self.labels = f"0..{len(known) - 1} in sorted order of {whole}"
        for name, location in files:
            synset = by_file.get(name, "") if self.ground_truth else _synset_of(name)
            yield Input(name, location, "", index.get(synset, -1), synset, names.get(synset, ""))

    def _match_ground_truth(self, files: _Files, rows: list[tuple[str, str]]) -> dict[str, str]:
        if rows and rows[0][0]:
            table = dict(rows)
            return {
                name: table[stem] for name, _ in files if (stem := name.rsplit("/", 1)[-1].rsplit(".", 1)[0]) in table
            }
        ordered = sorted(name for name, _ in files)
        if len(rows) != len(ordered):
            raise InputError(f"{self.ground_truth} has {len(rows)} lines, {self.images} has {len(ordered)} pictures")
        return {name: synset for name, (_, synset) in zip(ordered, rows, strict=True)}


def _synset_of(name: str) -> str:
    """The synset folder nearest to the file, or ""."""
    return next((part for part in reversed(name.split("/")[:-1]) if _SYNSET.match(part)), "")
