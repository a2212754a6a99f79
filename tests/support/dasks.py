"""A Dask cluster on loopback: a scheduler, and two worker processes with a nanny that replaces those that die."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from clusters import Cluster, Loss, children, free_port, service


@contextlib.contextmanager
def dask(folder: Path) -> Iterator[Cluster]:
    """A cluster of two workers."""
    port = free_port()
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--no-dashboard"]
    worker += ["--nworkers", "1", "--nthreads", "1", "--local-directory", str(folder), "--host", "127.0.0.1"]
    with (
        service([*scheduler, "--no-dashboard"], port=port, log=folder / "dask-scheduler.log"),
        service(worker, port=0, log=folder / "dask-worker-1.log"),
        service(worker, port=0, log=folder / "dask-worker-2.log") as nanny,
    ):

        def processes() -> list[int]:
            return [pid for pid in children(nanny.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        def kill() -> None:
            os.kill(processes()[0], signal.SIGKILL)

        deadline = time.monotonic() + 60
        while not processes():
            assert time.monotonic() < deadline, "Dask's worker did not start"
            time.sleep(0.2)
        flags = ["--runner=DaskRunner", f"--dask_client_address=tcp://127.0.0.1:{port}"]
        yield Cluster(flags, [Loss("worker", kill, lambda: None, heals=True)], [], "1 host, 2 workers", detaches=False)
