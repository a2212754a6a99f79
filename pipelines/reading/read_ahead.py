"""Files read ahead by threads, each with a deadline, so that a mount that never answers costs its pictures and no more.

A thread that waits for a dead file server cannot be ended, by anyone. It is left behind, as a daemon that holds up nothing
when the process ends, and another takes its place; how many a process leaves behind has a limit. Beyond it nothing is read
until one of them has its answer: pictures go to the ledger at once, and `maskmill retry` builds them when the storage is
back.

Large files are not read ahead: one waits until it is asked for, so that a process holds one of them at a time.
"""

import collections
import contextlib
import math
import queue
import threading
import time
from collections.abc import Generator, Iterable

from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.pipelines.reading.location import LARGE_BYTES
from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError

MAX_UNANSWERED = 8  # reads of one process; so many mean that the storage is gone, not that a few files are
_TICK_S = 0.2  # between looks at the clock, while a file is waited for


class _Read:
    """One file being read by a thread, or waiting for one."""

    def __init__(self, item: Input):
        self.item = item
        self.begun: float | None = None
        self.result: bytes | Refusal | None = None
        self.error: BaseException | None = None
        self.done = threading.Event()
        self.turn = threading.Event()  # it is the one that is waited for
        self.dropped = False  # nobody will wait for it

    def run(self) -> None:
        self.begun = time.monotonic()
        try:
            self.result = self.item.location.read(self._admit)
        except ImageError as error:
            self.result = Refusal(self.item.id, error.stage, error.reason, str(error))
        except BaseException as error:  # for the thread that waits
            self.error = error

    def _admit(self, size: int) -> None:
        if size > LARGE_BYTES:
            self.begun = None
            self.turn.wait()
            self.begun = time.monotonic()
            if self.dropped:
                raise InterruptedError("nobody waits for this file any longer")

    def taken(self) -> bytes | Refusal:
        """What was read, which is not kept here."""
        result, self.result = self.result, None
        if self.error is not None:
            raise self.error
        assert result is not None
        return result


_UNANSWERED: list[_Read] = []  # of this process; those that end after all leave it
_LOCK = threading.Lock()  # a read is either done or given up


class _Readers:
    """Daemon threads that take reads from a queue until they are told to stop."""

    def __init__(self, count: int):
        self._waiting: queue.SimpleQueue[_Read | None] = queue.SimpleQueue()
        self._alive = 0  # threads that have not been left behind
        for _ in range(count):
            self._start()

    def _start(self) -> None:
        if len(_UNANSWERED) < MAX_UNANSWERED:
            self._alive += 1
            threading.Thread(target=self._serve, name="maskmill-read", daemon=True).start()

    def _serve(self) -> None:
        while (read := self._waiting.get()) is not None:
            read.run()
            with _LOCK:
                read.done.set()
                if read in _UNANSWERED:  # answered after all; another thread has our place
                    _UNANSWERED.remove(read)
                    return

    def submit(self, item: Input) -> _Read:
        read = _Read(item)
        self._waiting.put(read)
        return read

    def answer(self, read: _Read, seconds: float) -> bytes | Refusal:
        """What became of a read: at most `seconds` after a thread began with it, a refusal `timeout`."""
        # The client of gs:// has deadlines of its own, and waits out a bucket that is busy.
        deadline = math.inf if storage.is_remote(read.item.location.path) else seconds
        read.turn.set()
        while not read.done.is_set():
            if not self._alive and read.begun is None:
                text = "not tried: too many earlier reads still have no answer; is the storage gone?"
                return Refusal(read.item.id, "read", "timeout", text)
            if read.begun is not None and time.monotonic() > read.begun + deadline and self._give_up(read):
                return Refusal(read.item.id, "read", "timeout", f"reading took longer than {seconds:g} s")
            read.done.wait(_TICK_S)
        return read.taken()

    def _give_up(self, read: _Read) -> bool:
        """Leaves a read and its thread behind, unless it has ended just now."""
        with _LOCK:
            if read.done.is_set():
                return False
            _UNANSWERED.append(read)
        self._alive -= 1
        self._start()
        return True

    def close(self) -> None:
        """Lets the threads end once they have nothing to read."""
        for _ in range(self._alive):
            self._waiting.put(None)


def read_ahead(
    items: Iterable[Input], count: int, seconds: float
) -> Generator[tuple[Input, bytes | Refusal], None, None]:
    """Every item, in order, with its file's bytes or why there are none; they are not kept here.

    Args:
        items: what to read.
        count: threads, and files that are read before they are asked for.
        seconds: until a read is given up; gs:// has its own deadlines.
    """
    readers = _Readers(count)
    pending: collections.deque[_Read] = collections.deque()
    try:
        for item in items:
            pending.append(readers.submit(item))
            if len(pending) > count:
                yield pending[0].item, readers.answer(pending.popleft(), seconds)
        while pending:
            yield pending[0].item, readers.answer(pending.popleft(), seconds)
    finally:
        for read in pending:
            read.dropped = True
            read.turn.set()
        readers.close()


def read_one(item: Input, seconds: float) -> bytes | Refusal:
    """An item's bytes, or why there are none; see `read_ahead`."""
    with contextlib.closing(read_ahead([item], 1, seconds)) as reads:
        return next(reads)[1]
