"""Object masks for millions of images. The public face: what a script or a notebook needs, under one name.

    import maskmill

    data = maskmill.Dataset.open("coco-fh")
    layer = data.manifest.layer_index("fh-1000")
    for example in data:
        masks = [maskmill.decode_mask(c, example.height, example.width) for c in example.masks[layer].counts]

    label_maps = maskmill.segment(image, scales=(500, 1000))

Everything is loaded at its first use: importing `maskmill` costs nothing, and reading data sets never compiles a kernel.
The rooms behind it are `maskmill.schemas`, `maskmill.masks`, `maskmill.pipelines` and `maskmill.training`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskmill.masks.felzenszwalb import segment, segment_to_rle
    from maskmill.masks.mcg.generator import propose
    from maskmill.masks.overlap import iou_matrix
    from maskmill.pipelines.driver.build import build
    from maskmill.pipelines.parts.config import BuildConfig, RunOptions
    from maskmill.schemas.errors import MaskmillError
    from maskmill.schemas.manifest import Manifest
    from maskmill.schemas.reader import Dataset
    from maskmill.schemas.rle import decode_mask, encode_mask

# name -> the module that defines it
_HOME = {
    "BuildConfig": "maskmill.pipelines.parts.config",
    "Dataset": "maskmill.schemas.reader",
    "Manifest": "maskmill.schemas.manifest",
    "MaskmillError": "maskmill.schemas.errors",
    "RunOptions": "maskmill.pipelines.parts.config",
    "build": "maskmill.pipelines.driver.build",
    "decode_mask": "maskmill.schemas.rle",
    "encode_mask": "maskmill.schemas.rle",
    "iou_matrix": "maskmill.masks.overlap",
    "propose": "maskmill.masks.mcg.generator",
    "segment": "maskmill.masks.felzenszwalb",
    "segment_to_rle": "maskmill.masks.felzenszwalb",
}

__all__ = [
    "BuildConfig",
    "Dataset",
    "Manifest",
    "MaskmillError",
    "RunOptions",
    "build",
    "decode_mask",
    "encode_mask",
    "iou_matrix",
    "propose",
    "segment",
    "segment_to_rle",
]


def __getattr__(name: str) -> Any:
    """A public name, imported from its home at first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        return version("maskmill")
    if name not in _HOME:
        raise AttributeError(f"module 'maskmill' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
