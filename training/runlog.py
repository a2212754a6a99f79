"""What a run says of itself: `log.jsonl`, TensorBoard or another writer, and a line of progress now and then."""

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import jax
import numpy as np

from maskmill.schemas import options, storage
from maskmill.schemas.errors import InputError
from maskmill.training.config import Config
from maskmill.training.step import Metrics

PROGRESS_S = 30  # seconds between lines of progress
UPLOAD_S = 30  # seconds between copies of the log to gs://, where a file cannot be appended to


# Given the run's folder and its configuration; returns what has `write_scalars(step, {name: value})`, `flush()` and
# `close()`, as clu's writers of metrics.
WriterFactory = Callable[[str, dict[str, Any]], Any]


class RunLog:
    """One line of metrics every `config.log.log_every` steps; only the first process writes.

    A line of `log.jsonl` has `step`, `epoch`, the step's metrics (see `training.step.make_step`), and over the steps
    since the last line `steps_per_second`, `images_per_second`, `input_wait`, the fraction of time spent waiting for
    input, and, on devices whose peak is known, `mfu`, the share of it that the step's operations are. Going on from step
    `start` drops later lines, left by a run that was killed after its last checkpoint.

    Attributes:
        last: the last line written.
        share: of the devices' peak that one step a second would be, 0 where it is not known (see `training.profiler`).
        folder: of TensorBoard's files, local: those of a run on gs:// are copied there; on the first process only.
    """

    def __init__(
        self,
        workdir: str,
        config: Config,
        *,
        start: int,
        total: int,
        steps_per_epoch: int,
        writer: WriterFactory | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self._workdir, self._config, self._total, self._steps_per_epoch = workdir, config, total, steps_per_epoch
        self._factory, self._stream = writer, sys.stderr if stream is None else stream
        self._first = jax.process_index() == 0
        self._path, self._text, self._uploaded = storage.join(workdir, "log.jsonl"), "", time.monotonic()
        self._start, self._since, self._wait = start, start, 0.0
        self._mark = self._told = self._began = time.monotonic()
        self._writers: list[Any] = []
        self._temporary = contextlib.ExitStack()
        self.last: dict[str, float] = {}
        self.share, self.folder = 0.0, ""

    def __enter__(self) -> "RunLog":
        if self._first:
            self._drop_later()
            self.folder = os.path.join(self._workdir, "tensorboard")
            if storage.is_remote(self._workdir):
                self.folder = self._temporary.enter_context(tempfile.TemporaryDirectory(prefix="detcon-log-"))
            if self._config.log.tensorboard:
                self._writers.append(_TensorBoard(self.folder, self._start))
            if self._factory is not None:
                self._writers.append(self._factory(self._workdir, options.to_mapping(self._config)))
        of = f" of {self._total}"
        self.say(f"resuming after step {self._start}{of}" if self._start else f"starting{of} steps")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._temporary:
            for writer in self._writers:
                writer.close()
            try:
                self.upload()
            except InputError:
                if kind is None:  # a failure on its way up matters more than one in closing
                    raise

    def say(self, text: str) -> None:
        """Shows a line, of the first process only."""
        if self._first:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def compiled(self, step: int, metrics: Metrics) -> None:
        """Waits for the first step and starts the clock after it: compiling it is not a matter of speed."""
        jax.block_until_ready(metrics)
        self.say(f"compiled in {time.monotonic() - self._mark:.0f} s")
        self._start = self._since = step
        self._mark, self._began, self._wait = time.monotonic(), time.monotonic(), 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time inside as such in which the loop had no batch to give."""
        begin = time.monotonic()
        yield
        self._wait += time.monotonic() - begin

    def write(self, step: int, metrics: Metrics) -> None:
        """Writes the line of `step`; waits until the device has computed it."""
        values = {name: float(np.asarray(value)) for name, value in metrics.items() if np.ndim(value) == 0}
        now = time.monotonic()
        seconds = max(now - self._mark, 1e-9)
        if step > self._since:
            rate = (step - self._since) / seconds
            values |= {"steps_per_second": rate, "images_per_second": rate * self._config.batch_size}
            values |= {"mfu": rate * self.share} if self.share else {}
            values["input_wait"] = min(self._wait / seconds, 1.0)
        self._mark, self._wait, self._since = now, 0.0, step
        self.last = {"step": step, "epoch": step / max(self._steps_per_epoch, 1)} | dict(sorted(values.items()))
        if not self._first:
            return
        for writer in self._writers:
            writer.write_scalars(step, values)
            writer.flush()
        line = json.dumps(self.last) + "\n"
        self._text += line
        if not storage.is_remote(self._workdir):
            with self._failing(), open(self._path, "a") as file:
                file.write(line)
        elif now - self._uploaded > UPLOAD_S:
            self.upload()

    def saved(self) -> None:
        """Makes what was written so far last, before the checkpoint that is about to be: a resumed run goes on from both."""
        if not self._first:
            return
        if storage.is_remote(self._workdir):
            self.upload()
            return
        with self._failing(), open(self._path, "a") as file:
            os.fsync(file.fileno())

    def upload(self) -> None:
        """Puts what was written so far on gs://, where the run's folder is there."""
        if not self._first or not storage.is_remote(self._workdir):
            return
        with self._failing():
            storage.write_bytes(self._path, self._text.encode())
            for name, _ in storage.walk(self.folder):
                target = storage.join(self._workdir, "tensorboard", name)
                storage.write_bytes(target, storage.read_bytes(os.path.join(self.folder, name)))
        self._uploaded = time.monotonic()

    def progress(self, step: int) -> None:
        """Says how far the run is, how fast, and how long it will take; every `PROGRESS_S` and at the end."""
        now = time.monotonic()
        if now - self._told < PROGRESS_S and step != self._total:
            return
        self._told, last = now, self.last
        text = f"step {step}/{self._total} ({100 * step / self._total:.1f} %)"
        text += f"  loss {last['loss']:.4f}" if last else ""
        if "steps_per_second" in last:
            text += f"  {last['steps_per_second']:.3g} steps/s  {last['images_per_second']:.0f} images/s"
            text += f"  MFU {100 * last['mfu']:.0f} %" if "mfu" in last else ""
            text += f"  waiting for input {100 * last['input_wait']:.0f} %"
        if step > self._start:
            left = int((now - self._began) / (step - self._start) * (self._total - step))
            text += f"  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        self.say(text)

    def _drop_later(self) -> None:
        old = b""
        with contextlib.suppress(FileNotFoundError):
            old = storage.read_bytes(self._path) if self._start else b""
        for line in old.decode(errors="replace").splitlines(keepends=True):
            with contextlib.suppress(ValueError, KeyError, TypeError):  # cut off by a kill in mid-line
                values = json.loads(line)
                if values["step"] <= self._start:
                    self.last, self._text = values, self._text + line
        storage.write_bytes(self._path, self._text.encode())

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"cannot write the run's log, {self._path}: {error.strerror or error}; free space or fix permissions, "
                "then run the same command to go on from the last checkpoint"
            ) from error


class _TensorBoard:
    """Event files; those of a run that goes on hide what its predecessor wrote after the checkpoint."""

    def __init__(self, folder: str, start: int):
        from tensorboardX import SummaryWriter  # takes a while to import

        self._writer = SummaryWriter(folder, purge_step=start or None)
        self.flush, self.close = self._writer.flush, self._writer.close

    def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
