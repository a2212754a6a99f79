"""Small clusters: services as processes of their own, started and ended here; what can be killed; Beam's portable cluster."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
POOL = "apache_beam.runners.worker.worker_pool_main"


def free_port() -> int:
    """A port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(port: int, process: subprocess.Popen) -> bool:
    """Whether somebody listens on a port, on this machine or, as the kernel tells it, on that of the process."""
    with contextlib.suppress(OSError):
        socket.create_connection(("localhost", port), timeout=1).close()
        return True
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process.pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                    return True
    return False


def wait_for_port(port: int, process: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if _listens(port, process):
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


def children(pid: int) -> list[int]:
    """Processes that a process has started, in the order of their ids."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return sorted(found)


@contextlib.contextmanager
def service(command: list[str], *, port: int, log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """A process that listens on a port (0: on any, or none), in a session of its own so that what it starts ends with it."""
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
        if port:
            wait_for_port(port, process)
        yield process
    finally:
        end(process)


@contextlib.contextmanager
def worker_pool(
    folder: Path, port: int, launcher: str = "", at: Sequence[str] = (), **environment: str
) -> Iterator[subprocess.Popen]:
    """A pool of workers, as it would run on every machine of a cluster.

    Args:
        folder: for its log.
        port: where it listens.
        launcher: starts each worker, instead of Python.
        at: put before the command; see `machines.Machines.at`.
        environment: of the pool and its workers.
    """
    # The pool starts a bare `python`, which must be this one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    command = [*at, sys.executable, "-m", POOL, f"--service_port={port}"]
    command += [f"--container_executable={launcher}"] if launcher else []
    with service(command, port=port, log=folder / "pool.log", **{"PATH": path, **environment}) as process:
        yield process


class Killable:
    """Services that stand for one thing that can be lost and replaced: a pool, or all of a machine."""

    def __init__(self, start: Callable[[], contextlib.AbstractContextManager], stack: contextlib.ExitStack):
        self._start = start
        self._running = contextlib.ExitStack()
        self._processes: list[subprocess.Popen] = []
        stack.callback(lambda: self._running.close())
        self.replace()

    def replace(self) -> None:
        """Starts it, or another in its place."""
        self._running = contextlib.ExitStack()
        self._processes = list(self._running.enter_context(self._start()))

    def kill(self) -> None:
        """Ends it as a power cut would."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._running.close()


def killable(stack: contextlib.ExitStack, *starts: Callable[[], contextlib.AbstractContextManager]) -> Killable:
    """Processes that go together."""

    @contextlib.contextmanager
    def start() -> Iterator[list[subprocess.Popen]]:
        with contextlib.ExitStack() as started:
            yield [started.enter_context(one()) for one in starts]

    return Killable(start, stack)


@dataclasses.dataclass(frozen=True)
class Loss:
    """Something that goes in the middle of a build.

    Attributes:
        what: in words.
        kill: makes it go.
        replace: another comes.
        heals: whether the engine goes on by itself then; else the build fails, and its command is typed again.
    """

    what: str
    kill: Callable[[], None]
    replace: Callable[[], None]
    heals: bool


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A cluster that runs.

    Attributes:
        flags: Beam's, complete.
        losses: what can be tried on it.
        at: put before a command that is to run where the user sits.
        machines: what it consists of, in words.
        detaches: whether a job goes on without the process that started it.
    """

    flags: list[str]
    losses: list[Loss]
    at: list[str]
    machines: str
    detaches: bool = True


def pool_flags(pool: int) -> list[str]:
    """Beam's flags for workers from the pool at a port."""
    return ["--environment_type=EXTERNAL", f"--environment_config=localhost:{pool}"]


def job_flags(port: int) -> list[str]:
    """Beam's flags for a job server at a port, without those of a pool."""
    return ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"]


def job_server(folder: Path, port: int) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """Beam's portable job service, in Python."""
    command = [sys.executable, "-m", "apache_beam.runners.portability.local_job_service_main", "-p", str(port)]
    return service(command, port=port, log=folder / "jobs.log")


@contextlib.contextmanager
def job_service(folder: Path) -> Iterator[list[str]]:
    """`job_server` at any port; gives `job_flags`."""
    port = free_port()
    with job_server(folder, port):
        yield job_flags(port)


@contextlib.contextmanager
def portable_cluster(folder: Path, **environment: str) -> Iterator[list[str]]:
    """A job service and a pool of workers with something special in their environment; gives Beam's flags for both."""
    pool = free_port()
    with job_service(folder) as flags, worker_pool(folder, pool, **environment):
        yield [*flags, *pool_flags(pool)]


@contextlib.contextmanager
def with_pool(folder: Path, server: Callable[[Path, int], contextlib.AbstractContextManager]) -> Iterator[Cluster]:
    """A job server of its own kind, at the port that it is given, with one pool of workers; both can be lost."""
    pool_port, port = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        jobs = killable(stack, lambda: server(folder, port))
        pool = killable(stack, lambda: worker_pool(folder, pool_port))
        losses = [
            Loss("pool", pool.kill, pool.replace, heals=False),
            Loss("job server", jobs.kill, jobs.replace, heals=False),
        ]
        yield Cluster([*job_flags(port), *pool_flags(pool_port)], losses, [], "1 pool")
