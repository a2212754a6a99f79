"""What a zip holds, from its table of contents (the central directory) alone.

Entries' own headers are not looked at: they lie all over the archive, and on gs:// each would fetch megabytes around it;
whoever reads the picture reads its header with it. `zipfile` refuses a whole archive for one entry that it cannot name or
unpack, so the table is read here; its layout is that of PKWARE's APPNOTE 6.3.10, sections 4.3.12 to 4.3.16.
"""

import stat
import struct
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from maskmill.pipelines.reading.inputs import HIDDEN, Refusal, left_out, lost
from maskmill.pipelines.reading.location import ZIP_LOCAL_HEADER, Location
from maskmill.pipelines.reading.names import is_hidden, member_path, spelled
from maskmill.pipelines.reading.tar_index import DamagedArchive

_END = struct.Struct(
    "<4s4H2LH"
)  # signature, disks, entries here and in all, size and offset of the table, comment length
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_MAX_VERSION = 63  # of the format, times ten, as far as APPNOTE goes
_SLACK = 64  # an entry's own extra field may be this much longer than the table's; more always follows the last entry


def list_zip(path: str, stream: BinaryIO, size: int) -> Iterator[tuple[str, Location | Refusal]]:
    """Every entry of a zip but folders, as (name, where it is or why it is lost).

    Args:
        path: of the archive.
        stream: of its bytes.
        size: how many they are.

    Raises:
        DamagedArchive: the table of contents is missing or broken.
    """
    begin, end, shift, entries, modulus = _find_table(stream, size)
    stream.seek(begin)
    at = begin
    count = 0
    while at < end:
        fields = stream.read(_ENTRY.size)
        if len(fields) < _ENTRY.size or fields[:4] != b"PK\1\2":
            raise DamagedArchive(f"the table of contents is broken at byte {at}")
        lengths = struct.unpack_from("<3H", fields, 28)
        texts = stream.read(sum(lengths))
        at += _ENTRY.size + sum(lengths)
        if len(texts) < sum(lengths) or at > end:
            raise DamagedArchive(f"the table of contents is broken at byte {end}")
        name, extra = texts[: lengths[0]], texts[lengths[0] : lengths[0] + lengths[1]]
        count += 1
        if not (name.endswith(b"/") and fields[24:28] == bytes(4)):  # a folder holds no bytes
            yield _settle(path, fields, name, extra, shift)
    if count % modulus != entries:
        raise DamagedArchive(f"the table of contents holds {count} entries, its end says {entries}")


def _find_table(stream: BinaryIO, size: int) -> tuple[int, int, int, int, int]:
    """First and last byte of the table, what to add to the offsets in it, its entries, and modulo what they are counted."""
    tail_at = max(0, size - _END.size - 0xFFFF)
    stream.seek(tail_at)
    tail = stream.read(size - tail_at)
    found = last = tail.rfind(b"PK\5\6", 0, max(0, len(tail) - _END.size + 4))
    # A comment follows that may hold anything; where no record fits the archive's length, something was put behind it.
    while found >= 0 and found + _END.size + struct.unpack_from("<H", tail, found + 20)[0] != len(tail):
        found = tail.rfind(b"PK\5\6", 0, found)
    found = last if found < 0 else found
    if found < 0:
        raise DamagedArchive("its end with the table of contents is missing; fetch it again")
    _, disk, table_disk, here, entries, length, offset, comment = _END.unpack_from(tail, found)
    end = tail_at + found
    if (more := tail.find(b"PK\3\4", found + _END.size + comment)) >= 0:
        raise _joined(tail_at + more)
    modulus = 1 << 16
    stream.seek(max(0, end - _LOCATOR64.size - _END64.size))
    before = stream.read(min(end, _LOCATOR64.size + _END64.size))
    if before[-_LOCATOR64.size :][:4] == b"PK\6\7" and before[:4] == b"PK\6\6" and len(before) > _END64.size:
        _, _, _, _, disk, table_disk, here, entries, length, offset = _END64.unpack_from(before)
        end -= _LOCATOR64.size + _END64.size
        modulus = 1 << 64
    if disk or table_disk or here != entries:
        raise DamagedArchive("it is one piece of a zip in several; join them with zip -s 0")
    begin = end - length
    shift = begin - offset  # not 0 where something was put before the zip, such as a program that unpacks it
    if begin < 0 or shift < 0:
        raise DamagedArchive("its end says that the table of contents lies outside it")
    if shift and entries:
        stream.seek(begin)
        first = stream.read(_ENTRY.size)
        (where,) = struct.unpack_from("<L", first.ljust(_ENTRY.size, b"\0"), 42)
        stream.seek(where + shift)
        if where != 0xFFFFFFFF and stream.read(4) != b"PK\3\4":
            raise DamagedArchive("its end states a wrong place for the table of contents")
    if shift:
        _check_before(stream, shift)
    return begin, end, shift, entries, modulus


def _check_before(stream: BinaryIO, shift: int) -> None:
    """Raises DamagedArchive where the `shift` bytes before a zip are, or end in, another one, of which no table speaks."""
    for at, signature in ((0, b"PK\3\4"), (max(0, shift - _END.size), b"PK\5\6")):
        stream.seek(at)
        if stream.read(4) == signature:
            raise _joined(shift)


def _joined(at: int) -> DamagedArchive:
    return DamagedArchive(f"another zip begins at byte {at}; zips that were joined have to be given one by one")


def _settle(path: str, fields: bytes, raw: bytes, extra: bytes, shift: int) -> tuple[str, Location | Refusal]:
    _, made_by, needed, flags, method, _, _, crc, size, plain, *_, attributes, offset = _ENTRY.unpack(fields)
    # Bit 11 says UTF-8; without it names are in the character set of the first PCs.
    text = raw.decode("utf-8", "surrogateescape") if flags & 0x800 else raw.decode("cp437")
    try:
        name = spelled(member_path(text))
    except ValueError as error:
        name = spelled(text) or f"an entry without a name, for byte {offset}"
        return name, lost(name, str(error))
    if is_hidden(name):
        return name, left_out(name, HIDDEN)
    if text.endswith("/"):
        return name, lost(name, f"named as a folder, but holds {plain} bytes")
    if made_by >> 8 == 3 and stat.S_ISLNK(attributes >> 16):
        return name, left_out(name, "a link")
    if flags & 0x2041:
        return name, lost(name, "encrypted")
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or needed & 0xFF > _MAX_VERSION:
        return name, lost(
            name, f"packed by method {method} of version {(needed & 0xFF) / 10:.1f}; pack it again with zip -0"
        )
    try:
        plain, size, offset = _wide(extra, plain, size, offset)
    except struct.error:
        return name, lost(name, "its sizes cannot be read: the extra field in the table of contents is broken")
    lead = ZIP_LOCAL_HEADER + len(raw) + len(extra) + _SLACK
    return name, Location(path, offset + shift, size, method == zipfile.ZIP_DEFLATED, plain, crc, lead)


def _wide(extra: bytes, *numbers: int) -> tuple[int, ...]:
    """Numbers of 32 bits, with those that are all ones replaced by what the ZIP64 extra field holds, in that order.

    Raises:
        struct.error: one should be there and is not.
    """
    if 0xFFFFFFFF not in numbers:
        return numbers
    wide = b""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = extra[at + 4 : at + 4 + length]
        at += 4 + length
    values = iter(struct.unpack(f"<{numbers.count(0xFFFFFFFF)}Q", wide[: 8 * numbers.count(0xFFFFFFFF)]))
    return tuple(next(values) if number == 0xFFFFFFFF else number for number in numbers)
