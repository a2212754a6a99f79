"""One device, four devices and two processes give the same run; batch norm per device, the control, does not."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maskmill.training.checkpoint import load_run

HERE = Path(__file__).parent
STEPS = 3


def start(devices: int, *args) -> subprocess.Popen:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    path = os.pathsep.join([str(HERE.parent.parent), str(HERE)])
    return subprocess.Popen(
        [sys.executable, str(HERE / "parallel_worker.py"), *map(str, args)],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*workers: subprocess.Popen) -> None:
    for worker in workers:
        output, _ = worker.communicate(timeout=280)
        assert worker.returncode == 0, output[-3000:]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("devices") / "out.npz"
    finish(start(4, "devices", out))
    found = {}
    for key, value in np.load(out).items():
        name, key = key.split("|")
        found.setdefault(name, {})[key] = value
    return found


def largest_gap(a: dict, b: dict, part: str) -> float:
    """Largest difference over the arrays of `part`, relative to each array's largest value."""
    names = [name for name in a if name.startswith(part)]
    assert names
    return max(np.abs(a[n] - b[n]).max() / max(np.abs(a[n]).max(), 1e-3) for n in names)


@pytest.mark.slow
def test_four_devices_equal_one(results):
    one, four = results["one"], results["four"]
    for name in ("loss", "gradient_norm", "positive_similarity", "negative_similarity", "projection_std"):
        np.testing.assert_allclose(four[f"0/{name}"], one[f"0/{name}"], rtol=2e-5, atol=1e-6, err_msg=name)
    # Rounding grows over the steps of a network this small; the control below is two orders larger.
    for part in ("params", "stats", "target_params", "target_stats"):
        assert largest_gap(one, four, part) < 1e-3, part
    assert abs(one[f"{STEPS - 1}/loss"] - four[f"{STEPS - 1}/loss"]) < 1e-3 * one[f"{STEPS - 1}/loss"]


@pytest.mark.slow
def test_batch_norm_per_device_would_be_seen(results):
    """The control: statistics of a quarter of the batch must fail the same comparison clearly."""
    one, local = results["one"], results["local"]
    assert abs(one["0/loss"] - local["0/loss"]) > 1e-2 * one["0/loss"]
    assert abs(one["0/gradient_norm"] - local["0/gradient_norm"]) > 1e-2 * one["0/gradient_norm"]


@pytest.mark.slow
def test_two_processes_equal_one(results, tmp_path):
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    out = tmp_path / "out.npz"
    finish(*[start(1, "process", out, index, port, tmp_path / "run") for index in range(2)])
    one = results["one"]
    np.testing.assert_allclose(np.load(out)["loss"], one[f"{STEPS - 1}/loss"], rtol=1e-3)
    trained = load_run(str(tmp_path / "run"))
    assert trained.step == STEPS
    for part, arrays in (("params", trained.params), ("stats", trained.stats)):
        found = {f"{part}/{name}": value for name, value in arrays.items()}
        assert largest_gap(one, found, f"{part}/") < 1e-3
