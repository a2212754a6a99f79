"""Small clusters on loopback for tests: Beam's portable job service with a pool of workers, started and ended here."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("localhost", port), timeout=1).close()
            return
        assert process.poll() is None, "a cluster's process ended before it listened"
        time.sleep(0.1)
    raise AssertionError(f"nothing listens on port {port} after {seconds} s")


@contextlib.contextmanager
def running(module: str, *flags: str, port: int, log: Path) -> Iterator[subprocess.Popen]:
    """A Beam service as a process of its own, in a session of its own so that what it starts ends with it."""
    # The pool starts a bare `python`, which must be this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags],
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            cwd=log.parent,  # not the repository: workers elsewhere have other working folders
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for_port(port, process)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
            process.wait(timeout=10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


@contextlib.contextmanager
def portable_cluster(folder: Path) -> Iterator[list[str]]:
    """A job service and a pool of workers; gives Beam's flags for it."""
    jobs, pool = free_port(), free_port()
    with (
        running(
            "apache_beam.runners.portability.local_job_service_main",
            "-p",
            str(jobs),
            port=jobs,
            log=folder / "jobs.log",
        ),
        running(
            "apache_beam.runners.worker.worker_pool_main", f"--service_port={pool}", port=pool, log=folder / "pool.log"
        ),
    ):
        yield [
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{jobs}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool}",
        ]
