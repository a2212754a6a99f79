"""Where the bytes of an input are: a folder, a zip or a tar of pictures, all seen as one flat list of names.

An archive is indexed once, when the plan is made; after that every picture is a range of bytes in it, so that no archive
is ever unpacked and any worker can read any picture. A tar inside a tar (ImageNet as published) is a range of ranges.
"""

import dataclasses
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError, InputError

MAX_FILE_BYTES = 256 << 20  # no picture within the pixel limit needs more; a larger file is refused unread


@dataclasses.dataclass(frozen=True, slots=True)  # there can be millions
class Location:
    """Where the bytes of one file are.

    Attributes:
        path: file path, local or gs://.
        offset: first byte within `path`; -1 when the file is `path` itself.
        size: stored bytes; 0 for a file of its own, so that a plan does not change when a broken file is mended.
        deflated: whether the bytes are a raw deflate stream (zip), and then `plain` is the size once inflated.
        plain: bytes once inflated.
    """

    path: str
    offset: int = -1
    size: int = 0
    deflated: bool = False
    plain: int = 0

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
            data = storage.read_range(self.path, self.offset, self.size)
            if not self.deflated:
                return data
            inflater = zlib.decompressobj(-zlib.MAX_WBITS)
            data = inflater.decompress(data, self.plain + 1)
            if len(data) != self.plain:
                raise ImageError(
                    "unreadable", "read", f"inflates to other than the {self.plain} bytes its archive states"
                )
            return data
        except FileNotFoundError as error:
            raise ImageError("not_found", "read", f"no file at {self.path}") from error
        except EOFError as error:
            raise ImageError("truncated", "read", f"the archive is shorter than its index: {error}") from error
        except (OSError, zlib.error) as error:
            raise ImageError(
                "unreadable", "read", f"{self.path}: {getattr(error, 'strerror', None) or error}"
            ) from error


def is_archive(path: str) -> bool:
    """Whether a path names a zip or tar by its ending. Compressed tars have no random access and are not taken."""
    return path.endswith((".zip", ".tar"))


def list_tree(path: str) -> Iterator[tuple[str, Location]]:
    """Every file of a folder, zip or tar as (relative name with forward slashes, where it is), in no fixed order.

    Hidden files are left out. Names in archives that could leave a folder are refused.

    Raises:
        InputError: nothing at `path`, it cannot be read, or it is neither folder nor zip nor tar.
    """
    try:
        if path.endswith(".zip"):
            yield from _list_zip(path)
        elif path.endswith(".tar"):
            with storage.open_read(path) as stream:
                yield from _list_tar(path, stream, 0, storage.size(path), "")
        else:
            for name, _ in storage.walk(path):
                yield name, Location(storage.join(path, *name.split("/")))
    except FileNotFoundError as error:
        raise InputError(f"{path} not found; --images takes a folder, a .zip or a .tar of pictures") from error
    except NotADirectoryError as error:
        raise InputError(f"{path} is a file; --images takes a folder, a .zip or a .tar of pictures") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zipfile.BadZipFile, tarfile.TarError, struct.error) as error:
        raise InputError(f"{path} is damaged: {error}") from error


def _visible(name: str) -> bool:
    # ".." is not hidden: it is refused, by `_checked`
    return bool(name) and not any(part.startswith(".") and part != ".." for part in name.split("/"))


def _list_zip(path: str) -> Iterator[tuple[str, Location]]:
    with storage.open_read(path) as stream, zipfile.ZipFile(stream) as archive:
        for info in archive.infolist():
            if info.is_dir() or not _visible(info.filename):
                continue
            name = _checked(info.filename, path)
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(
                    f"{path}: {name} is encrypted or packed by method {info.compress_type}; repack with zip -0"
                )
            # The local header's name and extra field may be longer than the central one's, so it must be read.
            stream.seek(info.header_offset)
            header = stream.read(30)
            if header[:4] != b"PK\3\4" or len(header) < 30:
                raise InputError(f"{path} is damaged: no local header for {name}")
            name_length, extra_length = struct.unpack("<HH", header[26:30])
            start = info.header_offset + 30 + name_length + extra_length
            deflated = info.compress_type == zipfile.ZIP_DEFLATED
            yield name, Location(path, start, info.compress_size, deflated, info.file_size)


class _Window:
    """A range of a stream as a stream of its own, for a tar inside a tar."""

    def __init__(self, stream, start: int, size: int):
        self.stream, self.start, self.size, self.at = stream, start, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self.at)
        count = left if count < 0 else min(count, left)
        self.stream.seek(self.start + self.at)
        data = self.stream.read(count)
        self.at += len(data)
        return data


def _list_tar(path: str, stream, start: int, size: int, prefix: str) -> Iterator[tuple[str, Location]]:
    with tarfile.open(fileobj=_Window(stream, start, size), mode="r:") as archive:  # type: ignore[call-overload]
        while (info := archive.next()) is not None:
            archive.members = []  # the archive keeps every header it has seen; a million of them are not needed
            if not info.isreg() or not _visible(info.name.removeprefix("./")):
                continue
            name = prefix + _checked(info.name.removeprefix("./"), path)
            at = start + info.offset_data
            if start + size < at + info.size:
                raise InputError(f"{path} is damaged: it ends inside {name}")
            if name.endswith(".tar") and not prefix:
                yield from _list_tar(path, stream, at, info.size, name.removesuffix(".tar") + "/")
            else:
                yield name, Location(path, at, info.size, False, info.size)


def _checked(name: str, path: str) -> str:
    try:
        return storage.check_relative(name)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
