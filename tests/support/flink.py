"""A standalone Flink cluster of three machines: a JobManager with Beam's job server, and two TaskManagers with a pool each.

Versions are environment variables, so that whoever has a newer job server runs the same drill: MASKMILL_FLINK of the cluster,
MASKMILL_FLINK_BEAM of Beam's runner for its minor version, or MASKMILL_FLINK_JOB_SERVER, a job server's .jar.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from clusters import Cluster, Loss, free_port, killable, pool_flags, service, worker_pool
from fetched import OPENS, MissingError, package, runner_jars
from machines import Machines, machines

FLINK = os.environ.get("MASKMILL_FLINK", "1.16.3")
BEAM = os.environ.get("MASKMILL_FLINK_BEAM", "2.54.0")
_LOG = ("org.slf4j", "slf4j-simple", "1.7.30")
_CONFIG = """\
jobmanager.rpc.address: {master}
jobmanager.rpc.port: {rpc}
jobmanager.bind-host: 0.0.0.0
rest.address: {master}
rest.bind-address: 0.0.0.0
rest.port: {rest}
taskmanager.host: {own}
taskmanager.bind-host: 0.0.0.0
taskmanager.numberOfTaskSlots: 1
heartbeat.interval: 2000
heartbeat.timeout: 10000
io.tmp.dirs: {scratch}
"""
# Without it Flink gives up a batch job with the first TaskManager that is lost.
RESTART = """\
restart-strategy: fixed-delay
restart-strategy.fixed-delay.attempts: 10
restart-strategy.fixed-delay.delay: 3 s
"""
_MASTER_MB = {"memory.heap.size": 624, "memory.off-heap.size": 128, "memory.jvm-metaspace.size": 256}
_MASTER_MB |= {"memory.jvm-overhead.min": 192, "memory.jvm-overhead.max": 192}
_WORKER_MB = {
    "task.heap.size": 384,
    "framework.heap.size": 128,
    "framework.off-heap.size": 128,
    "task.off-heap.size": 128,
}
_WORKER_MB |= {"network.min": 64, "network.max": 64, "managed.size": 128, "jvm-metaspace.size": 256}
_WORKER_MB |= {"jvm-overhead.min": 192, "jvm-overhead.max": 192}


def fetch_all() -> None:
    """Fetches what is missing."""
    package("apache-flink-libraries", FLINK)
    job_server()


def job_server() -> str:
    """The class path of Beam's job server for this Flink."""
    if jar := os.environ.get("MASKMILL_FLINK_JOB_SERVER", ""):
        return jar
    minor = ".".join(FLINK.split(".")[:2])
    try:
        return ":".join(runner_jars(f"beam-runners-flink-{minor}", BEAM, _LOG))
    except MissingError as error:
        raise MissingError(f"{error}; where you have a job server's .jar: MASKMILL_FLINK_JOB_SERVER=JAR") from None


def _memory(prefix: str, sizes: dict[str, int]) -> list[str]:
    return [word for name, size in sizes.items() for word in ("-D", f"{prefix}{name}={size}mb")]


