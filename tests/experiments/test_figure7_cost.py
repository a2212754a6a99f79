"""What a size of Figure 7 would cost, by arithmetic that can be checked."""

import pytest

from experiments.figure7 import cost, run, sizes


def test_estimate_counts_runs_and_steps(monkeypatch):
    """Runs of every stage, the trainer's count of operations for each, and views once per seed where they are shared."""
    monkeypatch.setattr("maskmill.training.plan_step.step_flops", lambda config: 1e12 if config.has_target else 5e11)
    cells = [cell for stage in run.full_stages(sizes.CPU, lambda algorithm, arm: 1.0) for cell in stage]
    found = cost.estimate(sizes.CPU, cells)
    of = {a: sum(c.algorithm == a and c.arm != "random" for c in cells) for a in ("detcon_s", "detcon_b")}
    assert of == {"detcon_s": 9 * 3 + 9 * 8 + 5 * 2 * 4, "detcon_b": 6 * 3 + 6 * 8}
    assert found.runs == sum(of.values())
    assert found.flops == pytest.approx(120 * (of["detcon_b"] * 1e12 + of["detcon_s"] * 5e11))
    gpu = [cell for stage in run.full_stages(sizes.GPU, lambda algorithm, arm: 1.0) for cell in stage]
    large = cost.estimate(sizes.GPU, gpu)
    assert large.runs == 27
    assert large.device_minutes[0] == pytest.approx(27 * 2000 * 5e11 / (0.3 * 989e12) / 60)
    assert "one H200" in cost.table(sizes.GPU, large)
    assert "one H200" not in cost.table(sizes.CPU, found)
