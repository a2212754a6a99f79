"""Whether an image costs the same in a small build and in a large one: CPU time per image, and the driver's memory.

    python -m benchmarks.scaling [--sizes 1000 10000 50000] [--repeats 3]

Small JPEGs are drawn once and built with a cheap generator through everything that a build is: listing, plan, Beam, shards,
tables, report, manifest. Each run is a process of its own, which first builds a few images twice: once to have imports and
compiled code behind it, once for what a build costs however small it is. CPU seconds count, never wall time, and of several
runs the cheapest, since other work on the machine only ever adds. Images are built in the driver's own process: children
cost their start-up once, a hundred times what a thousand such images cost, and would hide what is looked for.

Exit code 1 when the dearest size costs more than 10 % above the cheapest, or the driver needs more than 1 GB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

FEW = 32  # images of the run that measures the start
LIMIT = 1.10
MEMORY_MB = 1024
LARGE = 20_000  # images; larger sizes run twice at most, they are long enough to average by themselves

_RUN = """
import json, resource, sys, time
from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
few, many, out, masks = sys.argv[1:]
spent = []
for i, images in enumerate((few, few, many)):
    start = time.process_time()
    outcome = build(BuildConfig("folder", images, (masks,)), f"{out}-{i}", RunOptions(workers=0), quiet=True)
    spent.append(time.process_time() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"first": spent[0], "fixed": spent[1], "all": spent[2], "mb": peak, "records": outcome.manifest.num_records}))
"""


def draw_pictures(folder: Path, count: int, side: int = 64, distinct: int = 200) -> None:
    """Writes `count` JPEGs of blurred noise; `distinct` of them differ, the rest repeats them under other names."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (min(distinct, count), side, side, 3), np.uint8)
    pictures = [cv2.imencode(".jpg", cv2.GaussianBlur(picture, (5, 5), 2))[1].tobytes() for picture in noise]
    for i in range(count):
        target = folder / f"{i // 1000:03d}" / f"{i:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(pictures[i % len(pictures)])


def build(few: Path, many: Path, out: Path, masks: str) -> dict[str, float]:
    """One run: CPU seconds of the first, of another small and of the large build, and the peak MB of their process."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(few), str(many), str(out), masks], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"the build of {many} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Prints a table; returns 1 when the cost is not flat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000], metavar="N")
    parser.add_argument("--repeats", type=int, default=3, help="runs of every size; of those above 20,000 two at most")
    parser.add_argument("--masks", default="grid(n=5)")
    args = parser.parse_args()
    rates, peaks = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        draw_pictures(root / "few", FEW)
        for size in args.sizes:  # a folder each: listing is part of a build's cost
            draw_pictures(root / f"images-{size}", size)
        runs: dict[int, list[dict]] = {size: [] for size in args.sizes}
        for repeat in range(args.repeats):  # sizes in turn, so that other work on the machine hits all of them
            for size in args.sizes:
                if repeat < 2 or size <= LARGE:
                    out = root / f"out-{size}-{repeat}"
                    runs[size].append(build(root / "few", root / f"images-{size}", out, args.masks))
        print(f"{args.masks} on 64x64 pixels; load {os.getloadavg()[0]:.1f}")
        print(f"{'images':>7} {'CPU s':>8} {'fixed s':>8} {'CPU ms/image':>13} {'driver peak MB':>15}")
        for size, found in runs.items():
            best = min(found, key=lambda run: run["all"] - run["fixed"])
            rates[size] = (best["all"] - best["fixed"]) / (size - FEW) * 1e3
            peaks[size] = max(run["mb"] for run in found)
            print(f"{size:>7,} {best['all']:>8.2f} {best['fixed']:>8.2f} {rates[size]:>13.3f} {peaks[size]:>15.0f}")
    spread = max(rates.values()) / min(rates.values())
    print(f"the dearest size costs {spread:.3f} times the cheapest")
    flat = spread <= LIMIT and max(peaks.values()) <= MEMORY_MB
    print("flat" if flat else f"NOT flat: the limits are {LIMIT:.2f} times and {MEMORY_MB} MB")
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
