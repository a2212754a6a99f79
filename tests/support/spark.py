"""A standalone Spark cluster on loopback: a master, two workers with an executor each, Beam's job server, a pool.

Versions are environment variables: MASKMILL_SPARK of the cluster (3.x), MASKMILL_SPARK_BEAM of Beam's runner.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from clusters import Cluster, Loss, children, free_port, killable, pool_flags, service, worker_pool
from fetched import OPENS, package, runner_jars

SPARK = os.environ.get("MASKMILL_SPARK", "3.5.5")
BEAM = os.environ.get("MASKMILL_SPARK_BEAM", "2.62.0")
_SCALA = "2.12"


def fetch_all() -> None:
    """Fetches what is missing."""
    runner_jars("beam-runners-spark-3", BEAM)
    (package("pyspark", SPARK) / "RELEASE").touch()  # else its launcher looks for the places of a source tree


@contextlib.contextmanager
def spark(folder: Path) -> Iterator[Cluster]:
    """A cluster of two executors."""
    home = package("pyspark", SPARK)
    jars = [jar for jar in runner_jars("beam-runners-spark-3", BEAM) if "slf4j" not in os.path.basename(jar)]
    port, job_port, pool_port = free_port(), free_port(), free_port()
    places = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_SCALA_VERSION": _SCALA}
    master = f"spark://127.0.0.1:{port}"

    def program(heap: str, jars: list[str], name: str, *arguments: str) -> list[str]:
        return ["java", f"-Xmx{heap}", *OPENS, "-cp", ":".join([*jars, f"{home}/jars/*"]), name, *arguments]

    def worker(index: int) -> contextlib.AbstractContextManager:
        command = program("400m", [], "org.apache.spark.deploy.worker.Worker", "--host", "127.0.0.1", "--cores", "1")
        command += ["--memory", "1g", "--work-dir", str(folder / f"spark-{index}"), "--webui-port", "0", master]
        return service(command, port=0, log=folder / f"spark-worker-{index}.log", **places)

    with contextlib.ExitStack() as stack:
        command = program("400m", [], "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1")
        command += ["--port", str(port), "--webui-port", "0"]
        stack.enter_context(service(command, port=port, log=folder / "spark-master.log", **places))
        workers = [stack.enter_context(worker(index)) for index in range(2)]
        command = program("800m", jars, "org.apache.beam.runners.spark.SparkJobServerDriver", "--job-host", "127.0.0.1")
        command += ["--job-port", str(job_port), "--artifact-port", "0", "--expansion-port", "0"]
        command += ["--spark-master-url", master, "--artifacts-dir", str(folder / "artifacts")]
        jobs = killable(stack, lambda: service(command, port=job_port, log=folder / "spark-jobs.log", **places))
        stack.enter_context(worker_pool(folder, pool_port))

        def kill() -> None:
            os.kill(children(workers[1].pid)[0], signal.SIGKILL)

        # Its worker starts another executor by itself.
        losses = [
            Loss("executor", kill, lambda: None, heals=True),
            Loss("job server", jobs.kill, jobs.replace, heals=False),  # with it goes Spark's driver
        ]
        flags = ["--runner=PortableRunner", f"--job_endpoint=localhost:{job_port}"]
        yield Cluster([*flags, *pool_flags(pool_port)], losses, [], "1 host, 2 executors")
