"""Label PNGs: one per picture, every value a mask. Superpixels, instances, and panoptic maps (ids written as colours)."""

from typing import TYPE_CHECKING

import numpy as np

from maskmill.masks.runs import encode_label_map
from maskmill.pipelines.foreign.per_picture import load_one, reading
from maskmill.pipelines.foreign.png import is_panoptic, read_png
from maskmill.schemas.errors import ImageError
from maskmill.schemas.mask import MaskSet

if TYPE_CHECKING:
    from maskmill.pipelines.foreign.generator import Imported

MAX_LABELS = 10_000  # a photograph taken for a label map has more


digest, index = reading("label-png", ".png")


def read(block: bytes, key: str, height: int, width: int, wanted: "Imported") -> MaskSet:
    """See `formats.Reader`. Nothing ranks labels: where only some are wanted they are the largest."""
    name, data = load_one(wanted.path, block)
    labels = read_png(data, name, height, width)
    values, first, place, area = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    void = np.isin(values, [wanted.void, *([0] if is_panoptic(data) else [])])
    if len(values) > MAX_LABELS:
        raise ImageError(
            "bad_annotation",
            "imported",
            f"{name} has {len(values)} labels, the limit is {MAX_LABELS}; is it a photograph?",
        )
    kept = [i for i in np.argsort(-area, kind="stable").tolist() if not void[i]][: wanted.most]
    order = np.argsort(first)  # segments in raster order of their first pixels, void among them
    number = np.empty(len(values), np.int64)
    number[order] = np.arange(len(values))
    everything = encode_label_map(number[place].reshape(height, width))
    chosen = sorted(number[kept].tolist())
    return MaskSet.unranked([everything.counts[i] for i in chosen], everything.area[chosen])
