"""A standalone Flink cluster on loopback: fetched once, a JobManager and a TaskManager as processes of their own.

What is fetched goes to $XDG_CACHE_HOME/maskmill (else ~/.cache/maskmill): Flink's distribution from its two Python packages,
which are unpacked and not installed (they ask for an old Beam), and Beam's job server with Maven.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

from clusters import free_port, service

FLINK = "1.20.5"
MINOR = "1.20"
SLOTS = 2
SHA256 = {
    f"apache_flink-{FLINK}": "6e8ec098a7c06ea34d01fd540e81d44703a90e3bda74052dcbcbb7db5253c10f",  # cp311, x86_64
    f"apache_flink_libraries-{FLINK}": "e6aee62ea1a1fe7b32e28894ad079f3f1a50a372a4caac3df52405267f4228c8",
}
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
_CONFIG = """\
jobmanager: {{bind-host: 127.0.0.1, rpc: {{address: 127.0.0.1, port: {rpc}}}, memory: {{process: {{size: 1200m}}}}}}
taskmanager: {{bind-host: 127.0.0.1, host: 127.0.0.1, numberOfTaskSlots: {slots}, memory: {{process: {{size: 1600m}}}}}}
rest: {{address: 127.0.0.1, bind-address: 127.0.0.1, port: {rest}}}
blob: {{server: {{port: 0}}}}
io: {{tmp: {{dirs: {scratch}}}}}
"""


class MissingError(Exception):
    """Something that Flink needs is not here and cannot be fetched."""


def cache() -> Path:
    """Where fetched things stay."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "maskmill"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise MissingError(f"{what} cannot be fetched: {command[0]} is not installed") from None
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        lines = [line for line in said.splitlines() if "ERROR" in line.upper()]
        why = re.sub(r"^\[?ERROR\]?:?\s*|Failed to execute goal .*?: (?=[A-Z])", "", (lines or ["no reason given"])[0])
        raise MissingError(f"{what} cannot be fetched: {why.strip()}")


def _verify(path: Path) -> None:
    """Compares with the pinned checksum, where this very file is pinned."""
    wanted = next(
        (sha for name, sha in SHA256.items() if path.name.startswith((f"{name}-cp311-", f"{name}.tar"))), None
    )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if wanted not in (None, found):
        path.unlink()
        raise MissingError(f"{path.name} has sha256 {found}, not {wanted}; it was removed, run again to fetch it anew")


def distribution() -> Path:
    """FLINK_HOME, fetched and unpacked where it is not there yet."""
    home = cache() / f"flink-{FLINK}"
    if (home / "complete").exists():
        return home
    shutil.rmtree(home, ignore_errors=True)
    fetched = cache() / "fetched"
    names = [f"apache-flink=={FLINK}", f"apache-flink-libraries=={FLINK}"]
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode:  # an environment made without it
        pip = [shutil.which("pip") or "pip"]
    _run([*pip, "download", "--no-deps", "--dest", str(fetched), *names], f"Flink {FLINK}")
    for path in fetched.glob(f"apache_flink-{FLINK}-*.whl"):
        _verify(path)
        with zipfile.ZipFile(path) as wheel:
            members = [m for m in wheel.namelist() if m.startswith(("pyflink/bin/", "pyflink/conf/"))]
            wheel.extractall(home / "unpacked", members)
    for path in fetched.glob(f"apache_flink_libraries-{FLINK}.tar.gz"):
        _verify(path)
        with tarfile.open(path) as sdist:
            sdist.extractall(home / "unpacked", filter="data")
    shutil.copytree(home / "unpacked" / "pyflink", home, dirs_exist_ok=True)
    shutil.copytree(next((home / "unpacked").glob("apache*/deps")), home, dirs_exist_ok=True)
    shutil.rmtree(home / "unpacked")
    shutil.rmtree(fetched)
    for script in (home / "bin").iterdir():
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (home / "complete").touch()
    return home


def job_server() -> Path:
    """Beam's job server for this Flink, of the version of Beam that is installed."""
    from apache_beam.version import __version__ as beam

    artifact = f"beam-runners-flink-{MINOR}-job-server"
    jar = cache() / f"{artifact}-{beam}.jar"
    if not jar.exists():
        coordinates = f"org.apache.beam:{artifact}:{beam}"
        # Maven checks what it fetches against the repository's checksums when told to be strict.
        command = [
            "mvn",
            "-B",
            "-q",
            "-U",
            "--strict-checksums",
            "-Dstyle.color=never",
            _COPY,
            f"-Dartifact={coordinates}",
        ]
        try:
            _run([*command, f"-DoutputDirectory={cache()}"], f"Beam's job server {coordinates}")
        except MissingError as error:
            raise MissingError(
                f"{error}; where you have the .jar, run: python tests/support/drill.py --program JAR"
            ) from None
    return jar


def overview(rest: int) -> dict:
    """What the cluster says of itself; nothing while it is starting."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{rest}/overview", timeout=5) as answer:
            return json.load(answer)
    except OSError:  # it answers 503 at first
        return {}


@contextlib.contextmanager
def flink_cluster(folder: Path) -> Iterator[int]:
    """A JobManager and a TaskManager with 2 slots; gives the port of the REST interface.

    Args:
        folder: for logs, configuration and Flink's temporary files.
    """
    home = distribution()
    rest, rpc = free_port(), free_port()
    configuration, scratch = folder / "flink-conf", folder / "flink-tmp"
    shutil.copytree(home / "conf", configuration)
    scratch.mkdir()
    # What is there already are options that Java 17 needs.
    with open(configuration / "config.yaml") as file:
        needed = file.read().split("\njobmanager:")[0]
    text = _CONFIG.format(rpc=rpc, rest=rest, slots=SLOTS, scratch=scratch)
    (configuration / "config.yaml").write_text(f"{needed}\n{text}")
    java = os.environ.get("JAVA_HOME") or str(Path(shutil.which("java") or "/").resolve().parent.parent)
    places = {"FLINK_CONF_DIR": str(configuration), "FLINK_LOG_DIR": str(folder), "JAVA_HOME": java}
    manager, worker = ([str(home / "bin" / f"{name}.sh"), "start-foreground"] for name in ("jobmanager", "taskmanager"))
    with (
        service(manager, port=rest, log=folder / "jobmanager.log", **places),
        service(worker, port=rest, log=folder / "taskmanager.log", **places),
    ):
        deadline = time.monotonic() + 90
        while (said := overview(rest)).get("slots-total") != SLOTS:
            if time.monotonic() > deadline:
                raise MissingError(f"the TaskManager did not come within 90 s; see {folder}/taskmanager.log ({said})")
            time.sleep(0.5)
        yield rest


@contextlib.contextmanager
def flink(folder: Path, jar: str = "") -> Iterator[list[str]]:
    """A cluster and Beam's flags for it, without those of a pool. `jar` is the job server, if it is here already."""
    jar = jar or str(job_server())
    with flink_cluster(folder) as rest:
        yield [
            "--runner=FlinkRunner",
            f"--flink_version={MINOR}",
            f"--flink_master=127.0.0.1:{rest}",
            f"--flink_job_server_jar={jar}",
            f"--parallelism={SLOTS}",
        ]
