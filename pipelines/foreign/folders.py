"""Folders with a file per picture: listed and joined when the build is planned, read by workers one file at a time."""

import hashlib
from collections import Counter
from collections.abc import Callable

from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError, InputError

MAX_FILE_BYTES = 256 << 20


def list_folder(path: str) -> dict[str, int] | None:
    """Files below a folder by relative name, with their sizes; None where `path` is a file.

    Raises:
        FileNotFoundError: there is neither. InputError: it cannot be read.
    """
    try:
        return dict(storage.walk(path))
    except NotADirectoryError:
        return None
    except FileNotFoundError:
        if storage.exists(path):  # an object of gs://, which is no folder
            return None
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def ending_of(name: str) -> str:
    """`.json` of `a/b.JSON`; "" where there is none."""
    last = name.rsplit("/", 1)[-1]
    dot = last.rfind(".")
    return last[dot:].lower() if dot > 0 else ""


def seen(files: dict[str, int]) -> str:
    """What a folder holds, in words: `12 .jpg, 3 .txt`."""
    endings = Counter(ending_of(name) for name in files).most_common(4)
    return ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in endings) or "no files"


def files_of(path: str, choose: Callable[[str], bool], wants: str) -> dict[str, int]:
    """The files of a folder that make up a format, sorted by name.

    Args:
        path: the folder.
        choose: whether a relative name is one of them.
        wants: what the format is, in words.

    Raises:
        InputError: there is none, or no such folder; says what was seen.
    """
    try:
        files = list_folder(path)
    except FileNotFoundError:
        raise InputError(f"{path} not found; wanted is {wants}") from None
    if files is None:
        raise InputError(f"{path} is a file; wanted is {wants}")
    chosen = {name: files[name] for name in sorted(files) if choose(name)}
    if not chosen:
        raise InputError(f"{path} holds {seen(files)}; wanted is {wants}")
    return chosen


def names_and_sizes(files: dict[str, int]) -> str:
    """Digest of names and sizes: reading every file would be a build of its own."""
    identity = hashlib.sha256()
    for name, size in files.items():
        identity.update(f"{size} {name}\n".encode("utf-8", "surrogatepass"))
    return identity.hexdigest()


def load(folder: str, name: str, size: int) -> bytes:
    """A file that was listed.

    Raises:
        ImageError: it is gone, has another size by now, cannot be read or is longer than `MAX_FILE_BYTES`.
    """
    if size > MAX_FILE_BYTES:
        raise ImageError("too_large", "imported", f"{name} has {size} bytes, the limit is {MAX_FILE_BYTES}")
    try:
        data = storage.read_whole(storage.join(folder, *name.split("/")), size)
    except FileNotFoundError:
        raise ImageError("not_found", "imported", f"{name} is gone from {folder}") from None
    except OSError as error:
        raise ImageError("unreadable", "imported", f"{name}: {error.strerror or error}") from error
    if len(data) != size:
        raise ImageError(
            "unreadable", "imported", f"{name} has changed since the build was planned: it had {size} bytes"
        )
    return data
