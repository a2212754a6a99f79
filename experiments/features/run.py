"""Runs the experiment, or goes on where it stood; what is finished is on disk and is never done again.

    python -m experiments.features.run --prepared FIGURE7_STATE --state STATE [--budget-minutes 4] [--json OUT]

Pictures and builds are those that `experiments.figure7` prepares in its state folder, which is only read. Killing it costs
the network in progress. With `--json` the results are written as they are kept in `results/`.
"""

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Iterator

import numpy as np

from experiments.features.verdict import table
from maskmill.schemas import storage

SEEDS = (1, 2, 3, 4, 5)
STAGES = (("drawn", "global"), ("round1",), ("round2",), ("from-drawn",))
STEPS = 60  # half of Figure 7's
KS = (4, 9, 16)  # as many as 2 x 2, 3 x 3, 4 x 4 rectangles
TAUGHT = 16  # k of the masks that the next network is trained from
MEASURED = 60  # scenes of which ABO is taken
SPEC = {
    "side": 160,
    "snap": 25,
    "position": 8.0,
    "tau": 0.0,
}  # a scene's own size; FH at a quarter of its scale, as in Figure 7's experiment
REFERENCES = ("grid(n=(2, 3, 4))", "fh(scales=(125, 250, 375, 600, 900, 1500, 2200, 3000, 4500))")


def tasks() -> Iterator[tuple[int, str]]:
    """(seed, network) in the order in which they are done: all seeds of one stage before the next."""
    for names in STAGES:
        for seed in SEEDS:
            for name in names:
                yield seed, name


def collect(state: str) -> dict:
    """All that is finished: {"reference": ..., "networks": [...]}."""
    found: dict = {"reference": {}, "networks": []}
    if os.path.exists(path := os.path.join(state, "reference.json")):
        found["reference"] = json.loads(storage.read_bytes(path))
    for seed, name in tasks():
        if os.path.exists(path := os.path.join(state, f"{name}.seed{seed}.json")):
            found["networks"].append(json.loads(storage.read_bytes(path)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepared", required=True, help="state folder of experiments.figure7, prepared")
    parser.add_argument("--state", required=True, help="folder of what is finished; give the same to go on")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="stop in time, between networks")
    parser.add_argument("--json", help="write the results there")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.budget_minutes
    os.makedirs(given.state, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.abspath(os.path.join(given.state, "compiled")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")
    left = [(seed, name) for seed, name in tasks() if not os.path.exists(_path(given.state, seed, name))]
    if left:
        _work(given.prepared, given.state, left, deadline)
    found = collect(given.state)
    if given.json:
        storage.write_bytes(given.json, (json.dumps(found, indent=1) + "\n").encode())
    print(table(found))


def _path(state: str, seed: int, name: str, ending: str = "json") -> str:
    return os.path.join(state, f"{name}.seed{seed}.{ending}")


def _work(prepared: str, state: str, left: list[tuple[int, str]], deadline: float) -> None:
    from experiments.features.chain import TEACHER, Chain, Network  # JAX, after its settings
    from experiments.figure7.prepare import Prepared
    from experiments.figure7.sizes import CPU
    from maskmill.masks.registry import parse_spec
    from maskmill.pipelines.foreign.features import Features

    with open(os.path.join(prepared, "prepared.json"), encoding="utf-8") as file:
        data = Prepared(**json.load(file))
    size = dataclasses.replace(CPU, steps=STEPS, checkpoints=(STEPS,), window=STEPS)
    chain = Chain(data, size, os.path.join(state, "models"), Features(model="-", k=KS, **SPEC), TAUGHT)
    if not os.path.exists(path := os.path.join(state, "reference.json")):
        layers = {}
        for spec in REFERENCES:
            for name, masks in chain.masks(parse_spec(spec), MEASURED).items():
                layers[name] = chain.abo(masks)
        layers |= {name: chain.abo(masks) for name, masks in chain.by_place(KS, MEASURED).items()}
        storage.write_bytes(path, json.dumps({"layers": layers, "digests": data.digests}).encode())
    longest = 0.0
    for seed, name in left:
        if time.monotonic() + longest > deadline:
            print("not finished; the same command goes on", flush=True)
            return
        begin, cpu = time.monotonic(), time.process_time()
        if name == "drawn":
            network = chain.drawn(seed)
        else:
            masks = None
            if name in TEACHER:
                with np.load(_path(state, seed, TEACHER[name], "npz")) as arrays:
                    masks = chain.teaching(dict(arrays))
            network = chain.trained(seed, masks)
        abo = {}
        for method in ("kmeans", "ncut"):
            for layer, masks in chain.masks(chain.opened(network.arrays, method=method), MEASURED).items():
                abo[f"{method}-{layer.rsplit('-', 1)[1]}"] = chain.abo(masks)
        assert isinstance(network, Network)
        with open(_path(state, seed, name, "npz"), "wb") as file:
            np.savez(file, **network.arrays)
        result = {"seed": seed, "network": name, "scores": network.scores, "abo": abo}
        result["cpu_s"] = round(time.process_time() - cpu, 1)
        storage.write_bytes(_path(state, seed, name), json.dumps(result).encode())
        longest = max(longest, time.monotonic() - begin)
        auc = network.scores[max(network.scores, key=int)]["auc"]
        print(
            f"{name} seed {seed}: AUC {100 * auc:.2f}, ABO {abo['kmeans-16'][0]:.3f}, {result['cpu_s']:.0f} CPU s",
            flush=True,
        )


if __name__ == "__main__":
    main()
