"""Training runs to be disturbed: everything that a run writes is its own, and its step is arithmetic.

What a step computes is no matter of files, and compiling one takes longer than a trial.
"""

import json
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import scenes
from faulty_disk import KILLED
from places import Place
from scenario import Program, Scenario

import maskmill.training.input  # noqa: F401  (before a trial is forked, or each would import it again)
from maskmill.training import train
from maskmill.training.cli import main

SCENARIOS = ("train", "go-on", "fall-back")
_CONFIG = {
    "algorithm": "detcon_b",
    "batch_size": 4,
    "epochs": 3.0,
    "data": {"layers": ["true"], "image_size": 32, "masks_per_view": 2},
    "model": {"arch": "tiny", "hidden": 8, "out": 4, "dtype": "float32"},
    "optim": {"warmup_epochs": 0.5},
    "log": {"log_every": 1, "checkpoint_every": 2, "tensorboard": False, "keep": 2},
}


def _init_state(config, mesh):
    return {"params": {"w": jnp.arange(4000.0)}, "stats": {"m": jnp.zeros(3)}, "step": jnp.zeros((), jnp.int32)}


def _make_step(config, mesh, *, total_steps, warmup_steps):
    def step(state, batch):
        loss = batch["image1"].astype(jnp.float32).mean() + state["params"]["w"].mean()
        params = {"w": state["params"]["w"] * 0.9 + loss}
        metrics = {"loss": loss, "gradient_norm": loss, "learning_rate": loss, "gradient_finite": jnp.ones(1, bool)}
        return {"params": params, "stats": state["stats"], "step": state["step"] + 1}, metrics

    return jax.jit(step)


train.init_state, train.make_step = _init_state, _make_step


def _content(folder: Path) -> dict[str, bytes]:
    """The checkpoints that stay, the run's card, and of the log what is no time. A loss of power may bring older ones back."""
    steps = sorted(int(path.stem) for path in (folder / "checkpoints").glob("*.json"))[-_CONFIG["log"]["keep"] :]
    names = [f"{step}.{kind}" for step in steps for kind in ("json", "safetensors")]
    found = {name: (folder / "checkpoints" / name).read_bytes() for name in names}
    found["run.json"] = (folder / "run.json").read_bytes()
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return found | {"log.jsonl": str([(line["step"], line["loss"]) for line in lines]).encode()}


RUN = Program(main, _content)


class Runs:
    """Scenarios at one place; see `builds.Builds`."""

    def __init__(self, place: Place, root: Path):
        self._place, self._root = place, root
        root.mkdir(parents=True)
        scenes.write_scenes(str(root / "data"), 8, size=(40, 48))
        config = root / "config.json"
        config.write_text(json.dumps(_CONFIG))
        os.environ["MASKMILL_CACHE"] = str(root / "cache")
        self._train = ["train", "--config", str(config), "--data", str(root / "data"), "--workdir", "OUT"]

    def scenario(self, name: str, full_name: str) -> Scenario:
        """One of `SCENARIOS`: a run from its beginning, one that was killed, and one whose newest checkpoint is damaged."""
        start = None if name == "train" else self._root / full_name
        if name == "go-on":
            self._place.put(None)
            whole = self._place.run(main, self._train)
            assert whole.code == 0, whole
            self._place.put(None)
            half = self._place.run(main, self._train, len(whole.log) * 2 // 3, "kill")
            assert half.code == KILLED, half
            self._place.take(start)
        elif name == "fall-back":
            self._place.put(None)
            begun = self._place.run(main, [*self._train, "--until", "4"])
            assert begun.code == 0, begun
            self._place.take(start)
            newest = start / "checkpoints" / "4.safetensors"
            data = bytearray(newest.read_bytes())
            data[len(data) // 2] ^= 1
            newest.write_bytes(data)
        return Scenario(full_name, self._place, RUN, self._train, [], start, self._root / "scratch")
