"""Learning from people's labels, of pictures or of pixels: the supervised baseline, linear evaluation, fine-tuning.

The same step, input and checkpoints as everything else; only the loss and what a batch's `label` means are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from maskmill.schemas.errors import InputError, UsageError
from maskmill.training.augment import augment_views
from maskmill.training.config import Config, DataConfig
from maskmill.training.input import Batches
from maskmill.training.model import online_network, stats_of

if TYPE_CHECKING:
    from jaxtyping import Integer

UNKNOWN = -1  # a label that neither trains nor counts


def label_loss(config: Config) -> Callable:
    """Mean cross entropy over the labels that are known, an objective for `training.step.make_step`."""
    network = online_network(config)

    def loss_of(params: dict[str, jax.Array], state: dict[str, Any], batch: dict[str, Any]) -> tuple[jax.Array, tuple]:
        module = network.module(params, state["stats"])
        images = augment_views(batch["image1"][:, None], batch["key"], config.augment)[:, 0]
        logits, labels = module(images, 1, frozen=config.frozen), batch["label"]
        weight = (labels != UNKNOWN) / jnp.maximum(jnp.sum(labels != UNKNOWN), 1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
        right = jax.lax.stop_gradient(logits).argmax(-1) == labels
        return jnp.sum(weight * losses), (stats_of(module), {}, {"accuracy": jnp.sum(weight * right)})

    return loss_of


class LabelledBatches(Batches):
    """First views with labels that are looked at before they are used: on the device a wrong one would only give NaN."""

    def __init__(self, data_dir: str, config: DataConfig, *, classes: int, **options: int):
        super().__init__(data_dir, config, **options)  # type: ignore[arg-type]
        self._classes = classes

    def at(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        for batch in super().at(step):
            check_labels(batch["label"], self._classes, self._folder)
            yield {name: batch[name] for name in ("image1", "label", "key")}


def check_labels(labels: Integer[np.ndarray, " n"], classes: int, data_dir: str) -> None:
    """Raises InputError where no label of a batch is known, UsageError where one is too large for the classifier."""
    if labels.max() == UNKNOWN:
        raise InputError(
            f"{data_dir} has records without a class, a whole batch of them; labels come with `maskmill build --dataset "
            "imagenet`, and with the tars, tables and TFDS sets that hold them"
        )
    if labels.max() >= classes:
        raise UsageError(
            f"{data_dir} has class {labels.max()}, the classifier tells 0 to {classes - 1} apart; "
            "set model.classes to the number of classes of the data set"
        )
