"""`detcon evaluate`: how well a network names pictures or pixels that it was not trained on.

A classifier (a supervised run, or a linear one on a frozen backbone) is asked for the class of centre crops; a run of
`fcn` for the label of every pixel; and of any backbone the nearest neighbours among a training set's features vote.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.reader import Dataset
from maskmill.training import model
from maskmill.training.augment import normalize
from maskmill.training.backbone import load_backbone
from maskmill.training.checkpoint import Run, load_run
from maskmill.training.config import Config, ModelConfig
from maskmill.training.knn import knn_accuracy
from maskmill.training.record import decode_image
from maskmill.training.resize import resize_crop
from maskmill.training.segmentation import Pairs
from maskmill.training.step import make_mesh, put_batch
from maskmill.training.supervised import UNKNOWN, check_labels

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, Int64, Integer, Shaped, UInt8

BATCH = 64  # pictures at a time, and of segmentation so many that they have about as many pixels
_CENTRE = 224 / 256  # side of the crop, of the picture's shorter one (He et al. 2016)
_PIXELS = 1 << 21


def evaluate(
    path: str,
    data_dir: str,
    *,
    train_dir: str | None = None,
    split: str = "val",
    step: int | None = None,
    limit: int | None = None,
) -> dict:
    """Scores of a run on data that it was not trained on.

    Args:
        path: a run's folder; for nearest neighbours alone, any backbone (see `training.backbone.load_backbone`).
        data_dir: a build with classes; for a run of `fcn` a segmentation folder.
        train_dir: another build, whose features vote.
        split: of a segmentation folder, the list to evaluate on.
        step: checkpoint, the latest by default.
        limit: records of each build, or pictures, to use.

    Returns:
        {"step", "images"} with "top1", "top5", or "miou", "pixel_accuracy", and "knn" where there is a `train_dir`.

    Raises:
        UsageError: the run has no head to ask and there is nobody to vote, or the labels are not those it was trained on.
        InputError, DamageError: see `load_run`, `load_backbone`, `Dataset`, `Pairs`.
    """
    is_file = path.endswith((".safetensors", ".npz", ".npy"))
    run = None if is_file else load_run(path, step)
    if run is not None and run.config.algorithm == "fcn":
        return {"step": run.step} | segmentation_scores(run, data_dir, split, limit)
    asked = run is not None and run.config.has_labels
    if not asked and train_dir is None:
        raise UsageError(
            f"{path} has no classifier; give --train DIR, a build whose pictures vote (k-NN), or train one on its "
            f"features: detcon train --preset linear_in1k --init {path}"
        )
    result: dict = {"step": run.step if run is not None else 0}
    if run is not None and asked:
        result |= classification_scores(run, data_dir, limit)
    if train_dir is not None:
        found = load_backbone(path, step)
        size = run.config.data.image_size if run is not None else 224
        part = [pooled_features(found.model, found.arrays, d, size, limit) for d in (train_dir, data_dir)]
        result |= {"images": len(part[1][1]), "knn": knn_accuracy(*part[0], *part[1])}
    return result


def classification_scores(run: Run, data_dir: str, limit: int | None = None) -> dict:
    """{"images", "top1", "top5"} of a classifier on centre crops of a build's pictures whose class is known."""
    network = model.online_network(run.config)
    classes, right, count = run.config.model.classes, np.zeros(2, np.int64), 0

    def ranks(arrays: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = network.module(arrays, arrays)(images)
        own = jnp.take_along_axis(logits, jnp.maximum(labels, 0)[:, None], 1)
        return (~(logits < own)).sum(1) - 1  # equal ones, and what is no number, count against it

    for rank, labels in answers(ranks, run.params | run.stats, crops(data_dir, run.config.data.image_size, limit)):
        check_labels(labels, classes, data_dir)
        right += (rank < 1).sum(), (rank < 5).sum()
        count += len(labels)
    return {"images": count, "top1": float(right[0] / count), "top5": float(right[1] / count)}


def pooled_features(
    config: ModelConfig, arrays: dict[str, np.ndarray], data_dir: str, size: int, limit: int | None = None
) -> tuple[Float32[np.ndarray, "n channels"], Int64[np.ndarray, " n"]]:
    """(float32[n, channels], int64[n]): mean of the last feature map on centre crops, and classes, where known."""
    network = model.encoder(config)

    def features(arrays: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
        return network.module(arrays, arrays)(images).astype(jnp.float32).mean((1, 2))

    parts = list(answers(features, arrays, crops(data_dir, size, limit)))
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]).astype(np.int64)


