"""Pictures that a data set holds more than once, counted in bounded memory.

The `KEPT` smallest digests of the original files are kept, with how often each came. A digest is a hash, so these are a
sample of the distinct pictures drawn at random, with all their copies: exact for a data set of up to `KEPT` distinct
pictures, an unbiased sample of it beyond. Parts merge exactly, because what is among the smallest of the whole is among
the smallest of each part that has it (a bottom-k sketch; Cohen and Kaplan 2007).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

KEPT = 4096
_NAMED = 3  # ids kept per picture


@dataclasses.dataclass(frozen=True)
class Copies:
    """One picture: how many records hold it, and the first few of their ids in order."""

    count: int
    ids: list[str]

    def __add__(self, other: "Copies") -> "Copies":
        return Copies(self.count + other.count, sorted(self.ids + other.ids)[:_NAMED])


@dataclasses.dataclass(frozen=True)
class Repeats:
    """Copies of pictures by digest; `+` merges those of disjoint sets of records.

    Attributes:
        pictures: hex digest -> copies, at most `KEPT`, the smallest digests.
        complete: whether these are all the pictures there are.
    """

    pictures: dict[str, Copies] = dataclasses.field(default_factory=dict)
    complete: bool = True

    @classmethod
    def of(cls, records: Iterable[tuple[str, str]]) -> "Repeats":
        """Of some records, as (digest, id); a record without a digest is not counted."""
        found: dict[str, Copies] = {}
        for sha256, identity in records:
            if sha256:
                one = Copies(1, [identity])
                found[sha256] = found[sha256] + one if sha256 in found else one
        return cls._bounded(found, complete=True)

    @classmethod
    def _bounded(cls, pictures: dict[str, Copies], complete: bool) -> "Repeats":
        if len(pictures) <= KEPT:
            return cls(pictures, complete)
        return cls({sha256: pictures[sha256] for sha256 in sorted(pictures)[:KEPT]}, False)

    def __add__(self, other: "Repeats") -> "Repeats":
        merged = dict(self.pictures)
        for sha256, copies in other.pictures.items():
            merged[sha256] = merged[sha256] + copies if sha256 in merged else copies
        return self._bounded(merged, self.complete and other.complete)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Repeats":
        """The inverse of `dataclasses.asdict`."""
        return cls({sha256: Copies(**copies) for sha256, copies in fields["pictures"].items()}, fields["complete"])
