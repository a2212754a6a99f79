"""What the devices did in a few steps, for TensorBoard's profile tab, and what share of their peak a step takes."""

import contextlib
import re
from collections.abc import Callable
from typing import Any

import jax

from maskmill.schemas.errors import UsageError
from maskmill.training.chips import CHIPS

# Peak operations per second in bfloat16 without sparsity, two per multiply-add, by what jax calls the device. From the
# makers' pages: TPUs as in `chips`, and NVIDIA's data sheets of A100, L4, L40S, H100, H200 and B200.
PEAKS = (
    (r"TPU v6 lite|TPU v6e", CHIPS["v6e"].flops),
    (r"TPU v5 lite|TPU v5e", CHIPS["v5e"].flops),
    (r"TPU v5", CHIPS["v5p"].flops),
    (r"TPU v4", CHIPS["v4"].flops),
    (r"A100", 312e12),
    (r"L40S", 362e12),
    (r"\bL4\b", 121e12),
    (r"H100 (PCIe|NVL)", 756e12),
    (r"H100|H200|GH200", 989e12),
    (r"B200", 2250e12),
)


def peak_flops(device_kind: str) -> float | None:
    """Peak operations per second of a kind of device, None where it is not listed (a CPU, for one)."""
    return next((peak for pattern, peak in PEAKS if re.search(pattern, device_kind)), None)


def step_flops(step_fn: Any, *args: Any) -> float | None:
    """Operations of one step on the whole batch, as XLA counts the program before it optimises it, None where it cannot.

    Bodies of loops count once, so of the products of latents only the first block: some per cent are missing at most.
    The program is traced and lowered here; running it with the same arguments does not do so again.
    """
    with contextlib.suppress(Exception):  # a figure of the log is not worth a run
        return float(step_fn.lower(*args).cost_analysis()["flops"])
    return None


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
        self._window = window if jax.process_index() == 0 else None
        self._folder, self._say, self._running = folder, say, False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def at(self, step: int, state: Any) -> None:
        """Starts or stops before the step after `step`; the end of the run stops too."""
        if self._window is None:
            return
        first, last = self._window
        if self._running and step >= last:
            jax.block_until_ready(state)
            self._stop()
        elif not self._running and first <= step < last:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder)
            self._running = True

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            self._say("profile written for TensorBoard, below plugins/profile")
