"""A build on a cluster as in an emergency: the same bytes as at home, the workers killed in the middle, resumed, the same again.

    python tests/support/drill.py --engine flink      (also: make flink-test)

1. Builds a data set locally. 2. Starts a cluster on loopback (flink: JobManager and TaskManager with two slots, Beam's job
server, a pool of Python workers), builds there and compares shards, manifest and ledger byte by byte. 3. Builds into a new
folder, kills the pool with all its workers once parts are committed, starts another pool and runs the same command again:
the rest is built, what was there is left alone, and the bytes are the same. 4. Says what an image costs on the cluster.

Everything is started here and ended here, however it ends; at the end no process of the drill may be left. Engines: flink;
prism (Beam's runner in Go); portable (Beam's job service in Python, nothing to be fetched).
"""

import argparse
import contextlib
import dataclasses
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from clusters import ROOT, end, free_port, job_service, pool_flags, worker_pool
from drawn import content, write_coco
from flink import MissingError, distribution, flink, job_server
from prism import binary, prism

MARK = "MASKMILL_DRILL"  # in the environment of everything that a drill starts
ENGINES = ("flink", "prism", "portable")
_PATIENCE_S = 900


class DrillError(Exception):
    """The cluster did not do what it must."""


@dataclasses.dataclass
class Drill:
    """What is built, where.

    Attributes:
        images, annotations: a COCO data set.
        masks: generator specs.
        folder: for outputs and logs.
        part_size: images per work item.
        say: prints a line.
    """

    images: str
    annotations: str
    masks: tuple[str, ...]
    folder: Path
    part_size: int
    say: Callable[[str], None] = print

    def command(self, out: str, *beam: str) -> list[str]:
        """The command that a user would type."""
        own = [
            sys.executable,
            "-m",
            "maskmill.pipelines.commands.cli",
            "build",
            "--dataset",
            "coco",
            "--images",
            self.images,
        ]
        own += ["--annotations", self.annotations, "--part-size", str(self.part_size), "--out", str(self.folder / out)]
        own += [word for spec in self.masks for word in ("--masks", spec)]
        return [*own, "--workers", "2", *(["--", *beam] if beam else [])]

    def start(self, out: str, *beam: str) -> subprocess.Popen:
        """Starts the command, in a session of its own."""
        with open(self.folder / f"{out}.log", "ab") as log:
            return subprocess.Popen(
                self.command(out, *beam),
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, process: subprocess.Popen, out: str, wanted: int) -> None:
        """Waits for the command; DrillError where it ends otherwise than with the code `wanted`."""
        try:
            code = process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise DrillError(f"the build into {out} did not end within {_PATIENCE_S} s") from None
        finally:
            end(process)
        if code != wanted:
            said = (self.folder / f"{out}.log").read_text(errors="replace").strip().splitlines()[-8:]
            raise DrillError(f"the build into {out} ended with {code}, not {wanted}:\n" + "\n".join(said))

    def build(self, out: str, *beam: str) -> float:
        """Builds from start to end; returns seconds."""
        start = time.monotonic()
        self.finish(self.start(out, *beam), out, 0)
        return time.monotonic() - start

    def sidecars(self, out: str) -> dict[str, bytes]:
        """What is committed. The time it took is in each, so a part built again would differ."""
        return {path.name: path.read_bytes() for path in (self.folder / out / "_work" / "parts").glob("*.json")}


def digest(folder: Path) -> str:
    """One number for every byte that must not depend on how a build ran."""
    total = hashlib.sha256()
    for name, data in content(folder).items():
        total.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
    return total.hexdigest()


def check_same(folder: Path, reference: Path, what: str) -> None:
    """DrillError with the names of the files that differ."""
    found, wanted = content(folder), content(reference)
    differ = [name for name in sorted(found.keys() | wanted.keys()) if found.get(name) != wanted.get(name)]
    if differ:
        raise DrillError(f"{what} differs from the local build in {', '.join(differ)}")


class CpuMeter(threading.Thread):
    """Adds up the CPU time of every process of the drill. By looking, since not all are waited for by their parents."""

    def __init__(self):
        super().__init__(daemon=True, name="cpu")
        self._seen: dict[tuple[int, str], int] = {}

    def run(self) -> None:
        while True:
            self.seconds()
            time.sleep(0.25)

    def seconds(self) -> float:
        """CPU seconds so far; at most a quarter of a second of each process is missing."""
        for pid in left_over(os.environ[MARK]):
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self._seen[pid, fields[19]] = int(fields[11]) + int(fields[12])  # the start tells pids apart
        return sum(self._seen.values()) / os.sysconf("SC_CLK_TCK")


