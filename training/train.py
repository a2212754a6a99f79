"""The training loop: from a build's folder to checkpoints and logs in a work folder.

The loop holds no state of its own: the batch of a step is a pure function of the step, and everything else is in the
checkpoint. The same command therefore goes on where the last one stopped, bit for bit.
"""

import contextlib
import functools
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from maskmill.schemas.errors import MaskmillError, UsageError
from maskmill.training import pod
from maskmill.training.backbone import start_from
from maskmill.training.checkpoint import Checkpoints
from maskmill.training.config import Config
from maskmill.training.folder import RunFolder
from maskmill.training.input import Batches
from maskmill.training.optim import run_length
from maskmill.training.profiler import Profiler, share_of_peak
from maskmill.training.runlog import RunLog, WriterFactory
from maskmill.training.segmentation import Crops
from maskmill.training.step import Batch, Metrics, check_divisible, init_state, make_mesh, make_step, put_batch
from maskmill.training.supervised import LabelledBatches

INTERRUPTED = 130


class DivergedError(MaskmillError):
    """The loss or a gradient is not finite."""

    everywhere = True  # see maskmill.training.pod: of a sum over all processes


class Interrupted(MaskmillError):
    """The run was asked to stop and has saved its state."""

    exit_code = INTERRUPTED
    everywhere = True


def train(
    data_dir: str,
    config: Config,
    workdir: str,
    *,
    batches: Callable[..., Any] | None = None,
    devices: list | None = None,
    until: int | None = None,
    profile: tuple[int, int] | None = None,
    writer: WriterFactory | None = None,
    stream: TextIO | None = None,
) -> dict[str, float]:
    """Trains, or goes on training, until the schedule ends.

    Args:
        data_dir: a finished build's folder.
        config: of the run; on a folder that holds a run it must be that run's.
        workdir: receives `run.json`, `checkpoints/`, `log.jsonl` and TensorBoard files.
        batches: what to read with, called as `training.input.Batches`; for tests.
        devices: to train on; all of them by default.
        until: stop after this step (and save), as if interrupted but without an error; for trials.
        profile: steps to trace, see `training.profiler`.
        writer: makes what shows metrics elsewhere, see `training.runlog`.
        stream: where progress goes, standard error by default.

    Returns:
        The last logged values, with `step`.

    Raises:
        UsageError, InputError: before the first step, where something does not fit.
        DivergedError: at the first step whose loss is not finite.
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
    """
    mesh = make_mesh(devices)
    data, total, warmup = pod.together(lambda: _opened(data_dir, config, mesh.size, batches))
    end = min(total, until or total)

    def say(text: str) -> None:
        if jax.process_index() == 0:
            print(text, file=stream or sys.stderr)

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(RunFolder(workdir, config, data.manifest_digest, say=say))
        checkpoints = stack.enter_context(Checkpoints(workdir, keep=config.log.keep, warn=say))
        state = checkpoints.restore(init_state(config, mesh))
        if config.init and not checkpoints.latest:
            state = pod.together(lambda: start_from(config.init, config, state))
        step = start = checkpoints.latest or 0
        names = sorted(state["params"])
        step_fn = make_step(config, mesh, total_steps=total, warmup_steps=warmup)
        length = {"start": start, "total": total, "steps_per_epoch": data.steps_per_epoch}
        log = stack.enter_context(RunLog(workdir, config, **length, writer=writer, stream=stream))
        profiler = stack.enter_context(Profiler(profile, log.folder, log.say))
        signals = stack.enter_context(_Signals())
        stack.enter_context(pod.alone_is_lost())

        # One step is computed while the next batch is fetched; results are read one step late.
        source = data.at(step) if step < end else iter(())
        batch: Batch = put_batch(next(source), mesh) if step < end else {}
        metrics: Metrics | None = None
        if step < end:
            log.share = share_of_peak(step_fn, state, batch, mesh)
        while step < end:
            profiler.at(step, state)
            previous, (state, metrics) = metrics, step_fn(state, batch)
            step += 1
            if step < end:
                with log.waiting():
                    batch = put_batch(next(source), mesh)
            if previous is None:
                log.compiled(step, metrics)
            else:
                # Reading the previous step's loss also keeps the host from running ahead and filling the device.
                _check_finite(previous, step - 1, names, checkpoints)
            stop = signals.requested(step)
            save = step % config.log.checkpoint_every == 0 or step == end or stop
            if save or step % config.log.log_every == 0:
                _check_finite(metrics, step, names, checkpoints)  # never save a broken state
            if step % config.log.log_every == 0 or step == end:
                log.write(step, metrics)
            if save:
                folder.check()
                log.saved()
                checkpoints.save(step, state, wait=stop or step == end)
            if stop and step < end:
                raise Interrupted(f"interrupted after step {step}, which is saved; the same command goes on from there")
            log.progress(step)
        return log.last | {"step": step}


def _opened(data_dir: str, config: Config, devices: int, batches: Callable[..., Any] | None) -> tuple[Any, int, int]:
    """The data, and the steps in all and of warm-up that a run over it takes; raises where they do not fit."""
    check_divisible(config, devices, jax.process_count())
    if config.frozen and not config.init:
        raise UsageError("frozen=true trains a head on a backbone that stays as it is; say which: --init RUN")
    data = (batches or _reader(config))(
        data_dir,
        config.data,
        global_batch=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return data, *run_length(config, data.num_records)


def _reader(config: Config) -> Callable[..., Any]:
    if config.algorithm == "fcn":
        return functools.partial(Crops, classes=config.model.classes)
    return functools.partial(LabelledBatches, classes=config.model.classes) if config.has_labels else Batches


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
    """Turns the first SIGINT or SIGTERM into a request to stop after the step; the second acts as usual.

    With several processes all must stop after the same step. A notice of preemption is a SIGTERM to any of them, which
    jax's coordination service hears and agrees on with the others within seconds; SIGINT is handed on as one.
    """

    def __enter__(self) -> "_Signals":
        self._asked = False
        self._old: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._alone = jax.process_count() == 1
        for number in (signal.SIGINT, signal.SIGTERM) if self._alone else (signal.SIGINT,):
            try:
                self._old[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: signals are its owner's
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(number, self._old[number])
        if not self._alone:
            signal.raise_signal(signal.SIGTERM)

    def requested(self, step: int) -> bool:
        """Whether to stop after this step; must be asked at every one."""
        return self._asked if self._alone else multihost_utils.reached_preemption_sync_point(step)
