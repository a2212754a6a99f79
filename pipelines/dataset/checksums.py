"""`SHA256SUMS`: a digest of every file of a data set, the manifest included, in the form that `sha256sum -c` reads.

The manifest vouches for what is the same in every build of the same data. Tables and reports hold times, and a report can
be made again, so their digests are here, outside the manifest's identity. The last line is the digest of the lines above
it, as a comment, so that a flipped bit in this file is found like any other.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import CHECKSUMS, File

_LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>(?:images/)?[^/\\\n]+)")
_MAX_BYTES = 256 << 20
_CHUNK = 4 << 20


class HashedStream:
    """Passes what is written on to a stream, and adds up its size and digest on the way."""

    def __init__(self, stream: BinaryIO):
        self._stream, self._sha, self._bytes = stream, hashlib.sha256(), 0
        self.closed = False  # pyarrow asks; the stream is closed by whoever opened it

    def write(self, data: bytes | memoryview) -> int:
        """Writes bytes or a buffer of bytes."""
        self._sha.update(data)
        self._bytes += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        """Passed on."""
        self._stream.flush()

    def file(self, name: str) -> File:
        """What was written, under a name."""
        return File(name, self._bytes, self._sha.hexdigest())


def file_of(name: str, data: bytes) -> File:
    """Size and digest of a file with these bytes."""
    return File(name, len(data), hashlib.sha256(data).hexdigest())


def read_file(folder: str, name: str) -> File:
    """Size and digest of a file as it is; memory does not grow with it. Raises OSError."""
    sha, size = hashlib.sha256(), 0
    with storage.open_read(storage.join(folder, *name.split("/"))) as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
            size += len(chunk)
    return File(name, size, sha.hexdigest())


def render_checksums(digests: Mapping[str, str]) -> bytes:
    """The file's bytes; `digests` are hex sha256 by file name."""
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()
    return lines + f"# sha256 of the lines above: {hashlib.sha256(lines).hexdigest()}\n".encode()


def load_checksums(folder: str) -> dict[str, str] | None:
    """Digests by file name, or None where the folder has no `SHA256SUMS`.

    Raises:
        DamageError: it is not as it was written.
    """
    try:
        data = storage.read_whole(storage.join(folder, CHECKSUMS), _MAX_BYTES)
    except FileNotFoundError:
        return None
    lines = data.decode("utf-8", "replace").split("\n")[:-2]
    found = {match["name"]: match["digest"] for line in lines if (match := _LINE.fullmatch(line))}
    if data != render_checksums(found):
        raise DamageError(f"{CHECKSUMS} in {folder} is damaged: its last line is the digest of other lines")
    return found


def write_checksums(folder: str, digests: Mapping[str, str]) -> None:
    """Writes the file."""
    storage.write_bytes(storage.join(folder, CHECKSUMS), render_checksums(digests))


def renew_checksums(folder: str, names: Iterable[str]) -> None:
    """Brings the lines of files that were written anew up to date; a folder without checksums gets none.

    Raises:
        DamageError: the file is damaged.
    """
    digests = load_checksums(folder)
    if digests is not None:
        write_checksums(folder, digests | {name: read_file(folder, name).sha256 for name in names})
