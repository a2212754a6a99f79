"""Records of a finished build, straight from its folder: what `validate`, `report`, `view`, the trainer's host code and
anyone with NumPy can use. No TensorFlow."""

import dataclasses
from collections.abc import Iterator

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError
from maskmill.schemas.example import ImageExample, decode_example
from maskmill.schemas.manifest import Manifest, Shard, load_manifest
from maskmill.schemas.tfrecord import read_records


def read_shard(folder: str, shard: Shard, num_layers: int) -> Iterator[ImageExample]:
    """Records of one shard, in order.

    Raises:
        DamageError: a missing file, a broken record (file, record and offset named), or another number of records than
            the manifest says.
    """
    path = storage.join(folder, shard.name)
    count = 0
    try:
        with storage.open_read(path) as stream:
            for count, payload in enumerate(read_records(stream, shard.name), 1):
                try:
                    yield decode_example(payload, num_layers)
                except DamageError as error:
                    raise DamageError(f"{shard.name}: record {count - 1}: {error}") from error
    except FileNotFoundError:
        raise DamageError(f"{shard.name} is missing from {folder}") from None
    except storage.NotAFile:
        raise DamageError(f"{shard.name} in {folder} is not a regular file") from None
    if count != shard.records:
        raise DamageError(f"{shard.name} holds {count} records, the manifest says {shard.records}")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A finished build.

    Attributes:
        folder: local path or gs:// prefix.
        manifest: its manifest.
    """

    folder: str
    manifest: Manifest

    @classmethod
    def open(cls, folder: str) -> "Dataset":
        """Opens a build's folder; raises as `load_manifest`."""
        return cls(folder, load_manifest(folder))

    def __iter__(self) -> Iterator[ImageExample]:
        """All records, shard after shard."""
        for shard in self.manifest.shards:
            yield from read_shard(self.folder, shard, len(self.manifest.layers))
