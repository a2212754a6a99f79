"""How far layers agree where there is no ground truth: the only thing that masks can be compared with is each other.

Measured on a fixed number of images drawn at random, because all pairs of layers cost far more than a match with a few
ground-truth instances does. The draw is by hash of the id, so the images of a merged report are among those of its parts.
"""

import numpy as np

from maskmill.masks.overlap import iou_matrix
from maskmill.pipelines.dataset.random_access import read_examples
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.schemas.example import ImageExample
from maskmill.schemas.manifest import Manifest
from maskmill.schemas.stats import to_units

IMAGES = 64


def measure_agreement(example: ImageExample) -> list[list[list[int]]]:
    """Every layer against every other in one image.

    Returns:
        table[i][j] = [sum over masks of layer i of the best IoU with any mask of layer j, in units; masks of layer i].
    """
    count = len(example.masks)
    table = [[[0, len(masks)] for _ in range(count)] for masks in example.masks]
    for i in range(count):
        for j in range(i, count):
            one, other = example.masks[i].counts, example.masks[j].counts
            if not one or not other:
                continue
            ious = np.eye(len(one)) if i == j else iou_matrix(one, other, example.height, example.width)
            table[i][j][0] = int(to_units(ious.max(axis=1)).sum())
            table[j][i][0] = int(to_units(ious.max(axis=0)).sum())
    return table


def add_agreement(folder: str, manifest: Manifest, stats: ReportStats) -> None:
    """Adds `agreement` to the first `IMAGES` of the images drawn at random."""
    if len(manifest.layers) < 2:
        return
    drawn = stats.picks["sample"][:IMAGES]
    examples = read_examples(folder, manifest, [entry["id"] for entry in drawn])
    for entry in drawn:
        if entry["id"] in examples:
            entry["agreement"] = measure_agreement(examples[entry["id"]])
