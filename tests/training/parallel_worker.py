"""Run by test_parallel.py in processes of its own: trains the tiny network on several devices or processes.

usage: parallel_worker.py devices OUT.npz | process OUT.npz INDEX PORT WORKDIR
"""

import dataclasses
import io
import sys

import jax
import numpy as np
from conftest import TINY, FakeBatches

from maskmill.training.config import Config
from maskmill.training.step import init_state, make_mesh, make_step, put_batch
from maskmill.training.train import train

STEPS = 3


def run(config: Config, devices: list, steps: int) -> dict[str, np.ndarray]:
    """Everything a few steps leave behind, on these devices."""
    mesh = make_mesh(devices)
    state = init_state(config, mesh)
    step = make_step(config, mesh, total_steps=20, warmup_steps=2)
    source = FakeBatches("data", config.data, global_batch=config.batch_size, seed=0).at(0)
    found = {}
    for index in range(steps):
        state, metrics = step(state, put_batch(next(source), mesh))
        found |= {f"{index}/{name}": np.asarray(value) for name, value in metrics.items()}
    for part in ("params", "stats", "target_params", "target_stats"):
        found |= {f"{part}/{name}": np.asarray(value) for name, value in state[part].items()}
    return found


def main(mode: str, out: str, *rest: str) -> None:
    if mode == "devices":
        local = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, local_bn_groups=4))
        results = {
            "one": run(TINY, jax.devices()[:1], STEPS),
            "four": run(TINY, jax.devices(), STEPS),
            "local": run(local, jax.devices()[:1], 1),
        }
        np.savez(out, **{f"{name}|{key}": value for name, found in results.items() for key, value in found.items()})
        return
    index, port, workdir = rest
    jax.distributed.initialize(f"localhost:{port}", 2, int(index))
    assert jax.process_count() == 2
    last = train("data", TINY, workdir, batches=FakeBatches, until=STEPS, stream=io.StringIO())
    if jax.process_index() == 0:
        np.savez(out, loss=last["loss"])


if __name__ == "__main__":
    main(*sys.argv[1:])
