"""One input of a build: which image, where its bytes are, what is known of it. What a source lists and a plan holds."""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

from maskmill.pipelines.reading.example_record import ExampleRecord
from maskmill.pipelines.reading.location import MAX_FILE_BYTES, Location, too_large
from maskmill.pipelines.reading.names import escape_surrogates
from maskmill.pipelines.reading.row_group import Cell

Place = Location | Cell | ExampleRecord


@dataclasses.dataclass(frozen=True)
class Input:
    """One image to be built, by reference.

    Attributes:
        id: unique within the data set: the path relative to the dataset root, as `pipelines.reading.names.spelled` spells it.
        location: where the bytes are.
        source_id: COCO image id as text, else "".
        label, synset, text: class, or -1, "", "".
        size: (height, width) as the annotation file states it, or None.
        annotations: raw COCO annotations of the image, as they stand in the file.
        together: inputs of one such text are read as one piece, and follow one another in the order of records; "" where
            each is read by itself. Their ids must differ from all others'.
    """

    id: str
    location: Place
    source_id: str = ""
    label: int = -1
    synset: str = ""
    text: str = ""
    size: tuple[int, int] | None = None
    annotations: tuple[dict, ...] = ()
    together: str = ""

    def to_json(self) -> bytes:
        """One line of the plan, without the line end. Defaults are left out: there can be millions of lines."""
        at = self.location
        place: list | dict[str, list]
        if isinstance(at, Location):
            zipped = (at.crc, at.lead) if at.lead else ()
            place = [at.path, at.offset, at.size, at.deflated, at.plain, *zipped]
        else:
            kind = next(name for name, other in _OTHER_PLACES.items() if isinstance(at, other))
            place = {kind: [getattr(at, name) for name in at.__slots__]}
        line: dict[str, Any] = {"id": self.id, "location": place}
        for name, value in (
            ("source_id", self.source_id),
            ("synset", self.synset),
            ("text", self.text),
            ("size", self.size),
            ("annotations", self.annotations),
            ("together", self.together),
        ):
            if value:
                line[name] = value
        if self.label != -1:
            line["label"] = self.label
        return _encode(line).encode("ascii")

    @classmethod
    def from_json(cls, line: bytes) -> "Input":
        """The inverse of `to_json`."""
        fields = json.loads(line)
        at = fields["location"]
        if isinstance(at, dict):
            ((kind, values),) = at.items()
            fields["location"] = _OTHER_PLACES[kind](*values)
        else:
            fields["location"] = Location(*at)
        if "size" in fields:
            fields["size"] = tuple(fields["size"])
        fields["annotations"] = tuple(fields.get("annotations", ()))
        return cls(**fields)


_OTHER_PLACES: dict[str, type[Cell | ExampleRecord]] = {"cell": Cell, "example": ExampleRecord}
_encode = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode  # making one takes longer than using it
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of objects that libraries name in their messages
HIDDEN = "hidden: its name, or that of its folder, begins with a dot"


@dataclasses.dataclass(frozen=True)
class Refusal:
    """An input that gave no record: one line of the ledger.

    Attributes:
        id: the input's id.
        stage: list, read, decode, annotate, a generator's name, encode or write.
        reason: one of `schemas.errors.REASONS`.
        message: what happened, in words; the same words in every run, and Unicode that UTF-8 can write.
        attempts: how often it was tried.
        outcome: "failed", or "skipped" for files that are plainly not pictures.
    """

    id: str
    stage: str
    reason: str
    message: str
    attempts: int = 1
    outcome: str = "failed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", escape_surrogates(_ADDRESS.sub("", self.message)))


def lost(name: str, message: str) -> Refusal:
    """A file that the listing has found but no worker could read."""
    return Refusal(name, "list", "unreadable", message)


def left_out(name: str, message: str) -> Refusal:
    """A file or link that is plainly not meant as a picture: counted and named, but no failure."""
    return Refusal(name, "list", "not_taken", message, 0, "skipped")


def within_limits(listed: Iterator[Input | Refusal]) -> Iterator[Input | Refusal]:
    """The same, with those refused that listing knows to be larger than `MAX_FILE_BYTES`: nobody has to begin to read them."""
    for item in listed:
        if isinstance(item, Input) and item.location.stated > MAX_FILE_BYTES:
            yield Refusal(item.id, "list", "too_large", str(too_large("list", item.location.stated)))
        else:
            yield item


class Source(Protocol):
    """A data set to be read: lists its inputs, and those it can already refuse."""

    def list_inputs(self) -> Iterator[Input | Refusal]:
        """Every input, in no fixed order. Raises InputError where the data set as a whole cannot be read."""

    @property
    def categories(self) -> dict[int, str]:
        """Category id -> name of the annotations; valid once inputs were listed."""

    @property
    def labels(self) -> str:
        """Where class labels come from, in words, for the manifest."""
