"""Images built in a process of their own, so that a picture that crashes or hangs native code costs itself and nothing else.

The parent reads files and writes records; the child only computes. They speak frames over two pipes: two lengths, a JSON
text, raw bytes. A child that dies is replaced and the image tried again (the cause may have been outside it: an operator,
the kernel's memory killer); an image that takes `MAX_ATTEMPTS` children with it is quarantined. A timer inside the child
ends it when an image takes too long, whatever native code holds; no child outlives its parent by more than one image.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import signal
import struct
import subprocess
import sys
import tempfile
from typing import IO

from maskmill.pipelines.measuring.overlaps import ImageOverlaps
from maskmill.pipelines.parts import memory
from maskmill.pipelines.parts.config import Settings
from maskmill.pipelines.parts.generators import parse_specs
from maskmill.pipelines.parts.image_builder import Built, ImageBuilder
from maskmill.pipelines.reading.decode import read_header
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.schemas.errors import MESSAGE_LIMIT, DamageError, ImageError, InputError, UsageError

MAX_ATTEMPTS = 3
_NO_MEMORY = ("bad_alloc", "MemoryError", "Out of memory", "Insufficient memory")  # last words of native code
_LENGTHS = struct.Struct("<II")
_STOPS = {error.__name__: error for error in (DamageError, InputError, UsageError)}
_LOG = logging.getLogger("maskmill")

# One heavy thread per child: the pool is as wide as the machine, and results must not depend on a thread count.
_SINGLE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def _send(stream: IO[bytes], head: dict, body: bytes = b"") -> None:
    text = json.dumps(head).encode()
    stream.write(_LENGTHS.pack(len(text), len(body)) + text)
    stream.write(body)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict, bytes]:
    """One frame; EOFError when the other side is gone."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        raise EOFError
    text_length, body_length = _LENGTHS.unpack(lengths)
    text, body = stream.read(text_length), stream.read(body_length)
    if len(text) < text_length or len(body) < body_length:
        raise EOFError
    return json.loads(text), body


class _Forward(logging.Handler):
    """Sends the child's log lines to its parent, which has a terminal."""

    def __init__(self, stream: IO[bytes]):
        super().__init__(logging.WARNING)
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        _send(self.stream, {"say": record.getMessage()})


@functools.lru_cache(maxsize=64)
def _say_once(message: str) -> None:
    """Logs what a child said; several children say the same when they start."""
    _LOG.warning("%s", message)


class InProcess:
    """The same interface without a child: no start-up, no protection. For tests, profiling and `--workers 0`."""

    def __init__(self, settings: Settings):
        self._builder = ImageBuilder(settings)

    def build(self, item: Input, data: bytes) -> Built:
        """Builds one image in this process."""
        return self._builder.build(item, data)

    def close(self) -> None:
        """Nothing to end."""


