"""Files on local disks and mounts: a `files.Files` over the standard library."""

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from typing import BinaryIO

from maskmill.schemas.files import INCOMPLETE, Stamp


class NotAFile(OSError):
    """A folder, a pipe or a device where a file is needed."""


def join(folder: str, *parts: str) -> str:
    """A path below a folder."""
    return os.path.join(folder, *parts)


def identity(path: str) -> str:
    """The path with its links followed."""
    return os.path.realpath(path)


def exists(path: str) -> bool:
    """Whether there is a file or folder."""
    return os.path.exists(path)


def stamp(path: str) -> Stamp:
    """What is known of a file. Raises FileNotFoundError."""
    status = os.stat(path)
    return Stamp(status.st_size, changed_ns=status.st_mtime_ns)


def open_regular(path: str) -> BinaryIO:
    """A local file for reading, where it is a regular one (or a link to one).

    A pipe never answers and a device never ends; a folder that came from elsewhere may hold links to both.

    Raises:
        FileNotFoundError, PermissionError, OSError: as `open`. NotAFile: it is something else.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotAFile(errno.EINVAL, "not a regular file", path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str, offset: int = 0, length: int | None = None) -> bytes:
    """A file's bytes, or `length` of them from `offset` on."""
    with open_regular(path) as file:
        file.seek(offset)
        return file.read() if length is None else file.read(length)


def read_whole(path: str, limit: int) -> bytes:
    """A file's bytes, or its first `limit` + 1 where it is longer."""
    with open_regular(path) as file:
        return file.read(limit + 1)


_OPEN_ARCHIVES = threading.local()


def read_range(path: str, offset: int, length: int) -> bytes:
    """Part of an archive. The last file stays open, one per thread."""
    now = os.stat(path)
    this = (path, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
    last = getattr(_OPEN_ARCHIVES, "last", None)
    if last is None or last[0] != this:
        if last is not None:
            last[1].close()
        last = (this, open_regular(path))  # kept open on purpose
        _OPEN_ARCHIVES.last = last
    last[1].seek(offset)
    return last[1].read(length)


@contextlib.contextmanager
def open_read(path: str) -> Iterator[BinaryIO]:
    """A seekable stream over a regular file."""
    with open_regular(path) as stream:
        yield stream


def _sync_folder(folder: str) -> None:
    """Makes names in a folder last: what was renamed or made there is there after a loss of power as well."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that cannot do this for folders
            raise
    finally:
        os.close(descriptor)


def _make_folder(folder: str) -> None:
    """A folder and those above it, and their names made to last."""
    new = []
    above = os.path.abspath(folder)
    while not os.path.isdir(above):
        above = os.path.dirname(above)
        new.append(above)
    os.makedirs(folder, exist_ok=True)
    for parent in new:
        _sync_folder(parent)


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """A new file under a temporary name beside `path`: flushed to disk, then renamed, and the folder flushed.

    Files appear in the order in which they are made, after a loss of power as well.
    """
    folder = os.path.dirname(path) or "."
    _make_folder(folder)
    temporary = f"{path}.{os.getpid()}-{secrets.token_hex(4)}{INCOMPLETE}"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def remove(path: str) -> None:
    """Removes a file; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def walk(folder: str) -> Iterator[tuple[str, int]]:
    """Every file below a folder, hidden ones as well.

    Links to folders are not followed, so a loop cannot trap us, and files behind them are not ours.
    """
    pending = [""]
    while pending:
        relative = pending.pop()
        with os.scandir(os.path.join(folder, relative)) as entries:
            for entry in entries:
                name = f"{relative}/{entry.name}" if relative else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_file():
                    yield name, entry.stat().st_size
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    yield name, 0  # a dangling link is an input that cannot be read, not one that is not there


def stamps(folder: str) -> dict[str, Stamp]:
    """Name -> what is known of each file directly in a folder; empty where there is no such folder."""
    found = {}
    try:
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # renamed or removed since it was listed
                if entry.is_file():
                    found[entry.name] = Stamp(entry.stat().st_size, changed_ns=entry.stat().st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return found
