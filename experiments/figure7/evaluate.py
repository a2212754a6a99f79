"""What frozen features know of real photographs: a linear segmentation probe and k-NN of regions and of photographs.

The probe is a multinomial logistic regression of a cell's labels on its features, fitted to convergence by L-BFGS on the
probe's side: convex, so that no order of batches and no rate of its own stands between arms. It is scored on the
evaluation side's photographs, whole, with its logits enlarged to pixels. Classes are COCO's supercategories.
"""

import dataclasses
import json

import cv2
import numpy as np
import scipy.optimize

from maskmill.training.knn import knn_accuracy
from maskmill.training.probe import IGNORE, Labelled, load_labelled, mean_iou

PENALTY = 1e-3  # on squared weights, per row's mean loss
ITERATIONS = 60


@dataclasses.dataclass(frozen=True)
class Probe:
    """Pictures to fit on and photographs to score on, `data.held_out`, with supercategories as classes.

    Attributes:
        data: all pictures; `classes` of the supercategory that covers most of a picture, -1 where nothing is annotated.
        targets: float32[n, cells, 1 + supercategories], what part of each cell's counted pixels has which label.
        weight: float32[n, cells], the part of a cell that counts, over the root of how much its labels cover on the probe's
            side: between counting pixels, which makes everything background, and counting classes alike.
    """

    data: Labelled
    targets: np.ndarray
    weight: np.ndarray


def load_probe(fitted: list[str], scored: str, instances: str, *, size: int, cell: int) -> Probe:
    """Reads builds with annotations: those to fit on and the one to score on.

    Args:
        instances: COCO's json, for its supercategories.
        size: pixels per side to which pictures are resized.
        cell: pixels per side of a cell.
    """
    with open(instances, encoding="utf-8") as file:
        listed = json.load(file)["categories"]
    names = sorted({category["supercategory"] for category in listed})
    table = {category["id"]: names.index(category["supercategory"]) for category in listed}
    parts = [_renamed(load_labelled(folder, size, stride=cell), table, len(names)) for folder in (*fitted, scored)]
    held_out = np.concatenate([np.full(len(part.images), part is parts[-1]) for part in parts])
    first = np.cumsum([0, *(len(part.images) for part in parts)])
    labels = np.concatenate([part.labels for part in parts])
    data = Labelled(
        images=np.concatenate([part.images for part in parts]),
        labels=labels,
        held_out=held_out,
        classes=_largest(labels, len(names)),
        categories=tuple(range(len(names))),
        region_image=np.concatenate([part.region_image + at for part, at in zip(parts, first)]),
        region_category=np.concatenate([part.region_category for part in parts]),
        region_cells=np.concatenate([part.region_cells for part in parts]),
    )
    targets, weight = _cell_targets(labels, cell, 1 + len(names))
    total = (targets * weight[..., None])[~held_out].sum((0, 1))
    balanced = weight * (targets / np.sqrt(np.maximum(total, 1))).sum(-1)
    return Probe(data, targets, balanced)


def _renamed(part: Labelled, table: dict[int, int], count: int) -> Labelled:
    # Labels 1 + index into the part's own categories become 1 + supercategory.
    to = np.array([0, *(1 + table[category] for category in part.categories)], np.int16)
    labels = np.where(part.labels == IGNORE, IGNORE, to[np.maximum(part.labels, 0)]).astype(np.int16)
    region = (to[1 + part.region_category] - 1).astype(np.int64)
    return dataclasses.replace(part, labels=labels, region_category=region, categories=tuple(range(count)))


def _largest(labels: np.ndarray, count: int) -> np.ndarray:
    pixels = np.stack([(labels == 1 + index).sum((1, 2)) for index in range(count)], 1)
    return np.where(pixels.max(1) > 0, pixels.argmax(1), -1)


