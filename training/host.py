"""TensorFlow as the host's input library: imported without its start-up chatter, kept off the accelerators."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    # Native code writes to descriptor 2 before any log level is read, so the descriptor itself is set aside.
    try:
        kept = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _silence():
    import tensorflow as tf

__all__ = ["hide_accelerators", "tf"]


def hide_accelerators() -> None:
    """Keeps TensorFlow on the CPU: the devices and their memory are JAX's."""
    # Listing devices makes TensorFlow look for a driver, and complain on every machine without one. RuntimeError: it is
    # initialised already, by a program that chose for itself.
    with _silence(), contextlib.suppress(RuntimeError, ValueError):
        tf.config.set_visible_devices([], "GPU")
        tf.config.set_visible_devices([], "TPU")
