"""Which files a data set in many files is: a folder, one file, or a pattern such as train-{00000..00293}.tar or train-*.tar.

Data sets lie in buckets as files of some hundred megabytes each, that hold many pictures. Here they are only named and
handed out, several at a time where they are far away; what is in one is for the module of its format to say.
"""

import abc
import dataclasses
import fnmatch
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar, runtime_checkable

from maskmill.pipelines.reading.class_labels import LabelRange
from maskmill.pipelines.reading.inputs import Input, Refusal, left_out
from maskmill.pipelines.reading.names import spelled
from maskmill.pipelines.reading.tar_index import DamagedArchive
from maskmill.pipelines.reading.tree import list_tree
from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, one_line

MAX_SHARDS = 1_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_OF_MANY = re.compile(r"^(.*?)-\d+-of-\d+")  # train-00000-of-00294.parquet, coco-train.tfrecord-00003-of-00256
_Result = TypeVar("_Result")
Listed = Input | Refusal


@dataclasses.dataclass(frozen=True, order=True)
class ShardFile:
    """One file of the data set: `name` begins the ids of its pictures, `path` opens it.

    Of a folder on gs:// a range of its names: those from `name` on and before `until`; see `bucket_folder.py`.
    """

    name: str
    path: str
    until: str = ""


def expand_braces(pattern: str) -> list[str]:
    """`a-{08..10}.tar` as a-08.tar, a-09.tar, a-10.tar, and `{x,y}` as x, y, the way shells and WebDataset write them.

    Raises:
        InputError: more than `MAX_SHARDS` names.
    """
    pieces: list[list[str]] = []
    count = 1
    for number, text in enumerate(_BRACES.split(pattern)):
        if not number % 2:  # between the braces
            choices = [text]
        elif bounds := _RANGE.fullmatch(text):
            low, high = int(bounds[1]), int(bounds[2])
            width = len(bounds[1])
            step = 1 if low <= high else -1
            if abs(high - low) < MAX_SHARDS:
                choices = [f"{i:0{width}d}" for i in range(low, high + step, step)]
            else:
                count = MAX_SHARDS + 1
        else:
            choices = text.split(",")
        count *= len(choices)
        if count > MAX_SHARDS:
            raise InputError(f"{pattern} names more than {MAX_SHARDS:,} files; write the range that there is")
        pieces.append(choices)
    return ["".join(choice) for choice in itertools.product(*pieces)]


def find_shards(images: str, wanted: str, takes: Callable[[str], bool]) -> tuple[list[ShardFile], list[Refusal]]:
    """The files that `--images` names, in the order of their names, and a line for each file beside them in its folder.

    Args:
        images: a folder, a file, or a pattern with {..}, * or ? in the file's name.
        wanted: what the files are, in words, such as ".tar files".
        takes: whether a file of this name in a folder is one; files that are named themselves are taken as they are.

    Raises:
        InputError: there are none, one of those named is missing, or they are of several splits.
    """
    left: list[Refusal] = []
    if any(mark in images for mark in "{*?"):
        paths = sorted({path for name in expand_braces(images) for path in _match(name, wanted)})
        there = storage.in_parallel(storage.exists, paths, paths[0])
        missing = [path for path, exists in zip(paths, there, strict=True) if not exists]
        if missing:
            raise InputError(f"{missing[0]} not found, but {images} names it; write the range that there is")
        shards = _with_names(paths)
    elif not images.endswith("/") and (storage.exists(images) if storage.is_remote(images) else os.path.isfile(images)):
        shards = _with_names([images])
    else:
        shards = []
        for name, found in list_tree(images, f"a folder of {wanted}, one of them, or a pattern such as train-*"):
            if isinstance(found, Refusal):
                left.append(found)
            elif takes(name):
                shards.append(ShardFile(name, found.path))
            else:
                left.append(left_out(name, f"not one of the {wanted}"))
        if not shards:
            raise InputError(f"{images} holds no {wanted}; --images takes a folder of them, one, or a pattern")
    heads = {of_many[1] for shard in shards if (of_many := _OF_MANY.match(shard.path))}
    splits = {f"{head.rpartition('/')[2]}-*": f"{head}-*" for head in sorted(heads)}
    if len(splits) > 1:
        raise InputError(
            f"{images} holds files of several sets ({', '.join(sorted(splits)[:5])}); "
            f"name those of one with a pattern, such as --images '{splits[max(splits)]}'"
        )
    return sorted(shards), left


def _match(pattern: str, wanted: str) -> list[str]:
    folder, slash, name = pattern.rpartition("/")
    if "*" not in pattern and "?" not in pattern:
        return [pattern]
    if "*" in folder or "?" in folder:
        raise InputError(f"{pattern} has * or ? in a folder's name; patterns are for the names of files")
    folder = folder or (slash or ".")
    found = [n for n in sorted(storage.names(folder)) if fnmatch.fnmatchcase(n, name) and not n.startswith(".")]
    if not found:
        raise InputError(f"no file matches {pattern}; --images takes a folder of {wanted}, one of them, or a pattern")
    return [n if folder == "." and not slash else storage.join(folder, n) for n in found]


