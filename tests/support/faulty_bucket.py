"""A bucket that fails at the n-th request of one process, or ends the process there."""

import contextlib
import os
import signal
import threading
import urllib.parse

# Answers that the client waits out (503, 500, 429), those it cannot (403), answers cut short or with a flipped bit, requests
# that are lost on the way there, and on the way back; the end of the process before a request is served, and after.
_STATUS = {"unavailable": 503, "error": 500, "busy": 429, "forbidden": 403}
_BODY = ("torn", "flipped", "dropped", "lost")
PASSING = ("unavailable", "error", "busy", "dropped", "lost")  # of which nobody should ever hear
BUCKET_KINDS = (*_STATUS, *_BODY, "kill", "kill after")


class Requests:
    """What a `gcs.Gcs` does with the requests of one process: give `fault` and `answered` to it.

    Attributes:
        log: method and path of every request.
        pid: of the process; set before its first request.
    """

    def __init__(self, at: int = 0, kind: str = ""):
        self._at, self._kind, self._lock = at, kind, threading.Lock()
        self._hit: tuple[str, str] | None = None
        self.log: list[str] = []
        self.pid = 0

    def fault(self, method: str, path: str) -> int | str | None:
        with self._lock:
            self.log.append(f"{method} {urllib.parse.unquote(path)}")
            if len(self.log) != self._at:
                return None
            self._hit = method, path
        if self._kind == "kill":
            self._kill()
            return "dropped"
        if self._kind == "kill after":
            return "lost"
        return _STATUS.get(self._kind, self._kind)

    def answered(self, method: str, path: str) -> None:
        if self._kind == "kill after" and (method, path) == self._hit:
            self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