class _Flink:
    """The programs of a cluster, and where they run."""

    def __init__(self, folder: Path, hosts: Machines, heals: bool):
        self.folder, self.hosts, self.heals = folder, hosts, heals
        self.rest, self.rpc, self.job_port, self.pool_port = (free_port() for _ in range(4))
        self.master = hosts.address("a")
        libraries = sorted((package("apache-flink-libraries", FLINK) / "lib").glob("*.jar"))
        self.flink = ["java", *OPENS, "-cp", ":".join(map(str, libraries))]

    def _configuration(self, host: str) -> list[str]:
        place = self.folder / f"flink-{host}"
        place.mkdir(exist_ok=True)
        own = self.hosts.address(host)
        text = _CONFIG.format(master=self.master, rpc=self.rpc, rest=self.rest, own=own, scratch=place)
        (place / "flink-conf.yaml").write_text(text + (RESTART if self.heals else ""))
        return ["--configDir", str(place)]

    def jobmanager(self):
        command = [*self.hosts.at("a"), *self.flink, "-Xmx700m"]
        command += ["org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint", *self._configuration("a")]
        return service(
            [*command, *_memory("jobmanager.", _MASTER_MB)], port=self.rest, log=self.folder / "jobmanager.log"
        )

    def taskmanager(self, host: str):
        command = [*self.hosts.at(host), *self.flink, "-Xmx512m", "-XX:MaxDirectMemorySize=400m"]
        command += ["org.apache.flink.runtime.taskexecutor.TaskManagerRunner", *self._configuration(host)]
        command += ["-D", "taskmanager.cpu.cores=1.0", *_memory("taskmanager.memory.", _WORKER_MB)]
        return service(command, port=0, log=self.folder / f"taskmanager-{host}.log")

    def pool(self, host: str):
        return worker_pool(self.folder, self.pool_port, at=self.hosts.at(host))

    def job_server(self):
        command = [*self.hosts.at("a"), "java", *OPENS, "-Xmx600m", "-cp", job_server()]
        command += ["org.apache.beam.runners.flink.FlinkJobServerDriver", "--job-host", self.master]
        command += ["--job-port", str(self.job_port), "--artifact-port", "0", "--expansion-port", "0"]
        command += ["--flink-master", f"{self.master}:{self.rest}", "--artifacts-dir", str(self.folder / "artifacts")]
        return service(command, port=self.job_port, log=self.folder / "job-server.log")

    def slots(self) -> int:
        """How many tasks the cluster can run, as the JobManager says on its own machine."""
        url = f"http://{self.master}:{self.rest}/overview"
        ask = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=5).read().decode())"
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        command = [*self.hosts.at("a"), sys.executable, "-c", ask]
        said = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
        with contextlib.suppress(ValueError):
            return int(json.loads(said).get("slots-total", 0))
        return 0

    def wait_for_slots(self, wanted: int) -> None:
        deadline = time.monotonic() + 120
        while self.slots() < wanted:
            if time.monotonic() > deadline:
                raise MissingError(
                    f"Flink's TaskManagers did not come within 120 s; see {self.folder}/taskmanager-*.log"
                )
            time.sleep(1)


@contextlib.contextmanager
def flink(folder: Path, heals: bool) -> Iterator[Cluster]:
    """A cluster. `heals`: with a restart strategy, so that a job outlives its workers."""
    with machines("abc") as hosts, contextlib.ExitStack() as stack:
        programs = _Flink(folder, hosts, heals)
        stack.enter_context(programs.jobmanager())

        # On one host both TaskManagers share its one pool; apart, each machine has its own.
        killable(stack, lambda: programs.taskmanager("b"), lambda: programs.pool("b"))
        worker = killable(stack, lambda: programs.taskmanager("c"))
        pool = killable(stack, lambda: programs.pool("c")) if hosts.apart else None
        stack.enter_context(programs.job_server())
        programs.wait_for_slots(2)
        losses = []
        if pool is not None:
            losses.append(Loss("pool", pool.kill, pool.replace, heals))

        def kill_machine() -> None:
            worker.kill()
            if pool is not None:
                pool.kill()

        def replace_machine() -> None:
            worker.replace()
            if pool is not None:
                pool.replace()

        if heals:
            losses.append(Loss("machine" if hosts.apart else "TaskManager", kill_machine, replace_machine, heals))
        flags = ["--runner=PortableRunner", f"--job_endpoint={programs.master}:{programs.job_port}", "--parallelism=2"]
        words = "3 machines (namespaces)" if hosts.apart else "1 host, 2 TaskManagers"
        # That a job can be left alone does not depend on the restart strategy, so it is tried once.
        yield Cluster([*flags, *pool_flags(programs.pool_port)], losses, hosts.at("a"), words, detaches=not heals)
