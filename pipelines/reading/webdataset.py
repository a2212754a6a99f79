"""WebDataset: tars whose members of one key are one sample, `0001.jpg` and `0001.cls`, or `.json`, or `.txt`.

A key is the member's path up to the first dot of its last component, as the `webdataset` library splits it; here the
members of a key need not follow one another. Pictures stay where they are, as ranges of their tar.
"""

import dataclasses
import json
from collections.abc import Iterator
from typing import BinaryIO

from maskmill.pipelines.reading.class_labels import NO_CLASS, Class, as_class
from maskmill.pipelines.reading.inputs import Input, Refusal, left_out
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.shard_files import Facts, InShards, Listed, ShardFile, Shards, find_shards
from maskmill.pipelines.reading.tar_index import list_tar
from maskmill.schemas import storage
from maskmill.schemas.sparse import open_sparse

# In the order in which one of several is chosen; the rest are what else the decoder reads.
PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "jp2", "avif", "ppm", "pgm")
CLASS_MEMBERS = ("cls", "json", "txt")  # in the order in which they are asked
MAX_CLASS_BYTES = 1 << 20  # of such a member; img2dataset's json is of some kilobytes


def split_key(name: str) -> tuple[str, str]:
    """A member's name as (key, extension): `a.b/0001.left.JPG` is `a.b/0001` and `left.jpg`; no extension is ""."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


@dataclasses.dataclass
class _Sample:
    """What a tar holds under one key: pictures as extension -> (member's name, where), and members that may state a class."""

    pictures: dict[str, tuple[str, Location]] = dataclasses.field(default_factory=dict)
    stated: dict[str, bytes | None] = dataclasses.field(default_factory=dict)  # None: too large to be a class
    extensions: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class WebDataset(InShards):
    """The `webdataset` data set.

    Attributes:
        images: folder of .tar files, one of them, or a pattern.
    """

    def find(self) -> Shards:
        shards, left = find_shards(self.images, ".tar files", lambda name: name.endswith(".tar"))
        return Shards(shards, left, list_samples)

    def conclude(self, facts: Facts) -> None:
        self.labels = facts.labels("the samples' cls, json or txt")


def list_samples(shard: ShardFile) -> list[Listed]:
    """One tar's samples as inputs, and a line for every member that belongs to none.

    Raises:
        DamagedArchive: see `list_tar`. OSError: the tar cannot be read.
    """
    listed: list[Listed] = []
    samples: dict[str, _Sample] = {}
    size = storage.size(shard.path)
    with open_sparse(shard.path) as stream:
        for name, found in list_tar(shard.path, stream, 0, size):
            line = f"{shard.name}/{name}"
            key, extension = split_key(name)
            last = name.rpartition("/")[2]
            if isinstance(found, Refusal):
                listed.append(dataclasses.replace(found, id=line))
            elif last.startswith("__") and last.endswith("__"):
                listed.append(left_out(line, "about the tar, not of a sample: its name is between double underscores"))
            elif not extension or last.startswith("."):
                listed.append(left_out(line, "no member of a sample: its name has no extension"))
            elif extension in (sample := samples.setdefault(key, _Sample())).extensions:
                listed.append(Refusal(line, "list", "duplicate_id", "the sample has a member of this name already"))
            else:
                sample.extensions.add(extension)
                if extension.rpartition(".")[2] in PICTURES:
                    sample.pictures[extension] = (line, found)
                elif extension in CLASS_MEMBERS:
                    sample.stated[extension] = _read_small(stream, found)
    for key, sample in samples.items():
        listed.extend(_settle(f"{shard.name}/{key}", sample))
    return listed


def _read_small(stream: BinaryIO, at: Location) -> bytes | None:
    if at.size > MAX_CLASS_BYTES:
        return None
    stream.seek(at.offset)
    return stream.read(at.size)


def _settle(identity: str, sample: _Sample) -> Iterator[Listed]:
    if not sample.pictures:
        members = ", ".join(sorted(sample.extensions))
        yield left_out(identity, f"a sample without a picture: it has {members}")
        return
    taken, *others = sorted(sample.pictures, key=_preference)
    name, location = sample.pictures[taken]
    for extension in others:
        yield left_out(sample.pictures[extension][0], f"another picture of its sample, of which the {taken} is taken")
    try:
        label, synset, text = class_of(sample.stated)
    except (ValueError, RecursionError) as error:
        yield Refusal(name, "list", "bad_annotation", f"its class is {error}")
        return
    yield Input(name, location, label=label, synset=synset, text=text)


def _preference(extension: str) -> tuple[bool, int, str]:
    """`jpg` before `png`, and either before `left.jpg`."""
    return "." in extension, PICTURES.index(extension.rpartition(".")[2]), extension


def class_of(stated: dict[str, bytes | None]) -> Class:
    """The class that a sample states: its cls, or `label` or `cls` of its json, or its txt where that is a number.

    Any other txt is a caption.

    Raises:
        ValueError: the member is there and states no class that can be read; the text goes on after "its class is ".
    """
    for member in CLASS_MEMBERS:
        if member not in stated:
            continue
        data = stated[member]
        if data is None:
            raise ValueError(f"in a {member} of more than {MAX_CLASS_BYTES} bytes")
        try:
            value = _value_of(member, data.decode("utf-8").strip())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"in a {member} that cannot be read: {error}") from error
        if (found := as_class(value)) != NO_CLASS:
            return found
    return NO_CLASS


def _value_of(member: str, text: str) -> object:
    if member == "cls":
        return text
    if member == "txt":
        return text if text.isascii() and text.isdigit() else None
    content = json.loads(text)
    if not isinstance(content, dict):
        return content if isinstance(content, int) else None
    return next((content[name] for name in ("label", "cls") if content.get(name) is not None), None)
