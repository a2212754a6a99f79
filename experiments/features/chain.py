"""One seed's chain of networks: as drawn, trained with one mask per view, trained from the masks of the one before.

Everything is the product's: weights are exported as `detcon export` does it, masks are made by the generator `features`
prepared and opened as a build does it, ABO is of the same IoU. Views, the step and the probe are those of Figure 7's
experiment (`experiments.figure7`), so that arms of one seed see the same pictures in the same crops.
"""

import dataclasses
import functools
import os

import numpy as np

from experiments.figure7 import evaluate, train, views
from experiments.figure7.prepare import Prepared
from experiments.figure7.sizes import Size, augmentation, run_config
from maskmill.masks.features.kmeans import cluster_cells
from maskmill.masks.features.snapping import cells_in_frame, masks_of, snap
from maskmill.masks.features.vectors import places
from maskmill.masks.felzenszwalb import segment
from maskmill.masks.overlap import iou_matrix
from maskmill.masks.registry import Generator
from maskmill.pipelines.foreign.features import SNAP_SIGMA, Features
from maskmill.schemas import storage
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import MaskSet
from maskmill.training import model, probe
from maskmill.training.config import ModelConfig
from maskmill.training.onnx_graph import cell_model

TEACHER = {"round1": "global", "round2": "round1", "from-drawn": "drawn"}  # whose masks a network is trained from
RATE = 0.05  # the middle one of Figure 7's


@dataclasses.dataclass(frozen=True)
class Network:
    """Arrays of a network by dotted path, and its scores by step where it was trained."""

    arrays: dict[str, np.ndarray]
    scores: dict[str, dict[str, float]]


class Chain:
    """Networks and masks of all seeds, over one data set in memory."""

    def __init__(self, prepared: Prepared, size: Size, folder: str, spec: Features, taught: int):
        """Reads the data.

        Args:
            folder: for models; the same content gives the same names.
            spec: how masks are made; its model is filled in.
            taught: k of the layer that networks are trained from.
        """
        self.size, self._folder, self._spec, self._taught = size, folder, spec, taught
        self.pictures = views.Pictures.read(prepared.train)
        builds = prepared.probe, prepared.evaluation, prepared.instances
        self._probe = evaluate.load_probe(*builds, size=size.probed, view=size.view, cell=size.cell)
        self._crops = functools.lru_cache(maxsize=1)(self._draw_crops)

    @functools.cached_property
    def network(self) -> ModelConfig:
        return run_config(self.size, algorithm="detcon_s", rate=RATE, seed=0).model

    def drawn(self, seed: int) -> Network:
        """The network before any training."""
        params, stats = model.initialize(model.encoder(self.network), seed)
        return Network({**params, **stats}, {"0": self._scores(params, stats)})

    def trained(self, seed: int, masks: list[MaskSet] | None) -> Network:
        """A network trained from the same start with these masks of every picture; None: one mask over each view."""
        size = self.size
        config = run_config(size, algorithm="detcon_s", rate=RATE, seed=seed)
        schedule, images = self._crops(seed)
        name = None if masks is None else "features"
        if masks is not None:
            self.pictures.counts["features"] = [m.counts for m in masks]
        drawn = views.draw_masks(self.pictures, name, schedule, config.data)
        scores = {}
        for stop in train.train(config, [train.Views(images, *drawn)], size.checkpoints[-1:]):
            inside = {
                n.removeprefix("encoder."): x for n, x in {**stop.params, **stop.stats}.items() if "encoder." in n
            }
            scores[str(stop.step)] = self._scores(stop.params, stop.stats)
        return Network(inside, scores)

    def opened(self, arrays: dict[str, np.ndarray], **changes: object) -> Generator:
        """The generator with this network, as a worker has it."""
        card = {"arch": self.size.arch, "algorithm": "detcon_s", "masks": "one per view", "step": str(self.size.steps)}
        card["padding"] = self.network.padding
        made = cell_model(self.network, arrays, card).SerializeToString(deterministic=True)
        path = os.path.join(self._folder, "model.onnx")
        storage.write_bytes(path, made)
        spec = dataclasses.replace(self._spec, model=path, **changes)
        ready = spec.prepare([], set(), self._folder).generator
        assert isinstance(ready, Features)
        return ready.opened(self._folder)

    def masks(self, generator: Generator, count: int | None = None) -> dict[str, list[MaskSet]]:
        """Layer -> masks of the first `count` pictures, or of all."""
        found: dict[str, list[MaskSet]] = {layer.name: [] for layer in generator.layers}
        for image in self.pictures.images[:count]:
            for name, masks in zip(found, generator(ImageRecord("", image)), strict=True):
                found[name].append(masks)
        return found

    def by_place(self, ks: tuple[int, ...], count: int) -> dict[str, list[MaskSet]]:
        """The same masks without any network: what position and snapping give by themselves."""
        found: dict[str, list[MaskSet]] = {f"place-{k}": [] for k in ks}
        for image in self.pictures.images[:count]:
            rows, columns = (-(-side // self.size.cell) for side in image.shape[:2])
            nothing = np.zeros((rows * columns, 1), np.float32)
            (regions,) = segment(image, (self._spec.snap,), sigma=SNAP_SIGMA)
            for k, masks in zip(ks, found.values(), strict=True):
                cells = cluster_cells(nothing, places(rows, columns), k, 1.0).reshape(rows, columns)
                labels = cells_in_frame(cells, *image.shape[:2], (self.size.cell,) * 2)
                masks.append(masks_of(snap(labels, regions)))
        return found

    def teaching(self, arrays: dict[str, np.ndarray]) -> list[MaskSet]:
        """What a network teaches the next: one layer of all pictures."""
        (masks,) = self.masks(self.opened(arrays, k=(self._taught,))).values()
        return masks

    def abo(self, masks: list[MaskSet]) -> tuple[float, float]:
        """(ABO over the instances of the first pictures, mean number of masks)."""
        best = []
        for own, truth, image in zip(masks, self.pictures.counts["gt"], self.pictures.images, strict=False):
            best += iou_matrix(own.counts, truth, *image.shape[:2]).max(0, initial=0).tolist()
        return float(np.mean(best)), float(np.mean([len(own) for own in masks]))

    def _scores(self, params: dict, stats: dict) -> dict[str, float]:
        pictures = self._probe.images, self._probe.regions.images
        return evaluate.scores(*(probe.extract(self.network, params, stats, x) for x in pictures), self._probe)

    def _draw_crops(self, seed: int) -> tuple[views.Schedule, np.ndarray]:
        size = self.size
        data = run_config(size, algorithm="detcon_s", rate=RATE, seed=seed).data
        schedule = views.Schedule.of(self.pictures.manifest, batch=size.batch, steps=size.steps, seed=seed)
        crops = views.draw_crops(self.pictures, schedule, data, threads=1)
        return schedule, views.recolour(crops, schedule, augmentation(size))
