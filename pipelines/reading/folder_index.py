"""What a local folder holds, links followed: subsets of large data sets are often folders of links."""

import heapq
import os
import pathlib
from collections.abc import Iterator

from maskmill.pipelines.reading.inputs import HIDDEN, Refusal, left_out
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.names import spelled


def list_folder(root: str) -> Iterator[tuple[str, Location | Refusal]]:
    """Every file below a folder, as (name with forward slashes, where it is or why it is not taken).

    Links to folders are followed, each real folder once: first everything that lies in the tree itself, then the links in
    the order of their names, so that it does not depend on the file system under which of two names a folder is listed.
    A link to nothing is a file that cannot be read, not one that is not there. A hidden folder is one line.

    Raises:
        OSError: a folder cannot be listed.
    """
    seen: dict[tuple[int, int], str] = {}  # real folder -> the name it was listed by
    for above in pathlib.Path(os.path.realpath(root)).parents:  # a link to one of them would lead in a circle
        seen[_identity(above)] = str(above)
    links = [""]  # a heap; the root is the first
    while links:
        pending = [heapq.heappop(links)]
        while pending:
            folder = pending.pop()
            place = os.path.join(root, folder) if folder else root
            identity = _identity(place)
            if identity in seen:
                name = spelled(folder)
                yield name, left_out(name, f"a second way to a folder that is listed as {seen[identity]}")
                continue
            seen[identity] = spelled(folder) or root
            with os.scandir(place) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    name = spelled(path)
                    kind = _kind(entry)
                    if entry.name.startswith("."):
                        yield name, left_out(name, HIDDEN)
                    elif kind == "folder":
                        pending.append(path)
                    elif kind == "link to a folder":
                        heapq.heappush(links, path)
                    elif kind == "file":
                        yield name, Location(os.path.join(root, path))
                    else:
                        yield name, left_out(name, "neither file nor folder: a FIFO, a socket or a device")


def _identity(folder: str | os.PathLike) -> tuple[int, int]:
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def _kind(entry: os.DirEntry) -> str:
    try:
        if entry.is_dir(follow_symlinks=False):
            return "folder"
        if not entry.is_symlink():
            return "file" if entry.is_file(follow_symlinks=False) else "other"
        if entry.is_dir():
            return "link to a folder"
        return "file" if entry.is_file() or not os.path.exists(entry.path) else "other"
    except OSError:
        return "file"  # a link in a circle, or to where we may not look: its reading says so
