"""What the TFRecords of a data set hold, without reading their pictures.

Records are found by their headers, 12 bytes each. Of an Example only the small features are read (class, file name); a large
one, such as the picture, is jumped over, by the lengths that protobuf's wire format puts before everything. What was read so
is parsed by protobuf. The checksum of a record is checked when its picture is read.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, BinaryIO

from google.protobuf.message import DecodeError

from maskmill.pipelines.reading.class_labels import as_class
from maskmill.pipelines.reading.example_record import ExampleRecord
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.names import spelled
from maskmill.pipelines.reading.shard_files import Listed, ShardFile
from maskmill.pipelines.reading.tar_index import DamagedArchive
from maskmill.schemas import example_pb2, storage
from maskmill.schemas.sparse import open_sparse
from maskmill.schemas.tfrecord import FRAME_BYTES, masked_crc

SMALL = 4096  # bytes of a feature that is read whole
_HEAD = 300  # bytes read of a larger one, for its name
_LEN = 2  # wire type of everything in an Example that has parts


@dataclasses.dataclass(frozen=True)
class Features:
    """Names of the features that are read; "" or () for what the data set has not.

    Attributes:
        pictures: where the picture may be, the first that a record has.
        label, synset, text: its class: a number or a name; a WordNet synset; a name.
        name: the picture's file name.
        source_id: its COCO image id.
        class_names: of the numbers.
    """

    pictures: tuple[str, ...]
    label: str = ""
    synset: str = ""
    text: str = ""
    name: str = ""
    source_id: str = ""
    class_names: tuple[str, ...] = ()


def list_records(path: str, stream: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Every record of a TFRecord, as (offset of its frame, bytes of its payload).

    Raises:
        DamagedArchive: a header's checksum is wrong or the file ends inside a record, or it is compressed.
    """
    offset = 0
    while offset < size:
        stream.seek(offset)
        header = stream.read(12)
        if len(header) < 12:
            raise DamagedArchive(f"it ends at byte {size}, inside a record's header; fetch it again")
        if int.from_bytes(header[8:], "little") != masked_crc(header[:8]):
            packed = offset == 0 and header[:2] in (b"\x1f\x8b", b"\x78\x9c", b"\x78\x01", b"\x78\xda")
            text = "is compressed and has no random access; write it without compression"
            raise DamagedArchive(f"it {text}" if packed else f"no record begins at byte {offset}; fetch it again")
        length = int.from_bytes(header[:8], "little")
        if offset + FRAME_BYTES + length > size:
            raise DamagedArchive(f"it ends at byte {size}, inside the record at byte {offset}; fetch it again")
        yield offset, length
        offset += FRAME_BYTES + length


def _fields(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """The fields of a protobuf message with parts: (number, its first byte, first and last byte of what it holds)."""
    at = start
    while at < end:
        stream.seek(at)
        head = stream.read(min(20, end - at))
        tag, used = _varint(head, 0)
        length, used = _varint(head, used)
        if tag & 7 != _LEN or at + used + length > end:
            raise ValueError(f"it is no tf.train.Example at byte {at}")
        yield tag >> 3, at, at + used, at + used + length
        at += used + length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
        shift += 7
    raise ValueError("it is no tf.train.Example: a number in it does not end")


def small_features(stream: BinaryIO, start: int, end: int) -> tuple[Any, set[str]]:
    """The Example between two bytes, as (map of name to Feature for its small features, names of its large ones).

    Raises:
        ValueError: there is no Example.
    """
    small: list[bytes] = []
    large: set[str] = set()
    for number, _, begin, stop in _fields(stream, start, end):
        for inner, first, entry, last in _fields(stream, begin, stop) if number == 1 else ():
            if inner == 1 and last - entry > SMALL:
                stream.seek(entry)
                head = stream.read(_HEAD)
                length, used = _varint(head, 1)
                if head[0] == 1 << 3 | _LEN and used + length <= len(head):
                    large.add(head[used : used + length].decode("utf-8", "replace"))
                    continue
            stream.seek(first)
            small.append(stream.read(last - first))
    try:
        return example_pb2.Features.FromString(b"".join(small)).feature, large  # type: ignore[attr-defined]
    except DecodeError as error:
        raise ValueError(f"it is no tf.train.Example: {error}") from error


def list_examples(shard: ShardFile, features: Features) -> list[Listed]:
    """The records of one TFRecord as inputs; a line of the ledger for each that cannot be one.

    Raises:
        DamagedArchive: see `list_records`. OSError: the file cannot be read.
    """
    listed: list[Listed] = []
    size = storage.size(shard.path)
    with open_sparse(shard.path) as stream:
        for number, (offset, length) in enumerate(list_records(shard.path, stream, size)):
            identity = f"{shard.name}/{number:08d}"
            try:
                small, large = small_features(stream, offset + 12, offset + 12 + length)
            except ValueError as error:
                listed.append(Refusal(identity, "list", "unreadable", f"{error}, in the record at byte {offset}"))
                continue
            picture = next((name for name in features.pictures if name in large or name in small), "")
            if not picture:
                has = ", ".join(sorted({*small, *large})[:8]) or "none"
                text = f"the record at byte {offset} has no feature {features.pictures[0]}; its features are: {has}"
                listed.append(Refusal(identity, "list", "not_found", text))
                continue
            listed.append(_input(identity, ExampleRecord(shard.path, offset, length, picture), small, features))
    return listed


def _input(identity: str, at: ExampleRecord, small: Any, features: Features) -> Listed:
    name = str(_value(small, features.name) or "").replace("\\", "/").rpartition("/")[2]
    identity += f"/{spelled(name)}" if name else ""
    try:
        label, synset, text = as_class(_value(small, features.label), features.class_names)
    except ValueError as error:
        return Refusal(identity, "list", "bad_annotation", f"its class is {error}")
    synset = str(_value(small, features.synset) or synset)
    text = str(_value(small, features.text) or text)
    source_id = _value(small, features.source_id)
    return Input(identity, at, "" if source_id is None else str(source_id), label, synset, text)


def _value(small: Any, name: str) -> int | str | None:
    """The one number or text of a feature, or None."""
    if not name or name not in small:
        return None
    feature = small[name]
    if len(feature.int64_list.value) == 1:
        return feature.int64_list.value[0]
    if len(feature.bytes_list.value) == 1:
        return feature.bytes_list.value[0].decode("utf-8", "surrogateescape")
    return None
