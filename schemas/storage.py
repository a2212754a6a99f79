"""Files on local disk or under gs://, through one small set of functions.

Local paths use the standard library. gs:// uses google-cloud-storage (extra `[gcp]`), which honours
STORAGE_EMULATOR_HOST and retries 429 and 503 by itself. Everything else in the project names paths as strings and
comes here to reach them. A long file for that reason: it is the one place that knows both kinds of path.
"""

import base64
import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import http.client
import io
import itertools
import os
import secrets
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from maskmill.schemas.errors import InputError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer
    from google.cloud.storage import Blob, Bucket, Client  # type: ignore[attr-defined]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_PARALLEL = 16  # calls to gs:// at once by `in_parallel`

INCOMPLETE = ".incomplete"  # suffix of files that are still being written


def is_remote(path: str) -> bool:
    """Whether a path is on gs://."""
    return path.startswith("gs://")


def join(folder: str, *parts: str) -> str:
    """A path below a folder."""
    if is_remote(folder):
        return "/".join((folder.rstrip("/"), *parts))
    return os.path.join(folder, *parts)


def check_relative(name: str) -> str:
    """A path from an annotation file or an archive, refused where it could leave its folder.

    Raises:
        ValueError: absolute, climbing (`..`), with a NUL, a backslash or a drive letter, or empty.
    """
    parts = name.split("/")
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or name[1:2] == ":":
        raise ValueError(f"unsafe path {name[:200]!r}: it must be relative and stay inside its folder")
    return name


# Seconds to reach a bucket that has not answered yet. Afterwards its answers of 429 and 503, and lost connections, are
# waited out for as long as the client does by default (two minutes, with growing pauses).
FIRST_CONTACT_S = 10.0
_CHUNK = 8 << 20  # bytes fetched at once by a stream
_TIMEOUT_S = (10, 60)  # to connect, and between two pieces of an answer
_CONNECTIONS = 64  # kept open per process; as many threads may read at once
LOGIN = "run: gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's key"

_REACHED: set[str] = set()


@functools.lru_cache(maxsize=1)
def _client_of(pid: int) -> "Client":
    try:
        from google.cloud import storage as gcs  # type: ignore[attr-defined]
    except ImportError:
        raise InputError(
            "gs:// paths need google-cloud-storage; install it with: pip install 'maskmill[gcp]'"
        ) from None
    from google.auth.exceptions import GoogleAuthError

    from maskmill.schemas.operations import CountingAdapter

    try:
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            client = gcs.Client.create_anonymous_client()
        else:
            client = gcs.Client(project=None)  # objects are named by their bucket; a project is not needed
    except (GoogleAuthError, OSError, ValueError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(f"no usable Google Cloud credentials for gs:// paths ({why}); {LOGIN}") from error
    adapter = CountingAdapter(pool_maxsize=_CONNECTIONS)
    client._http.mount("https://", adapter)
    client._http.mount("http://", adapter)
    return client


def _bucket_and_name(path: str) -> "tuple[Bucket, str]":
    bucket, _, name = path[len("gs://") :].partition("/")
    if not bucket:
        raise InputError(f"{path!r} names no bucket; write gs://BUCKET/PREFIX")
    # One client per process: it holds sockets, which must not be shared across a fork.
    return _client_of(os.getpid()).bucket(bucket), name


def _is_transient(error: Exception) -> bool:
    """Whether a failed call may succeed when it is made again: a lost connection, 429, 503 and the like."""
    import requests
    import urllib3
    from google.auth.exceptions import TransportError

    response = getattr(error, "response", None)
    status = getattr(error, "code", None) or getattr(response, "status_code", None)
    if status is not None:
        return status in (408, 429, 500, 502, 503, 504)
    return isinstance(
        error,
        ConnectionError
        | requests.ConnectionError
        | requests.Timeout
        | requests.exceptions.ChunkedEncodingError
        | urllib3.exceptions.HTTPError
        | http.client.HTTPException
        | TransportError,
    )


def _patience(bucket: "Bucket") -> dict:
    """Arguments of every call: how long to wait, and which failures to try again.

    A machine without a way to the bucket should say so within seconds, not after the two minutes that are right for a
    bucket in the middle of a run. What the bucket itself answers is tried again for two minutes from the start.
    """
    from google.cloud.storage.retry import DEFAULT_RETRY

    start = time.monotonic()

    def again(error: Exception) -> bool:
        answered = getattr(error, "code", None) or getattr(error, "response", None) is not None
        if not answered and bucket.name not in _REACHED and time.monotonic() - start > FIRST_CONTACT_S:
            return False
        return _is_transient(error)

    return {"timeout": _TIMEOUT_S, "retry": DEFAULT_RETRY.with_predicate(again)}


@contextlib.contextmanager
def _remote_errors(path: str) -> Iterator[None]:
    """Google's exceptions as the standard library's, so that callers handle one kind."""
    import requests
    from google.api_core import exceptions as api
    from google.auth.exceptions import GoogleAuthError
    from google.cloud.storage.exceptions import DataCorruption

    bucket = path[len("gs://") :].partition("/")[0]
    try:
        yield
        _REACHED.add(bucket)
    except api.NotFound as error:
        _REACHED.add(bucket)
        raise FileNotFoundError(errno.ENOENT, f"not found ({_reason(error)})", path) from error
    except (api.Forbidden, api.Unauthorized) as error:
        raise PermissionError(errno.EACCES, f"access denied ({_reason(error)})", path) from error
    except GoogleAuthError as error:
        raise PermissionError(errno.EACCES, f"credentials refused ({_reason(error)}); {LOGIN}", path) from error
    except (api.GoogleAPIError, DataCorruption, requests.RequestException) as error:
        raise OSError(errno.EIO, f"no answer from storage, or a broken one ({_reason(error)})", path) from error


def _reason(error: Exception) -> str:
    """What a library says of a failure, in one line of bearable length."""
    cause = getattr(error, "cause", None) or error  # a RetryError holds the last failure
    text = " ".join(str(getattr(cause, "message", "") or cause).split()) or type(cause).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def in_parallel(function: Callable[[_Item], _Result], items: Iterable[_Item], folder: str) -> Iterator[_Result]:
    """`map(function, items)`, in order: some calls ahead on threads where `folder` is remote, else one by one.

    A call to gs:// waits for tens of milliseconds; thousands of them must not wait for one another.
    """
    if not is_remote(folder):
        yield from map(function, items)
        return
    waiting = iter(items)
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        pending = collections.deque(pool.submit(function, item) for item in itertools.islice(waiting, 2 * _PARALLEL))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(function, item) for item in itertools.islice(waiting, 1))
                yield result
        finally:
            for future in pending:
                future.cancel()