class ChildProcess:
    """A child that builds images one by one, replaced when it dies.

    Attributes:
        settings: what to build.
        timeout: seconds per image.
        program: what the child runs.
    """

    program = "from maskmill.pipelines.parts.isolation import serve; serve()"

    def __init__(self, settings: Settings, timeout: float):
        self.settings, self.timeout = settings, timeout
        self._process: subprocess.Popen | None = None
        self._generators = parse_specs(list(settings.masks))
        self._large = memory.large_pixels(self._generators, os.cpu_count() or 1)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (the child's stderr; its end explains a crash)

    def _start(self) -> subprocess.Popen:
        self._log.seek(0)
        self._log.truncate()
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", self.program],  # -P: what lies in the user's folder is not imported
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **_SINGLE_THREAD},
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its children
        )
        with contextlib.suppress(OSError):  # a child that dies at once is found when its first answer is awaited
            assert process.stdin is not None
            _send(process.stdin, {**dataclasses.asdict(self.settings), "timeout": self.timeout})
        return process

    def build(self, item: Input, data: bytes) -> Built:
        """Builds one image; a crash or hang becomes a refusal after `MAX_ATTEMPTS` tries (a hang after two).

        One that is large for this machine waits until no other worker builds such a one.

        Raises:
            DamageError, InputError, UsageError: the child found that nothing can be built, whatever the image.
        """
        with memory.one_at_a_time(self._is_large(data)):
            return self._build(item, data)

    def _is_large(self, data: bytes) -> bool:
        try:
            header = read_header(data, self.settings.max_pixels)
        except ImageError:
            return False  # refused before it is decoded
        return header.width * header.height + memory.pixels_of_file(self._generators, len(data)) >= self._large

    def _build(self, item: Input, data: bytes) -> Built:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._process = self._start()
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            try:
                _send(self._process.stdin, {"item": item.to_json().decode()}, data)
                head, payload = _receive(self._process.stdout)
                while "say" in head:
                    _say_once(head["say"])
                    head, payload = _receive(self._process.stdout)
                if "stop" in head:
                    raise _STOPS[head["stop"]](head["why"])
            except (EOFError, OSError):
                lost = self._post_mortem(item, attempt)
                last = attempt == MAX_ATTEMPTS or (lost.reason == "timeout" and attempt > 1)
                _LOG.warning("%s: %s, attempt %d%s", item.id, lost.message, attempt, "" if last else "; trying again")
                if last:
                    return Built(b"", lost, {})
                continue
            refusal = Refusal(**{**head["refusal"], "attempts": attempt}) if head["refusal"] else None
            overlaps = ImageOverlaps.from_json(head["overlaps"]) if head["overlaps"] else None
            return Built(payload, refusal, head["row"], overlaps)
        raise AssertionError("unreachable: the last attempt returns")

    def _post_mortem(self, item: Input, attempt: int) -> Refusal:
        code = self._process.wait() if self._process else 0
        self._process = None
        if code == -signal.SIGALRM:
            return Refusal(item.id, "build", "timeout", f"took longer than {self.timeout:g} s", attempt)
        self._log.seek(0)
        lines = self._log.read()[-4096:].decode("utf-8", "replace").strip().splitlines()
        if any(word in line for word in _NO_MEMORY for line in lines):
            error = memory.out_of_memory("build")
            return Refusal(item.id, error.stage, error.reason, str(error), attempt)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        message = f"the worker process {how}" + (f"; it last said: {lines[-1]}" if lines else "")
        return Refusal(item.id, "build", "worker_crash", message[:MESSAGE_LIMIT], attempt)

    def close(self) -> None:
        """Ends the child."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            self._process = None


def serve() -> None:
    """The child's main loop: settings once, then an answer for every image, until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the protocol
    requests = sys.stdin.buffer
    try:
        head, _ = _receive(requests)
        timeout = head.pop("timeout")
        import cv2

        cv2.setNumThreads(1)
        logging.getLogger("maskmill.masks").addHandler(_Forward(answers))
        builder = ImageBuilder(Settings(**{**head, "masks": tuple(head["masks"])}))
        builder.warm_up()  # loading compiled code, or compiling it, is not the first picture's time
        memory.limit_this_process(builder.generators, builder.settings.max_pixels)
        while True:
            head, data = _receive(requests)
            # The default action of SIGALRM ends the process even inside native code that never returns to Python.
            signal.setitimer(signal.ITIMER_REAL, timeout)
            built = builder.build(Input.from_json(head["item"].encode()), data)
            signal.setitimer(signal.ITIMER_REAL, 0)
            refusal = dataclasses.asdict(built.refusal) if built.refusal else None
            overlaps = built.overlaps.to_json() if built.overlaps else None
            _send(answers, {"refusal": refusal, "row": built.row, "overlaps": overlaps}, built.payload)
    except (EOFError, BrokenPipeError):
        pass
    except tuple(_STOPS.values()) as error:  # of the build, not of one image: the parent stops with it
        _send(answers, {"stop": type(error).__name__, "why": str(error)})
