"""The trainer's batches as a `tf.data.Dataset`, for loops written for TensorFlow. The only module that needs it.

Single records, pixels as stored, are read by `tfds.builder_from_directory` instead; this gives what the trainer is fed.
"""

import contextlib
import os
from typing import TYPE_CHECKING

import numpy as np

from maskmill.schemas.errors import UsageError
from maskmill.training.config import DataConfig
from maskmill.training.host import silence
from maskmill.training.input import Batches

if TYPE_CHECKING:
    import tensorflow as tf


def batches_dataset(
    data_dir: str, config: DataConfig, *, global_batch: int, seed: int = 0, step: int = 0, **processes: int
) -> "tf.data.Dataset":
    """Batches from a step on, without end, as tensors; see `training.input.Batches.at` for what they hold.

    Args:
        data_dir, config, global_batch, seed: as for `Batches`, and `processes` its process_index and process_count.
        step: where to begin. The data set's position is this number, there is no iterator to save.

    Raises:
        UsageError: TensorFlow is not installed.
        As `Batches`, at once; a damaged record while iterating ends in TensorFlow's own error with our words in it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with silence():
            import tensorflow as tf
    except ImportError:
        raise UsageError("a tf.data view needs TensorFlow: pip install tensorflow") from None
    # Devices and their memory are JAX's. RuntimeError: a program that chose for itself has initialised them.
    with silence(), contextlib.suppress(RuntimeError, ValueError):
        tf.config.set_visible_devices([], "GPU")
    batches = Batches(data_dir, config, global_batch=global_batch, seed=seed, **processes)
    signature = {
        name: tf.TensorSpec(array.shape, tf.dtypes.as_dtype(np.dtype(array.dtype)))
        for name, array in batches.empty().items()
    }
    return tf.data.Dataset.from_generator(lambda: batches.at(step), output_signature=signature)
