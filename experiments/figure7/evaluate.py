"""What frozen features know of real photographs: a linear segmentation probe, one of regions, and k-NN.

The segmentation probe tells the labels of a cell from its features. It is fitted on the probe's side and scored on the
evaluation side's photographs, whole: by how it ranks cells, class by class, and with its logits enlarged to pixels by
overlaps. Regions are instances with their surroundings. Classes are COCO's supercategories.
"""

import dataclasses
import json

import cv2
import numpy as np

from experiments.figure7.linear import fit_linear, mean_auc
from experiments.figure7.regions import Regions, cut_regions
from maskmill.training.knn import knn_accuracy
from maskmill.training.probe import IGNORE, Labelled, load_labelled, mean_iou


@dataclasses.dataclass(frozen=True)
class Probe:
    """Photographs to fit on and photographs to score on, with supercategories as classes.

    Attributes:
        images: uint8[n, size, size, 3], RGB.
        labels: int16[n, size, size], 0 for background, 1 + supercategory, or `IGNORE`.
        held_out: bool[n], what is scored on.
        classes: int64[n], the supercategory that covers most of a photograph, -1 where nothing is annotated.
        targets: float32[n, cells, 1 + supercategories], what part of each cell's counted pixels has which label.
        counted: bool[n, cells], whether any of a cell's pixels counts.
        weight: float32[n, cells], the part of a cell that counts, over the root of how much its labels cover on the probe's
            side: between counting pixels, which makes everything background, and counting classes alike.
        regions, region_class, region_held_out: instances with their surroundings.
    """

    images: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    classes: np.ndarray
    targets: np.ndarray
    counted: np.ndarray
    weight: np.ndarray
    regions: Regions
    region_class: np.ndarray
    region_held_out: np.ndarray


def load_probe(fitted: str, scored: str, instances: str, *, size: int, view: int, cell: int) -> Probe:
    """Reads the build to fit on and the one to score on.

    Args:
        instances: COCO's json, for its supercategories.
        size: pixels per side to which pictures are resized.
        view: the same of regions.
        cell: pixels per side of a cell.
    """
    with open(instances, encoding="utf-8") as file:
        listed = json.load(file)["categories"]
    names = sorted({category["supercategory"] for category in listed})
    table = {category["id"]: names.index(category["supercategory"]) for category in listed}
    parts = [_renamed(load_labelled(folder, size, stride=cell), table) for folder in (fitted, scored)]
    labels = np.concatenate([part.labels for part in parts])
    held_out = np.repeat([False, True], [len(part.images) for part in parts])
    targets, weight = _cell_targets(labels, cell, 1 + len(names))
    total = (targets * weight[..., None])[~held_out].sum((0, 1))
    cuts = [cut_regions(folder, size=view, cell=cell) for folder in (fitted, scored)]
    return Probe(
        images=np.concatenate([part.images for part in parts]),
        labels=labels,
        held_out=held_out,
        classes=_largest(labels, len(names)),
        targets=targets,
        counted=weight > 0,
        weight=weight * (targets / np.sqrt(np.maximum(total, 1))).sum(-1),
        regions=Regions(*(np.concatenate(of) for of in zip(*((c.images, c.cells, c.category) for c in cuts)))),
        region_class=np.array([table[category] for c in cuts for category in c.category.tolist()]),
        region_held_out=np.repeat([False, True], [len(c.category) for c in cuts]),
    )


def _renamed(part: Labelled, table: dict[int, int]) -> Labelled:
    # Labels 1 + index into the part's own categories become 1 + supercategory.
    to = np.array([0, *(1 + table[category] for category in part.categories)], np.int16)
    labels = np.where(part.labels == IGNORE, IGNORE, to[np.maximum(part.labels, 0)]).astype(np.int16)
    return dataclasses.replace(part, labels=labels)


def _largest(labels: np.ndarray, count: int) -> np.ndarray:
    pixels = np.stack([(labels == 1 + index).sum((1, 2)) for index in range(count)], 1)
    return np.where(pixels.max(1) > 0, pixels.argmax(1), -1)


