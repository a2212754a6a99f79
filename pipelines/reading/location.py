"""Where the bytes of one picture are, and reading them."""

import dataclasses
import io
import struct
import zlib
from collections.abc import Callable, Iterator

from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError

MAX_FILE_BYTES = 256 << 20  # no picture within the pixel limit needs more; a larger file is refused unread
LARGE_BYTES = 16 << 20  # of a file; hardly any picture has so many
ZIP_LOCAL_HEADER = 30  # bytes, before the name
_PIECE = 2 << 20  # bytes, of a large entry that are read, or inflated, at a time


def too_large(stage: str, size: int) -> ImageError:
    """The refusal of a file of so many bytes."""
    return ImageError("too_large", stage, f"the file has {size} bytes, the limit is {MAX_FILE_BYTES}")


@dataclasses.dataclass(frozen=True, slots=True)  # there can be millions
class Location:
    """Where the bytes of one file are.

    Attributes:
        path: file path, local or gs://.
        offset: first byte within `path`; -1 when the file is `path` itself.
        size: stored bytes; 0 for a file of its own, so that a plan does not change when a broken file is mended, but where
            listing says that it is larger than `MAX_FILE_BYTES`.
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

    def read(self, admit: Callable[[int], None] = lambda size: None) -> bytes:
        """The file's bytes. It takes as much memory as they are, and a few pieces.

        Args:
            admit: called once it is known how many bytes there are, before memory is taken for them; may wait, or raise.
                Of whole files on gs:// for those above `LARGE_BYTES`, since asking is another request.

        Raises:
            ImageError: not_found, unreadable, truncated or too_large, stage "read".
        """
        if self.stated > MAX_FILE_BYTES:
            raise too_large("read", self.stated)
        try:
            if self.offset < 0:
                return self._read_file(admit)
            admit(self.stated)
            begin, first = self._begin()
            return self._checked(self._inflated(begin, first) if self.deflated else self._stored(begin, first))
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

    @property
    def stated(self) -> int:
        """How many bytes the file has, as its archive or bucket says; 0 where that is not known."""
        return max(self.size, self.plain)

    def _read_file(self, admit: Callable[[int], None]) -> bytes:
        """A file of its own. One on gs:// tells its size by what comes of it, a large one is then asked for it."""
        if storage.is_remote(self.path):
            data = storage.read_whole(self.path, LARGE_BYTES)
            if len(data) <= LARGE_BYTES:
                return data
            del data
        size = storage.size(self.path)
        if size > MAX_FILE_BYTES:
            raise too_large("read", size)
        admit(size)
        data = storage.read_whole(self.path, MAX_FILE_BYTES)
        if len(data) > MAX_FILE_BYTES:  # it has grown
            raise too_large("read", len(data))
        return data

    def _begin(self) -> tuple[int, bytes | memoryview]:
        """Where the stored bytes begin, and those of them that came with a zip's own header: all, of an ordinary picture."""
        if not self.lead:
            return self.offset, b""
        data = storage.read_range(self.path, self.offset, self.lead + min(self.size, _PIECE))
        if data[:4] != b"PK\3\4":
            raise ImageError("unreadable", "read", f"the zip has no entry at byte {self.offset}, where it says")
        name, extra = struct.unpack("<HH", data[ZIP_LOCAL_HEADER - 4 : ZIP_LOCAL_HEADER])
        start = ZIP_LOCAL_HEADER + name + extra
        if ZIP_LOCAL_HEADER + name > self.lead:
            raise ImageError(
                "unreadable", "read", f"the zip's entry at byte {self.offset} has another name than listed"
            )
        if start > self.lead:  # an extra field that the table of contents has not
            return self.offset + start, b""
        return self.offset + start, memoryview(data)[start : start + self.size]

    def _stored(self, begin: int, first: bytes | memoryview) -> bytes:
        if len(first) == self.size:
            return bytes(first)
        del first  # a large one is read again as a whole, so that nothing has to be put together
        return storage.read_range(self.path, begin, self.size)

    def _inflated(self, begin: int, first: bytes | memoryview) -> bytes:
        inflater, plain = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO()
        for piece in self._pieces(begin, first):
            chunk = inflater.decompress(piece, _PIECE)
            while True:
                plain.write(chunk)
                if plain.tell() > self.plain or inflater.eof:
                    break
                if len(chunk) < _PIECE and not inflater.unconsumed_tail:
                    break
                chunk = inflater.decompress(inflater.unconsumed_tail, _PIECE)
            if plain.tell() > self.plain or inflater.eof:
                break
        if plain.tell() != self.plain:
            raise ImageError("unreadable", "read", f"inflates to other than the {self.plain} bytes its archive states")
        return plain.getvalue()

    def _pieces(self, begin: int, first: bytes | memoryview) -> Iterator[bytes | memoryview]:
        if first:
            yield first
        for at in range(len(first), self.size, _PIECE):
            yield storage.read_range(self.path, begin + at, min(_PIECE, self.size - at))

    def _checked(self, data: bytes) -> bytes:
        if self.crc >= 0 and zlib.crc32(data) != self.crc:
            raise ImageError(
                "unreadable", "read", "the bytes are damaged: their CRC-32 is not the one its archive states"
            )
        return data
