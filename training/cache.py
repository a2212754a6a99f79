"""Shards of a gs:// build as local files: TensorFlow reads local files at full speed and without our credentials' ways.

A shard is downloaded when its group is first needed, checked against the manifest, and kept under its digest, so that
later epochs, runs and builds that share it find it there. The cache is never emptied here: it grows to the size of the
shards that were read.
"""

import errno
import hashlib
import os

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.manifest import Shard

_BLOCK = 8 << 20


def cache_folder() -> str:
    """Where shards are kept: $MASKMILL_CACHE, or maskmill/shards in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.environ.get("MASKMILL_CACHE") or os.path.join(home, "maskmill", "shards")


def local_shard(folder: str, shard: Shard) -> str:
    """A local file with a shard's bytes: the shard itself, or a verified copy of a remote one.

    Raises:
        DamageError: the shard is missing, or its bytes are not those that the manifest lists.
        InputError: the cache cannot hold it.
    """
    source = storage.join(folder, shard.name)
    if not storage.is_remote(folder):
        return source
    kept = os.path.join(cache_folder(), shard.sha256)
    if os.path.exists(kept) and os.path.getsize(kept) == shard.bytes:
        return kept  # it was verified when it was written, and appeared whole
    try:
        with storage.open_read(source) as remote, storage.create(kept) as local:
            sha256 = hashlib.sha256()
            while block := remote.read(_BLOCK):
                sha256.update(block)
                local.write(block)
            if sha256.hexdigest() != shard.sha256:
                raise DamageError(f"{source} has sha256 {sha256.hexdigest()}, the manifest says {shard.sha256}")
    except FileNotFoundError:
        raise DamageError(f"{shard.name} is missing from {folder}; the manifest lists it") from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise InputError(
            f"cannot keep {shard.name} ({shard.bytes} bytes) in {cache_folder()}: {os.strerror(error.errno)}; "
            "set MASKMILL_CACHE to a folder with room for the shards"
        ) from error
    return kept
