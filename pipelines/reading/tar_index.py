"""What a tar holds, from its headers alone, and proof that it holds no more.

`tarfile` takes any block that is no header for the end of the archive, and has no word for it. Here an archive ends as POSIX
says, with two blocks of zeros and nothing behind them, or it is damaged: cut short by a download, or hit by a flipped bit.
"""

import contextlib
import contextvars
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from maskmill.pipelines.reading.inputs import HIDDEN, Refusal, left_out, lost
from maskmill.pipelines.reading.location import Location
from maskmill.pipelines.reading.names import is_hidden, member_path, spelled
from maskmill.schemas import storage
from maskmill.schemas.sparse import open_sparse

_BLOCK = tarfile.BLOCKSIZE
_MAX_LINKS = 8  # from link to link; few systems follow more than 40, and no archive of pictures has a use for two
_MAX_READ = 16 << 20  # bytes; no header with its extensions is longer, whatever it says of itself


Entry = tuple[str, Location | Refusal]
InnerTar = tuple[str, int, int]  # name, offset and size of a tar inside the tar
Lister = Callable[[str, Sequence[InnerTar]], Iterator[list[Entry]]]


class DamagedArchive(Exception):
    """The archive does not say what it holds; `str` of it goes on after "PATH is damaged: "."""


class _Window:
    """A range of a stream as a stream of its own, for a tar inside a tar. Only headers are read through it."""

    def __init__(self, stream: BinaryIO, start: int, size: int):
        self.stream, self.start, self.size, self.at = stream, start, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= _MAX_READ or self.at < 0:
            raise tarfile.ReadError("a header of impossible size")
        self.stream.seek(self.start + self.at)
        data = self.stream.read(min(count, max(0, self.size - self.at)))
        self.at += len(data)
        return data


def list_tar(
    path: str, stream: BinaryIO, start: int, size: int, prefix: str = ""
) -> Iterator[tuple[str, Location | Refusal]]:
    """Every member of a tar but folders, and every member of the tars inside it, as (name, where it is or why it is lost).

    A member is lost by itself: a sparse file, an unsafe name, a link to nothing in here. A tar inside the tar that is
    damaged costs what lies behind the damage, and one line says so.

    Args:
        path: of the archive.
        stream: of its bytes.
        start, size: the tar's range within the stream.
        prefix: folder of its members' names, spelled as ids are; "" for the outer tar.

    Raises:
        DamagedArchive: it does not end as a tar must, or a header is broken. What came before is whole.
    """
    links: list[tuple[str, str]] = []
    inner: list[InnerTar] = []
    for name, member in _list_members(path, stream, start, size, prefix):
        if isinstance(member, str):
            links.append((name, member))
        elif isinstance(member, Location) and name.endswith(".tar") and not prefix:
            inner.append((name, member.offset, member.size))
        else:
            yield name, member
    if storage.is_remote(path):
        for entries in _LISTER.get()(path, inner):
            yield from entries
    else:
        for one in inner:
            yield from list_inner(path, one, stream)
    if not links:
        return
    # Targets may lie anywhere, so they are looked for in a second pass: remembering every member would take a gigabyte
    # where there are millions, and hardly any tar of pictures holds a link.
    ends = _ends(links)
    wanted = {target for _, target in links} | set(ends.values())
    members = _list_members(path, stream, start, size, prefix)
    targets = {name: found for name, found in members if name in wanted and isinstance(found, Location)}
    for name, target in links:
        found = targets.get(target) or targets.get(ends[target])
        if found is None or name.endswith(".tar"):
            yield name, left_out(name, f"a link to {target}, which is no file of the archive")
        else:
            yield name, found


