"""`detcon probe`: what frozen features know about objects, measured on a labelled build in minutes.

Three numbers, each beside those of a randomly initialised backbone of the same kind:

- segmentation: batch norm and a 1 x 1 convolution on the last feature map, bilinearly enlarged; mean IoU over the
  annotated categories and the background (the nearest cheap thing to the paper's frozen-feature analysis, section 4.3);
- k-NN over annotated regions (features pooled under each annotation's mask);
- k-NN over images, where records have a class.

A fifth of the records, chosen by their names, is held out and evaluated on.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maskmill.schemas import rle
from maskmill.schemas.errors import InputError
from maskmill.schemas.image import Annotations
from maskmill.schemas.reader import Dataset
from maskmill.training import model
from maskmill.training.checkpoint import load_run
from maskmill.training.config import ModelConfig
from maskmill.training.evaluate import answers, confusion, decoded, mean_iou
from maskmill.training.export import ENCODER
from maskmill.training.knn import knn_accuracy
from maskmill.training.resize import resize_crop
from maskmill.training.supervised import UNKNOWN

if TYPE_CHECKING:
    from jaxtyping import Float, Float16, UInt8

IGNORE = UNKNOWN  # pixels that count neither in training nor in evaluation: crowds
HELD_OUT = 5  # one record in so many
DEFAULT_LIMIT = 4000  # records; their features stay in memory, 0.4 MB each for a ResNet-50 at 224 px
_COARSE = 4  # labels are trained on at 1 / 4 of the image's side, evaluated at full side


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Pictures and labels of a build, all resized to one square size.

    Attributes:
        images: uint8[n, size, size, 3], RGB.
        labels: int16[n, size, size], 0 for background, 1 + index into `categories`, or `IGNORE`.
        held_out: bool[n], what is evaluated on.
        classes: int64[n], class of the image, -1 where unknown.
        categories: annotated category ids, rising.
        region_image, region_category: int64[R], image and index into `categories` of every non-crowd annotation.
        region_cells: float32[R, (size / 32)**2], what part of each cell the annotation covers.
    """

    images: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    classes: np.ndarray
    categories: tuple[int, ...]
    region_image: np.ndarray
    region_category: np.ndarray
    region_cells: np.ndarray


