"""Files on local disk or under gs://, through one small set of functions.

Local paths use the standard library. gs:// uses google-cloud-storage (extra `[gcp]`), which honours
STORAGE_EMULATOR_HOST and retries 429 and 503 by itself. Everything else in the project names paths as strings and
comes here to reach them.
"""

import contextlib
import errno
import functools
import io
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

from schemas.errors import InputError

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


@functools.lru_cache(maxsize=1)
def _client_of(pid: int):
    try:
        from google.cloud import storage as gcs  # type: ignore[attr-defined]
    except ImportError:
        raise InputError(
            "gs:// paths need google-cloud-storage; install it with: pip install 'maskmill[gcp]'"
        ) from None
    from google.auth.exceptions import DefaultCredentialsError

    try:
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            return gcs.Client.create_anonymous_client()
        return gcs.Client()
    except (DefaultCredentialsError, OSError) as error:
        raise InputError(
            f"no Google Cloud credentials for gs:// paths ({str(error).splitlines()[0]}); "
            "run: gcloud auth application-default login"
        ) from error


def _bucket_and_name(path: str):
    bucket, _, name = path[len("gs://") :].partition("/")
    if not bucket:
        raise InputError(f"{path!r} names no bucket; write gs://BUCKET/PREFIX")
    # One client per process: it holds sockets, which must not be shared across a fork.
    return _client_of(os.getpid()).bucket(bucket), name


@contextlib.contextmanager
def _remote_errors(path: str) -> Iterator[None]:
    """Google's exceptions as the standard library's, so that callers handle one kind."""
    from google.api_core import exceptions as api

    try:
        yield
    except api.NotFound as error:
        raise FileNotFoundError(errno.ENOENT, f"not found ({error.message})", path) from error
    except (api.Forbidden, api.Unauthorized) as error:
        raise PermissionError(errno.EACCES, f"access denied ({error.message})", path) from error
    except api.GoogleAPIError as error:
        raise OSError(errno.EIO, f"storage error ({error})", path) from error


def exists(path: str) -> bool:
    """Whether there is a file (or, locally, a folder) at `path`."""
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        with _remote_errors(path):
            return bucket.blob(name).exists()
    return os.path.exists(path)


def size(path: str) -> int:
    """Bytes of a file. Raises FileNotFoundError."""
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        with _remote_errors(path):
            blob = bucket.get_blob(name)
        if blob is None:
            raise FileNotFoundError(errno.ENOENT, "not found", path)
        return int(blob.size)
    return os.path.getsize(path)


def read_bytes(path: str, offset: int = 0, length: int | None = None) -> bytes:
    """A file's bytes, or `length` of them from `offset` on (fewer at the end of the file).

    Raises:
        FileNotFoundError, PermissionError, OSError: as the standard library, for gs:// as well.
    """
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        if length == 0:
            return b""
        with _remote_errors(path):
            if offset == 0 and length is None:
                return bucket.blob(name).download_as_bytes()  # checksummed by the client
            end = None if length is None else offset + length - 1
            return bucket.blob(name).download_as_bytes(start=offset, end=end)
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read() if length is None else file.read(length)


@contextlib.contextmanager
def open_read(path: str) -> Iterator[BinaryIO]:
    """A seekable binary stream; gs:// objects are read in chunks, never whole."""
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        with _remote_errors(path):
            blob = bucket.get_blob(name)
            if blob is None:
                raise FileNotFoundError(errno.ENOENT, "not found", path)
            with blob.open("rb", chunk_size=8 << 20) as stream:
                yield stream
    else:
        with open(path, "rb") as stream:
            yield stream


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """A new file that appears at `path` whole or not at all, replacing what was there.

    Locally: a temporary name beside it, flushed to disk, then renamed. On gs://: a local temporary file, uploaded when
    complete (object writes are atomic and checksummed). When the block raises, nothing appears and nothing is left.
    """
    if is_remote(path):
        bucket, name = _bucket_and_name(path)
        with tempfile.TemporaryFile() as file:
            yield file
            file.seek(0)
            with _remote_errors(path):
                # The same bytes under the same name whoever writes them, so a repeated upload is safe to retry.
                from google.cloud.storage.retry import DEFAULT_RETRY

                bucket.blob(name).upload_from_file(file, checksum="crc32c", retry=DEFAULT_RETRY)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    temporary = f"{path}.{os.getpid()}-{secrets.token_hex(4)}{INCOMPLETE}"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
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
            bucket.blob(name).delete()
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def remove_tree(folder: str) -> None:
    """Removes a folder and all below it."""
    if is_remote(folder):
        for name, _ in walk(folder):
            remove(join(folder, name))
        return
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)


def walk(folder: str) -> Iterator[tuple[str, int]]:
    """Every file below a folder as (path relative to it with forward slashes, bytes), in no fixed order.

    Hidden files and folders (a leading dot) are left out. Links to folders are not followed, so a loop cannot trap us.

    Raises:
        FileNotFoundError: there is no such folder (gs://: the bucket does not exist).
        NotADirectoryError: it is a file.
    """
    if is_remote(folder):
        bucket, prefix = _bucket_and_name(folder.rstrip("/") + "/")
        with _remote_errors(folder):
            for blob in bucket.list_blobs(prefix=prefix, fields="items(name,size),nextPageToken"):
                name = blob.name[len(prefix) :]
                if name and not name.endswith("/") and not any(part.startswith(".") for part in name.split("/")):
                    yield name, int(blob.size or 0)
        return
    pending = [""]
    while pending:
        relative = pending.pop()
        with os.scandir(os.path.join(folder, relative)) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{relative}/{entry.name}" if relative else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif entry.is_file():
                    yield name, entry.stat().st_size
                elif entry.is_symlink() and not os.path.exists(entry.path):
                    yield name, 0  # a dangling link is an input that cannot be read, not one that is not there


def names(folder: str) -> set[str]:
    """Names of the files directly in a folder; empty where there is no such folder. One listing, not one call a file."""
    if is_remote(folder):
        bucket, prefix = _bucket_and_name(folder.rstrip("/") + "/")
        with _remote_errors(folder):
            return {
                b.name[len(prefix) :]
                for b in bucket.list_blobs(prefix=prefix, delimiter="/", fields="items(name),nextPageToken")
            }
    try:
        return {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()


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
            last = (identity, open(path, "rb"))  # noqa: SIM115  (kept open on purpose)
            _OPEN_ARCHIVES.last = last
        last[1].seek(offset)
        data = last[1].read(length)
    if len(data) < length:
        raise EOFError(f"{path} ends at {len(data)} of {length} bytes from offset {offset}")
    return data


def as_file(data: bytes) -> BinaryIO:
    """Bytes as a seekable stream."""
    return io.BytesIO(data)
