"""What the machinery around an image costs: Beam's share per image, and whether memory grows with the number of images.

    python -m benchmarks.overhead [--few 200] [--many 2000]

The same small pictures are built with `grid(n=5)` by a plain loop over `build_part` with one child process, and by the Beam
graph with two; CPU seconds of the whole process tree at two sizes tell the cost per image apart from start-up. Peak memory
is that of the largest process of each run, driver and workers alike.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

_LOOP = """
import sys
from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.isolation import ChildProcess
from maskmill.pipelines.parts.part import build_part
from maskmill.pipelines.parts.plan import make_plan
plan = make_plan(BuildConfig("folder", sys.argv[1], ("grid(n=5)",)), sys.argv[2])
child = ChildProcess(plan.config.settings(), 60.0)
for task in plan.tasks:
    build_part(task, sys.argv[2], child)
child.close()
"""


def measure(command: list[str]) -> tuple[float, float]:
    """CPU seconds of a command and its children, and the peak MB of the largest of those processes."""
    probe = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode\n"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_maxrss); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", probe, *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, int(done.stdout) / 1024


def main() -> None:
    """Prints both costs at both sizes, and the difference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=200)
    parser.add_argument("--many", type=int, default=2000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        rng = np.random.default_rng(0)
        pictures = [cv2.imencode(".png", rng.integers(0, 256, (48, 64, 3), np.uint8))[1].tobytes() for _ in range(50)]
        for count in (args.few, args.many):
            (root / str(count)).mkdir()
            for i in range(count):
                (root / str(count) / f"{i:06d}.png").write_bytes(pictures[i % 50])
        cli = [
            sys.executable,
            "-m",
            "maskmill.pipelines.commands.cli",
            "build",
            "--dataset",
            "folder",
            "--masks",
            "grid(n=5)",
            "--json",
        ]
        cpu: dict[tuple[str, int], float] = {}
        print(f"load {os.getloadavg()[0]:.1f}")
        for count in (args.few, args.many):
            images = str(root / str(count))
            sides = {
                "plain loop, 1 child": [sys.executable, "-c", _LOOP, images, str(root / f"loop-{count}")],
                "Beam, 2 workers": [*cli, "--images", images, "--out", str(root / f"beam-{count}"), "--workers", "2"],
            }
            for name, command in sides.items():
                cpu[name, count], peak = measure(command)
                print(f"{name:<20} {count:>6} images: {cpu[name, count]:>7.2f} CPU s, largest process {peak:>5.0f} MB")
        rates = {
            name: (cpu[name, args.many] - cpu[name, args.few]) / (args.many - args.few) * 1e3
            for name in ("plain loop, 1 child", "Beam, 2 workers")
        }
        loop, beam = rates.values()
        print(
            f"per image: loop {loop:.2f} ms, Beam build {beam:.2f} ms; Beam, assembly and tables cost {beam - loop:+.2f} ms"
        )


if __name__ == "__main__":
    main()