def load_labelled(data_dir: str, size: int, limit: int | None = None, *, stride: int = 32) -> Labelled:
    """Reads the first `limit` records of a build, for a network of that stride.

    Raises:
        InputError: no build, no images in it, no labels of any kind, or too few records to hold any out.
        DamageError: a broken shard.
    """
    images, painted, regions, classes, held_out = [], [], [], [], []
    for number, record in enumerate(Dataset.open(data_dir)):
        if number == (limit or DEFAULT_LIMIT):
            break
        image = decoded(record, data_dir)
        images.append(np.empty((size, size, 3), np.uint8))
        resize_crop(image, np.array([0, 0, *image.shape[:2], 0]), True, images[-1])
        labels, found = _paint(record.annotations, record.height, record.width, size, stride)
        painted.append(labels)
        regions += [(number, category, cells) for category, cells in found]
        classes.append(record.label)
        held_out.append(zlib.crc32(record.filename.encode("utf-8", "surrogateescape")) % HELD_OUT == 0)
    categories = tuple(sorted({category for _, category, _ in regions}))
    if not categories and max(classes, default=-1) < 0:
        raise InputError(f"{data_dir} has neither annotations nor classes to probe with")
    if len(set(held_out)) < 2:
        raise InputError(f"{data_dir} has too few records ({len(images)}) to train on some and evaluate on others")
    table = {category: index for index, category in enumerate(categories)}
    labels = np.zeros((len(images), size, size), np.int16)
    for target, source in zip(labels, painted, strict=True):
        for category, index in table.items():
            target[source == category] = 1 + index
        target[source == IGNORE] = IGNORE
    return Labelled(
        images=np.stack(images),
        labels=labels,
        held_out=np.array(held_out),
        classes=np.array(classes, np.int64),
        categories=categories,
        region_image=np.array([image for image, _, _ in regions], np.int64),
        region_category=np.array([table[category] for _, category, _ in regions], np.int64),
        region_cells=np.array([cells for _, _, cells in regions], np.float32).reshape(-1, (size // stride) ** 2),
    )


def _paint(
    annotations: Annotations, height: int, width: int, size: int, stride: int
) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    # Category ids int64[size, size], 0 where there is nothing, and (category, cells) of every instance. Small instances
    # lie on large ones; crowds are ignored where no instance is.
    rows = (np.arange(size) * 2 + 1) * height // (2 * size)
    columns = (np.arange(size) * 2 + 1) * width // (2 * size)
    labels, found, grid = np.zeros((size, size), np.int64), [], size // stride
    order = np.argsort(-annotations.area - annotations.is_crowd * np.int64(2**40), kind="stable")
    for index in order.tolist():
        mask = rle.decode_mask(annotations.counts[index], height, width)[rows][:, columns]
        crowd = bool(annotations.is_crowd[index])
        category = int(annotations.category_id[index])
        labels[mask] = IGNORE if crowd else category
        cells = mask.reshape(grid, stride, grid, stride).mean((1, 3)).reshape(-1)
        if not crowd and cells.any():
            found.append((category, cells))
    return labels, found


def extract(
    config: ModelConfig, params: dict, stats: dict, images: UInt8[np.ndarray, "n size size 3"], batch: int = 32
) -> Float16[np.ndarray, "n cells cells channels"]:
    """Frozen features, with running averages as batch norm's statistics.

    Args:
        config: of the network.
        params, stats: its arrays by dotted path; those of the encoder, with or without the prefix `encoder.`.
        images: uint8[n, size, size, 3].
        batch: images at a time.

    Returns:
        float16[n, size / 32, size / 32, channels].
    """
    network = model.encoder(config)

    def features(arrays: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
        return network.module(arrays, arrays)(images).astype(jnp.float32)

    arrays = {name.removeprefix(ENCODER): x for name, x in {**params, **stats}.items()}
    unlabelled = ((image, np.zeros((), np.int32)) for image in images)
    return np.concatenate([x.astype(np.float16) for x, _ in answers(features, arrays, unlabelled, batch)])


def segmentation_scores(
    features: Float[np.ndarray, "n cells cells channels"], data: Labelled, *, seed: int = 0, steps: int = 600
) -> dict[str, float]:
    """Trains the segmentation probe and evaluates it on the held-out images.

    Batch norm in front of a linear layer on frozen features is a standardisation, whose scale and offset the layer
    learns by itself; the training images' exact statistics are used. Adam, cosine decay from 0.01, 32 images a step.

    Args:
        features: [n, cells, cells, channels], of `extract`.
        data: the labels.
        seed: of the order of training images; the layer starts at zero.
        steps: of training.

    Returns:
        {"miou": mean IoU over the categories, and the background, that occur in held-out labels; "pixel_accuracy"},
        both over pixels that are not `IGNORE`.
    """
    train = np.flatnonzero(~data.held_out)
    rows = features[train].reshape(-1, features.shape[-1]).astype(np.float32)
    mean, deviation = rows.mean(0), rows.std(0) + 1e-5
    outputs, size = 1 + len(data.categories), data.labels.shape[1]
    coarse = data.labels[:, _COARSE // 2 :: _COARSE, _COARSE // 2 :: _COARSE]

    def logits_of(layer: dict[str, jax.Array], x: jax.Array, side: int) -> jax.Array:
        x = (x.astype(jnp.float32) - mean) / deviation
        out = x @ layer["kernel"] + layer["bias"]
        return jax.image.resize(out, (x.shape[0], side, side, outputs), "bilinear")

    def loss_of(layer: dict[str, jax.Array], x: jax.Array, labels: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(
            logits_of(layer, x, labels.shape[1]), jnp.maximum(labels, 0)
        )
        counted = labels != IGNORE
        return (losses * counted).sum() / jnp.maximum(counted.sum(), 1)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, steps))

    @jax.jit
    def update(
        layer: dict[str, jax.Array], state: optax.OptState, x: jax.Array, labels: jax.Array
    ) -> tuple[dict[str, jax.Array], optax.OptState]:
        gradients = jax.grad(loss_of)(layer, x, labels)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(layer, updates), state

    layer = {"kernel": jnp.zeros((features.shape[-1], outputs)), "bias": jnp.zeros(outputs)}
    state, random = optimizer.init(layer), np.random.default_rng(seed)
    for _ in range(steps):
        picked = random.choice(train, 32)
        layer, state = update(layer, state, features[picked], coarse[picked].astype(np.int32))

    predict = jax.jit(lambda layer, x: logits_of(layer, x, size).argmax(-1))
    guesses = ((i, np.asarray(predict(layer, features[i : i + 1]))[0]) for i in np.flatnonzero(data.held_out))
    return mean_iou(np.sum([confusion(data.labels[i], guess, outputs) for i, guess in guesses], 0))


def knn_scores(features: Float[np.ndarray, "n cells cells channels"], data: Labelled) -> dict[str, float]:
    """{"knn_region", "knn_image"}: accuracies on the held-out part, of whichever the build has labels for."""
    cells = features.reshape(len(features), -1, features.shape[-1]).astype(np.float32)
    scores = {}
    if len(data.region_image):
        weights = data.region_cells / data.region_cells.sum(1, keepdims=True)
        pooled = np.stack([w @ cells[i] for w, i in zip(weights, data.region_image, strict=True)])
        held = data.held_out[data.region_image]
        if 0 < held.sum() < len(held):
            scores["knn_region"] = knn_accuracy(
                pooled[~held], data.region_category[~held], pooled[held], data.region_category[held]
            )
    known = data.classes >= 0
    pooled, train, held = cells.mean(1), known & ~data.held_out, known & data.held_out
    if train.any() and held.any():
        scores["knn_image"] = knn_accuracy(pooled[train], data.classes[train], pooled[held], data.classes[held])
    return scores


def evaluate(config: ModelConfig, params: dict, stats: dict, data: Labelled, *, seed: int = 0) -> dict[str, float]:
    """All scores of one network's features."""
    features = extract(config, params, stats, data.images)
    scores = segmentation_scores(features, data, seed=seed) if data.categories else {}
    return scores | knn_scores(features, data)


def probe(run_dir: str, data_dir: str, *, step: int | None = None, limit: int | None = None) -> dict:
    """Scores of a run's backbone and of a randomly initialised one on a labelled build.

    Args:
        run_dir: work folder of `detcon train`.
        data_dir: a build with annotations, classes, or both.
        step: checkpoint, the latest by default.
        limit: records to use, the first `DEFAULT_LIMIT` by default.

    Returns:
        {"step", "images", "held_out", "categories", "trained": scores, "random": scores}; see `evaluate`.

    Raises:
        InputError, DamageError: as `load_run` and `load_labelled`.
    """
    run = load_run(run_dir, step)
    config = run.config.model
    size = run.config.data.image_size // config.stride * config.stride
    data = load_labelled(data_dir, size, limit, stride=config.stride)
    start = model.initialize(model.encoder(config), run.config.seed)
    return {
        "step": run.step,
        "images": len(data.images),
        "held_out": int(data.held_out.sum()),
        "categories": len(data.categories),
        "trained": evaluate(config, run.params, run.stats, data),
        "random": evaluate(config, *start, data),
    }


def table(result: dict) -> str:
    """The result of `probe` as lines for a terminal, percent."""
    titles = {
        "miou": "segmentation mIoU",
        "pixel_accuracy": "pixel accuracy",
        "knn_region": "k-NN of regions",
        "knn_image": "k-NN of images",
    }
    lines = [
        f"step {result['step']}: {result['images']} images, {result['held_out']} held out, "
        f"{result['categories']} categories",
        f"{'':<20}{'trained':>9}{'random':>9}",
    ]
    for name, title in titles.items():
        if name in result["trained"]:
            lines.append(f"{title:<20}{100 * result['trained'][name]:>9.2f}{100 * result['random'][name]:>9.2f}")
    return "\n".join(lines)
