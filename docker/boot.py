"""A few pictures built by workers that start as a container of the worker image does: the same bytes as without?

    PYTHONPATH=tests/support python docker/boot.py BOOT      (run by docker/check.py with the image's Python)

BOOT is Beam's launcher, the image's entry command. A pool of workers runs it for every worker, as `BOOT --worker_pool` would
and as Dataflow does: it fetches what was staged with the job into a folder that belongs to the user it runs as, and starts
Python. The job service is Beam's own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from clusters import free_port, job_service, pool_flags, worker_pool
from drawn import content, write_coco

_PATIENCE_S = 180
_PICTURES = 12


def trial(boot: str, folder: Path) -> None:
    """Builds with and without the launcher; SystemExit with a reason where they differ."""
    images, _ = write_coco(folder / "pictures", _PICTURES)
    kept = folder / "kept"  # as the folder that Dataflow mounts for what is staged: nobody else may write there
    kept.mkdir(mode=0o755)
    entry = folder / "entry"
    entry.write_text(f'#!/bin/sh\nexec {boot} --semi_persist_dir={kept} "$@"\n')
    entry.chmod(0o755)

    def build(out: str, *beam: str) -> None:
        own = ["build", "--dataset", "folder", "--images", images, "--masks", "grid(n=2)", "--part-size", "4"]
        command = [
            sys.executable,
            "-m",
            "maskmill.pipelines.commands.cli",
            *own,
            "--out",
            str(folder / out),
            "--",
            *beam,
        ]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            logs = "\n".join((folder / "pool.log").read_text(errors="replace").splitlines()[-6:])
            sys.exit(f"the workers that {boot} starts did nothing for {_PATIENCE_S} s:\n{logs}")
        if done.returncode:
            sys.exit(f"the build into {out} ended with {done.returncode}: {done.stderr.strip()}")

    build("without")
    pool = free_port()
    # PYTHONPATH: what is installed beside the launcher is on trial, not the checkout.
    with job_service(folder) as flags, worker_pool(folder, pool, str(entry), PYTHONPATH=""):
        build("through", *flags, *pool_flags(pool))
    if not (kept / "staged").is_dir():
        sys.exit(f"{boot} was never asked to fetch what was staged")
    if content(folder / "without") != content(folder / "through"):
        sys.exit("workers that the launcher started wrote other bytes")
    print(f"{_PICTURES} pictures built through {boot}: equal bytes")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="maskmill-boot-") as scratch:
        trial(sys.argv[1], Path(scratch))
