"""How far layers agree where there is no ground truth: the only thing that masks can be compared with is each other.

Measured on a fixed number of images drawn at random, because all pairs of layers cost far more than a match with a few
ground-truth instances does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from maskmill.masks.overlap import iou_matrix
from maskmill.pipelines.dataset.random_access import read_examples
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.pipelines.report.model import Agreement, Metric
from maskmill.schemas.example import ImageExample
from maskmill.schemas.manifest import Manifest
from maskmill.schemas.stats import IOU_UNIT, to_units

if TYPE_CHECKING:
    from jaxtyping import Int64

IMAGES = 64


def measure_agreement(example: ImageExample) -> Int64[np.ndarray, "layers layers 2"]:
    """Every layer against every other in one image.

    Returns:
        int64[L, L, 2]: for i, j the sum over masks of layer i of the best IoU with any mask of layer j, in units, and the
        number of masks of layer i.
    """
    count = len(example.masks)
    table = np.zeros((count, count, 2), np.int64)
    table[:, :, 1] = np.asarray([len(masks) for masks in example.masks], np.int64)[:, None]
    for i in range(count):
        for j in range(i, count):
            one, other = example.masks[i].counts, example.masks[j].counts
            if not one or not other:
                continue
            ious = np.eye(len(one)) if i == j else iou_matrix(one, other, example.height, example.width)
            table[i, j, 0] = to_units(ious.max(axis=1)).sum()
            table[j, i, 0] = to_units(ious.max(axis=0)).sum()
    return table


def find_agreement(
    folder: str, manifest: Manifest, stats: ReportStats, pieces: Mapping[str, int] | None = None
) -> Agreement | None:
    """The agreement of a data set's layers in the first `IMAGES` of the images drawn at random; None for want of any two.

    `pieces` says in which file of the table an image is, where that is known.
    """
    drawn = [pick.id for pick in stats.picks.sample[:IMAGES]]
    count = len(manifest.layers)
    if count < 2 or not drawn:
        return None
    examples = read_examples(folder, manifest, drawn, None if pieces is None else {pieces[one] for one in drawn})
    table = sum((measure_agreement(example) for example in examples.values()), np.zeros((count, count, 2), np.int64))
    why = "the layer has no masks in these images"
    rows = [[Metric.ratio(units / IOU_UNIT, masks, why) for units, masks in row] for row in table.tolist()]
    return Agreement(len(examples), [layer.name for layer in manifest.layers], rows)
