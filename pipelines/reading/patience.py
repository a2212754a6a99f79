"""Waiting for storage, but not for ever: work that reads is done by a thread, and given up when it gets nowhere.

How long listing takes depends on how much there is, so it has no deadline as a whole. What is given up is work that has not
moved for a while: the kernel counts when a thread runs and when it waits for a processor, and neither number grows while it
waits for a file server that is gone. Such a thread cannot be ended, by anyone; it is left behind, as a daemon.
"""

import contextvars
import functools
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

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


def patiently(work: Callable[[], _Result], seconds: float, *places: str) -> _Result:
    """`work()`, or an error where it stands still.

    Args:
        work: reads from storage; its result and its exceptions are passed on.
        seconds: without any progress, after which it is given up.
        places: what is read, for the message.

    Raises:
        InputError: nothing came from there for so long.
    """
    under_way = _Work(work)
    last, since = under_way.progress(), time.monotonic()
    while not under_way.done.wait(_TICK_S):
        if (now := under_way.progress()) != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > seconds:
            read = " or ".join(place for place in places if place)
            raise InputError(
                f"{read} has not answered for {seconds:g} s; is its storage gone? Give the same command again when it is "
                "back, or wait longer with --image-timeout"
            )
    if under_way.error is not None:
        raise under_way.error
    return under_way.result[0]
