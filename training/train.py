"""The training loop: from a build's folder to checkpoints and logs in a work folder.

The loop holds no state of its own: the batch of a step is a pure function of the step, and everything else is in the
checkpoint. The same command therefore goes on where the last one stopped, bit for bit.
"""

import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from maskmill.schemas.errors import MaskmillError
from maskmill.training.checkpoint import Checkpoints
from maskmill.training.config import Config
from maskmill.training.optim import run_length
from maskmill.training.runlog import RunLog
from maskmill.training.step import Metrics, check_divisible, init_state, make_mesh, make_step, put_batch

INTERRUPTED = 130


class DivergedError(MaskmillError):
    """The loss or a gradient is not finite."""


class Interrupted(MaskmillError):
    """The run was asked to stop and has saved its state."""

    exit_code = INTERRUPTED


def train(
    data_dir: str,
    config: Config,
    workdir: str,
    *,
    batches: Callable[..., Any] | None = None,
    devices: list | None = None,
    until: int | None = None,
    stream=None,
) -> dict[str, float]:
    """Trains, or goes on training, until the schedule ends.

    Args:
        data_dir: a finished build's folder.
        config: of the run; on a folder that holds a run it must be that run's.
        workdir: receives `run.json`, `checkpoints/`, `log.jsonl` and TensorBoard files.
        batches: what to read with, called as `training.input.Batches`; for tests.
        devices: to train on; all of them by default.
        until: stop after this step (and save), as if interrupted but without an error; for trials.
        stream: where progress goes, standard error by default.

    Returns:
        The last logged values, with `step`.

    Raises:
        UsageError, InputError: before the first step, where something does not fit.
        DivergedError: at the first step whose loss is not finite.
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    mesh = make_mesh(devices)
    check_divisible(config, mesh.size, jax.process_count())
    if batches is None:
        from maskmill.training.input import Batches as batches  # TensorFlow takes seconds to import
    data = batches(
        data_dir,
        config.data,
        global_batch=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    total, warmup = run_length(config, data.num_records)
    checkpoints = Checkpoints(workdir, config, data.manifest_digest)
    state = init_state(config, mesh)
    start = checkpoints.latest or 0
    if start:
        state = checkpoints.restore(state)
    names = sorted(state["params"])
    step_fn = make_step(config, mesh, total_steps=total, warmup_steps=warmup)
    end = min(total, until or total)
    log = RunLog(workdir, config, start=start, total=total, steps_per_epoch=data.steps_per_epoch, stream=stream)
    with log, _Signals() as signals:
        try:
            last = _loop(state, step_fn, data, mesh, config, checkpoints, log, signals, names, start, end)
        finally:
            # A failure on its way up matters more than one in closing.
            failing = sys.exc_info()[0] is not None
            try:
                checkpoints.close()
            except MaskmillError:
                if not failing:
                    raise
    return last


def _loop(state, step_fn, data, mesh, config, checkpoints, log, signals, names, step, end) -> dict[str, float]:
    """Steps `step` to `end`. One step is computed while the next batch is fetched; results are read one step late."""
    source = data.at(step) if step < end else iter(())
    batch = put_batch(next(source), mesh) if step < end else None
    metrics: Metrics | None = None
    while step < end:
        previous, (state, metrics) = metrics, step_fn(state, batch)
        step += 1
        begin = time.perf_counter()
        if step < end:
            batch = put_batch(next(source), mesh)
        log.waited(time.perf_counter() - begin)
        if previous is None:
            log.compiled(step, metrics)
        # Reading the previous step's loss also keeps the host from running ahead and filling the device's memory.
        if previous is not None:
            _check_finite(previous, step - 1, names, checkpoints)
        if step % config.log.log_every == 0 or step == end:
            _check_finite(metrics, step, names, checkpoints)
            log.write(step, metrics)
        stop = signals.requested(agree=step % config.log.log_every == 0)
        if step % config.log.checkpoint_every == 0 or step == end or stop:
            _check_finite(metrics, step, names, checkpoints)  # never save a broken state
            checkpoints.save(step, state, wait=stop or step == end)
        if stop and step < end:
            raise Interrupted(f"interrupted after step {step}, which is saved; the same command goes on from there")
        log.advanced(step)
    return log.last | {"step": step}


def _check_finite(metrics: Metrics, step: int, names: list[str], checkpoints: Checkpoints) -> None:
    """Raises DivergedError saying at which step, in which parameters' gradients, and where to go back to."""
    if np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"]):
        return
    broken = [name for name, finite in zip(names, np.asarray(metrics["gradient_finite"])) if not finite]
    where = "the gradients are finite one by one"
    if broken:
        where = f"{len(broken)} of {len(names)} gradients are not finite ({', '.join(broken[:3])})"
    values = {name: float(metrics[name]) for name in ("loss", "learning_rate", "gradient_norm")}
    saved = checkpoints.latest
    raise DivergedError(
        f"loss {values['loss']:g} at step {step}, learning rate {values['learning_rate']:g}, gradient norm "
        f"{values['gradient_norm']:g}: {where}. "
        + (f"The checkpoint of step {saved} is from before. " if saved else "Nothing was saved before. ")
        + "Lower optim.lr or raise optim.warmup_epochs, with another --workdir"
    )


class _Signals:
    """Turns the first SIGINT or SIGTERM into a request to stop after the step; the second acts as usual."""

    def __enter__(self):
        self._asked = False
        self._old = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._old[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: signals are its owner's
                break
        return self

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number, frame):
        self._asked = True
        signal.signal(number, self._old[number])

    def requested(self, *, agree: bool) -> bool:
        """Whether to stop now. With several processes all must answer alike, so they ask one another when `agree`."""
        if jax.process_count() == 1:
            return self._asked
        return agree and bool(np.any(multihost_utils.process_allgather(np.array(self._asked))))