def _ends(links: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Target -> where it leads, through other links of the archive; a circle ends somewhere in it."""
    after = dict(links)
    ends = {}
    for _, target in links:
        end = target
        for _ in range(_MAX_LINKS):
            end = after.get(end, end)
        ends[target] = end
    return ends


def list_inner(path: str, inner: InnerTar, stream: BinaryIO | None = None) -> list[Entry]:
    """What a tar inside the tar at `path` holds; `stream` is of that one, if it is open and has no other reader."""
    name, offset, size = inner
    entries: list[Entry] = []
    try:
        with contextlib.nullcontext(stream) if stream else open_sparse(path) as own:
            for entry in list_tar(path, own, offset, size, name.removesuffix(".tar") + "/"):
                entries.append(entry)  # one by one: those before a damage are kept
    except DamagedArchive as error:
        said = f"the tar inside is damaged: {error}; {len(entries)} of its files come before that"
        entries.append((name, lost(name, said)))
    return entries


def list_here(path: str, inner: Sequence[InnerTar]) -> Iterator[list[Entry]]:
    """What tars inside a tar on gs:// hold, several at a time, each by a stream of its own."""
    return storage.in_parallel(lambda one: list_inner(path, one), inner, path)


_LISTER: contextvars.ContextVar[Lister] = contextvars.ContextVar("lister of tars inside tars", default=list_here)


@contextlib.contextmanager
def inner_tars_by(lister: Lister) -> Iterator[None]:
    """While the block runs, tars inside tars on gs:// are listed by `lister`: by a cluster's workers, say."""
    token = _LISTER.set(lister)
    try:
        yield
    finally:
        _LISTER.reset(token)


def _list_members(
    path: str, stream: BinaryIO, start: int, size: int, prefix: str
) -> Iterator[tuple[str, Location | Refusal | str]]:
    """(name, where it is, why it is lost, or the name of the member that it is a link to)."""
    window = _Window(stream, start, size)
    end = 0  # of the last member
    try:
        with tarfile.open(fileobj=window, mode="r:") as archive:  # type: ignore[call-overload]
            while (info := archive.next()) is not None:
                archive.members = []  # the archive keeps every header it has seen; a million of them are not needed
                if info.size < 0 or archive.offset <= end:
                    raise DamagedArchive(f"the header at byte {start + end} states {info.size} bytes")
                if archive.offset > size:
                    raise DamagedArchive(f"it ends at byte {start + size}, inside {info.name!r}; fetch it again")
                end = archive.offset
                if not info.isdir():
                    yield _settle(path, info, start, prefix)
            _check_end(window, archive.offset)
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        why = error if isinstance(error, tarfile.TarError) else "its extension is none"  # the rest speak of Python
        raise DamagedArchive(f"the header at byte {start + end} cannot be read ({why})") from error


def _settle(path: str, info: tarfile.TarInfo, start: int, prefix: str) -> tuple[str, Location | Refusal | str]:
    byte = start + info.offset
    try:
        name = prefix + spelled(member_path(info.name))
    except ValueError as error:
        name = prefix + spelled(info.name) or f"the member at byte {byte}"
        return name, lost(name, f"{error}, at byte {byte} of the archive")
    if is_hidden(name):
        return name, left_out(name, HIDDEN)
    if info.islnk() or info.issym():
        # A hard link names its target from the archive's root, a symbolic one from its own folder.
        target = info.linkname if info.islnk() else posixpath.join(posixpath.dirname(info.name), info.linkname)
        try:
            return name, prefix + spelled(member_path(posixpath.normpath(target)))
        except ValueError:
            return name, left_out(name, f"a link out of the archive, to {info.linkname!r}")
    if info.issparse():
        return name, lost(name, "stored as a sparse file, in pieces; pack it again without --sparse")
    if not info.isreg():
        return name, left_out(name, f"neither file nor link: a tar member of type {info.type!r}")
    return name, Location(path, start + info.offset_data, info.size, False, info.size)


def _check_end(window: _Window, end: int) -> None:
    """Raises DamagedArchive unless zeros, two blocks at least, are all there is from byte `end` of the window on."""
    at = window.start + end
    window.seek(end)
    first = window.read(_BLOCK)
    if first.strip(b"\0") and len(first) == _BLOCK:
        raise DamagedArchive(f"at byte {at} is neither a member nor the end; fetch it again")
    if window.size - end < 2 * _BLOCK:
        raise DamagedArchive(
            f"it ends at byte {at + window.size - end} without a tar's two closing blocks; fetch it again"
        )
    window.seek(end)
    while data := window.read(1 << 20):
        if rest := data.lstrip(b"\0"):
            more = window.start + window.tell() - len(rest)
            raise DamagedArchive(
                f"it seems to end at byte {at}, but goes on at byte {more}; tars that were joined have to be given one by one"
            )
