"""`detcon bench-input`: how many images a core of this machine can feed, beside the least that any input must do."""

import time
from collections.abc import Generator

import numpy as np

from maskmill.schemas.manifest import load_manifest
from maskmill.training import geometry
from maskmill.training.config import DataConfig
from maskmill.training.data_set import Layers
from maskmill.training.input import Batches
from maskmill.training.record import decode_image, parse
from maskmill.training.resize import resize_crop

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
        "read": lambda: (len(group.places) for group, _ in batches.records(0)),
        "decode": lambda: _bare(batches, config, crops=False),
        "bare": lambda: _bare(batches, config, crops=True),
        "whole": lambda: (batch for _ in batches.at(0)),
    }
    cpu, clock = dict.fromkeys(pipelines, np.inf), dict.fromkeys(pipelines, np.inf)
    for _ in range(rounds):
        for name, start in pipelines.items():
            spent, waited = _measure(start(), seconds)
            cpu[name], clock[name] = min(cpu[name], spent), min(clock[name], waited)
    stages = {
        "reading": cpu["read"],
        "decoding": cpu["decode"],
        "two crops": cpu["bare"] - cpu["decode"],
        "masks and batches": cpu["whole"] - cpu["bare"] - cpu["read"],
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
        f"  {'whole input':<26}{result['per_core']:7.1f} images/s/core, "
        f"{result['per_core'] / result['bare_per_core']:.0%} of bare",
        f"  {'here, by the clock':<26}{result['images_per_s']:7.1f} images/s, {result['busy']:.1f} cores busy",
        f"bottleneck: {worst}, {stages[worst] / sum(stages.values()):.0%} of the CPU time",
    ]
    if result["busy"] < 0.5:
        lines.append("the cores are idle most of the time: storage, or other work on this machine, is slower")
    return "\n".join(lines)


def _measure(items: Generator[int], seconds: float) -> tuple[float, float]:
    # CPU and clock seconds per image, once buffers are filled.
    warm = time.process_time() + seconds / 4
    for _ in items:
        if time.process_time() > warm:
            break
    images, cpu, clock = 0, time.process_time(), time.perf_counter()
    for count in items:
        images += count
        if time.process_time() - cpu > seconds:
            break
    spent, waited = time.process_time() - cpu, time.perf_counter() - clock
    items.close()  # what it had ahead is not the next stage's
    return spent / images, waited / images


def _bare(batches: Batches, config: DataConfig, *, crops: bool) -> Generator[int]:
    # The pictures of one group over and over, already parsed: decoded, cropped, and nothing else.
    numbers = geometry.Geometry.of(config)
    group, records = next(groups := batches.records(0))
    groups.close()
    nothing = Layers((), False)
    encoded = [parse(records[place], nothing).encoded for place in group.places[:_BOXES]]
    fractions = np.array(
        [[geometry.crop_box(np.uint64(i), v, 1000, 1000, numbers) for v in range(2)] for i in range(len(encoded))]
    )
    out = np.empty((config.image_size, config.image_size, 3), np.uint8)
    while True:
        for picture, boxes in zip(encoded, fractions):
            image = decode_image(picture)
            assert image is not None  # these were read once before
            if crops:
                height, width = image.shape[:2]
                scaled = boxes * np.array([height, width, height, width, 1000]) // 1000
                for box in np.maximum(scaled, [0, 0, 1, 1, 0]):
                    resize_crop(image, box, config.antialias, out)
            yield 1
