"""Shards of a build as local files that hold what its manifest lists: the input reads local files at full speed, and
without our credentials' ways.

A shard on gs:// is downloaded when its group is first needed, checked against the manifest, and kept under its digest, so
that later epochs, runs and builds that share it find it there. Where the cache would outgrow its bound, what was not used
for longest leaves it: every epoch deals shards to hosts anew, so that without a bound each would end with all of them.
Local shards are read where they lie.
"""

import collections
import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.manifest import Shard

_BLOCK = 8 << 20
SPARED_S = 300  # what another process used so lately is left to it
_AHEAD = 8  # shards asked for last, which some thread may be about to open; once open, a removed file can still be read
_SHARE = 0.8  # of the disk's room that the cache may take where no bound is given

_lock = threading.Lock()
_used: dict[str, float] = {}  # by name: when this process last asked for it
_in_use: collections.deque[str] = collections.deque(maxlen=_AHEAD)
_coming: dict[str, int] = {}  # bytes of what is being downloaded


def cache_home() -> str:
    """maskmill's folder in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(home, "maskmill")


def cache_folder() -> str:
    """Where shards are kept: $MASKMILL_CACHE, or maskmill/shards in the user's cache folder."""
    return os.environ.get("MASKMILL_CACHE") or os.path.join(cache_home(), "shards")


def set_bound(gigabytes: float | None) -> None:
    """Sets the most that the cache may hold, for this process and its children; None leaves it as it is."""
    if gigabytes is None:
        return
    if not gigabytes > 0:
        raise UsageError(f"--cache-gb must be above 0, got {gigabytes:g}")
    os.environ["MASKMILL_CACHE_GB"] = f"{gigabytes:g}"


def local_shard(folder: str, shard: Shard) -> str:
    """A local file with the bytes of a shard: itself, or a verified copy of a remote one, which stays until this process has
    asked for `_AHEAD` more. Several threads may ask at once.

    Raises:
        FileNotFoundError: the shard is missing.
        DamageError: a remote shard's bytes are not those that the manifest lists.
        InputError: the cache cannot hold it.
    """
    if not storage.is_remote(folder):
        return storage.join(folder, shard.name)
    kept = os.path.join(cache_folder(), shard.sha256)
    with _lock:
        _in_use.append(shard.sha256)
        _used[shard.sha256] = time.monotonic()
        with contextlib.suppress(OSError):
            if os.path.getsize(kept) == shard.bytes:  # it was verified when it was written, and appeared whole
                os.utime(kept)
                return kept
    try:
        os.makedirs(cache_folder(), exist_ok=True)
        with _lock:
            _make_room(shard)
            _coming[shard.sha256] = shard.bytes
        _download(storage.join(folder, shard.name), shard, kept)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise InputError(
            f"cannot keep {shard.name} ({shard.bytes} bytes) in {cache_folder()}: {os.strerror(error.errno)}; "
            "set MASKMILL_CACHE to a folder with room for the shards"
        ) from error
    finally:
        with _lock:
            _coming.pop(shard.sha256, None)
    return kept


def _download(source: str, shard: Shard, kept: str) -> None:
    """A remote shard to a local file, which appears whole and sound or not at all."""
    with storage.open_read(source) as remote, storage.create(kept) as local:
        sha256 = hashlib.sha256()
        while block := remote.read(_BLOCK):
            sha256.update(block)
            local.write(block)
        if sha256.hexdigest() != shard.sha256:
            raise DamageError(f"{source} has sha256 {sha256.hexdigest()}, the manifest says {shard.sha256}")


def _make_room(shard: Shard) -> None:
    """Removes what was not used for longest until `shard` fits. Raises InputError where it cannot."""
    entries = []
    for entry in os.scandir(cache_folder()):
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            status = entry.stat()
            if entry.is_file():
                entries.append((status.st_mtime, status.st_size, entry.name))
    kept = {name for _, _, name in entries}
    held = sum(size for _, size, _ in entries) + sum(size for name, size in _coming.items() if name not in kept)
    bound = _bound(held)
    needed = set(_in_use)
    now = time.time()
    for used, size, name in sorted(entries):
        if held + shard.bytes <= bound:
            return
        if name in needed or (name not in _used and now - used < SPARED_S):
            continue
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(cache_folder(), name))
        _used.pop(name, None)
        held -= size
    if held + shard.bytes > bound:
        raise InputError(
            f"the cache of shards, {cache_folder()}, may hold {bound / 1e9:.3g} GB, and {held / 1e9:.3g} GB of it are in "
            f"use when {shard.name} ({shard.bytes / 1e9:.3g} GB) is needed; raise --cache-gb, set MASKMILL_CACHE to a "
            "larger disk, or lower data.shuffle_group_bytes"
        )


def _bound(held: int) -> float:
    given = os.environ.get("MASKMILL_CACHE_GB")
    if not given:
        return _SHARE * (held + shutil.disk_usage(cache_folder()).free)
    try:
        return float(given) * 1e9
    except ValueError:
        raise UsageError(f"MASKMILL_CACHE_GB must be a number of gigabytes, got {given!r}") from None
