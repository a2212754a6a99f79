"""How much memory a picture may take, known before it is decoded.

A file of 150 kB can hold 50 megapixels. What a build needs for a picture goes by its pixels: every generator says how many
bytes a pixel costs it at most (`bytes_per_pixel`). From that follow

* the budget of a worker, for the largest picture that `--max-pixels` lets through. Its child process cannot take more where
  the system limits data (Linux): what would is refused as `too_large`, instead of the kernel ending what it likes;
* which pictures are large for this machine. They are built one at a time, by all workers together, so that forty workers
  do not need forty times the budget.
"""

import contextlib
import fcntl
import os
import resource
from collections.abc import Iterator, Sequence

from maskmill.pipelines.reading.location import MAX_FILE_BYTES
from maskmill.schemas.errors import ImageError

BASE_BYTES = 400 << 20  # an idle worker: interpreter, libraries, compiled kernels
FILE_COPIES = 3  # that a worker has of a file: as it was read, in the record, and in the answer
FILE_BYTES = FILE_COPIES * MAX_FILE_BYTES  # what the largest one takes on top
_UNKNOWN = 500  # bytes a pixel, of a generator that does not say
_CGROUP_LIMIT = "/sys/fs/cgroup/memory.max"


def bytes_per_pixel(generators: Sequence) -> int:
    """Bytes that a pixel costs: decoding and encoding are part of what a generator states. They run one after another, but
    some keep their arrays for the next picture."""
    return sum(getattr(generator, "bytes_per_pixel", _UNKNOWN) for generator in generators)


def worker_bytes(generators: Sequence, max_pixels: int) -> int:
    """The most that a worker takes for a picture of `max_pixels`, an ordinary file assumed; else `FILE_BYTES` more."""
    return BASE_BYTES + bytes_per_pixel(generators) * max_pixels


def machine_bytes() -> int:
    """Memory of this machine, or of the container that we are in."""
    own = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open(_CGROUP_LIMIT) as file:
            return min(own, int(file.read()))
    except (OSError, ValueError):  # no such file, or "max"
        return own


def large_pixels(generators: Sequence, workers: int) -> int:
    """From how many pixels on pictures are built one at a time: where `workers` of them would fill half of the memory.

    See `pixels_of_file` for their files.
    """
    share = machine_bytes() // (2 * max(1, workers)) - BASE_BYTES
    return max(1_000_000, share // bytes_per_pixel(generators))


def pixels_of_file(generators: Sequence, size: int) -> int:
    """How many pixels cost as much memory as a file of so many bytes does, beside those of its picture."""
    return FILE_COPIES * size // bytes_per_pixel(generators)


@contextlib.contextmanager
def one_at_a_time(wanted: bool) -> Iterator[None]:
    """Waits for all others on this machine that want the same; where files cannot be locked, for nobody."""
    if not wanted:
        yield
        return
    # A file that all of them have, and nobody has to clear away.
    descriptor = os.open(__file__, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def limit_this_process(generators: Sequence, max_pixels: int) -> None:
    """From here on this process gets no more memory than the largest picture may cost."""
    try:
        with open("/proc/self/status") as file:
            now = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return  # no such limit on this system
    limit = now + bytes_per_pixel(generators) * max_pixels + FILE_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def out_of_memory(stage: str) -> ImageError:
    """The refusal of a picture that asked for more."""
    return ImageError(
        "too_large", stage, "needs more memory than a picture within --max-pixels should; it may be made to do so"
    )
