"""What a run says of itself: `log.jsonl`, TensorBoard, and progress on the terminal."""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TextIO

import jax
import numpy as np

from maskmill.schemas import storage
from maskmill.schemas.errors import InputError
from maskmill.training.config import Config
from maskmill.training.profiler import peak_flops
from maskmill.training.step import Metrics

QUIET_INTERVAL = 30  # seconds between progress lines where standard error is not a terminal
UPLOAD_INTERVAL = 30  # seconds between copies of the log to gs://, where a file cannot be appended to


class RunLog:
    """One line of metrics every `config.log.log_every` steps; only the first process writes.

    A line of `log.jsonl` has `step`, `epoch`, the step's metrics (see `training.step.make_step`), and over the steps
    since the last line `steps_per_second`, `images_per_second`, `input_wait`, the fraction of time spent waiting for
    input, and, on devices whose peak is known, `mfu`, the share of it that the step's operations are (see
    `training.profiler`). Going on from step `start` drops later lines, left by a run that was killed after its last
    checkpoint.

    Attributes:
        last: the last line written.
    """

    def __init__(
        self,
        workdir: str,
        config: Config,
        *,
        start: int,
        total: int,
        steps_per_epoch: int,
        stream: TextIO | None = None,
    ) -> None:
        self._config, self._total, self._steps_per_epoch = config, total, steps_per_epoch
        self._stream = sys.stderr if stream is None else stream
        self._writes = jax.process_index() == 0
        self._files = _Files(workdir) if self._writes else None
        self._start = start
        self._share = 0.0  # of the devices' peak that one step a second would be
        self.last: dict[str, float] = {}
        self._tensorboard = None
        self._mark, self._wait, self._since = time.perf_counter(), 0.0, start
        self._told, self._began = time.monotonic(), time.monotonic()

    def __enter__(self) -> "RunLog":
        if self._files is not None:
            self.last = self._files.open(self._start)
            if self._config.log.tensorboard:
                from tensorboardX import SummaryWriter  # takes a while to import

                self._tensorboard = SummaryWriter(self._files.tensorboard, purge_step=self._start or None)
        of = f" of {self._total}"
        self.say(f"resuming after step {self._start}{of}" if self._start else f"starting{of} steps")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._stream.isatty():
            self._stream.write("\n")
        if self._files is not None:
            try:
                self._files.close()
            except InputError:
                if kind is None:
                    raise

    @property
    def tensorboard_folder(self) -> str:
        """Local folder of what TensorBoard shows; on the first process only."""
        return self._files.tensorboard if self._files is not None else ""

    def begins(self, flops: float | None, mesh: jax.sharding.Mesh) -> None:
        """Learns how many operations a step over the mesh takes."""
        peak = peak_flops(mesh.devices.flat[0].device_kind)
        if flops and peak:
            self._share = flops / (peak * mesh.size)

    def compiled(self, step: int, metrics: Metrics) -> None:
        """Waits for the first step and starts the clock after it: compiling it is not a matter of speed."""
        jax.block_until_ready(metrics)
        self.say(f"compiled in {time.perf_counter() - self._mark:.0f} s")
        self._mark, self._wait, self._since = time.perf_counter(), 0.0, step
        self._began, self._start = time.monotonic(), step

    def waited(self, seconds: float) -> None:
        """Counts time in which the loop had no batch to give."""
        self._wait += seconds

    def write(self, step: int, metrics: Metrics) -> None:
        """Writes the line of `step`; waits until the device has computed it."""
        values = {name: float(np.asarray(value)) for name, value in metrics.items() if np.ndim(value) == 0}
        now = time.perf_counter()
        seconds = max(now - self._mark, 1e-9)
        if step > self._since:
            rate = (step - self._since) / seconds
            values |= {"steps_per_second": rate, "images_per_second": rate * self._config.batch_size}
            if self._share:
                values["mfu"] = rate * self._share
            values["input_wait"] = min(self._wait / seconds, 1.0)
        self._mark, self._wait, self._since = now, 0.0, step
        self.last = {"step": step, "epoch": step / max(self._steps_per_epoch, 1)} | dict(sorted(values.items()))
        if self._files is None:
            return
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()
        self._files.append(json.dumps(self.last) + "\n")

    def saved(self) -> None:
        """Makes what was written so far last, before the checkpoint that is about to be: a resumed run goes on from both."""
        if self._files is not None:
            self._files.flush()

    def advanced(self, step: int) -> None:
        """Shows progress: on a terminal in place at every step, elsewhere a line every 30 s and at the end."""
        terminal = self._stream.isatty()
        now = time.monotonic()
        if not terminal and now - self._told < QUIET_INTERVAL and step != self._total:
            return
        self._told = now
        done = step - self._start
        text = f"step {step}/{self._total} ({100 * step / self._total:.1f} %)"
        if self.last:
            text += f"  loss {self.last['loss']:.4f}"
        if "steps_per_second" in self.last:
            text += f"  {self.last['steps_per_second']:.3g} steps/s  {self.last['images_per_second']:.0f} images/s"
            text += f"  MFU {100 * self.last['mfu']:.0f} %" if "mfu" in self.last else ""
            text += f"  waiting for input {100 * self.last['input_wait']:.0f} %"
        if done > 0:
            left = int((now - self._began) / done * (self._total - step))
            text += f"  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        self.say(text, in_place=terminal)

    def say(self, text: str, *, in_place: bool = False) -> None:
        """Shows a line, of the first process only."""
        if not self._writes:
            return
        self._stream.write(f"\r{text}\x1b[K" if in_place else f"{text}\n")
        self._stream.flush()


