"""Where the bytes of one picture are, and reading them."""

import dataclasses
import struct
import zlib

from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError

MAX_FILE_BYTES = 256 << 20  # no picture within the pixel limit needs more; a larger file is refused unread
ZIP_LOCAL_HEADER = 30  # bytes, before the name


@dataclasses.dataclass(frozen=True, slots=True)  # there can be millions
class Location:
    """Where the bytes of one file are.

    Attributes:
        path: file path, local or gs://.
        offset: first byte within `path`; -1 when the file is `path` itself.
        size: stored bytes; 0 for a file of its own, so that a plan does not change when a broken file is mended.
        deflated: whether the bytes are a raw deflate stream (zip), and then `plain` is the size once inflated.
        plain: bytes once inflated.
        crc: CRC-32 of the file's bytes that a zip states, or -1.
        lead: of a zip's entry, whose `offset` is that of its local header: bytes to read before the `size` stored ones.
            How long that header is stands only in itself, so a few bytes more are read than the table of contents makes
            probable, and header and data come in one piece. 0 where `offset` is that of the data.
    """

    path: str
    offset: int = -1
    size: int = 0
    deflated: bool = False
    plain: int = 0
    crc: int = -1
    lead: int = 0

    def read(self) -> bytes:
        """The file's bytes.

        Raises:
            ImageError: not_found, unreadable, truncated or too_large, stage "read".
        """
        if max(self.size, self.plain) > MAX_FILE_BYTES:
            raise ImageError("too_large", "read", f"the file has more than {MAX_FILE_BYTES} bytes")
        try:
            if self.offset < 0:
                data = storage.read_whole(self.path, MAX_FILE_BYTES)
                if len(data) > MAX_FILE_BYTES:
                    raise ImageError("too_large", "read", f"the file has more than {MAX_FILE_BYTES} bytes")
                return data
            return self._checked(self._inflated(self._stored()))
        except FileNotFoundError as error:
            raise ImageError("not_found", "read", f"no file at {self.path}") from error
        except EOFError as error:
            raise ImageError("truncated", "read", f"the archive is shorter than its index: {error}") from error
        except (OSError, zlib.error) as error:
            raise ImageError(
                "unreadable", "read", f"{self.path}: {getattr(error, 'strerror', None) or error}"
            ) from error
        except ValueError as error:  # no path of this system: it cannot be encoded, or holds a NUL
            raise ImageError("unreadable", "read", f"no file can have the name {self.path!r}") from error

    def _stored(self) -> bytes | memoryview:
        data = storage.read_range(self.path, self.offset, self.lead + self.size)
        if not self.lead:
            return data
        if data[:4] != b"PK\3\4":
            raise ImageError("unreadable", "read", f"the zip has no entry at byte {self.offset}, where it says")
        name, extra = struct.unpack("<HH", data[ZIP_LOCAL_HEADER - 4 : ZIP_LOCAL_HEADER])
        start = ZIP_LOCAL_HEADER + name + extra
        if ZIP_LOCAL_HEADER + name > self.lead:
            raise ImageError(
                "unreadable", "read", f"the zip's entry at byte {self.offset} has another name than listed"
            )
        if start > self.lead:  # an extra field that the table of contents has not
            return storage.read_range(self.path, self.offset + start, self.size)
        return memoryview(data)[start : start + self.size]

    def _inflated(self, data: bytes | memoryview) -> bytes:
        if not self.deflated:
            return bytes(data)
        plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, self.plain + 1)
        if len(plain) != self.plain:
            raise ImageError("unreadable", "read", f"inflates to other than the {self.plain} bytes its archive states")
        return plain

    def _checked(self, data: bytes) -> bytes:
        if self.crc >= 0 and zlib.crc32(data) != self.crc:
            raise ImageError(
                "unreadable", "read", "the bytes are damaged: their CRC-32 is not the one its archive states"
            )
        return data
