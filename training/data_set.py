"""A build's folder as a run needs it: its manifest, which of its masks are used, and whether that is all there.

Light enough to be asked before JAX is imported: who gave a wrong folder should not wait for that.
"""

from typing import NamedTuple

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.schemas.manifest import Manifest, load_manifest
from maskmill.schemas.reader import read_shard
from maskmill.training.config import DataConfig

ANNOTATIONS = "gt"  # the layer that any build with annotations has
_PEEK = 64  # records looked at for annotations before training starts


class Layers(NamedTuple):
    """Which masks of a record are used: `wanted[k]` for layer k of the manifest, and whether annotations follow."""

    wanted: tuple[bool, ...]
    annotations: bool

    @classmethod
    def choose(cls, manifest: Manifest, config: DataConfig) -> "Layers":
        """Those that `config` names. Raises InputError for a layer that the manifest lacks."""
        names = [layer.name for layer in manifest.layers]
        if config.global_mask:
            return cls((False,) * len(names), False)
        chosen = {manifest.layer_index(name) for name in config.layers if name in names or name != ANNOTATIONS}
        wanted = tuple(index in chosen for index in range(len(names)))
        return cls(wanted, ANNOTATIONS in config.layers and ANNOTATIONS not in names)


def open_data_set(folder: str, config: DataConfig) -> tuple[Manifest, Layers]:
    """Opens a build and checks what can be checked without reading it through.

    Args:
        folder: of the build, local or gs://.
        config: what is to be read of it.

    Raises:
        InputError: no data set, a foreign schema version, a layer that it lacks, or no images or annotations in its shards.
        DamageError: the manifest is not as it was written, or a shard is missing.
    """
    manifest = load_manifest(folder)
    layers = Layers.choose(manifest, config)
    present = storage.names(folder)
    for shard in manifest.shards:
        if shard.name not in present:
            raise DamageError(f"{shard.name} is missing from {folder}; the manifest lists it")
    first = next((shard for shard in manifest.shards if shard.records), None)
    if first is None:
        return manifest, layers
    annotated = not layers.annotations
    for number, record in enumerate(read_shard(folder, first, len(manifest.layers))):
        if record.encoded is None:
            raise InputError(
                f"{folder} holds masks only, without the images; training needs them in its shards: "
                "build again without the masks-only option"
            )
        annotated |= bool((~record.annotations.is_crowd).any())
        if annotated or number == _PEEK:
            break
    if not annotated:
        raise InputError(
            f"{folder} has no annotations to take masks of layer {ANNOTATIONS!r} from; its layers are "
            f"{', '.join(layer.name for layer in manifest.layers)}"
        )
    return manifest, layers
