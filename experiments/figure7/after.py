"""What was asked after the verdict was known, and says nothing about it: `python -m experiments.figure7.after --state STATE`.

The preregistered runs answer whether the order holds; these look for why it does or does not, one change of the main runs at a
time, on the first seeds. They need the masks and the chosen rates of a finished run, whose state folder they are given, keep
their own cells below it, and go on where they stood.
"""

import argparse
import dataclasses
import functools
import json
import os
import time
from pathlib import Path

import numpy as np

from experiments.figure7 import statistics, verdict
from experiments.figure7.arms import Cell, arms
from experiments.figure7.page import AFTER
from experiments.figure7.prepare import Prepared
from experiments.figure7.run import chosen_rate, settle_jax, work
from experiments.figure7.sizes import CPU, Size
from experiments.figure7.state import State, code_digest
from maskmill.schemas import storage

ARMS = ("global", "shuffled", "grid-5", "fh-1000", "mcg", "gt")


@dataclasses.dataclass(frozen=True)
class Question:
    """One change of the main runs.

    Attributes:
        name: of its folder and its row.
        title: on the page.
        size: what is trained.
        ablation: what else is changed, of `arms.ABLATIONS`.
        seeds: on which.
    """

    name: str
    title: str
    size: Size
    ablation: str = ""
    seeds: tuple[int, ...] = (1, 2, 3)

    def cells(self, rate_of) -> list[Cell]:
        """Its runs, seed by seed."""
        return [Cell("detcon_s", arm, seed, rate_of(arm), self.ablation) for seed in self.seeds for arm in ARMS]


def _change(**changes: object) -> Size:
    return dataclasses.replace(CPU, **changes)


QUESTIONS = (
    Question("few", "4 masks per view instead of 16: arms have about as many different ones", CPU, "masks-4", (1, 2, 3, 4)),
    Question("long", "480 steps instead of 120", _change(steps=480, window=480, checkpoints=(48, 120, 240, 360, 480))),
    Question("fine", "cells of 4 pixels instead of 8", _change(cell=4)),
    Question("whole", "crops of 50 to 100 % of a scene instead of 20 to 60 %", _change(crop=(0.5, 1.0))),
)  # fmt: skip


def row(question: Question, cells: verdict.Cells, base: verdict.Cells, abo: dict[str, float]) -> dict | None:
    """Means by arm over the seeds that all arms have, their correlation with ABO, and the same seeds of the main runs.

    Args:
        cells, base: finished cells of the question and of the main runs.
        abo: by arm.
    """
    of = verdict.select(cells, ablation=question.ablation)
    seeds = verdict.finished_seeds(of, ARMS, question.seeds)
    if not seeds:
        return None
    found = {"title": question.title, "seeds": seeds}
    for name, by_arm in (("here", of), ("main", verdict.select(base))):
        final = np.array([verdict.curves(by_arm[arm], seeds)[1][:, -1] for arm in ARMS])
        means = final.mean(1).tolist()
        found[name] = {
            "auc": dict(zip(ARMS, means, strict=True)),
            "rho": statistics.spearman([abo[arm] for arm in ARMS], means),
            "gt_over_global": verdict.compare(by_arm, [("global", "gt")], seeds)[0],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state", required=True, help="folder of the finished run")
    parser.add_argument(
        "--questions", nargs="+", choices=[question.name for question in QUESTIONS], help="default: all"
    )
    parser.add_argument(
        "--budget-minutes", type=float, default=float("inf"), help="stop in time, between cells; 0: only collect"
    )
    parser.add_argument("--out", type=Path, default=AFTER, help="where the JSON goes")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.budget_minutes
    settle_jax(given.state)
    main_runs = State(given.state, CPU, code_digest())
    prepared = Prepared(**json.loads((Path(given.state) / "prepared.json").read_text()))
    rate_of = functools.partial(chosen_rate, main_runs, CPU, "detcon_s")
    abo = {arm: prepared.abo[arms(CPU)[arm].layer] for arm in ARMS}
    rows = {}
    for question in QUESTIONS:
        state = State(os.path.join(given.state, "after", question.name), question.size, code_digest())
        if given.budget_minutes and (not given.questions or question.name in given.questions):
            from experiments.figure7.bench import Bench  # JAX, after its settings

            bench = Bench(prepared, question.size)
            tell = functools.partial(print, question.name, flush=True)
            work(state, [question.cells(rate_of)], bench.run, deadline=deadline, tell=tell)
        found = row(question, state.all(), main_runs.all(), abo)
        if found:
            rows[question.name] = found
    storage.write_bytes(str(given.out), (json.dumps({"abo": abo, "questions": rows}, indent=1) + "\n").encode())
    print(f"wrote {given.out}: {len(rows)} of {len(QUESTIONS)} questions with a seed of every arm")


if __name__ == "__main__":
    main()