def left_over(mark: str) -> list[int]:
    """Processes other than this one that belong to a drill."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(entry.name) != os.getpid() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def run_drill(drill: Drill, engine: Callable[[Path], contextlib.AbstractContextManager[list[str]]]) -> None:
    """The drill; see the head of this file. DrillError where anything is not as it must be."""
    warm = [
        sys.executable,
        "-m",
        "maskmill.pipelines.commands.cli",
        "warmup",
        *(word for spec in drill.masks for word in ("--masks", spec)),
    ]
    subprocess.run(warm, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    meter = CpuMeter()
    meter.start()
    local_wall = drill.build("local")
    local_cpu = meter.seconds()
    reference = drill.folder / "local"
    parts, records = len(drill.sidecars("local")), _records(reference)
    drill.say(
        f"local    {digest(reference)}  {records} records, {parts} parts, {local_wall:.0f} s, {local_cpu:.0f} CPU s"
    )
    pool = free_port()
    with engine(drill.folder) as flags:
        beam = [*flags, *pool_flags(pool)]
        with worker_pool(drill.folder, pool):
            before = meter.seconds()
            wall = drill.build("cluster", *beam)
            cpu = meter.seconds() - before
        check_same(drill.folder / "cluster", reference, "the build on the cluster")
        drill.say(f"cluster  {digest(drill.folder / 'cluster')}  {wall:.0f} s, {cpu:.0f} CPU s")
        break_and_resume(drill, beam, pool, reference, parts)
    drill.say(
        f"overhead on the cluster, job start included: {(cpu - local_cpu) / records * 1e3:+.1f} CPU ms and "
        f"{(wall - local_wall) / records * 1e3:+.1f} ms of wall time per image"
    )


def break_and_resume(drill: Drill, beam: list[str], pool: int, reference: Path, parts: int) -> None:
    """Kills the pool of workers in the middle of a build, starts another and runs the same command again.

    Args:
        drill: what is built.
        beam: Beam's flags for a cluster that runs, its pool at the port `pool` not yet.
        pool: where the pools listen.
        reference: the same build, made locally.
        parts: how many parts it has.
    """
    with worker_pool(drill.folder, pool) as process:
        running = drill.start("broken", *beam)
        _wait_for_parts(drill, running, max(1, parts // 5))
        os.killpg(process.pid, signal.SIGKILL)
        killed = time.monotonic()
        drill.finish(running, "broken", 1)
        seconds = time.monotonic() - killed
    committed = drill.sidecars("broken")
    if (drill.folder / "broken" / "manifest.json").exists() or not 0 < len(committed) < parts:
        raise DrillError(f"the pool was killed, but {len(committed)} of {parts} parts are committed")
    drill.say(f"killed   with {len(committed)} of {parts} parts committed; {seconds:.0f} s later the command ended:")
    drill.say("         " + (drill.folder / "broken.log").read_text(errors="replace").strip().splitlines()[-1])
    with worker_pool(drill.folder, pool):
        drill.build("broken", *beam)
    check_same(drill.folder / "broken", reference, "the resumed build")
    if again := [name for name, data in committed.items() if drill.sidecars("broken")[name] != data]:
        raise DrillError(f"parts that were committed were built again: {', '.join(again)}")
    drill.say(f"resumed  {digest(drill.folder / 'broken')}  {len(committed)} parts kept")


def _records(folder: Path) -> int:
    from maskmill.schemas.manifest import load_manifest

    return load_manifest(str(folder)).num_records


def _wait_for_parts(drill: Drill, process: subprocess.Popen, enough: int) -> None:
    """Until so many parts are committed."""
    deadline = time.monotonic() + _PATIENCE_S
    while len(drill.sidecars("broken")) < enough:
        if process.poll() is not None or time.monotonic() > deadline:
            end(process)
            raise DrillError(f"the build to be broken ended, or stood still, before {enough} parts were committed")
        time.sleep(0.05)


@contextlib.contextmanager
def scratch(keep: str) -> Iterator[Path]:
    """The folder for outputs and logs; temporary unless it is to be kept."""
    folder = Path(keep or tempfile.mkdtemp(prefix="maskmill-drill-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _engine(name: str, program: str) -> Callable[[Path], contextlib.AbstractContextManager[list[str]]]:
    if name == "flink":
        distribution()
        program = program or str(job_server())
        return lambda folder: flink(folder, program)
    if name == "prism":
        program = program or str(binary())
        return lambda folder: prism(folder, program)
    return job_service


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when all went as it must, 1 when not, 4 when something cannot be fetched."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=ENGINES, default="flink")
    parser.add_argument(
        "--coco", metavar="FOLDER", help="images/ and instances.json (default: MASKMILL_TEST_DATA's, or drawn)"
    )
    parser.add_argument(
        "--masks", action="append", metavar="SPEC", help='default: "fh(scales=(500,1000,1500))" and "gt()"'
    )
    parser.add_argument("--part-size", type=int, default=16)
    parser.add_argument("--drawn", type=int, default=120, help="pictures to draw where there are none")
    parser.add_argument("--program", default="", help="the job server's .jar, or prism, where it is here already")
    parser.add_argument("--keep", default="", metavar="FOLDER", help="keep outputs and logs there")
    args = parser.parse_args(argv)
    mark = os.environ[MARK] = uuid.uuid4().hex
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that everything is ended then, too
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even when started in the background
    code = 1
    try:
        engine = _engine(args.engine, args.program)  # fetches what is missing, before anything else takes its time
        with scratch(args.keep) as folder:
            data = os.environ.get("MASKMILL_TEST_DATA", "")
            source = args.coco or (data and os.path.join(data, "coco"))
            if source and os.path.isdir(source):
                images, annotations = (os.path.abspath(os.path.join(source, n)) for n in ("images", "instances.json"))
            else:
                images, annotations = write_coco(folder / "drawn", args.drawn, 480, 640)
            masks = tuple(args.masks or ("fh(scales=(500,1000,1500))", "gt()"))
            run_drill(Drill(images, annotations, masks, folder, args.part_size), engine)
            code = 0
    except (DrillError, AssertionError) as error:
        print(f"drill: {error}", file=sys.stderr)
    except MissingError as error:
        print(f"drill: {error}", file=sys.stderr)
        code = 4
    except KeyboardInterrupt:
        code = 130
    deadline = time.monotonic() + 10
    while (left := left_over(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)  # grandchildren that notice their parent's end by themselves
    if left:
        print(f"drill: processes are left over: {left}", file=sys.stderr)
    return code or (1 if left else 0)


if __name__ == "__main__":
    sys.exit(main())