def segmentation_scores(run: Run, data_dir: str, split: str, limit: int | None = None) -> dict:
    """{"images", "miou", "pixel_accuracy"} over the pixels of whole pictures, at the size in which they lie there."""
    config: Config = run.config
    pairs = Pairs(data_dir, split, config.model.classes)
    number, classes = min(len(pairs), limit or len(pairs)), config.model.classes
    stride = config.model.stride
    height, width = (max(config.data.image_size, -(-side // stride) * stride + 1) for side in pairs.largest(number))
    network = model.online_network(config)

    def labels_of(arrays: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = network.module(arrays, arrays)(images)
        return logits.argmax(-1).astype(jnp.uint8 if classes <= 256 else jnp.int32)

    size = max(1, min(BATCH, _PIXELS // (height * width)))
    samples = (pairs.padded(i, height, width) for i in range(number))
    found = answers(labels_of, run.params | run.stats, samples, size)
    return {"images": number} | mean_iou(np.sum([confusion(truth, guess, classes) for guess, truth in found], 0))


def confusion(
    truth: Integer[np.ndarray, "*pixels"], guess: Integer[np.ndarray, "*pixels"], labels: int
) -> Int64[np.ndarray, "labels labels"]:
    """Counts of (truth, prediction), without the pixels whose label is not known."""
    counted = truth != UNKNOWN
    pairs = truth[counted].astype(np.int64) * labels + guess[counted]
    return np.bincount(pairs, minlength=labels**2).reshape(labels, labels)


def mean_iou(confusion: Int64[np.ndarray, "labels labels"]) -> dict[str, float]:
    """Scores of a confusion matrix int64[truth, prediction]; labels that are absent from the truth do not count."""
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    present = confusion.sum(1) > 0
    return {
        "miou": float((hit[present] / union[present]).mean()),
        "pixel_accuracy": float(hit.sum() / confusion.sum()),
    }


def decoded(record: ImageExample, data_dir: str) -> UInt8[np.ndarray, "height width 3"]:
    """The picture of a record. Raises InputError where it holds masks only, DamageError where it does not decode."""
    if record.encoded is None:
        raise InputError(f"{data_dir} holds masks only, without the images, which are needed here")
    image = decode_image(record.encoded)
    if image is None:
        raise DamageError(f"{data_dir}: {record.filename}: the image does not decode")
    return image


def crops(
    data_dir: str, size: int, limit: int | None = None
) -> Iterator[tuple[UInt8[np.ndarray, "{size} {size} 3"], Int32[np.ndarray, ""]]]:
    """(uint8[size, size, 3], int32[]) of every record whose class is known: the centre, bicubically resized.

    Raises:
        InputError: no build, no pictures in it, or none of a known class.
        DamageError: a broken shard.
    """

    def centre(record: ImageExample) -> tuple[np.ndarray, np.ndarray]:
        image = decoded(record, data_dir)
        side = max(1, round(_CENTRE * min(image.shape[:2])))
        top, left = ((length - side) // 2 for length in image.shape[:2])
        out = np.empty((size, size, 3), np.uint8)
        resize_crop(image, np.array([top, left, side, side, 0]), True, out)
        return out, np.array(record.label, np.int32)

    records = itertools.islice((record for record in Dataset.open(data_dir) if record.label != UNKNOWN), limit)
    found = False
    with ThreadPoolExecutor() as threads:
        while part := list(itertools.islice(records, BATCH)):
            found = True
            yield from threads.map(centre, part)
    if not found:
        raise InputError(f"{data_dir} has no record with a class to evaluate on")


def answers(
    function: Callable[[dict, jax.Array, jax.Array], jax.Array],
    arrays: dict[str, np.ndarray],
    samples: Iterator[tuple[UInt8[np.ndarray, "height width 3"], Integer[np.ndarray, "*label"]]],
    size: int = BATCH,
) -> Iterator[tuple[Shaped[np.ndarray, " n *answer"], Integer[np.ndarray, " n *label"]]]:
    """Compiles a function of a network's arrays, pictures as it takes them, and labels, for one shape of batch.

    The batch is split over this process's devices. Yields the function's answers and the labels, without those of the
    last batch's padding.
    """
    mesh = make_mesh(jax.local_devices())
    size = -(-size // mesh.size) * mesh.size
    run = jax.jit(lambda arrays, batch: function(arrays, normalize(batch["image"] / 255.0), batch["label"]))
    there = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))
    while part := list(itertools.islice(samples, size)):
        images, labels = (np.stack(column) for column in zip(*part, strict=True))
        padding = size - len(part)
        batch = {
            name: np.concatenate([x, np.zeros((padding, *x.shape[1:]), x.dtype)])
            for name, x in (("image", images), ("label", labels))
        }
        yield np.asarray(run(there, put_batch(batch, mesh)))[: len(part)], labels


def table(result: dict) -> str:
    """The result of `evaluate` as one line for a terminal, percent."""
    titles = {"top1": "top-1", "top5": "top-5", "miou": "mIoU", "pixel_accuracy": "pixel accuracy", "knn": "k-NN"}
    scores = "  ".join(f"{title} {100 * result[name]:.2f}" for name, title in titles.items() if name in result)
    return f"step {result['step']}: {result['images']} images  {scores}"
