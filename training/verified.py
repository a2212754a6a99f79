"""Whether local shards are still those that their manifest lists: size and sha256, once for each state of a file.

Records carry checksums, but a shard of another build, whole in itself, passes them all. What was found is remembered in
the user's cache folder, by the file's size, times and number, so that later epochs and runs only look at those.
"""

import contextlib
import hashlib
import json
import os
import stat
import threading

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.manifest import Shard
from maskmill.schemas.tfrecord import read_records

_lock = threading.Lock()
_known: dict[str, dict[str, list]] = {}  # memory of each data folder: shard's name -> its state when it was right


def verify(path: str, shard: Shard, memory: str) -> str:
    """`path`, if the file there is `shard`; reads it through unless it is known to be.

    Args:
        path: of the local shard.
        shard: what the manifest says of it.
        memory: folder in which to remember what was read; one that cannot be written to is no failure.

    Raises:
        DamageError: it is missing, or another; names the broken record where it is broken.
    """
    folder, name = os.path.split(os.path.realpath(path))
    notes = os.path.join(memory, f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json")
    try:
        now = os.stat(path)
    except FileNotFoundError:
        raise DamageError(f"{shard.name} is missing from {os.path.dirname(path)}; the manifest lists it") from None
    if not stat.S_ISREG(now.st_mode):
        raise DamageError(f"{path} is not a regular file")
    # Changing the times back, or another file under the same name, still changes one of these.
    state = [shard.sha256, now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino]
    with _lock:
        if notes not in _known:
            _known[notes] = _recall(notes)
        if _known[notes].get(name) == state:
            return path
    found = _digest(path) if now.st_size == shard.bytes else f"{now.st_size} bytes"
    if found != shard.sha256:
        with open(path, "rb") as stream:
            for _ in read_records(stream, shard.name):  # a broken record says more than a digest
                pass
        expected = f"sha256 {shard.sha256}" if now.st_size == shard.bytes else f"{shard.bytes} bytes"
        found = f"sha256 {found}" if now.st_size == shard.bytes else found
        raise DamageError(
            f"{path} has {found}, the manifest says {expected}: the shard is of another build; "
            "`maskmill validate` shows what else is"
        )
    with _lock, contextlib.suppress(OSError):
        _known[notes][name] = state
        storage.write_bytes(notes, json.dumps(_known[notes]).encode())
    return path


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recall(notes: str) -> dict[str, list]:
    try:
        with open(notes, "rb") as file:
            known = json.load(file)
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
