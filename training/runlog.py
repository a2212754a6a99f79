"""What a run says of itself: `log.jsonl`, TensorBoard, and progress on the terminal."""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from maskmill.training.config import Config
from maskmill.training.step import Metrics

QUIET_INTERVAL = 30  # seconds between progress lines where standard error is not a terminal


class RunLog:
    """One line of metrics every `config.log.log_every` steps; only the first process writes.

    A line of `log.jsonl` has `step`, `epoch`, the step's metrics (see `training.step.make_step`), and over the steps
    since the last line `images_per_second` and `input_wait`, the fraction of time spent waiting for input. Going on
    from step `start` drops later lines, left by a run that was killed after its last checkpoint.

    Attributes:
        last: the last line written.
    """

    def __init__(self, workdir: str, config: Config, *, start: int, total: int, steps_per_epoch: int, stream=None):
        self._config, self._total, self._steps_per_epoch = config, total, steps_per_epoch
        self._stream = sys.stderr if stream is None else stream
        self._path = Path(workdir) / "log.jsonl"
        self._writes = jax.process_index() == 0
        self._lines = self._read(start) if self._writes else []
        self.last: dict[str, float] = json.loads(self._lines[-1]) if self._lines else {}
        self._tensorboard = None
        self._workdir, self._start = workdir, start
        self._mark, self._wait, self._since = time.perf_counter(), 0.0, start
        self._told, self._began = time.monotonic(), time.monotonic()

    def __enter__(self):
        if self._writes:
            self._path.write_text("".join(self._lines))
            if self._config.log.tensorboard:
                from tensorboardX import SummaryWriter  # takes a while to import

                folder = str(Path(self._workdir) / "tensorboard")
                self._tensorboard = SummaryWriter(folder, purge_step=self._start or None)
        of = f" of {self._total}"
        self._say(f"resuming after step {self._start}{of}" if self._start else f"starting{of} steps")
        return self

    def __exit__(self, *_):
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._stream.isatty():
            self._stream.write("\n")

    def _read(self, start: int) -> list[str]:
        if not self._path.exists() or start == 0:
            return []
        kept = []
        for line in self._path.read_text().splitlines(keepends=True):
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a kill in mid-line
        return kept

    def compiled(self, step: int, metrics: Metrics) -> None:
        """Waits for the first step and starts the clock after it: compiling it is not a matter of speed."""
        jax.block_until_ready(metrics)
        self._say(f"compiled in {time.perf_counter() - self._mark:.0f} s")
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
            values["images_per_second"] = (step - self._since) * self._config.batch_size / seconds
            values["input_wait"] = min(self._wait / seconds, 1.0)
        self._mark, self._wait, self._since = now, 0.0, step
        self.last = {"step": step, "epoch": step / max(self._steps_per_epoch, 1)} | dict(sorted(values.items()))
        if not self._writes:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(self.last) + "\n")
        if self._tensorboard is not None:
            for name, value in values.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()

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
        if "images_per_second" in self.last:
            text += f"  {self.last['images_per_second']:.0f} images/s"
            text += f"  waiting for input {100 * self.last['input_wait']:.0f} %"
        if done > 0:
            left = int((now - self._began) / done * (self._total - step))
            text += f"  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        self._say(text, in_place=terminal)

    def _say(self, text: str, *, in_place: bool = False) -> None:
        if not self._writes:
            return
        self._stream.write(f"\r{text}\x1b[K" if in_place else f"{text}\n")
        self._stream.flush()
