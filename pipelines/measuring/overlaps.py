"""One image measured: every overlap of its masks with its ground truth, and the few integers the report keeps of them.

The IoU matrix of a layer is computed once; best overlaps, the record's `gt/best_iou`, the sums of `images.parquet` and all
curves of the report come from it.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskmill.masks.overlap import covered_pixels, iou_matrix
from maskmill.pipelines.measuring.series import Series
from maskmill.schemas.image import Annotations
from maskmill.schemas.mask import Layer, MaskSet
from maskmill.schemas.stats import to_units

BUDGETS = (1, 2, 4, 8, 16)  # masks kept; "all" is the layer's own sum
AREA_BINS = 24  # bin k: a mask of more than 2**-(k+1) and at most 2**-k of the picture
POOL_CELLS = 49  # the trainer pools masks to 7 x 7; a mask smaller than one cell can vanish there


@dataclasses.dataclass(frozen=True)
class LayerOverlaps:
    """What one layer of one image adds to the report.

    Attributes:
        area_px: sum of the masks' areas, pixels.
        area_bins: `AREA_BINS` numbers of masks, by octave of their area.
        fragments: masks of less than one of `POOL_CELLS` cells.
        duplicates: masks equal to another.
        ranked: 1 where the masks have scores, else 0.
        first, drawn: per entry of `BUDGETS`, the sum over instances of the best IoU with the first k masks, and its
            expectation for k masks drawn at random, in units of 1 / `IOU_UNIT`.
    """

    area_px: int
    area_bins: list[int]
    fragments: int
    duplicates: int
    ranked: int
    first: list[int]
    drawn: list[int]


@dataclasses.dataclass(frozen=True)
class ImageOverlaps:
    """What one image adds to the report; N instances that are no crowds, S series, L layers.

    Attributes:
        area: N areas, pixels.
        category: N category ids.
        best: S x N best IoUs, in units of 1 / `IOU_UNIT`.
        layers: L of them.
    """

    area: list[int]
    category: list[int]
    best: list[list[int]]
    layers: list[LayerOverlaps]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ImageOverlaps":
        """The inverse of `dataclasses.asdict`, through JSON or not."""
        return cls(**{**fields, "layers": [LayerOverlaps(**layer) for layer in fields["layers"]]})


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is measured of one image, L layers, S series, G annotations of which N are no crowds.

    Attributes:
        best: float64[L, G], best IoU of each annotation in each layer; -1 for crowds.
        covered_px: L pixel counts of the layers' unions.
        iou_units: S sums of best IoUs over the N instances, in units of 1 / `IOU_UNIT`.
        overlaps: for `pipelines.measuring.overlap_stats`.
    """

    best: np.ndarray
    covered_px: list[int]
    iou_units: list[int]
    overlaps: ImageOverlaps


@functools.lru_cache(maxsize=4096)
def _draw_weights(count: int) -> np.ndarray:
    """Weights w[b, j] such that sum_j w[b, j] * x_j is the expected maximum of `BUDGETS[b]` of `count` values drawn without
    replacement, x sorted from the highest: w_j = C(count - 1 - j, k - 1) / C(count, k), by recurrence."""
    table = np.zeros((len(BUDGETS), count))
    for row, budget in zip(table, BUDGETS, strict=True):
        k = min(budget, count)
        weight = k / count
        for j in range(count - k + 1):
            row[j] = weight
            if j < count - k:
                weight *= (count - j - k) / (count - 1 - j)
    return table


def _budget_sums(matrix: np.ndarray) -> tuple[list[int], list[int]]:
    """Sums over instances of the best IoU with the first k masks, and of its expectation for k masks drawn at random."""
    count, instances = matrix.shape
    if not count or not instances:
        return [0] * len(BUDGETS), [0] * len(BUDGETS)
    running = np.maximum.accumulate(matrix[: BUDGETS[-1]], axis=0)
    first = running[[min(k, count) - 1 for k in BUDGETS]]
    ordered = -np.sort(-matrix, axis=0)
    drawn = np.einsum("kn,ng->kg", _draw_weights(count), ordered)  # not BLAS, whose sums depend on its threads
    return to_units(first).sum(axis=1).tolist(), to_units(drawn).sum(axis=1).tolist()


def _layer_overlaps(masks: MaskSet, matrix: np.ndarray, pixels: int) -> LayerOverlaps:
    area = np.maximum(np.asarray(masks.area, np.int64), 1)  # a foreign shard may hold an empty mask
    bins = np.zeros(AREA_BINS, np.int64)
    if area.size:
        octave = np.frexp((pixels // area).astype(np.float64))[1] - 1  # floor(log2), exact
        bins = np.bincount(np.clip(octave, 0, AREA_BINS - 1), minlength=AREA_BINS)
    first, drawn = _budget_sums(matrix)
    return LayerOverlaps(
        area_px=int(masks.area.sum()),
        area_bins=bins.tolist(),
        fragments=int((area * POOL_CELLS < pixels).sum()),
        duplicates=len(masks) - len(set(masks.counts)),
        ranked=int(bool((masks.score != 1).any())),
        first=first,
        drawn=drawn,
    )


def measure(
    masks: Sequence[MaskSet],
    layers: Sequence[Layer],
    series: Sequence[Series],
    annotations: Annotations,
    height: int,
    width: int,
) -> Measured:
    """Measures one image; a pure function of the masks and annotations.

    Args:
        masks: L mask sets of checked RLEs.
        layers: the L layers they are of.
        series: of those layers (`series_of`).
        annotations: ground truth; empty where there is none.
        height, width: pixels.
    """
    singles = np.flatnonzero(~annotations.is_crowd)
    counts = tuple(annotations.counts[i] for i in singles)
    best = np.where(annotations.is_crowd, -1.0, 0.0)[None, :].repeat(len(masks), axis=0)
    units = np.zeros((len(masks), len(singles)), np.int64)
    per_layer = []
    for i, layer_masks in enumerate(masks):
        matrix = iou_matrix(layer_masks.counts, counts, height, width)
        if matrix.size:
            best[i, singles] = matrix.max(axis=0)
            units[i] = to_units(best[i, singles])
        per_layer.append(_layer_overlaps(layer_masks, matrix, height * width))
    united = np.stack([units[list(s.members)].max(axis=0) for s in series]) if series else units
    return Measured(
        best=best,
        covered_px=[
            covered_pixels(m, height, width, disjoint=layer.disjoint) for m, layer in zip(masks, layers, strict=True)
        ],
        iou_units=united.sum(axis=1).tolist(),
        overlaps=ImageOverlaps(
            area=annotations.area[singles].tolist(),
            category=annotations.category_id[singles].tolist(),
            best=united.tolist(),
            layers=per_layer,
        ),
    )
