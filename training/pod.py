"""The processes of one run, one per host: how they find one another, and how they end alike.

A process that fails on its own leaves the others waiting for it in a collective, without a word. What may fail on one
host only (its data, its disk, its view of the run's folder) is therefore done by `together`, and raises on every host.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.experimental import multihost_utils

from maskmill.schemas.errors import DamageError, InputError, MaskmillError, UsageError

_Result = TypeVar("_Result")
_TEXT = 1024  # bytes that processes send one another at once
_ENDED = "maskmill/ended"
_GRACE_S = 3.0  # for the others to hear why, before the first process, which they hear it from, is gone
_alone = threading.Event()  # this process ended, and the others did not
_ERRORS: dict[int, type[MaskmillError]] = {e.exit_code: e for e in (MaskmillError, UsageError, InputError, DamageError)}


class LostProcessError(InputError):
    """Another process of this run has gone."""


@contextlib.contextmanager
def joined(
    coordinator: str | None, processes: int | None, process_id: int | None, *, timeout_s: int = 300
) -> Iterator[None]:
    """One of the processes of a run, found as the cluster's environment says where no addresses and numbers are given.

    What ends this process alone is told to the others, who wait for it in some collective; they end with it.

    Raises:
        UsageError: nothing was given, and there is no cluster here that jax knows.
        InputError: the others did not come.
    """
    try:
        jax.distributed.initialize(coordinator, processes, process_id, initialization_timeout=timeout_s)
    except ValueError as error:  # "coordinator_address should be defined": nothing was detected
        raise UsageError(
            "this machine belongs to no cluster that can be asked (TPU VM, GKE, Slurm, Open MPI); give --coordinator "
            "HOST:PORT, --processes N and --process-id I"
        ) from error
    except Exception as error:
        where = f" at {coordinator}" if coordinator else ""
        raise InputError(
            f"the processes of this run did not find one another{where} within {timeout_s} s: {first_line(error)}; "
            "start the same command on every host, and open the coordinator's port between them"
        ) from error
    over = threading.Event()
    listener = threading.Thread(target=_listen, args=(over,), daemon=True, name="pod")
    listener.start()
    try:
        yield
    except BaseException as error:
        if not getattr(error, "everywhere", False):
            _alone.set()
            _tell(f"{here()} ended: {first_line(error)}")
        raise
    finally:
        over.set()
        listener.join()


def leave(code: int) -> None:
    """Ends this process at once where it ended alone: the usual way out waits for the others, who wait for it."""
    if _alone.is_set():
        _leave(code)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_GRACE_S if jax.process_index() == 0 else 0)
    os._exit(code)


def _service() -> Any:
    """The store of keys that the first process keeps: jax offers no other word between processes than collectives, in
    which a process that has failed takes no part."""
    return distributed.global_state.client


def _tell(text: str) -> None:
    with contextlib.suppress(Exception):  # the service may be gone, or another has spoken first
        _service().key_value_set(_ENDED, text)


def _listen(over: threading.Event) -> None:
    """Ends this process, whose main thread may be waiting for ever, when another has ended alone."""
    while not over.wait(1.0):
        try:
            text = _service().key_value_try_get(_ENDED)
        except Exception:  # nothing there, or no answer
            continue
        if over.wait(1.0):  # our own end comes with its own words
            return
        print(f"detcon train: {text}; run the same command on every host to go on", file=sys.stderr)
        _leave(InputError.exit_code)


def first_line(error: BaseException) -> str:
    """What a library says of a failure, in one line of bearable length."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:500]


def gather(text: str) -> list[str]:
    """What every process says, in their order; every one must call it at the same place."""
    if jax.process_count() == 1:
        return [text]
    mine = np.zeros(_TEXT, np.uint8)
    data = np.frombuffer(text.encode()[:_TEXT], np.uint8)
    mine[: len(data)] = data
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in multihost_utils.process_allgather(mine)]


def together(work: Callable[[], _Result]) -> _Result:
    """`work()`, on every process; where it fails on one, all raise: that one its own error, the others its words."""
    if jax.process_count() == 1:
        return work()
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    code = getattr(failure, "exit_code", MaskmillError.exit_code)
    said = gather("" if failure is None else f"{code} {first_line(failure)}")
    if failure is None:
        for index, text in enumerate(said):
            if text:
                number, _, words = text.partition(" ")
                failure = _ERRORS.get(int(number), MaskmillError)(f"process {index}: {words}")
                break
    if failure is not None:
        failure.everywhere = True  # type: ignore[attr-defined]
        raise failure
    return result


@contextlib.contextmanager
def alone_is_lost() -> Iterator[None]:
    """Names the cause where a computation fails because another process has gone."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise LostProcessError(
            f"another process of this run is gone ({first_line(error)}); see what it said, then run the same command on "
            "every host to go on from the last checkpoint"
        ) from error


def here() -> str:
    """This process in words."""
    return f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}"
