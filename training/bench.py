"""`detcon bench-input`: how many images a core of this machine can feed, beside the least that any input must do."""

import time

import numpy as np

from maskmill.schemas.manifest import load_manifest
from maskmill.training import geometry
from maskmill.training.config import DataConfig
from maskmill.training.host import tf
from maskmill.training.input import FEATURES, Batches, decode_image, resize_crop

_BOXES = 4096  # crops drawn in advance for the bare pipeline


def bench_input(data_dir: str, config: DataConfig, *, batch: int = 32, seconds: float = 5.0, rounds: int = 2) -> dict:
    """Measures the input of training on a build, stage by stage.

    Rates are per core: images divided by the CPU seconds of this process, which a busy machine disturbs less than the
    clock. "Bare" decodes every picture once, crops it twice, and does nothing else.

    Args:
        data_dir: a build's folder.
        config: as for training.
        batch: images per batch.
        seconds: CPU time per stage and round.
        rounds: repetitions, stages taking turns; the fastest counts.

    Returns:
        {"views", "stages_ms": stage -> CPU milliseconds per image, "bare_per_core", "per_core", "images_per_s" (by the
        clock), "busy" (CPU seconds per second), "bottleneck" (the most expensive stage)}; see `table`.

    Raises:
        As `Batches`.
    """
    batch = max(min(batch, load_manifest(data_dir).num_records), 1)
    batches = Batches(data_dir, config, global_batch=batch, seed=0)
    pipelines = {
        "read": lambda: (len(keys) for _, keys in batches.records(0)),
        "decode": lambda: (batch for _ in _bare(batches, config, batch, crops=False)),
        "bare": lambda: (batch for _ in _bare(batches, config, batch, crops=True)),
        "whole": lambda: (batch for _ in batches.at(0)),
    }
    cpu, clock = dict.fromkeys(pipelines, np.inf), dict.fromkeys(pipelines, np.inf)
    for _ in range(rounds):
        for name, start in pipelines.items():
            spent, waited = _measure(start(), seconds)
            cpu[name], clock[name] = min(cpu[name], spent), min(clock[name], waited)
    stages = {
        "reading": cpu["read"],
        "decoding": cpu["decode"] - cpu["read"],
        "two crops": cpu["bare"] - cpu["decode"],
        "masks": cpu["whole"] - cpu["bare"],
    }
    stages = {name: 1e3 * max(value, 0.0) for name, value in stages.items()}
    return {
        "views": f"two {config.image_size} px views, {config.masks_per_view} masks, batches of {batch}",
        "stages_ms": stages,
        "bare_per_core": 1 / cpu["bare"],
        "per_core": 1 / cpu["whole"],
        "images_per_s": 1 / clock["whole"],
        "busy": cpu["whole"] / clock["whole"],
        "bottleneck": max(stages, key=lambda name: stages[name]),
    }


def table(result: dict) -> str:
    """The result of `bench_input` as lines for a terminal."""
    stages, worst = result["stages_ms"], result["bottleneck"]
    lines = [result["views"]]
    lines += [f"  {name:<26}{value:7.2f} ms CPU per image" for name, value in stages.items()]
    lines += [
        f"  {'bare decode and two crops':<26}{result['bare_per_core']:7.1f} images/s/core",
        f"  {'whole input':<26}{result['per_core']:7.1f} images/s/core",
        f"  {'here, by the clock':<26}{result['images_per_s']:7.1f} images/s, {result['busy']:.1f} cores busy",
        f"bottleneck: {worst}, {stages[worst] / sum(stages.values()):.0%} of the CPU time",
    ]
    if result["busy"] < 0.5:
        lines.append("the cores are idle most of the time: storage, or other work on this machine, is slower")
    return "\n".join(lines)


def _measure(items, seconds: float) -> tuple[float, float]:
    # CPU and clock seconds per image, once buffers are filled and parallelism is tuned.
    warm = time.process_time() + seconds / 4
    for _ in items:
        if time.process_time() > warm:
            break
    images, cpu, clock = 0, time.process_time(), time.perf_counter()
    for count in items:
        images += count
        if time.process_time() - cpu > seconds:
            break
    return (time.process_time() - cpu) / images, (time.perf_counter() - clock) / images


def _bare(batches: Batches, config: DataConfig, batch: int, *, crops: bool) -> tf.data.Dataset:
    numbers = geometry.Geometry.of(config)
    boxes = [[geometry.crop_box(np.uint64(i), v, 1000, 1000, numbers) for v in range(2)] for i in range(_BOXES)]
    fractions = tf.constant(np.array(boxes) / [1000, 1000, 1000, 1000, 1], tf.float32)

    def views(record, key):
        parsed = tf.io.parse_single_example(record, {"image/encoded": FEATURES["image/encoded"]})
        image = decode_image(parsed["image/encoded"])
        if not crops:
            return tf.shape(image)
        height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
        box = fractions[tf.cast(key % _BOXES, tf.int32)] * tf.stack([height, width, height, width, 1.0])
        box = tf.maximum(tf.cast(box, tf.int32), [0, 0, 1, 1, 0])
        return tuple(resize_crop(image, box[v], config.image_size, config.antialias) for v in range(2))

    data = batches.records(0).unbatch().map(views, num_parallel_calls=tf.data.AUTOTUNE)
    return data.batch(batch, drop_remainder=True).prefetch(2)
