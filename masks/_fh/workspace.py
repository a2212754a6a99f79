"""Buffers that outlive one picture, one set per thread.

Fresh memory costs a page fault per 4 KiB, which for a small photo is a third of the kernel's time. Each thread keeps
its own named buffers and hands them out again; nothing is shared, so any number of threads may segment at once.
Results are the caller's and stand on memory of their own.
"""

import threading

import numpy as np
from numpy.typing import DTypeLike

KEPT_BYTES = 2**30  # holds the buffers of about 13 megapixels
CACHE_LINE = 64  # bytes; vector loads that straddle two lines cost twice


class Workspace:
    """Named, growing buffers. Contents are undefined at `take`; a name taken again is the same memory.

    Attributes:
        limit: bytes kept between pictures; a set that has grown beyond it is given back by `trim`.
    """

    limit: int = KEPT_BYTES

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def take(self, name: str, count: int, dtype: DTypeLike) -> np.ndarray:
        """Returns `count` uninitialised elements, aligned to cache lines; earlier views of `name` become invalid."""
        needed = int(count) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < needed:
            self._buffers.pop(name, None)
            roomy = np.empty(needed + CACHE_LINE, np.uint8)
            start = -roomy.ctypes.data % CACHE_LINE
            buffer = roomy[start : start + needed]
            self._buffers[name] = buffer
        return buffer[:needed].view(dtype)

    def grow(self, name: str, kept: int, count: int, dtype: DTypeLike) -> np.ndarray:
        """Like `take`, but the first `kept` elements of `dtype` stay."""
        old = self._buffers.pop(name)
        new = self.take(name, count, dtype)
        new[:kept] = old[: kept * new.itemsize].view(dtype)
        return new

    def drop(self, *names: str) -> None:
        """Frees buffers that the rest of this picture does not need."""
        for name in names:
            self._buffers.pop(name, None)

    @property
    def nbytes(self) -> int:
        """Of the buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def trim(self) -> None:
        """Gives everything back after an unusually large picture."""
        if self.nbytes > self.limit:
            self.clear()

    def clear(self) -> None:
        """Gives everything back."""
        self._buffers.clear()


_local = threading.local()


def thread_workspace() -> Workspace:
    """Returns this thread's own workspace."""
    workspace = getattr(_local, "workspace", None)
    if workspace is None:
        workspace = _local.workspace = Workspace()
    return workspace