def _cell_targets(labels: np.ndarray, cell: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    n, size = labels.shape[:2]
    cut = labels.reshape(n, size // cell, cell, size // cell, cell).transpose(0, 1, 3, 2, 4).reshape(n, -1, cell * cell)
    shares = np.stack([(cut == label).mean(-1) for label in range(outputs)], -1).astype(np.float32)
    weight = shares.sum(-1)
    return shares / np.maximum(weight, 1e-6)[..., None], weight


def scores(features: np.ndarray, of_regions: np.ndarray, probe: Probe) -> dict[str, float]:
    """Scores of frozen features, all in 0..1.

    Args:
        features: float[n, cells, cells, channels], of `probe.images`.
        of_regions: the same of `probe.regions.images`.

    Returns:
        Of the segmentation probe "auc" (see `linear.mean_auc`, over cells), "miou" and "pixel_accuracy" as
        `training.probe` has them, "class_accuracy", the mean over classes of the part of their pixels that is found; of
        regions "region_auc" and "knn_region"; of photographs "knn_image".
    """
    flat = features.reshape(len(features), -1, features.shape[-1]).astype(np.float32)
    fit, score = ~probe.held_out, probe.held_out
    flat = _standardised(flat, flat[fit])
    outputs = probe.targets.shape[-1]
    kernel, bias = fit_linear(
        flat[fit].reshape(-1, flat.shape[-1]), probe.targets[fit].reshape(-1, outputs), probe.weight[fit].reshape(-1)
    )
    logits = flat[score] @ kernel + bias
    counted = probe.counted[score]
    found = {"auc": mean_auc(logits[counted], probe.targets[score][counted])}
    found |= _overlaps(logits, probe.labels[score])
    whole = flat.mean(1)
    known, labels = probe.classes >= 0, probe.classes
    found["knn_image"] = knn_accuracy(
        whole[fit & known], labels[fit & known], whole[score & known], labels[score & known]
    )
    return found | _region_scores(of_regions, probe)


def _standardised(x: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    rows = fitted.reshape(-1, fitted.shape[-1])
    return (x - rows.mean(0)) / (rows.std(0) + 1e-5)


def _overlaps(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    side, outputs = labels.shape[1], logits.shape[-1]
    cells = round(logits.shape[1] ** 0.5)
    confusion = np.zeros((outputs, outputs), np.int64)
    for of_picture, truth in zip(logits, labels, strict=True):
        enlarged = cv2.resize(of_picture.reshape(cells, cells, outputs), (side, side), interpolation=cv2.INTER_LINEAR)
        counted = truth != IGNORE
        pairs = truth[counted].astype(np.int64) * outputs + enlarged.argmax(-1)[counted]
        confusion += np.bincount(pairs, minlength=outputs**2).reshape(outputs, outputs)
    hit, present = np.diag(confusion), confusion.sum(1)
    per_class = float((hit[present > 0] / present[present > 0]).mean())
    return mean_iou(confusion) | {"class_accuracy": per_class}


def _region_scores(features: np.ndarray, probe: Probe) -> dict[str, float]:
    flat = features.reshape(len(features), -1, features.shape[-1]).astype(np.float32)
    weights = probe.regions.cells / probe.regions.cells.sum(1, keepdims=True)
    pooled = np.einsum("rc,rcd->rd", weights, flat)
    fit, score, labels = ~probe.region_held_out, probe.region_held_out, probe.region_class
    pooled = _standardised(pooled, pooled[fit])
    targets = np.eye(probe.targets.shape[-1] - 1, dtype=np.float32)[labels]
    weight = (targets[fit] / np.sqrt(np.maximum(targets[fit].sum(0), 1))).sum(1)
    kernel, bias = fit_linear(pooled[fit], targets[fit], weight)
    return {
        "region_auc": mean_auc(pooled[score] @ kernel + bias, targets[score]),
        "knn_region": knn_accuracy(pooled[fit], labels[fit], pooled[score], labels[score]),
    }
