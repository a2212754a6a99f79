"""One run: the trainer's own step on views that are already drawn, stopping now and then to be evaluated."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from maskmill.training.config import Config
from maskmill.training.step import init_state, make_mesh, make_step, put_batch

SEEN = ("loss", "positive_similarity", "negative_similarity", "matched", "distinct_masks", "projection_std")


class Views(NamedTuple):
    """Views of some whole steps, as `experiments.figure7.views` draws them.

    Attributes:
        images: uint8[rows, 2, size, size, 3].
        weights: float32[rows, 2, M, cells].
        ids: int32[rows, 2, M].
    """

    images: np.ndarray
    weights: np.ndarray
    ids: np.ndarray


class Stop(NamedTuple):
    """A network on its way: arrays by dotted path, copies; and the last step's diagnostics."""

    step: int
    params: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    metrics: dict[str, float]


def train(config: Config, windows: Iterable[Views], stops: tuple[int, ...]) -> Iterator[Stop]:
    """Trains from scratch.

    Args:
        config: of the run. The compiled step is shared by all runs that differ in nothing but seed and masks.
        windows: what is seen, one step after another.
        stops: steps after which to yield, rising; training ends with the last.
    """
    mesh = make_mesh()
    step = make_step(
        dataclasses.replace(config, seed=0), mesh, total_steps=config.steps, warmup_steps=config.steps // 10
    )
    state = init_state(config, mesh)
    n, done = config.batch_size, 0
    for window in windows:
        for start in range(0, len(window.images), n):
            state, metrics = step(state, put_batch(_batch(window, slice(start, start + n)), mesh))
            jax.block_until_ready(metrics)
            done += 1
            if done in stops:
                params, stats = (
                    {name: np.asarray(x) for name, x in state[part].items()} for part in ("params", "stats")
                )
                yield Stop(done, params, stats, {name: float(metrics[name]) for name in SEEN})
            if done == stops[-1]:
                return
    raise ValueError(f"the views end after {done} steps, before step {stops[-1]}")


def _batch(window: Views, rows: slice) -> dict[str, np.ndarray]:
    # The class and the colours' seed are in every batch; nothing here reads them.
    n = len(window.images[rows])
    batch = {"label": np.zeros(n, np.int32), "key": np.zeros((n, 2), np.uint32)}
    for view, name in enumerate("12"):
        for kind, array in zip(("image", "weights", "ids"), window, strict=True):
            batch[kind + name] = array[rows, view]
    return batch
