"""A Google Cloud Storage of our own on loopback, in memory, that fails on request."""

import contextlib
import functools
import io
import json
import socketserver
import threading
from collections.abc import Callable
from http.server import HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage


class _Threading(socketserver.ThreadingMixIn, HTTPServer):
    daemon_threads = True
    request_queue_size = 128


class Gcs:
    """The server.

    Attributes:
        url: for STORAGE_EMULATOR_HOST.
        fault: called with (method, path) before every answer; returns None to answer properly, an HTTP status to answer
            with that, "torn" to break off in the middle of the body, "flipped" to change a bit of it, "dropped" to close the
            connection without doing anything, or "lost" to do what was asked and then close it.
        answered: called with (method, path) after every answer.
        requests: (method, path) of every request so far.
    """

    def __init__(self) -> None:
        self.fault: Callable[[str, str], int | str | None] = lambda method, path: None
        self.answered: Callable[[str, str], None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self._storage = _Bounded(use_memory_fs=True)
        self._storage_lock = threading.Lock()
        self._server = _Threading(("127.0.0.1", 0), functools.partial(_handler(self), self._storage))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True, name="gcs").start()

    def create_bucket(self, name: str) -> None:
        create_bucket(name, self._storage)

    def upload(self, folder: Path, bucket: str, prefix: str) -> None:
        """Copies a local folder's files into a bucket."""
        from maskmill.schemas import storage

        for name, _ in storage.walk(str(folder)):
            storage.write_bytes(f"gs://{bucket}/{prefix}/{name}", (folder / name).read_bytes())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Bounded(Storage):
    """The emulator's storage, which otherwise lists all names, whatever the bounds.

    Attributes:
        bounds: the first name of a listing, and the one before which it ends; "" for none. Set before each answer.
    """

    bounds = ("", "")

    def get_file_list(self, *args, **kwargs):
        files, prefixes = super().get_file_list(*args, **kwargs)
        first, end = self.bounds
        return [file for file in files if first <= file["name"] and (not end or file["name"] < end)], prefixes


class _Body:
    """The connection's output: from the first body on, it does what the fault says."""

    def __init__(self, stream, fault: str):
        self.stream, self.fault, self.headers_sent = stream, fault, False

    def write(self, data: bytes) -> None:
        if self.fault == "lost":
            return
        if not self.headers_sent:
            self.headers_sent = True
        elif self.fault == "torn":
            data = data[: len(data) // 2]
        elif data:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.stream.write(data)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def _handler(gcs: Gcs) -> type[RequestHandler]:
    class Handler(RequestHandler):
        def _answer(self, method: str, usual: Callable[[], None]) -> None:
            gcs.requests.append((method, self.path))
            fault = gcs.fault(method, self.path)
            requests, answers = self.rfile, self.wfile
            length = int(self.headers.get("Content-Length") or 0)
            body = requests.read(length)
            if fault == "dropped" or len(body) < length:  # the latter from a client that is gone: nothing has happened
                self.close_connection = True
                return
            # A storage in memory is not made for threads; the network between us and it is.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if isinstance(fault, int):
                    self._refuse(fault)
                else:
                    self.rfile = io.BytesIO(body)
                    self.wfile = answers if fault is None else _Body(answers, fault)
                    asked = parse_qs(urlsplit(self.path).query)
                    with gcs._storage_lock:
                        gcs._storage.bounds = tuple(asked.get(n, [""])[0] for n in ("startOffset", "endOffset"))
                        usual()
            self.rfile, self.wfile = requests, answers
            self.close_connection |= fault in ("torn", "lost")
            gcs.answered(method, self.path)

        def _refuse(self, status: int) -> None:
            body = json.dumps({"error": {"code": status, "message": f"a planned {status}"}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self._answer("GET", super().do_GET)

        def do_POST(self):
            self._answer("POST", super().do_POST)

        def do_PUT(self):
            self._answer("PUT", super().do_PUT)

        def do_DELETE(self):
            self._answer("DELETE", super().do_DELETE)

    return Handler
