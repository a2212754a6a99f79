"""Which entry of imported masks belongs to which picture. A wrong answer trains on wrong masks, so doubt is a refusal.

Entries name their pictures in four ways: by file name (COCO's `images[].file_name`), by file name without its ending
(`STEM.json` per picture), by text that may be either, or by number. Names are compared as paths: one must be the end of
the other, whole folders at a time, so `n01440764/a.JPEG` is `train/n01440764/a.JPEG` and never `train/n01443537/a.JPEG`.

A number is the id of a picture of COCO, or it is nothing: most tools number pictures in the order in which they met
them, and pictures are named with numbers of another origin. For other data it only joins a picture whose whole name is
that number, written the same. Numbers within names count where COCO published them (`_PUBLISHED`).
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Set

# COCO's own names: 000000000139.jpg since 2017, before that COCO_val2014_000000000139.jpg; the pictures are the same.
_PUBLISHED = re.compile(r"^(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})$")


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """A picture that masks are sought for.

    Attributes:
        key: its id in the data set, a relative path.
        coco_id: its COCO image id as text; "" for other data sets.
    """

    key: str
    coco_id: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    """What an entry says of its picture.

    Attributes:
        source: the entry's identity among the imported masks.
        text: file name, stem, or number as text.
        kind: "file" (with its ending), "stem" (without), "text" (either) or "number".
    """

    source: str
    text: str
    kind: str


@dataclasses.dataclass(frozen=True)
class Joined:
    """Every picture is in one of the two.

    Attributes:
        sources: key of a picture -> the one source that is its.
        refused: key of a picture -> why it has none, in words.
    """

    sources: dict[str, str]
    refused: dict[str, str]


def join(pictures: Iterable[Picture], names: Iterable[Name]) -> Joined:
    """Pictures and entries, one to one.

    The surest way of agreeing comes first: the same path, the end of a path, the same without ending, COCO's number.
    What is claimed in one way takes no part in the next. A picture that could have several entries gets none, and so do
    pictures that could share one.
    """
    left = {picture.key: picture for picture in pictures}
    is_coco = any(picture.coco_id for picture in left.values())
    entries: dict[str, list[Name]] = defaultdict(list)
    for name in names:
        if name.kind == "number" and not is_coco:
            name = Name(name.source, name.text, "stem")
        if all((name.text, name.kind) != (other.text, other.kind) for other in entries[name.source]):
            entries[name.source].append(name)
    sources: dict[str, str] = {}
    refused: dict[str, str] = {}
    for edges in (_same_number, _same_path, _same_end, _same_stem, _same_published_number):
        wanted: dict[str, set[str]] = defaultdict(set)
        claimed: dict[str, set[str]] = defaultdict(set)
        for key, source in edges(left, entries):
            wanted[key].add(source)
            claimed[source].add(key)
        for key, candidates in wanted.items():
            source = min(candidates)
            if len(candidates) > 1:
                first, second = sorted(entries[s][0].text for s in sorted(candidates)[:2])
                refused[key] = f"{first!r} and {second!r} could both be this picture"
            elif len(claimed[source]) > 1:
                other = next(k for k in sorted(claimed[source])[:2] if k != key)
                refused[key] = f"{entries[source][0].text!r} could be this picture or {other!r}"
            else:
                sources[key] = source
        for key in wanted:
            del left[key]
        for source in claimed:
            del entries[source]
    for key in left:
        refused[key] = "nothing is said of this picture"
    return Joined(sources, refused)


def only(joined: Joined, wanted: Set[str]) -> Joined:
    """The part that is about some of the pictures."""
    return Joined(
        {key: source for key, source in joined.sources.items() if key in wanted},
        {key: why for key, why in joined.refused.items() if key in wanted},
    )


Edges = Iterator[tuple[str, str]]
Entries = dict[str, list[Name]]


def _same_number(left: dict[str, Picture], entries: Entries) -> Edges:
    by_id = {picture.coco_id: key for key, picture in left.items() if picture.coco_id}
    for source, names in entries.items():
        for name in names:
            if name.kind == "number" and name.text in by_id:
                yield by_id[name.text], source


def _same_path(left: dict[str, Picture], entries: Entries) -> Edges:
    for source, names in entries.items():
        for name in names:
            if name.kind in ("file", "text") and name.text in left:
                yield name.text, source


def _same_end(left: dict[str, Picture], entries: Entries) -> Edges:
    named = [(_clean(n.text), s) for s, names in entries.items() for n in names if n.kind in ("file", "text")]
    return _ends_agree(left, named, lambda key: key)


def _same_stem(left: dict[str, Picture], entries: Entries) -> Edges:
    named = []
    for source, names in entries.items():
        for name in names:
            if name.kind == "file":
                named.append((stem(_clean(name.text)), source))
            elif name.kind != "number":
                named.append((_clean(name.text), source))
    return _ends_agree(left, named, stem)


def _same_published_number(left: dict[str, Picture], entries: Entries) -> Edges:
    by_number = {}
    for key, picture in left.items():
        number = _published_number(stem(key))
        if number and number == picture.coco_id:
            by_number[number] = key
    for source, names in entries.items():
        for name in names:
            number = _published_number(stem(_clean(name.text)) if name.kind == "file" else _clean(name.text))
            if name.kind != "number" and number in by_number:
                yield by_number[number], source


def _ends_agree(left: dict[str, Picture], named: list[tuple[str, str]], form: Callable[[str], str]) -> Edges:
    """Pairs of which one path is the end of the other; found by look-ups of ends, so no product of the two is walked."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for text, source in named:
        by_name[text].append(source)
    by_key: dict[str, list[str]] = defaultdict(list)
    for key in left:
        by_key[form(key)].append(key)
    for text, of_name in by_name.items():
        for end in _ends(text):
            for key in by_key.get(end, ()):
                yield from ((key, source) for source in of_name[:2])  # two are too many already
    for path, keys in by_key.items():
        for end in _ends(path):
            if end != path and end in by_name:
                yield from ((key, source) for key in keys for source in by_name[end][:2])


def _ends(path: str) -> Iterator[str]:
    """`a/b/c`, `b/c`, `c`."""
    while path:
        yield path
        path = path.partition("/")[2]


def _clean(text: str) -> str:
    """A path as keys are written. It is compared and never opened, so where it leads does not matter."""
    return "/".join(part for part in text.replace("\\", "/").split("/") if part not in ("", "."))


def stem(path: str) -> str:
    """A path without the ending of its last part."""
    dot = path.rfind(".")
    return path[:dot] if dot > path.rfind("/") + 1 else path


def _published_number(path: str) -> str:
    match = _PUBLISHED.match(path.rsplit("/", 1)[-1])
    return str(int(match.group(1))) if match else ""
