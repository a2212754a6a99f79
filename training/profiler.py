"""What the devices did in a few steps, for TensorBoard's profile tab, and what share of their peak a step takes."""

import re
from collections.abc import Callable
from typing import Any

import jax

from maskmill.schemas.errors import UsageError
from maskmill.training.chips import peak_flops


def share_of_peak(step_fn: Any, state: Any, batch: Any, mesh: jax.sharding.Mesh) -> float:
    """Share of the devices' peak that one step a second would be, 0 where it is not known (a CPU, for one).

    Operations are counted as XLA counts the program before it optimises it, bodies of loops once, so of the products
    of latents only the first block: some per cent are missing at most. The program is traced and lowered here; running
    it with the same arguments does not do so again.
    """
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    if peak is None:
        return 0.0
    try:
        return float(step_fn.lower(state, batch).cost_analysis()["flops"]) / (peak * mesh.size)
    except Exception:  # a figure of the log is not worth a run
        return 0.0


def parse_window(text: str) -> tuple[int, int]:
    """`100:110` as (100, 110). Raises UsageError."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise UsageError(f"--profile takes FIRST:LAST, two rising numbers of steps such as 100:110, got {text!r}")
    return int(match[1]), int(match[2])


class Profiler:
    """Traces the steps after `window[0]` up to `window[1]`; on the first process, which sees one host's devices.

    Args:
        window: as of `parse_window`; None traces nothing.
        folder: of TensorBoard's files.
        say: told where the trace is.
    """

    def __init__(self, window: tuple[int, int] | None, folder: str, say: Callable[[str], None]):
        self._first, self._last = window if window and jax.process_index() == 0 else (0, 0)
        self._folder, self._say, self._running = folder, say, False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def at(self, step: int, state: Any) -> None:
        """Starts or stops before the step after `step`; the end of the run stops too."""
        wanted = self._first <= step < self._last
        if wanted != self._running:
            jax.block_until_ready(state)
            if wanted:
                jax.profiler.start_trace(self._folder)
                self._running = True
            else:
                self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            self._say("profile written for TensorBoard, below plugins/profile")
