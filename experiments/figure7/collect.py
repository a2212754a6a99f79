"""Finished cells to the JSON of results that the repository keeps: `python -m experiments.figure7.collect --state STATE`."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.figure7 import statistics, verdict
from experiments.figure7.arms import ABLATIONS, DEVELOPMENT_SEED, RANDOM, arms
from experiments.figure7.figures import RESULTS
from experiments.figure7.run import ABLATED_ARMS, ALGORITHMS
from experiments.figure7.sizes import SIZES
from experiments.figure7.state import State, code_digest
from maskmill.schemas import storage


def collect(state: State, size_name: str) -> dict:
    """Everything the page says, from finished cells and from what was prepared."""
    size = SIZES[size_name]
    cells = state.all()
    prepared = json.loads((Path(state.folder) / "prepared.json").read_text())
    listed = arms(size)
    abo = {name: prepared["abo"][arm.layer] for name, arm in listed.items() if arm.layer in prepared["abo"]}
    main = [cell for cell in cells if cell["cell"]["seed"] != DEVELOPMENT_SEED]
    of_s = verdict.judge(main, ALGORITHMS["detcon_s"], abo, size.seeds, len(size.seeds))
    of_b = verdict.judge(main, ALGORITHMS["detcon_b"], abo, size.seeds, len(size.seeds), algorithm="detcon_b")
    random = [cell["scores"]["0"] for cell in main if cell["cell"]["arm"] == RANDOM]
    return {
        "size": size_name,
        "titles": {name: arm.title for name, arm in listed.items()},
        "abo": abo,
        "masks_per_image": {name: prepared["masks_per_image"].get(arm.layer) for name, arm in listed.items()},
        "layers": {name: arm.layer for name, arm in listed.items()},
        "random": float(np.mean([scores[verdict.PRIMARY] for scores in random])) if random else None,
        "detcon_s": of_s,
        "detcon_b": of_b,
        "seen": {algorithm: seen(main, algorithm) for algorithm in ALGORITHMS},
        "ablations": ablations(main, size.ablation_seeds),
        "rates": rates(cells),
        "cells": len(main),
        "cpu_hours": sum(cell["cpu_s"] + cell.get("views_cpu_s", 0) for cell in cells) / 3600,
        "digests": {"code": code_digest(), **prepared["digests"]},
    }


def seen(cells: verdict.Cells, algorithm: str) -> dict[str, dict[str, float]]:
    """arm -> what the loss saw in a run's last step, means over seeds: how many masks, how many of them had a partner."""
    found = {}
    for arm, of in verdict.select(cells, algorithm=algorithm).items():
        last = [cell["metrics"][max(cell["metrics"], key=int)] for cell in of.values() if cell["metrics"]]
        if last:
            found[arm] = {name: float(np.mean([metrics[name] for metrics in last])) for name in last[0]}
    return found


def ablations(cells: verdict.Cells, of_seeds: Sequence[int]) -> list[dict]:
    """Differences of the final score to the main run of the same arm and seed, of what both have."""
    rows = []
    base = verdict.select(cells)
    for ablation in ABLATIONS:
        of = verdict.select(cells, ablation=ablation)
        for arm in ABLATED_ARMS:
            seeds = [s for s in of_seeds if s in of.get(arm, {}) and s in base.get(arm, {})]
            if seeds:
                d = verdict.curves(of[arm], seeds)[1][:, -1] - verdict.curves(base[arm], seeds)[1][:, -1]
                low, high = statistics.interval_of_mean(d)
                row = {"ablation": ablation, "arm": arm, "seeds": seeds, "mean": float(d.mean())}
                rows.append(row | {"low": low, "high": high, "differences": d.tolist()})
    return rows


def rates(cells: verdict.Cells) -> list[dict]:
    """Final scores on the development seed."""
    found = []
    for cell in cells:
        of = cell["cell"]
        if of["seed"] == DEVELOPMENT_SEED:
            last = max(cell["scores"], key=int)
            row = {name: of[name] for name in ("algorithm", "arm", "rate")}
            found.append(row | {verdict.PRIMARY: cell["scores"][last][verdict.PRIMARY]})
    return sorted(found, key=lambda row: (row["algorithm"], row["arm"], row["rate"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", required=True, help="folder of the run")
    parser.add_argument("--size", choices=tuple(SIZES), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    given = parser.parse_args()
    result = collect(State(given.state, SIZES[given.size], code_digest()), given.size)
    storage.write_bytes(str(given.out), (json.dumps(result, indent=1) + "\n").encode())
    seeds = result["detcon_s"]["seeds"]
    print(
        f"wrote {given.out}: {result['cells']} cells, {len(seeds)} of {len(SIZES[given.size].seeds)} seeds with every arm"
    )


if __name__ == "__main__":
    main()
