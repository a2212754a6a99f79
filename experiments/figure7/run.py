"""Runs the experiment, or goes on where it stood: what is finished is on disk and is never done again.

    python -m experiments.figure7.run --data $MASKMILL_TEST_DATA --state STATE [--budget-minutes 10]

Order of runs: rates on the development seed (each arm with each rate), then seed by seed all arms, then ablations, then
the same with DetCon-B. `--quick` is three arms and two seeds at one rate, without `mcg`. It may be killed at any moment;
the same command goes on. Results are collected with `python -m experiments.figure7.collect`.
"""

import argparse
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator

from experiments.figure7 import verdict
from experiments.figure7.arms import ABLATIONS, DEVELOPMENT_SEED, RANDOM, Cell, arms
from experiments.figure7.prepare import prepare
from experiments.figure7.sizes import SIZES, Size
from experiments.figure7.state import State, code_digest
from experiments.figure7.verdict import PRIMARY
from maskmill.schemas.errors import MaskmillError

QUICK_SEEDS = (201, 202)  # not those of the results, which come once
QUICK_ARMS = ("global", "fh-1000", "gt")
ALGORITHMS = {
    "detcon_s": ("global", "shuffled", "grid-2", "grid-5", "fh-1500", "fh-1000", "fh-500", "mcg", "gt"),
    "detcon_b": ("global", "shuffled", "grid-5", "fh-1000", "mcg", "gt"),
}
ABLATED_ARMS = ("fh-1000", "gt")
RateOf = Callable[[str, str], float]  # algorithm, arm


def rate_cells(size: Size, algorithm: str) -> list[Cell]:
    """Runs on the development seed of which each arm's rate is chosen; none where there is no choice."""
    if len(size.rates) == 1:
        return []
    return [Cell(algorithm, arm, DEVELOPMENT_SEED, rate) for arm in ALGORITHMS[algorithm] for rate in size.rates]


def chosen_rate(state: State, size: Size, algorithm: str, arm: str) -> float:
    """The rate with the best final score on the development seed; the smaller of equal ones."""
    if len(size.rates) == 1:
        return size.rates[0]
    found = {rate: state.read(Cell(algorithm, arm, DEVELOPMENT_SEED, rate)) for rate in size.rates}
    return max(sorted(found), key=lambda rate: found[rate]["scores"][str(size.steps)][PRIMARY])


def full_stages(size: Size, rate_of: RateOf) -> Iterator[list[Cell]]:
    """All runs in the order in which they are done; a stage's rates are asked for when the one before it is finished."""
    for algorithm in size.algorithms:
        yield rate_cells(size, algorithm)
        yield [
            Cell(algorithm, arm, seed, 0.0 if arm == RANDOM else rate_of(algorithm, arm))
            for seed in size.seeds
            for arm in ((RANDOM,) if algorithm == size.algorithms[0] else ()) + ALGORITHMS[algorithm]
        ]
        if algorithm == size.algorithms[0]:
            yield [
                Cell(algorithm, arm, seed, rate_of(algorithm, arm), ablation)
                for seed in size.ablation_seeds
                for ablation in ABLATIONS
                for arm in ABLATED_ARMS
            ]


def quick_cells(size: Size) -> list[Cell]:
    """Three arms, two seeds, the middle rate."""
    rate = sorted(size.rates)[len(size.rates) // 2]
    return [
        Cell("detcon_s", arm, seed, 0.0 if arm == RANDOM else rate)
        for seed in QUICK_SEEDS
        for arm in (RANDOM, *QUICK_ARMS)
    ]


def work(
    state: State,
    stages: Iterable[list[Cell]],
    run: Callable[[Cell], dict],
    *,
    deadline: float = float("inf"),
    tell: Callable[[str], None] = print,
) -> bool:
    """Runs cells until all are finished (True), or the next might not be before the deadline on the monotonic clock."""
    longest = 0.0
    for stage in stages:
        for index, cell in enumerate(stage):
            if state.has(cell):
                continue
            if time.monotonic() + longest > deadline:
                tell(
                    f"{sum(map(state.has, stage))} of {len(stage)} runs of this stage are finished; the same command goes on"
                )
                return False
            begin = time.monotonic()
            result = run(cell)
            state.write(cell, result)
            longest = max(longest, time.monotonic() - begin)
            last = result["scores"][max(result["scores"], key=int)]
            words = "  ".join(f"{name} {100 * value:.2f}" for name, value in last.items())
            tell(f"[{index + 1}/{len(stage)}] {cell.name}: {words}  ({result['cpu_s']:.0f} CPU s)")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=os.environ.get("MASKMILL_TEST_DATA"), help="folder of photographs")
    parser.add_argument("--state", help="folder of what is finished; give the same to go on")
    parser.add_argument("--size", choices=tuple(SIZES), default="cpu")
    parser.add_argument("--quick", action="store_true", help="three arms, two seeds, one rate, without mcg")
    parser.add_argument("--budget-minutes", type=float, default=float("inf"), help="stop in time, between cells")
    parser.add_argument("--dry-run", action="store_true", help="say what it would do and cost, and do nothing")
    given = parser.parse_args()
    begin = time.monotonic()
    if given.dry_run:
        from experiments.figure7.cost import estimate, table

        size = SIZES[given.size]
        stages = [quick_cells(size)] if given.quick else full_stages(size, lambda algorithm, arm: 1.0)
        cells = [cell for stage in stages for cell in stage]
        print(table(size, estimate(size, cells)))
        return
    if not given.state:
        parser.error("--state is needed: the folder of what is finished")
    if not given.data:
        parser.error("--data is needed: a folder with coco/, imagenet/ and bsds500/ (or set MASKMILL_TEST_DATA)")
    settle_jax(given.state)
    size = SIZES[given.size]
    if given.quick:
        size = dataclasses.replace(size, name=f"{size.name}-quick", scenes=size.scenes // 3)
    tell = functools.partial(print, flush=True)
    try:
        state = State(given.state, size, code_digest())
        prepared = prepare(state.folder, given.data, size, with_mcg=not given.quick, tell=tell)
        from experiments.figure7.bench import Bench  # JAX, after its settings

        bench = Bench(prepared, size)
        deadline = begin + 60 * given.budget_minutes
        rate_of = functools.cache(functools.partial(chosen_rate, state, size))
        stages = [quick_cells(size)] if given.quick else full_stages(size, rate_of)
        finished = work(state, stages, bench.run, deadline=deadline, tell=tell)
    except MaskmillError as error:
        print(f"figure7: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    if finished:
        listed = arms(size)
        names = QUICK_ARMS if given.quick else ALGORITHMS["detcon_s"]
        abo = {name: prepared.abo[listed[name].layer] for name in names}
        seeds = QUICK_SEEDS if given.quick else size.seeds
        tell("all runs are finished; AUC of the frozen segmentation probe, percent")
        tell(verdict.table(verdict.judge(state.all(), names, abo, seeds, len(seeds))))


def settle_jax(state: str) -> None:
    # Before JAX is loaded. Compiled steps are kept beside the cells, so that a run which goes on does not compile again.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(os.path.abspath(state), "compiled"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")


if __name__ == "__main__":
    main()
