"""A class as data sets state it: a number, a WordNet synset or a name."""

import re
from collections.abc import Sequence

_SYNSET = re.compile(r"^n\d{8}$")
_MAX_NAME = 200  # characters; a longer text is a caption

Class = tuple[int, str, str]
NO_CLASS: Class = (-1, "", "")


def as_class(value: object, names: Sequence[str] = ()) -> Class:
    """What was found where a class should stand, as (label or -1, synset or "", name or "").

    Args:
        value: a number, its digits, a synset, a name or None. -1 is how data sets write "not known".
        names: of the classes, by number.

    Raises:
        ValueError: it is none of these; the text goes on after "its class is ".
    """
    if value is None or value == "" or value == -1 or value == "-1":
        return NO_CLASS
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < (len(names) if names else 2**63):
            raise ValueError(f"{value}, outside 0..{len(names) - 1 if names else 2**63 - 1}")
        return value, *_named(names[value] if names else "")
    if isinstance(value, str) and len(value) <= _MAX_NAME:
        return -1, *_named(value)
    raise ValueError(f"{str(value)[:60]!r}, neither a number nor a name")


def _named(name: str) -> tuple[str, str]:
    return (name, "") if _SYNSET.match(name) else ("", name)


class LabelRange:
    """The labels met so far, for the manifest's words on them: many data sets count from 1, some from 0."""

    def __init__(self, low: int = 2**63, high: int = -1):
        self.low, self.high = low, high

    def add(self, label: int) -> None:
        if label >= 0:
            self.low, self.high = min(self.low, label), max(self.high, label)

    def words(self, where: str) -> str:
        """Such as "0..999 as they stand in the column label"; "none" where no input had a label."""
        return f"{self.low}..{self.high} as they stand in {where}" if self.high >= 0 else "none"
