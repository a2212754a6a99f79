"""What tests of the trainer's input share: a small configuration, batches taken and compared."""

import numpy as np

from maskmill.training.config import DataConfig

CONFIG = DataConfig(layers=("true",), image_size=64, masks_per_view=6, shuffle_group_bytes=60_000)


def take(batches, step, number=1):
    stream = batches.at(step)
    return [next(stream) for _ in range(number)]


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