def _with_names(paths: list[str]) -> list[ShardFile]:
    """Paths with the names they have below the folder that holds them all."""
    folders = [path.split("/")[:-1] for path in paths]
    common = 0
    for column in zip(*folders, strict=False):
        if len(set(column)) > 1:
            break
        common += 1
    return [ShardFile(spelled("/".join(path.split("/")[common:])), path) for path in paths]


@dataclasses.dataclass(frozen=True)
class Classes:
    """What a shard says of its classes.

    Attributes:
        label: where they stand, such as a column's name; "" where nowhere.
        names: of the classes, by number; () where the shard has none.
    """

    label: str
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of some shards together; facts of more shards are added in the order of the shards.

    Attributes:
        path: of the first shard.
        pictures, records: inputs found, and whatever else was found with them.
        low, high: of their labels; `high` is -1 where there are none.
        lacking: what the last record said that has no picture.
        classes: which the shards state; None where they state none.
    """

    path: str = ""
    pictures: int = 0
    records: int = 0
    low: int = 2**63
    high: int = -1
    lacking: str = ""
    classes: Classes | None = None

    @classmethod
    def of(cls, shard: ShardFile, listed: Iterable["Listed | Classes"]) -> "Facts":
        """Of one shard, by what was found in it."""
        pictures = records = 0
        labels = LabelRange()
        lacking, classes = "", None
        for one in listed:
            if isinstance(one, Classes):
                classes = one
                continue
            records += 1
            if isinstance(one, Input):
                pictures += 1
                labels.add(one.label)
            elif one.reason == "not_found":
                lacking = one.message
        return cls(shard.path, pictures, records, labels.low, labels.high, lacking, classes)

    def __add__(self, other: "Facts") -> "Facts":
        """Raises InputError where shards that state classes state others."""
        if self.classes is not None and other.classes is not None and self.classes != other.classes:
            raise InputError(f"{other.path} and {self.path} have other classes; build data sets that differ one by one")
        return Facts(
            self.path or other.path,
            self.pictures + other.pictures,
            self.records + other.records,
            min(self.low, other.low),
            max(self.high, other.high),
            other.lacking or self.lacking,
            self.classes or other.classes,
        )

    def labels(self, where: str) -> str:
        """See `LabelRange.words`."""
        return LabelRange(self.low, self.high).words(where)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Facts":
        """The inverse of `dataclasses.asdict`, as JSON gives it back."""
        stated = fields.pop("classes")
        return cls(**fields, classes=stated and Classes(stated["label"], tuple(stated["names"])))


@dataclasses.dataclass(frozen=True)
class Shards:
    """A data set in pieces, each of which can be listed by itself, anywhere.

    Attributes:
        files: the pieces, in order.
        left: what lies beside them.
        list_one: what is in a piece; can be pickled. It raises as `list_shard` does.
    """

    files: list[ShardFile]
    left: list[Refusal]
    list_one: Callable[[ShardFile], list[Any]]


@runtime_checkable
class InPieces(Protocol):
    """A source that others may list for it."""

    def find(self) -> Shards | None:
        """The pieces; None where there are none. Raises InputError where there is no data set."""

    def conclude(self, facts: Facts) -> None:
        """Takes note of what was found in all pieces together. Raises InputError where that cannot be."""


@dataclasses.dataclass
class InShards(abc.ABC):
    """A data set in shards.

    Attributes:
        images: where it is; see each.
        categories, labels: see `pipelines.reading.inputs.Source`.
    """

    images: str
    categories: dict[int, str] = dataclasses.field(default_factory=dict)
    labels: str = "none"

    @abc.abstractmethod
    def find(self) -> Shards:
        """The shards. Raises InputError where there are none."""

    @abc.abstractmethod
    def conclude(self, facts: Facts) -> None:
        """Takes note of what was found in all shards together. Raises InputError where that cannot be."""

    def list_inputs(self) -> Iterator[Listed]:
        """Every input, in the order of the shards; those on gs:// are looked at several at a time.

        Raises:
            InputError: a shard is missing, cannot be read or is damaged, or does not belong to the others.
        """
        shards = self.find()
        yield from shards.left
        facts = Facts()
        listed = storage.in_parallel(functools.partial(list_shard, shards.list_one), shards.files, shards.files[0].path)
        for shard, found in zip(shards.files, listed, strict=True):
            facts += Facts.of(shard, found)
            yield from (one for one in found if not isinstance(one, Classes))
        self.conclude(facts)


def list_shard(list_one: Callable[[ShardFile], list[_Result]], shard: ShardFile) -> list[_Result]:
    """What `list_one` says of a shard. Raises InputError where it cannot be listed."""
    try:
        return list_one(shard)
    except FileNotFoundError as error:
        raise InputError(f"{shard.path} not found; was it removed since the files were listed?") from error
    except OSError as error:
        raise InputError(f"{shard.path} cannot be read: {one_line(error.strerror or error)}") from error
    except DamagedArchive as error:
        raise InputError(f"{shard.path} is damaged: {error}") from error
