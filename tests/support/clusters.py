"""Small clusters on loopback: services as processes of their own, started and ended here, and Beam's portable cluster."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
POOL = "apache_beam.runners.worker.worker_pool_main"


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


def end(process: subprocess.Popen) -> None:
    """Ends a process and all of its session, gently first."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience)


@contextlib.contextmanager
def service(command: list[str], *, port: int, log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """A process that listens on a port, in a session of its own so that what it starts ends with it."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            cwd=log.parent,  # not the repository: workers elsewhere have other working folders
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for_port(port, process)
        yield process
    finally:
        end(process)


@contextlib.contextmanager
def worker_pool(folder: Path, port: int, launcher: str = "", **environment: str) -> Iterator[subprocess.Popen]:
    """A pool of workers, as it would run on every machine of a cluster. `launcher` starts each worker instead of Python."""
    # The pool starts a bare `python`, which must be this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", POOL, f"--service_port={port}"]
    command += [f"--container_executable={launcher}"] if launcher else []
    with service(command, port=port, log=folder / "pool.log", **{"PATH": path, **environment}) as process:
        yield process


def pool_flags(pool: int) -> list[str]:
    """Beam's flags for workers from the pool at a port."""
    return ["--environment_type=EXTERNAL", f"--environment_config=localhost:{pool}"]


@contextlib.contextmanager
def job_service(folder: Path) -> Iterator[list[str]]:
    """Beam's portable job service, in Python; gives Beam's flags for it, without those of a pool."""
    port = free_port()
    command = [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main", "-p", str(port)]
    with service(command, port=port, log=folder / "jobs.log"):
        yield ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"]


@contextlib.contextmanager
def portable_cluster(folder: Path, **environment: str) -> Iterator[list[str]]:
    """A job service and a pool of workers with something special in their environment; gives Beam's flags for both."""
    pool = free_port()
    with job_service(folder) as flags, worker_pool(folder, pool, **environment):
        yield [*flags, *pool_flags(pool)]
