"""Buffers that outlive one picture, one set per thread.

Fresh memory costs a page fault per 4 KiB, which for a small photo is a third of the kernel's time. Each thread keeps
its own named buffers and hands them out again; nothing is shared, so any number of threads may segment at once. Memory
of results is lent: it comes back when the caller has let go of the last array on it. The allocator does as much for
small arrays, but returns those of more than 32 MB to the system at once.
"""

import collections
import threading

import numpy as np
from numpy.typing import DTypeLike

KEPT_BYTES = 2**30  # holds the buffers of about 13 megapixels
KEPT_RESULTS = 8  # arrays; two pictures at three scales
KEPT_RESULT_BYTES = KEPT_BYTES // 16  # in each of them at most
CACHE_LINE = 64  # bytes; vector loads that straddle two lines cost twice


class _Loan:
    """What an array that was lent stands on: the memory goes home with the last reference, in whatever thread."""

    def __init__(self, memory: np.ndarray, home: collections.deque[np.ndarray]) -> None:
        self._memory = memory
        self._home = home
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._home.append(self._memory)


class Workspace:
    """Named, growing buffers. Contents are undefined at `take`; a name taken again is the same memory.

    Attributes:
        limit: bytes kept between pictures; a set that has grown beyond it is given back by `trim`.
    """

    limit: int = KEPT_BYTES

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}
        self._returned: collections.deque[np.ndarray] = collections.deque(maxlen=KEPT_RESULTS)  # the oldest goes first

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

    def lend(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        """Returns an uninitialised array that is the caller's for as long as it is referred to.

        Only memory of exactly this size is used again, so that a small result never holds on to a large one's.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > KEPT_RESULT_BYTES:
            return np.empty(shape, dtype)
        memory = None
        for _ in range(len(self._returned)):
            # Loans may come back from other threads at any time, so nothing here walks over the deque.
            candidate = self._returned.popleft()
            if memory is None and candidate.nbytes == size:
                memory = candidate
            else:
                self._returned.append(candidate)
        if memory is None:
            memory = np.empty(size, np.uint8)
        return np.asarray(_Loan(memory, self._returned)).view(dtype).reshape(shape)

    def drop(self, *names: str) -> None:
        """Frees buffers that the rest of this picture does not need."""
        for name in names:
            self._buffers.pop(name, None)

    @property
    def nbytes(self) -> int:
        """Of the buffers; results that have come back are not counted."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def trim(self) -> None:
        """Gives everything back after an unusually large picture."""
        if self.nbytes > self.limit:
            self.clear()

    def clear(self) -> None:
        """Gives everything back."""
        self._buffers.clear()
        self._returned.clear()


_local = threading.local()


def thread_workspace() -> Workspace:
    """Returns this thread's own workspace."""
    workspace = getattr(_local, "workspace", None)
    if workspace is None:
        workspace = _local.workspace = Workspace()
    return workspace