def _cell_targets(labels: np.ndarray, cell: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    n, size = labels.shape[:2]
    cut = labels.reshape(n, size // cell, cell, size // cell, cell).transpose(0, 1, 3, 2, 4).reshape(n, -1, cell * cell)
    shares = np.stack([(cut == label).mean(-1) for label in range(outputs)], -1).astype(np.float32)
    weight = shares.sum(-1)
    return shares / np.maximum(weight, 1e-6)[..., None], weight


def scores(features: np.ndarray, probe: Probe) -> dict[str, float]:
    """Scores of frozen features float[n, cells, cells, channels], all in 0..1.

    "miou" and "pixel_accuracy" as `training.probe` has them, "class_accuracy" the mean over classes of the part of their
    pixels that is found, "knn_region" and "knn_image".
    """
    data = probe.data
    flat = features.reshape(len(features), -1, features.shape[-1]).astype(np.float32)
    fitted = flat[~data.held_out].reshape(-1, flat.shape[-1])
    mean, deviation = fitted.mean(0), fitted.std(0) + 1e-5
    flat = (flat - mean) / deviation
    kernel, bias = fit_linear(
        flat[~data.held_out].reshape(-1, flat.shape[-1]),
        probe.targets[~data.held_out].reshape(-1, probe.targets.shape[-1]),
        probe.weight[~data.held_out].reshape(-1),
    )
    side, outputs, cells = data.labels.shape[1], probe.targets.shape[-1], features.shape[1]
    confusion = np.zeros((outputs, outputs), np.int64)
    for index in np.flatnonzero(data.held_out):
        logits = (flat[index] @ kernel + bias).reshape(cells, cells, outputs)
        guess = cv2.resize(logits, (side, side), interpolation=cv2.INTER_LINEAR).argmax(-1)
        counted = data.labels[index] != IGNORE
        pairs = data.labels[index][counted].astype(np.int64) * outputs + guess[counted]
        confusion += np.bincount(pairs, minlength=outputs**2).reshape(outputs, outputs)
    hit, truth = np.diag(confusion), confusion.sum(1)
    per_class = float((hit[truth > 0] / truth[truth > 0]).mean())
    return mean_iou(confusion) | {"class_accuracy": per_class} | _knn(flat, data)


def fit_linear(
    rows: np.ndarray, targets: np.ndarray, weight: np.ndarray, iterations: int = ITERATIONS
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on soft labels: float32 kernel[channels, outputs] and bias[outputs].

    Minimises the weighted mean cross-entropy plus `PENALTY` x the sum of squares of the kernel.
    """
    keep = weight > 0
    rows, targets, weight = rows[keep], targets[keep], weight[keep] / weight[keep].sum()
    channels, outputs = rows.shape[1], targets.shape[1]

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = x[:-outputs].reshape(channels, outputs).astype(np.float32), x[-outputs:].astype(np.float32)
        logits = rows @ kernel + bias
        logits -= logits.max(1, keepdims=True)
        exp = np.exp(logits)
        total = exp.sum(1, keepdims=True)
        loss = float((weight * (np.log(total[:, 0]) - (targets * logits).sum(1))).sum())
        error = weight[:, None] * (exp / total - targets)
        gradient = np.concatenate([(rows.T @ error + 2 * PENALTY * kernel).ravel(), error.sum(0)])
        return loss + PENALTY * float((kernel**2).sum()), gradient.astype(np.float64)

    start = np.zeros((channels + 1) * outputs)
    best = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).x
    return best[:-outputs].reshape(channels, outputs).astype(np.float32), best[-outputs:].astype(np.float32)


def _knn(flat: np.ndarray, data: Labelled) -> dict[str, float]:
    weights = data.region_cells / data.region_cells.sum(1, keepdims=True)
    pooled = np.stack([w @ flat[i] for w, i in zip(weights, data.region_image, strict=True)])
    held = data.held_out[data.region_image]
    of_region = knn_accuracy(pooled[~held], data.region_category[~held], pooled[held], data.region_category[held])
    whole, known = flat.mean(1), data.classes >= 0
    fit, score = known & ~data.held_out, known & data.held_out
    return {
        "knn_region": of_region,
        "knn_image": knn_accuracy(whole[fit], data.classes[fit], whole[score], data.classes[score]),
    }
