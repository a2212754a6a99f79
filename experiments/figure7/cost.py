"""What a size of the experiment costs, before it is run: operations by the trainer's own `plan-step`, time by arithmetic.

Nothing here is measured. `--dry-run` prints it.
"""

import dataclasses

from experiments.figure7.arms import Cell
from experiments.figure7.sizes import Size, run_config

# One H200 (bfloat16, dense, as its maker states), and what small networks are known to reach of such a number.
PEAK_FLOPS = 989e12
UTILISATION = (0.1, 0.3)
VIEW_MS_PER_MPIX = 25.0  # of one core, to crop a million pixels of views; colours are drawn on the device
LENT_MINUTES = 10.0  # a device's slot


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Of a list of cells.

    Attributes:
        runs: cells that train.
        step_flops: operations of one step by algorithm, 2 per multiply-add.
        flops: of all steps of all cells.
        device_minutes: least and most, of one device at `UTILISATION` of its peak.
        view_minutes: of the host's threads, to crop all views.
    """

    runs: int
    step_flops: dict[str, float]
    flops: float
    device_minutes: tuple[float, float]
    view_minutes: float


def estimate(size: Size, cells: list[Cell]) -> Estimate:
    """Counts what cells will take; evaluation is left out."""
    from maskmill.training.plan_step import step_flops

    trained = [cell for cell in cells if cell.rate]
    of = {}
    for algorithm in sorted({cell.algorithm for cell in trained}):
        of[algorithm] = step_flops(run_config(size, algorithm=algorithm, rate=size.rates[0], seed=0))
    flops = sum(of[cell.algorithm] * size.steps for cell in trained)
    minutes = [flops / (PEAK_FLOPS * share) / 60 for share in reversed(UTILISATION)]
    shared = size.window >= size.steps  # one seed's views serve all its arms
    drawn = len({cell.seed for cell in trained}) if shared else len(trained)
    pixels = drawn * size.steps * size.batch * 2 * size.view**2
    views = pixels / 1e6 * VIEW_MS_PER_MPIX / 1e3 / size.threads / 60
    return Estimate(len(trained), of, flops, (minutes[0], minutes[1]), views)


def table(size: Size, found: Estimate) -> str:
    """As lines for a terminal."""
    per_step = ", ".join(f"{flops / 1e12:.3f} T for {algorithm}" for algorithm, flops in found.step_flops.items())
    lines = [
        f"{size.name}: {found.runs} runs of {size.steps} steps of {size.batch} pictures, {size.arch} at {size.view} px; "
        "calculated, not measured",
        f"  operations      {per_step} per step; {found.flops / 1e15:.2f} P in all",
        f"  cropping views  {found.view_minutes:.1f} minutes on {size.threads} thread{'s' * (size.threads > 1)}",
    ]
    if size.dtype == "bfloat16":
        low, high = found.device_minutes
        lines.append(
            f"  one H200        {low:.1f} to {high:.1f} minutes at {UTILISATION[1]:.0%} to {UTILISATION[0]:.0%} of "
            f"{PEAK_FLOPS / 1e12:.0f} T/s, in slots of {LENT_MINUTES:.0f}: --budget-minutes {LENT_MINUTES:.0f}"
        )
    return "\n".join(lines)
