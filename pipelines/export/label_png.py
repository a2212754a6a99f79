"""Label PNGs: one per picture, 16 bits, 0 where no mask is and k for the k-th mask of a layer whose masks do not overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.export.chosen import Chosen, runs_of
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.example import ImageExample

if TYPE_CHECKING:
    from jaxtyping import UInt16

MAX_LABEL = 2**16 - 1


def check_layer(chosen: Chosen) -> None:
    """Refuses what cannot be labels. Raises UsageError."""
    layers = [chosen.manifest.layers[i] for i in chosen.layers]
    possible = ", ".join(layer.name for layer in chosen.manifest.layers if layer.disjoint) or "none"
    if len(layers) != 1:
        raise UsageError(
            f"label-png holds one layer, not {len(layers)}; name it with --layers (without overlaps: {possible})"
        )
    if not layers[0].disjoint:
        raise UsageError(
            f"masks of layer {layers[0].name} may overlap, and a pixel of a label PNG belongs to one mask; export it as "
            f"coco or coco-results, or another layer (without overlaps: {possible})"
        )


def label_map(example: ImageExample, layer: int) -> UInt16[np.ndarray, "{example.height} {example.width}"]:
    """uint16[height, width]: 0, or 1 + the position of the mask.

    Raises:
        InputError: more masks than 16 bits count. DamageError: they overlap, or one is none.
    """
    masks = example.masks[layer]
    if len(masks) > MAX_LABEL:
        raise InputError(
            f"{example.filename!r} has {len(masks)} masks, a 16-bit label PNG {MAX_LABEL} at most; export it as coco"
        )
    flat = np.zeros(example.height * example.width, np.uint16)  # column after column, as RLE counts
    covered = 0
    for label, counts in enumerate(masks.counts, 1):
        runs = runs_of(example, counts)
        inside = np.repeat((np.arange(len(runs)) & 1).astype(bool), runs)
        flat[inside] = label
        covered += int(np.count_nonzero(inside))
    if covered != np.count_nonzero(flat):
        raise DamageError(
            f"the record of {example.filename!r} holds masks that overlap, in a layer of masks that do not"
        )
    return flat.reshape(example.width, example.height).T


def png_name(filename: str) -> str:
    """`n01440764/a.png` for `n01440764/a.JPEG`."""
    folder, slash, name = filename.rpartition("/")
    stem = name.rpartition(".")[0] or name
    return f"{folder}{slash}{stem}.png"


def check_names(chosen: Chosen) -> None:
    """Refuses pictures whose label PNGs would have one name, before anything is written. Raises InputError."""
    taken: dict[str, str] = {}
    for rows in ImagesTable(chosen.dataset.folder, len(chosen.dataset)).batches(["id"]):
        for name in rows["id"]:
            other = taken.setdefault(png_name(name), name)
            if other != name:
                raise InputError(
                    f"{other!r} and {name!r} would both have the labels {png_name(name)!r}; export coco instead"
                )


def write_png(chosen: Chosen, example: ImageExample, path: str) -> int:
    """One record's labels; returns how many masks. Raises as `label_map`, and OSError."""
    labels = label_map(example, chosen.layers[0])
    done, data = cv2.imencode(".png", np.ascontiguousarray(labels))
    if not done:
        raise InputError(f"the labels of {example.filename!r} cannot be written as a PNG")
    storage.write_bytes(path, data.tobytes())
    return len(example.masks[chosen.layers[0]])
