"""System calls that fail, under a whole process and all its libraries: `failing_calls.c`, compiled where there is a compiler."""

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

_SHORT, _KILL = 1, 2
_ERRORS = {"full": errno.ENOSPC, "broken": errno.EIO, "interrupted": errno.EINTR}
CALL_KINDS = (*_ERRORS, "short", "kill")


def compiler() -> str | None:
    """A C compiler, where this is a Linux that has one."""
    return shutil.which("cc") if os.path.isdir("/proc/self/fd") else None


def compile_shim(folder: Path) -> str:
    """The library to preload, made in `folder`."""
    made = folder / "failing_calls.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([compiler() or "cc", "-shared", "-fPIC", "-O1", "-Wall", "-o", made, source, "-ldl"], check=True)
    return str(made)


def is_preloaded() -> bool:
    """Whether this process has the library under it."""
    return hasattr(ctypes.CDLL(None), "arm")


@contextlib.contextmanager
def arm(folder: str, at: int, kind: str, log: str) -> Iterator[None]:
    """Lets the `at`-th call on `folder` go wrong (0: none), and writes the name of each to a file."""
    what = {"short": _SHORT, "kill": _KILL}.get(kind, 0)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    ctypes.CDLL(None).arm(folder.encode(), ctypes.c_long(at), what, _ERRORS.get(kind, 0), descriptor)
    yield
    ctypes.CDLL(None).arm(b"", ctypes.c_long(0), 0, 0, -1)
