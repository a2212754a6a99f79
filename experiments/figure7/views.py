"""Views of a whole run, drawn once and kept: crops and colours are the same for every arm of a seed, only masks differ.

What a step is given is what `training.input.Batches` would give it (`tests/experiments` compares them), with two
differences that make an experiment of many short runs affordable. Pictures are decoded once per process and crops drawn
once per seed, not once per run; and colours, which the trainer draws inside its step, are drawn here by the trainer's own
function and rounded to bytes.
"""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from maskmill.schemas.manifest import Manifest, load_manifest
from maskmill.schemas.reader import Dataset
from maskmill.training import augment, geometry
from maskmill.training.config import AugmentConfig, DataConfig
from maskmill.training.order import Order
from maskmill.training.record import decode_image
from maskmill.training.resize import resize_crop

_CHUNK = 64  # views coloured at a time


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A build in memory.

    Attributes:
        manifest: of the build.
        images: uint8[height, width, 3] each, RGB, in the order of the shards.
        counts: layer -> compressed counts of each picture's masks.
    """

    manifest: Manifest
    images: list[np.ndarray]
    counts: dict[str, list[tuple[bytes, ...]]]

    @classmethod
    def read(cls, folder: str) -> "Pictures":
        """Reads all records of a build with pictures."""
        manifest = load_manifest(folder)
        images: list[np.ndarray] = []
        counts: dict[str, list[tuple[bytes, ...]]] = {layer.name: [] for layer in manifest.layers}
        for record in Dataset.open(folder):
            assert record.encoded is not None
            image = decode_image(record.encoded)
            assert image is not None
            images.append(image)
            for layer, masks in zip(manifest.layers, record.masks, strict=True):
                counts[layer.name].append(tuple(masks.counts))
        return cls(manifest, images, counts)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Which record each row of each batch shows: `records` int64[rows], `keys` uint64[rows], of all steps in order."""

    records: np.ndarray
    keys: np.ndarray

    @classmethod
    def of(cls, manifest: Manifest, *, batch: int, steps: int, seed: int) -> "Schedule":
        """The trainer's own order."""
        order = Order(manifest, global_batch=batch, seed=seed, group_bytes=DataConfig().shuffle_group_bytes)
        records, keys, rows = [], [], batch * steps
        for group in order.groups(0):
            records.append(group.records)
            keys.append(group.keys)
            if sum(map(len, records)) >= rows:
                break
        return cls(np.concatenate(records)[:rows], np.concatenate(keys)[:rows])

    def part(self, rows: slice) -> "Schedule":
        """Some of the rows."""
        return Schedule(self.records[rows], self.keys[rows])


def draw_crops(pictures: Pictures, schedule: Schedule, config: DataConfig, threads: int = 1) -> np.ndarray:
    """uint8[rows, 2, size, size, 3]: both crops of every row, colours as they were."""
    boxes, _, _ = _geometry(pictures, None, schedule, config)
    size = config.image_size
    crops = np.empty((len(schedule.records), 2, size, size, 3), np.uint8)

    def fill(row: int) -> None:
        image = pictures.images[schedule.records[row]]
        for view in range(2):
            resize_crop(image, boxes[row, view], config.antialias, crops[row, view])

    with ThreadPoolExecutor(threads) as pool:  # Python's lock is released inside
        for _ in pool.map(fill, range(len(crops)), chunksize=64):
            pass
    return crops


def draw_masks(
    pictures: Pictures, layer: str | None, schedule: Schedule, config: DataConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of every row as the trainer samples them: weights float32[rows, 2, M, cells] and ids int32[rows, 2, M].

    Args:
        layer: whose masks; None is one mask over each view, M times.
    """
    _, weights, ids = _geometry(pictures, layer, schedule, config)
    return weights, ids


def _geometry(
    pictures: Pictures, layer: str | None, schedule: Schedule, config: DataConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    config = dataclasses.replace(config, global_mask=layer is None)
    rows = schedule.records.tolist()
    of_rows = [() if layer is None else pictures.counts[layer][record] for record in rows]
    counts = [c for of_row in of_rows for c in of_row]
    boxes, weights, ids, broken = geometry.make_views(
        schedule.keys,
        np.array([pictures.images[record].shape[0] for record in rows], np.int64),
        np.array([pictures.images[record].shape[1] for record in rows], np.int64),
        np.frombuffer(b"".join(counts), np.uint8),
        np.cumsum([len(c) for c in counts], dtype=np.int64),
        np.repeat(np.arange(len(rows)), [len(of_row) for of_row in of_rows]),
        np.zeros(len(counts), np.int64),
        geometry.Geometry.of(config),
    )
    assert broken < 0, f"mask {broken} of layer {layer} does not fill its picture"
    return boxes, weights, ids


def recolour(crops: np.ndarray, schedule: Schedule, config: AugmentConfig) -> np.ndarray:
    """Crops with the trainer's colour augmentation, rounded to bytes; in place."""
    keys = schedule.keys.view(np.uint32).reshape(-1, 2)
    for view, of_view in enumerate((config.view1, config.view2)):
        run = functools.partial(_recolour, index=view, view=of_view, config=config)
        for start in range(0, len(crops), _CHUNK):
            part = slice(start, start + _CHUNK)
            padded = np.zeros((_CHUNK, *crops.shape[2:]), np.uint8)  # one shape, one compilation
            padded_keys = np.zeros((_CHUNK, 2), np.uint32)
            count = len(crops[part])
            padded[:count], padded_keys[:count] = crops[part, view], keys[part]
            crops[part, view] = np.asarray(run(padded, padded_keys))[:count]
    return crops


@functools.partial(jax.jit, static_argnames=("index", "view", "config"))
def _recolour(images, keys, *, index, view, config):
    drawn = augment.draw(keys, index, view, config.blur_sigma)
    x = augment.apply(images.astype(jnp.float32) / 255, drawn, view, config.blur_kernel)
    return jnp.round(255 * x).astype(jnp.uint8)
