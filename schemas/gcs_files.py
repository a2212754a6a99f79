"""Objects under gs://: a `files.Files` over google-cloud-storage (extra `[gcp]`).

The client honours STORAGE_EMULATOR_HOST and retries 429 and 503 by itself. Its exceptions become the standard library's,
so that callers handle one kind.
"""

import base64
import contextlib
import errno
import functools
import http.client
import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, BinaryIO

from maskmill.schemas.errors import InputError
from maskmill.schemas.files import Stamp

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer
    from google.cloud.storage import Blob, Bucket, Client  # type: ignore[attr-defined]

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


def bucket_and_name(path: str) -> "tuple[Bucket, str]":
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


def patience(bucket: "Bucket") -> dict:
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
def remote_errors(path: str) -> Iterator[None]:
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


def join(folder: str, *parts: str) -> str:
    """A name below a prefix."""
    return "/".join((folder.rstrip("/"), *parts))


def identity(path: str) -> str:
    """The path without a slash at its end."""
    return path.rstrip("/")


def exists(path: str) -> bool:
    """Whether there is an object of that name."""
    bucket, name = bucket_and_name(path)
    with remote_errors(path):
        return bucket.blob(name).exists(**patience(bucket))


def _stamp_of(blob: "Blob") -> Stamp:
    return Stamp(int(blob.size or 0), base64.b64decode(blob.crc32c or "").hex())


def stamp(path: str) -> Stamp:
    """Size and checksum of an object. Raises FileNotFoundError."""
    bucket, name = bucket_and_name(path)
    with remote_errors(path):
        blob = bucket.get_blob(name, **patience(bucket))
    if blob is None:
        raise FileNotFoundError(errno.ENOENT, "not found", path)
    return _stamp_of(blob)


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
                bucket.blob(name).download_to_file(buffer, checksum="crc32c", **patience(bucket))
            return buffer.getvalue()
        except DataCorruption:
            if attempt == 2:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def read_bytes(path: str, offset: int = 0, length: int | None = None) -> bytes:
    """An object's bytes, checked against the checksum kept with it, or a range of them, which cannot be."""
    bucket, name = bucket_and_name(path)
    if length == 0:
        return b""
    from google.api_core.exceptions import RequestRangeNotSatisfiable

    with remote_errors(path):
        if offset == 0 and length is None:
            return _download(bucket, name, io.BytesIO)
        end = None if length is None else offset + length - 1
        try:
            return bucket.blob(name).download_as_bytes(start=offset, end=end, **patience(bucket))
        except RequestRangeNotSatisfiable:
            return b""  # the object ends before `offset`


def read_whole(path: str, limit: int) -> bytes:
    """An object's bytes, or its first `limit` + 1. One request, and checked as a range would not be."""
    bucket, name = bucket_and_name(path)
    with remote_errors(path):
        return _download(bucket, name, lambda: _Limited(limit))[: limit + 1]


read_range = read_bytes


@contextlib.contextmanager
def open_read(path: str) -> Iterator[BinaryIO]:
    """A seekable stream that fetches chunks, never the whole object."""
    bucket, name = bucket_and_name(path)
    with remote_errors(path):
        blob = bucket.get_blob(name, **patience(bucket))
        if blob is None:
            raise FileNotFoundError(errno.ENOENT, "not found", path)
        # Of that generation: an object replaced meanwhile is not read half old and half new.
        blob = bucket.blob(name, generation=blob.generation)
        with blob.open("rb", chunk_size=_CHUNK, **patience(bucket)) as stream:
            yield stream


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """A local temporary file, uploaded when complete: object writes are atomic and checksummed."""
    bucket, name = bucket_and_name(path)
    with tempfile.TemporaryFile() as file:
        yield file
        size = file.tell()
        with remote_errors(path):
            # The same bytes under the same name whoever writes them, so a repeated upload is safe to retry.
            bucket.blob(name).upload_from_file(file, rewind=True, size=size, checksum="crc32c", **patience(bucket))


def remove(path: str) -> None:
    """Removes an object; one that is not there is no error."""
    bucket, name = bucket_and_name(path)
    with contextlib.suppress(FileNotFoundError), remote_errors(path):
        bucket.blob(name).delete(**patience(bucket))


def walk(folder: str, first: str = "", end: str = "") -> Iterator[tuple[str, int]]:
    """Every object whose name begins with the folder's, in the order of names. Raises FileNotFoundError where there is none.

    With `first` or `end` only those from that name on, or before that one, of which there may be none.
    """
    bucket, prefix = bucket_and_name(folder.rstrip("/") + "/")
    bounds = {"start_offset": prefix + first if first else None, "end_offset": prefix + end if end else None}
    fields = "items(name,size),nextPageToken"
    listed = bool(first or end)
    with remote_errors(folder):
        for blob in bucket.list_blobs(prefix=prefix, fields=fields, **bounds, **patience(bucket)):
            listed = True
            name = blob.name[len(prefix) :]
            if name and not name.endswith("/"):
                yield name, int(blob.size or 0)
    if not listed:
        raise FileNotFoundError(errno.ENOENT, "no object has a name that begins so", folder)


def next_name(folder: str, beginning: str, first: str) -> str | None:
    """The first name below a folder that has this beginning and does not come before `first`, in one request."""
    bucket, prefix = bucket_and_name(folder.rstrip("/") + "/")
    asked = {"prefix": prefix + beginning, "start_offset": prefix + first, "max_results": 1, "fields": "items(name)"}
    with remote_errors(folder):
        return next((blob.name[len(prefix) :] for blob in bucket.list_blobs(**asked, **patience(bucket))), None)


def stamps(folder: str) -> dict[str, Stamp]:
    """Name -> size and checksum of each object directly below a prefix, of one listing."""
    bucket, prefix = bucket_and_name(folder.rstrip("/") + "/")
    fields = "items(name,size,crc32c),nextPageToken"
    with remote_errors(folder):
        listed = bucket.list_blobs(prefix=prefix, delimiter="/", fields=fields, **patience(bucket))
        return {blob.name[len(prefix) :]: _stamp_of(blob) for blob in listed}
