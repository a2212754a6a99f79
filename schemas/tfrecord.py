"""TFRecord framing, both ways, with its checksums always checked.

A file is a sequence of `length (uint64 LE) | masked crc32c of the length | payload | masked crc32c of the payload`.
There is no header and no footer, so files may be joined byte for byte; that is how parts become shards.
Shards are not compressed: JPEG and RLE are compact already, and joining stays possible.
"""

import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

from maskmill.schemas.errors import DamageError

# A length read from a damaged file must not make us ask for all memory; no record of ours comes near 1 GiB.
MAX_RECORD_BYTES = 1 << 30
FRAME_BYTES = 16  # what framing adds to a payload: length, its checksum, the payload's checksum
_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")


def masked_crc(data: bytes) -> int:
    """TFRecord's masked CRC32C: the checksum rotated right by 15 bits plus a constant, so that a stored checksum is not
    itself valid data."""
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame_ends(payload: bytes) -> tuple[bytes, bytes]:
    """What stands before and behind a payload in the file."""
    length = _LENGTH.pack(len(payload))
    return length + _CRC.pack(masked_crc(length)), _CRC.pack(masked_crc(payload))


def frame(payload: bytes) -> bytes:
    """One record as it stands in the file."""
    before, behind = frame_ends(payload)
    return b"".join((before, payload, behind))


def read_records(
    stream: BinaryIO,
    name: str = "stream",
    *,
    record: int = 0,
    offset: int = 0,
    checksum: google_crc32c.Checksum | None = None,
) -> Iterator[bytes]:
    """Payloads of a TFRecord stream, in order.

    Args:
        stream: a binary file, read from where it stands to its end.
        name: what the stream is called in messages.
        record, offset: number of the record and of the byte where it stands, for messages.
        checksum: updated with all that is read, for the checksum of the whole file without another reading.

    Yields:
        Each record's payload.

    Raises:
        DamageError: a checksum that does not match, a length beyond `MAX_RECORD_BYTES`, or a file that ends inside a
            record; the message names the file, the record and the byte offset.
    """
    while header := stream.read(12):
        where = f"{name}: record {record} at byte {offset}"
        if len(header) < 12:
            raise DamageError(f"{where}: the file ends inside the record's header")
        if _CRC.unpack(header[8:])[0] != masked_crc(header[:8]):
            raise DamageError(f"{where}: the checksum of the length does not match")
        (length,) = _LENGTH.unpack(header[:8])
        if length > MAX_RECORD_BYTES:
            raise DamageError(f"{where}: a record of {length} bytes is beyond the limit of {MAX_RECORD_BYTES}")
        body = stream.read(length + 4)
        if len(body) < length + 4:
            raise DamageError(f"{where}: the file ends inside the record ({len(body)} of {length + 4} bytes)")
        if checksum is not None:
            checksum.update(header)
            checksum.update(body)
        payload = body[:length]
        if _CRC.unpack(body[length:])[0] != masked_crc(payload):
            raise DamageError(f"{where}: the checksum of the record does not match")
        yield payload
        offset += FRAME_BYTES + length
        record += 1
