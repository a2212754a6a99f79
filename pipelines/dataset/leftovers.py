"""What writers that were killed left behind in a folder that has no build's lock: a report's, and an export's."""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from maskmill.schemas import storage


@contextlib.contextmanager
def cleared(folder: str, *begins: str, deep: bool = False) -> Iterator[None]:
    """Removes what was begun and never finished, and keeps others from doing so while the context lasts.

    Where another writer is at work in the folder, where folders cannot be locked, and on gs://, where nothing appears half,
    nothing is removed: leftovers do no harm but take space.

    Args:
        folder: which may not be there yet.
        begins: how the names of the files begin that are going to be written there; all files where none is given.
        deep: look below its folders as well.
    """
    if storage.is_remote(folder):
        yield
        return
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            names = [name for name, _ in storage.walk(folder)] if deep else storage.names(folder)
            for name in sorted(names):
                if name.endswith(storage.INCOMPLETE) and name.startswith(begins or ""):
                    storage.remove(storage.join(folder, name))
        yield
