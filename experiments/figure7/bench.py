"""Computes cells, keeping in memory what neighbouring cells share: pictures, the probe, one seed's views."""

import dataclasses
import functools
import time
from collections.abc import Iterator

import numpy as np

from experiments.figure7 import evaluate, train, views
from experiments.figure7.arms import ABLATIONS, DEVELOPMENT_SEED, RANDOM, Cell, arms
from experiments.figure7.prepare import Prepared
from experiments.figure7.sizes import Size, augmentation, run_config
from maskmill.training import model, probe
from maskmill.training.config import DataConfig, ModelConfig


class Bench:
    """One size of the experiment with its data in memory."""

    def __init__(self, prepared: Prepared, size: Size):
        self._size = size
        self._pictures = views.Pictures.read(prepared.train)
        builds = prepared.probe, prepared.evaluation, prepared.instances
        self._probe = evaluate.load_probe(*builds, size=size.probed, view=size.view, cell=size.cell)
        # One window of views at a time: at the CPU's size that is a whole run's, which neighbouring cells share.
        self._crops = functools.lru_cache(maxsize=1)(self._draw_crops)

    def _draw_crops(self, seed: int, data: DataConfig, window: int) -> tuple[views.Schedule, np.ndarray]:
        size = self._size
        schedule = views.Schedule.of(self._pictures.manifest, batch=size.batch, steps=size.steps, seed=seed)
        part = schedule.part(slice(window * size.window * size.batch, (window + 1) * size.window * size.batch))
        crops = views.draw_crops(self._pictures, part, data, threads=size.threads)
        return part, views.recolour(crops, part, augmentation(size))

    def _windows(self, cell: Cell, data: DataConfig) -> Iterator[train.Views]:
        # Crops depend neither on how masks are pooled nor on how many are sampled.
        shared = dataclasses.replace(data, pool="soft", masks_per_view=self._size.masks)
        arm = arms(self._size)[cell.arm]
        for window in range(-(-self._size.steps // self._size.window)):
            schedule, images = self._crops(cell.seed, shared, window)
            masks = views.draw_masks(self._pictures, None if arm.whole_view else arm.layer, schedule, data)
            yield train.Views(images, *masks)

    def run(self, cell: Cell) -> dict:
        """Scores of a cell by step (as text, as JSON has it), what the loss saw, and CPU seconds."""
        begin = time.process_time()
        config = run_config(self._size, algorithm=cell.algorithm, rate=cell.rate, seed=cell.seed)
        scores, seen = {}, {}
        if cell.arm == RANDOM:
            start = model.initialize(model.encoder(config.model), cell.seed)
            scores["0"] = self._scores(config.model, *start)
        else:
            stops = self._size.checkpoints[-1:] if cell.seed == DEVELOPMENT_SEED else self._size.checkpoints
            config = ABLATIONS[cell.ablation](config) if cell.ablation else config
            for stop in train.train(config, self._windows(cell, config.data), stops):
                scores[str(stop.step)] = self._scores(config.model, stop.params, stop.stats)
                seen[str(stop.step)] = stop.metrics
        return {"scores": scores, "metrics": seen, "cpu_s": time.process_time() - begin}

    def _scores(self, network: ModelConfig, params: dict, stats: dict) -> dict[str, float]:
        pictures = self._probe.images, self._probe.regions.images
        return evaluate.scores(*(probe.extract(network, params, stats, images) for images in pictures), self._probe)