class _Files:
    """`log.jsonl` and TensorBoard's files of a run. On gs:// they are written here first and copied there whole, at
    most every `UPLOAD_INTERVAL` seconds.

    Attributes:
        tensorboard: local folder for TensorBoard's writer.
    """

    def __init__(self, workdir: str):
        self._log = storage.join(workdir, "log.jsonl")
        self._remote = storage.join(workdir, "tensorboard") if storage.is_remote(workdir) else None
        self._temporary = tempfile.TemporaryDirectory(prefix="detcon-log-") if self._remote else None
        self.tensorboard = self._temporary.name if self._temporary else os.path.join(workdir, "tensorboard")
        self._text, self._uploaded = "", time.monotonic()

    def open(self, start: int) -> dict[str, float]:
        """Drops what lies after step `start`; returns the last line."""
        last, kept = {}, []
        for line in self._old() if start else []:
            try:
                values = json.loads(line)
                if values["step"] <= start:
                    last = values
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a kill in mid-line
        self._text = "".join(kept)
        storage.write_bytes(self._log, self._text.encode())
        return last

    def _old(self) -> list[str]:
        try:
            return storage.read_bytes(self._log).decode(errors="replace").splitlines(keepends=True)
        except FileNotFoundError:
            return []

    def append(self, line: str) -> None:
        if self._remote is None:
            with self._failing(), open(self._log, "a") as file:
                file.write(line)
            return
        self._text += line
        if time.monotonic() - self._uploaded > UPLOAD_INTERVAL:
            self.upload()

    def flush(self) -> None:
        """What was appended is there after a loss of power as well."""
        if self._remote is not None:
            self.upload()
            return
        with self._failing(), open(self._log, "a") as file:
            os.fsync(file.fileno())

    def upload(self) -> None:
        if self._remote is None:
            return
        with self._failing():
            storage.write_bytes(self._log, self._text.encode())
            for name, _ in storage.walk(self.tensorboard):
                with open(os.path.join(self.tensorboard, name), "rb") as file:
                    storage.write_bytes(storage.join(self._remote, name), file.read())
        self._uploaded = time.monotonic()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cannot write the run's log, {self._log}: {error.strerror or error}; free space or fix permissions, "
                "then run the same command to go on from the last checkpoint"
            ) from error

    def close(self) -> None:
        try:
            self.upload()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()
