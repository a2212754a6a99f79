"""One image measured: every overlap of its masks with its ground truth, and the few integers the report keeps of them.

The IoU matrix of a layer is computed once; best overlaps, the record's `gt/best_iou`, the sums of `images.parquet` and all
curves of the report come from it.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from maskmill.masks.overlap import boxes, covered_pixels, iou_matrix
from maskmill.pipelines.measuring.series import Series
from maskmill.schemas.image import Annotations
from maskmill.schemas.mask import Layer, MaskSet
from maskmill.schemas.stats import to_units

BUDGETS = (1, 2, 4, 8, 16, 32)  # masks kept; "all" is the layer's own sum
DECISION_BUDGET = 16  # what the trainer samples per view: layers are ranked at this number of masks
HEAT_CELLS = 12  # per side of the map of where objects lie
HEAT_UNIT = 1000  # a cell wholly inside an object's box counts as this much
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
        heat: `HEAT_CELLS` rows, from the top, of as many sums over instances of how much of a cell the instance's box
            fills, in units of 1 / `HEAT_UNIT`.
    """

    area: list[int]
    category: list[int]
    best: list[list[int]]
    layers: list[LayerOverlaps]
    heat: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """The fields, lists as they are: `dataclasses.asdict` copies every number, for longer than a record is encoded."""
        return {**vars(self), "layers": [vars(layer) for layer in self.layers]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "ImageOverlaps":
        """The inverse of `to_json`, through JSON or not."""
        return cls(**{**fields, "layers": [LayerOverlaps(**layer) for layer in fields["layers"]]})


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is measured of one image, L layers, S series, G annotations of which N are no crowds.

    Attributes:
        best: float64[L, G], best IoU of each annotation in each layer; -1 for crowds.
        covered_px: L pixel counts of the layers' unions.
        iou_units: S sums of best IoUs over the N instances, in units of 1 / `IOU_UNIT`.
        first_units, drawn_units: L such sums for `DECISION_BUDGET` masks, the first, and drawn at random.
        overlaps: for `pipelines.measuring.overlap_stats`.
    """

    best: np.ndarray
    covered_px: list[int]
    iou_units: list[int]
    overlaps: ImageOverlaps

    @property
    def first_units(self) -> list[int]:
        return [layer.first[BUDGETS.index(DECISION_BUDGET)] for layer in self.overlaps.layers]

    @property
    def drawn_units(self) -> list[int]:
        return [layer.drawn[BUDGETS.index(DECISION_BUDGET)] for layer in self.overlaps.layers]


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


def _heat(counts: tuple[bytes, ...], height: int, width: int) -> list[list[int]]:
    """See `ImageOverlaps`. From boxes, because drawing every instance would cost as much as a scale of FH."""
    if not counts:
        return [[0] * HEAT_CELLS for _ in range(HEAT_CELLS)]
    found = boxes(counts, height, width)
    edges = np.arange(HEAT_CELLS + 1)

    def filled(start: np.ndarray, length: np.ndarray, side: int) -> np.ndarray:
        low, high = start[:, None] * HEAT_CELLS / side, (start + length)[:, None] * HEAT_CELLS / side
        return np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, 1)

    rows, columns = filled(found[:, 1], found[:, 3], height), filled(found[:, 0], found[:, 2], width)
    heat: list[list[int]] = np.rint(rows[:, :, None] * columns[:, None, :] * HEAT_UNIT).astype(int).sum(axis=0).tolist()
    return heat


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
            heat=_heat(counts, height, width),
        ),
    )