def is_same(path: str, other: str) -> bool:
    """Whether two names are of one file or folder."""
    if is_remote(path) or is_remote(other):
        return path.rstrip("/") == other.rstrip("/")
    return os.path.realpath(path) == os.path.realpath(other)


def exists(path: str) -> bool:
    """Whether there is a file (or, locally, a folder) at `path`."""
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        with _remote_errors(path):
            return bucket.blob(name).exists(**_patience(bucket))
    return os.path.exists(path)


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What is known of a file without reading it.

    Attributes:
        bytes: its size.
        crc32c: of its bytes, in hex, where the place keeps it (gs://); else "".
        changed_ns: when it was last changed, on the clock of its file system; 0 on gs://.
    """

    bytes: int
    crc32c: str = ""
    changed_ns: int = 0


def _stamp_of_blob(blob: "Blob") -> Stamp:
    return Stamp(int(blob.size or 0), base64.b64decode(blob.crc32c or "").hex())


def stamp(path: str) -> Stamp:
    """What is known of a file. Raises FileNotFoundError."""
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        with _remote_errors(path):
            blob = bucket.get_blob(name, **_patience(bucket))
        if blob is None:
            raise FileNotFoundError(errno.ENOENT, "not found", path)
        return _stamp_of_blob(blob)
    status = os.stat(path)
    return Stamp(status.st_size, changed_ns=status.st_mtime_ns)


def size(path: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    return stamp(path).bytes


class _Limited(io.BytesIO):
    """Takes up to `limit` bytes; more end the download that brings them."""

    class Full(Exception):
        pass

    def __init__(self, limit: int):
        super().__init__()
        self.limit = limit

    def write(self, data: "Buffer") -> int:
        written = super().write(data)
        if self.tell() > self.limit:
            raise self.Full
        return written


def _download(bucket: "Bucket", name: str, buffer_type: Callable[[], io.BytesIO]) -> bytes:
    """A whole object, checked against the checksum kept with it; fetched anew, twice at most, where they differ."""
    from google.cloud.storage.exceptions import DataCorruption

    for attempt in range(3):
        buffer = buffer_type()
        try:
            with contextlib.suppress(_Limited.Full):
                bucket.blob(name).download_to_file(buffer, checksum="crc32c", **_patience(bucket))
            return buffer.getvalue()
        except DataCorruption:
            if attempt == 2:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


class NotAFile(OSError):
    """A folder, a pipe or a device where a file is needed."""


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
    """A file's bytes, or `length` of them from `offset` on (fewer at the end of the file).

    Raises:
        FileNotFoundError, PermissionError, OSError: as the standard library, for gs:// as well.
    """
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        if length == 0:
            return b""
        from google.api_core.exceptions import RequestRangeNotSatisfiable

        with _remote_errors(path):
            if offset == 0 and length is None:
                return _download(bucket, name, io.BytesIO)
            end = None if length is None else offset + length - 1
            try:
                return bucket.blob(name).download_as_bytes(start=offset, end=end, **_patience(bucket))
            except RequestRangeNotSatisfiable:
                return b""  # the object ends before `offset`
    with open_regular(path) as file:
        file.seek(offset)
        return file.read() if length is None else file.read(length)


def read_whole(path: str, limit: int) -> bytes:
    """A file's bytes, or its first `limit` + 1 where it is longer, so that an absurd file fills no memory.

    One request, and, unlike a range, checked against the checksum that gs:// keeps.
    """
    if not is_remote(path):
        with open_regular(path) as file:
            return file.read(limit + 1)
    bucket, name = _bucket_and_name(path)
    with _remote_errors(path):
        return _download(bucket, name, lambda: _Limited(limit))[: limit + 1]


@contextlib.contextmanager
def open_read(path: str) -> Iterator[BinaryIO]:
    """A seekable binary stream; gs:// objects are read in chunks, never whole."""
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        with _remote_errors(path):
            blob = bucket.get_blob(name, **_patience(bucket))
            if blob is None:
                raise FileNotFoundError(errno.ENOENT, "not found", path)
            # Of that generation: an object replaced meanwhile is not read half old and half new.
            blob = bucket.blob(name, generation=blob.generation)
            with blob.open("rb", chunk_size=_CHUNK, **_patience(bucket)) as stream:
                yield stream
    else:
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
    """A new file that appears at `path` whole or not at all, replacing what was there.

    Locally: a temporary name beside it, flushed to disk, then renamed, and the folder flushed: files appear in the order in
    which they are made, after a loss of power as well. On gs://: a local temporary file, uploaded when
    complete (object writes are atomic and checksummed). When the block raises, nothing appears and nothing is left.
    """
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        with tempfile.TemporaryFile() as file:
            yield file
            size = file.tell()
            with _remote_errors(path):
                # The same bytes under the same name whoever writes them, so a repeated upload is safe to retry.
                bucket.blob(name).upload_from_file(file, rewind=True, size=size, checksum="crc32c", **_patience(bucket))
        return
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


def write_bytes(path: str, data: bytes) -> None:
    """A whole file at once; see `create`."""
    with create(path) as file:
        file.write(data)


def remove(path: str) -> None:
    """Removes a file; a file that is not there is no error."""
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        with contextlib.suppress(FileNotFoundError), _remote_errors(path):
            bucket.blob(name).delete(**_patience(bucket))
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def remove_all(paths: Iterable[str]) -> None:
    """Removes many files, those on gs:// at the same time."""
    paths = list(paths)
    for _ in in_parallel(remove, paths, paths[0] if paths else ""):
        pass


def walk(folder: str) -> Iterator[tuple[str, int]]:
    """Every file below a folder as (path relative to it with forward slashes, bytes), in no fixed order.

    Hidden ones as well. Links to folders are not followed, so a loop cannot trap us, and files behind them are not ours.

    Raises:
        FileNotFoundError: there is no such folder (gs://: the bucket does not exist).
        NotADirectoryError: it is a file.
    """
    if is_remote(folder):
        bucket, prefix = _bucket_and_name(folder.rstrip("/") + "/")
        listed = False
        with _remote_errors(folder):
            for blob in bucket.list_blobs(prefix=prefix, fields="items(name,size),nextPageToken", **_patience(bucket)):
                listed = True
                name = blob.name[len(prefix) :]
                if name and not name.endswith("/"):
                    yield name, int(blob.size or 0)
        if not listed:
            raise FileNotFoundError(errno.ENOENT, "no object has a name that begins so", folder)
        return
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
    """Name -> what is known of each file directly in a folder; empty where there is no such folder.

    One listing, not one call a file.

    Raises:
        FileNotFoundError: the bucket of a gs:// folder does not exist.
    """
    if is_remote(folder):
        bucket, prefix = _bucket_and_name(folder.rstrip("/") + "/")
        fields = "items(name,size,crc32c),nextPageToken"
        with _remote_errors(folder):
            listed = bucket.list_blobs(prefix=prefix, delimiter="/", fields=fields, **_patience(bucket))
            return {blob.name[len(prefix) :]: _stamp_of_blob(blob) for blob in listed}
    found = {}
    try:
        for entry in os.scandir(folder):
            with contextlib.suppress(FileNotFoundError):  # renamed or removed since it was listed
                if entry.is_file():
                    found[entry.name] = Stamp(entry.stat().st_size, changed_ns=entry.stat().st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return found


def sizes(folder: str) -> dict[str, int]:
    """Name -> bytes of the files directly in a folder; see `stamps`."""
    return {name: stamp.bytes for name, stamp in stamps(folder).items()}


def names(folder: str) -> set[str]:
    """Names of the files directly in a folder; see `sizes`."""
    return set(sizes(folder))


_OPEN_ARCHIVES = threading.local()


def read_range(path: str, offset: int, length: int) -> bytes:
    """Part of a large file that many ranges are read from (an archive): keeps the last local file open per thread.

    Raises:
        EOFError: the file ends before `offset + length`.
    """
    if is_remote(path):
        data = read_bytes(path, offset, length)
    else:
        now = os.stat(path)
        identity = (path, now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
        last = getattr(_OPEN_ARCHIVES, "last", None)
        if last is None or last[0] != identity:
            if last is not None:
                last[1].close()
            last = (identity, open_regular(path))  # kept open on purpose
            _OPEN_ARCHIVES.last = last
        last[1].seek(offset)
        data = last[1].read(length)
    if len(data) < length:
        raise EOFError(f"{path} ends at {len(data)} of {length} bytes from offset {offset}")
    return data


def as_file(data: bytes) -> BinaryIO:
    """Bytes as a seekable stream."""
    return io.BytesIO(data)
