"""What every preset's step needs of three TPU slices, compiled ahead of time: the table of docs/training.md.

    python -m benchmarks.plan_step_table [--most N] [--quick]

Each pair of a step and a slice is compiled by `detcon plan-step` in a process of its own, five minutes of a core each, and
kept in benchmarks/results/plan_step.json at once; the same command goes on with the pairs that are missing, and writes
the table anew. With `--quick` XLA takes the least effort, a minute: enough to say whether a step fits and what it
gathers, not how much it moves; without it such pairs are compiled again. Operations are counted before compilation, for
every preset. Presets that differ in nothing that is compiled (epochs, layers, schedule) share a row. Needs libtpu.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from maskmill.training.chips import Topology, find_topology
from maskmill.training.config import Config, DataConfig
from maskmill.training.plan_step import step_flops
from maskmill.training.presets import PRESETS

ROOT = Path(__file__).parent.parent
RESULTS, DOCS = ROOT / "benchmarks" / "results" / "plan_step.json", ROOT / "docs" / "training.md"
BEGIN, END = "<!-- written by benchmarks.plan_step_table: begin -->\n", "<!-- end -->\n"
ALGORITHMS = ("detcon_s", "detcon_b", "simclr", "byol")
SLICES = ("v5e-128", "v4-32", "v5p-64")
ANY = "any"  # stands for a slice where only operations are counted, half a minute for each step


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, metavar="N", help="compile so many of the missing pairs")
    parser.add_argument("--quick", action="store_true", help="with the least effort")
    given = parser.parse_args(argv)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    done = {(row["preset"], row["slice"]) for row in results if given.quick or not row.get("quick")}
    missing = [pair for pair in pairs() if pair not in done]
    for preset, slice_ in missing[: given.most]:
        results.append({"preset": preset, "slice": slice_} | _planned(preset, slice_, given.quick))
        print(json.dumps(results[-1]), flush=True)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("[\n" + ",\n".join(json.dumps(row) for row in results) + "\n]\n")
    before, _, rest = DOCS.read_text().partition(BEGIN)
    DOCS.write_text(f"{before}{BEGIN}{table(results)}{END}{rest.partition(END)[2]}")
    print(f"{len(missing[len(missing[: given.most]) :])} pairs are left; the same command goes on")
    return 0


def steps() -> dict[str, list[str]]:
    """The presets of batch 4096 by what is compiled for them: the first of each kind, and all that share its step."""
    kinds: dict[Config, list[str]] = {}
    for name, preset in PRESETS.items():
        config, data = preset.config, preset.config.data
        if config.algorithm not in ALGORITHMS:
            continue
        seen = DataConfig(image_size=data.image_size, masks_per_view=data.masks_per_view, views=data.views)
        step = Config(data=seen, augment=config.augment, model=config.model, loss=config.loss)
        step = dataclasses.replace(step, algorithm="detcon_b" if config.has_target else "detcon_s")
        if config.batch_size == step.batch_size:  # the smoke test is for laptops
            kinds.setdefault(step, []).append(name)
    return {names[0]: names for names in kinds.values()}


def pairs() -> Iterator[tuple[str, str]]:
    """What is to be counted and compiled, the most asked for first: smaller networks before larger."""
    deep = [name for name in steps() if PRESETS[name].config.model.arch != "resnet50"]
    plain = [name for name in steps() if name not in deep]
    first = ["detcon_b_in1k_300", "detcon_s_in1k_100", "byol_in1k_300", "simclr_in1k_100"]
    yield from ((name, ANY) for name in plain)
    for slice_ in SLICES:
        yield from ((name, slice_) for name in first)
    yield from ((name, ANY) for name in deep)
    for slice_, names in ((SLICES[0], plain + deep), *((s, plain + deep) for s in SLICES[1:])):
        yield from ((name, slice_) for name in names if name not in first)


def _planned(preset: str, slice_: str, quick: bool) -> dict:
    versions: dict = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    if slice_ == ANY:
        os.environ["JAX_PLATFORMS"] = "cpu"
        return {"flops": step_flops(PRESETS[preset].config)} | versions
    words = ["plan-step", "--preset", preset, "--topology", slice_, "--json"]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    if quick:
        environment["JAX_EXEC_TIME_OPTIMIZATION_EFFORT"] = "-1"
        versions["quick"] = True
    done = subprocess.run(
        [sys.executable, "-m", "maskmill.training.cli", *words], env=environment, capture_output=True, text=True
    )
    if done.returncode == 2 and "do not fit the memory" in done.stderr:
        return {"refused": done.stderr.strip()} | versions
    done.check_returncode()
    result = json.loads(done.stdout)
    return result | {"compile_cpu_s": round(result["compile_cpu_s"])} | versions


def table(results: list[dict]) -> str:
    """The table of docs/training.md, a row for each step and slice, and which presets share a step.

    Operations are counted in the program before it is compiled, for all slices at once. What only the compiler knows
    stands where it was asked; of a quick answer only what a thorough one says as well.
    """
    found = {(row["preset"], row["slice"]): row for row in sorted(results, key=lambda row: not row.get("quick"))}
    lines = [
        "| preset, batch 4096 | slice | T operations, all and per chip | computing alone, ms | memory per chip, GiB "
        "| GB moved per chip | gathers in / outside loops | step at least, ms | images/s at most, all and per host "
        "| cores per host for input |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for slice_ in SLICES:
        for name in steps():
            calculated = _calculated(found.get((name, ANY)), find_topology(slice_))
            lines.append(f"| `{name}` | {slice_} | {calculated} | {_compiled(found.get((name, slice_)))} |")
    lines += ["", "The same step, but for epochs, layers or schedule:"]
    shared = {first: names[1:] for first, names in steps().items() if len(names) > 1}
    lines += [f"- `{first}`: {', '.join(f'`{name}`' for name in names)}" for first, names in shared.items()]
    return "\n".join(lines) + "\n"


def _calculated(counted: dict | None, slice_: Topology) -> str:
    if counted is None:
        return "not counted | "
    flops = counted["flops"] / slice_.chips
    return f"{counted['flops'] / 1e12:.0f}, {flops / 1e12:.2f} | {1e3 * flops / slice_.chip.flops:.0f}"


def _compiled(row: dict | None) -> str:
    if row is None:
        return "not compiled | | | | | "
    if "refused" in row:
        return f"does not fit: {row['refused'].partition('it needs ')[2].partition(';')[0]} | | | | | "
    memory, seconds, feed = row["memory"], row["seconds"], row["input"]
    places = (row["collectives"]["in loops"], row["collectives"]["outside loops"])
    gathers = [place.get("all-gather", {"count": 0, "bytes": 0}) for place in places]
    held = f"{memory['peak'] / 2**30:.2f} of {memory['capacity'] / 2**30:.0f}"
    if row.get("quick"):
        return f"{held} (quick) | | {gathers[0]['count']} / {gathers[1]['count']} | | | "
    return (
        f"{held} | {row['bytes_accessed'] / 1e9:.1f} "
        f"| {gathers[0]['count']} / {gathers[1]['count']} ({gathers[1]['bytes'] / 1e6:.0f} MB) "
        f"| {1e3 * max(seconds.values()):.0f} "
        f"| {row['images_per_s']:,.0f}; {feed['images_per_s_per_host']:,.0f} | {feed['cores_per_host']:.0f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
