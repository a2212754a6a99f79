"""The host's side of training: native libraries kept silent, and an allocator that keeps what it is given back."""

import contextlib
import ctypes
import os
from collections.abc import Iterator


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing reaches standard error, whoever writes it."""
    # Native code writes to descriptor 2 before any log level is read, so the descriptor itself is set aside.
    try:
        kept = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# Parameters of glibc's mallopt(3). Blocks of up to 32 MB (its maximum) come from heaps, which keep up to 1 GB of what is
# freed at their ends.
_MALLOPT = {"trim threshold": (-1, 1 << 30), "mmap threshold": (-3, 32 << 20)}


def keep_freed_memory() -> bool:
    """Makes the C allocator keep the memory of records, pictures and batches from one to the next.

    By default it gives large blocks back to the system at once and asks for them again, and on a virtual machine fresh
    pages were some per cent of the input's time. Returns whether it could be told; only glibc (Linux) can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    accepted = [mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in _MALLOPT.values()]
    return all(accepted)
