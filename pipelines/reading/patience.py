"""Waiting for storage, but not for ever: work that reads is done by a thread, and given up when it gets nowhere.

How long listing takes depends on how much there is, so it has no deadline as a whole. What is given up is work that has not
moved for a while: the kernel counts when a thread runs and when it waits for a processor, and neither number grows while it
waits for a file server that is gone. Such a thread cannot be ended, by anyone; it is left behind, as a daemon.
"""

import contextlib
import contextvars
import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from maskmill.schemas import storage
from maskmill.schemas.errors import InputError

PATIENCE_S = 300.0
_TICK_S = 0.2  # between looks

_Result = TypeVar("_Result")


class _Work(Generic[_Result]):
    """Work under way in a thread of its own."""

    def __init__(self, work: Callable[[], _Result]):
        self._work = work
        self._started = threading.Event()
        self._id = 0
        self.result: list[_Result] = []
        self.error: BaseException | None = None
        self.done = threading.Event()
        # In the caller's context: who lists tars inside tars is said there.
        run = functools.partial(contextvars.copy_context().run, self._run)
        threading.Thread(target=run, name="maskmill-list", daemon=True).start()
        self._started.wait()

    def _run(self) -> None:
        self._id = threading.get_native_id()
        self._started.set()
        try:
            self.result.append(self._work())
        except BaseException as error:  # for the thread that waits
            self.error = error
        finally:
            self.done.set()

    def progress(self) -> object:
        """Something that changes while the work goes on."""
        try:
            with open(f"/proc/self/task/{self._id}/schedstat", "rb") as file:
                return file.read()
        except OSError:
            return time.process_time()  # of all threads, where the system does not tell; ours only waits


def patiently(
    work: Callable[[], _Result], seconds: float, *places: str, way_on: str = ", or wait longer with --image-timeout"
) -> _Result:
    """`work()`, or an error where it stands still.

    Args:
        work: reads from storage; its result and its exceptions are passed on.
        seconds: without any progress, after which it is given up.
        places: what is read, for the message.
        way_on: what else can be done about it; for commands with that flag.

    Raises:
        InputError: nothing came from there for so long.
    """
    under_way = _Work(work)
    last, since = under_way.progress(), time.monotonic()
    while not under_way.done.wait(_TICK_S):
        if (now := under_way.progress()) != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > seconds:
            raise InputError(_silence(" or ".join(place for place in places if place), seconds) + way_on)
    if under_way.error is not None:
        raise under_way.error
    return under_way.result[0]


def _silence(place: str, seconds: float) -> str:
    return (
        f"{place} has not answered for {seconds:g} s; is its storage gone? Give the same command again when it is back"
    )


def opened(folder: str, open_it: Callable[[], _Result]) -> _Result:
    """`open_it()`, the first look at a folder of a command without --image-timeout.

    Storage that is gone does not answer that either. gs:// has deadlines of its own.

    Raises:
        InputError: nothing came from there for `PATIENCE_S`.
    """
    return open_it() if storage.is_remote(folder) else patiently(open_it, PATIENCE_S, folder, way_on="")


@contextlib.contextmanager
def entered(context: contextlib.AbstractContextManager, folder: str, seconds: float = 0.0) -> Iterator[None]:
    """`with context`, whose beginning is the first look at a folder: `opened`, or `patiently` where `seconds` are given."""
    with contextlib.ExitStack() as stack:
        if seconds:
            patiently(lambda: stack.enter_context(context), seconds, folder)
        else:
            opened(folder, lambda: stack.enter_context(context))
        yield


@contextlib.contextmanager
def watched(folder: str, seconds: float, gone: Callable[[str], None]) -> Iterator[None]:
    """Looks at a local folder all the while, and calls `gone`, from a thread, once it has not answered for `seconds`.

    For what writes there from many threads, of which none can be ended that waits for a file server.

    Args:
        folder: there is one.
        seconds: without an answer. Time in which this process was stopped does not count.
        gone: told what is the matter.
    """
    over, pause = threading.Event(), min(10.0, seconds / 4)
    silent = [0.0]

    def look() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):  # an answer as well
                os.stat(folder)
            silent[0] = 0.0
            over.wait(pause)

    def watch() -> None:
        while not over.wait(_TICK_S):
            silent[0] += _TICK_S
            if silent[0] > seconds + pause:
                gone(_silence(folder, seconds))
                return

    if not storage.is_remote(folder):
        for work in (look, watch):
            threading.Thread(target=work, name="maskmill-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()
