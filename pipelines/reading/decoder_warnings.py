"""What libjpeg says while OpenCV decodes.

libjpeg goes on after broken data, with grey or with shifted blocks, and warns of it on file descriptor 2 and nowhere else:
OpenCV passes nothing on. Decoders that go on differently make other pixels of such a file, so its warning is worth hearing.

A child process (see `pipelines.parts.isolation`) has a file as its stderr, and then two questions for its end are all it
takes. Elsewhere the descriptor is led to a file of ours for the time of the decoding; what other threads say meanwhile is
passed on, and only sentences of libjpeg's own are taken for warnings.
"""

import fcntl
import functools
import os
import re
import stat
import tempfile
import threading
from collections.abc import Callable
from typing import TypeVar

_Result = TypeVar("_Result")

# Every warning of libjpeg 6b to 9 and libjpeg-turbo 3 (`JWRN_*` of jerror.h), of which one decoding prints the first. Those
# on a profile or a revision are harmless in themselves, but the ones after them are not heard.
_WARNING = re.compile(
    rb"^(?:Corrupt JPEG data|Premature end of JPEG file|Invalid SOS parameters|Inconsistent progression sequence"
    rb"|Unknown Adobe color transform|Warning: unknown JFIF revision|Application transferred too)[^\n]*\n?",
    re.MULTILINE,
)
_LOCK = threading.Lock()  # descriptor 2 is the process's, not the thread's


@functools.lru_cache(maxsize=1)
def _file_of(pid: int) -> int:
    """A file without a name; of one process, since a fork would share its end."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _is_readable_file(descriptor: int) -> bool:
    try:
        readable = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
        return readable and stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return False  # closed


def overhear(decode: Callable[[], _Result]) -> tuple[_Result, str]:
    """Calls `decode`, and listens to libjpeg.

    Returns:
        What it returned, and libjpeg's first warning, "" where it had none.
    """
    with _LOCK:
        return _beside(decode) if _is_readable_file(2) else _instead(decode)


def _beside(decode: Callable[[], _Result]) -> tuple[_Result, str]:
    begin = os.lseek(2, 0, os.SEEK_END)
    result = decode()
    end = os.lseek(2, 0, os.SEEK_END)
    warning = _WARNING.search(os.pread(2, end - begin, begin)) if end > begin else None
    return result, warning[0].decode("ascii", "replace").strip() if warning else ""


def _instead(decode: Callable[[], _Result]) -> tuple[_Result, str]:
    file = _file_of(os.getpid())
    try:
        stderr = os.dup(2)
    except OSError:
        stderr = -1  # closed, as of a daemon
    os.dup2(file, 2)
    try:
        result = decode()
    finally:
        if stderr >= 0:
            os.dup2(stderr, 2)
            os.close(stderr)
        else:
            os.close(2)
        said = b""
        if end := os.lseek(file, 0, os.SEEK_CUR):
            said = os.pread(file, end, 0)
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            if (others := _WARNING.sub(b"", said)) and stderr >= 0:
                os.write(2, others)
    warning = _WARNING.search(said)
    return result, warning[0].decode("ascii", "replace").strip() if warning else ""
