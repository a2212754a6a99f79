"""Builds on clusters as in an emergency: the same bytes as at home, whatever is killed in the middle.

    python tests/support/drill.py flink spark dask portable prism      (also: make clusters-test)

1. Builds a data set locally. 2. Starts a cluster, builds there, and compares shards, manifest and ledger byte by byte. 3. Where
the engine can be left alone, starts a build with --detach and waits for its job to finish it. 4. For everything that the cluster
can lose: builds into a new folder, kills it once a quarter of the parts is committed, lets another come after 5 s, and compares
again. Where the engine goes on by itself, nobody types anything; where it gives up, the same command is typed again, what was
committed must be left alone, and the bytes must be the same. 5. Prints a table, with what it cost there more than locally.

Everything is started here and ended here, however it ends; at the end no process of the drill may be left. Engines: flink
(twice: as it comes, and with a restart strategy), spark, dask; prism (Beam's runner in Go); portable (Beam's job service in
Python, nothing to be fetched).
"""

import argparse
import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dasks
import flink
import spark
from clusters import ROOT, Cluster, Loss, end, job_service, with_pool
from drawn import content, write_coco
from fetched import MissingError
from prism import binary, prism

MARK = "MASKMILL_DRILL"  # in the environment of everything that a drill starts
ENGINES = ("flink", "spark", "dask", "portable", "prism")
_PATIENCE_S = 900
_UNTIL_ANOTHER_COMES_S = 5.0


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
        at: put before the command; see `clusters.Cluster.at`.
    """

    images: str
    annotations: str
    masks: tuple[str, ...]
    folder: Path
    part_size: int
    say: Callable[[str], None] = print
    at: Sequence[str] = ()

    def command(self, out: str, *beam: str, detach: bool = False) -> list[str]:
        """The command that a user would type."""
        own = [
            *(self.at if beam else ()),
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
        own += ["--detach"] if detach else []
        return [*own, "--workers", "2", *(["--", *beam] if beam else [])]

    def start(self, out: str, *beam: str, detach: bool = False) -> subprocess.Popen:
        """Starts the command, in a session of its own."""
        with open(self.folder / f"{out}.log", "ab") as log:
            return subprocess.Popen(
                self.command(out, *beam, detach=detach),
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
            words = (self.folder / f"{out}.log").read_text(errors="replace").strip().splitlines()[-8:]
            raise DrillError(f"the build into {out} ended with {code}, not {wanted}:\n" + "\n".join(words))

    def build(self, out: str, *beam: str) -> float:
        """Builds from start to end; returns seconds."""
        start = time.monotonic()
        self.finish(self.start(out, *beam), out, 0)
        return time.monotonic() - start

    def sidecars(self, out: str) -> dict[str, bytes]:
        """What is committed. The time it took is in each, so a part built again would differ."""
        work = self.folder / out / "_work"
        found = {}
        for path in (work / "parts").glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # its shard is being joined
                found[path.name] = path.read_bytes()
        for path in (work / "shards").glob("*.parts.gz"):  # of shards that are joined
            for line in gzip.decompress(path.read_bytes()).splitlines(keepends=True):
                part = json.loads(line)
                found[f"{part['shard']:05d}-{part['part']:05d}-{part['plan_digest'][:8]}.json"] = line
        return found

    def part_ms(self, out: str) -> float:
        """Wall milliseconds an image that workers spent inside parts."""
        parts = [json.loads(data) for data in self.sidecars(out).values()]
        return sum(part["seconds"] for part in parts) / sum(part["images"] for part in parts) * 1e3


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
            time.sleep(0.5)

    def seconds(self) -> float:
        """CPU seconds so far; at most half a second of each process is missing."""
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


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        engine, machines, killed, outcome: in words.
        digest: of what was built.
        wall_s, cpu_s: of all that ran, the start of the job included.
        more: what it cost more than locally: all processes' CPU time, and the workers' wall time an image, the start left out.
    """

    engine: str
    machines: str
    killed: str
    outcome: str
    digest: str
    wall_s: float
    cpu_s: float = 0.0
    more: str = ""


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| engine | on | killed | what happened | bytes | time | more than locally |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        same = row.digest[:12] + (" =" if row.digest == rows[0].digest else " differs")
        cells = (row.engine, row.machines, row.killed, row.outcome, same, f"{row.wall_s:.0f} s", row.more)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


Engine = Callable[[Path], contextlib.AbstractContextManager[Cluster]]


def prepare(drill: Drill, meter: CpuMeter) -> Row:
    """Compiles the kernels and makes the reference, locally."""
    specs = [word for spec in drill.masks for word in ("--masks", spec)]
    warm = [sys.executable, "-m", "maskmill.pipelines.commands.cli", "warmup", *specs]
    subprocess.run(warm, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    before = meter.seconds()
    wall = drill.build("local")
    cpu = meter.seconds() - before
    records, parts = _records(drill.folder / "local"), len(drill.sidecars("local"))
    images = f"{records} images, {parts} parts"
    return Row("local", "1 host", "-", images, digest(drill.folder / "local"), wall, cpu)


def run_drill(drill: Drill, name: str, engine: Engine, local: Row, meter: CpuMeter) -> Iterator[Row]:
    """The drill on one engine; see the head of this file. DrillError where anything is not as it must be."""
    reference = drill.folder / "local"
    parts = len(drill.sidecars("local"))
    folder = drill.folder / name.replace(" ", "-")
    folder.mkdir()
    with engine(folder) as cluster:
        drill = dataclasses.replace(drill, at=cluster.at)
        before = meter.seconds()
        wall = drill.build(f"{folder.name}/out", *cluster.flags)
        cpu = meter.seconds() - before
        check_same(folder / "out", reference, f"the build on {name}")
        inside = drill.part_ms(f"{folder.name}/out") - drill.part_ms("local")
        more = f"{cpu - local.cpu_s:+.0f} CPU s in all, {inside:+.0f} ms an image inside parts"
        yield Row(name, cluster.machines, "-", "done", digest(folder / "out"), wall, cpu, more)
        if cluster.detaches:
            start = time.monotonic()
            outcome = leave(drill, f"{folder.name}/left", cluster, reference)
            wall = time.monotonic() - start
            yield Row(name, cluster.machines, "-", outcome, digest(folder / "left"), wall)
        for loss in cluster.losses:
            out = f"{folder.name}/{loss.what}-lost"
            start = time.monotonic()
            outcome = lose(drill, out, cluster, loss, reference, parts)
            wall = time.monotonic() - start
            yield Row(name, cluster.machines, loss.what, outcome, digest(drill.folder / out), wall)


def leave(drill: Drill, out: str, cluster: Cluster, reference: Path) -> str:
    """Starts a build with --detach and sees to it that its job finishes it; says what happened, in words."""
    start = time.monotonic()
    drill.finish(drill.start(out, *cluster.flags, detach=True), out, 0)
    seconds = time.monotonic() - start
    while not (drill.folder / out / "manifest.json").exists():
        if time.monotonic() - start > _PATIENCE_S:
            raise DrillError(f"the job that was left to itself did not finish within {_PATIENCE_S} s")
        time.sleep(0.2)
    check_same(drill.folder / out, reference, "the build that was left to itself")
    return f"--detach: left after {seconds:.0f} s, finished by itself"


def lose(drill: Drill, out: str, cluster: Cluster, loss: Loss, reference: Path, parts: int) -> str:
    """Kills something in the middle of a build, and sees to it that the build is finished with the same bytes.

    Args:
        drill: what is built.
        out: where, below the drill's folder.
        cluster: a cluster that runs.
        loss: what it loses.
        reference: the same build, made locally.
        parts: how many parts it has.

    Returns:
        What happened, in words.
    """
    running = drill.start(out, *cluster.flags)
    _wait_for_parts(drill, running, out, max(1, parts // 4))
    loss.kill()
    if loss.heals:
        lost_at = len(drill.sidecars(out))
        time.sleep(_UNTIL_ANOTHER_COMES_S)
        loss.replace()
        drill.finish(running, out, 0)
        check_same(drill.folder / out, reference, f"the build that lost its {loss.what}")
        return f"lost at {lost_at} of {parts} parts; went on by itself"
    killed = time.monotonic()
    drill.finish(running, out, 1)
    seconds = time.monotonic() - killed
    committed = drill.sidecars(out)
    if (drill.folder / out / "manifest.json").exists() or not 0 < len(committed) < parts:
        raise DrillError(f"the {loss.what} was killed, but {len(committed)} of {parts} parts are committed")
    drill.say("  " + said(drill.folder / f"{out}.log"))
    loss.replace()
    drill.build(out, *cluster.flags)
    check_same(drill.folder / out, reference, "the resumed build")
    if again := [name for name, data in committed.items() if drill.sidecars(out)[name] != data]:
        raise DrillError(f"parts that were committed were built again: {', '.join(again)}")
    return f"lost at {len(committed)} of {parts} parts; exit 1 after {seconds:.0f} s; same command again"


def said(log: Path) -> str:
    """The last line of a command's log; DrillError unless it is all that the command had to say of its failure."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    if stray := [line for line in lines[:-1] if not line.startswith("maskmill: ")]:
        raise DrillError(f"a job that failed is more than one sentence: {stray[0]}")
    return lines[-1]


def _records(folder: Path) -> int:
    from maskmill.schemas.manifest import load_manifest

    return load_manifest(str(folder)).num_records


def _wait_for_parts(drill: Drill, process: subprocess.Popen, out: str, enough: int) -> None:
    """Until so many parts are committed."""
    deadline = time.monotonic() + _PATIENCE_S
    while len(drill.sidecars(out)) < enough:
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


def engines(name: str) -> dict[str, Engine]:
    """What a name stands for, fetched: a description and a cluster for each."""
    if name == "flink":
        flink.fetch_all()
        return {
            f"Flink {flink.FLINK}": lambda folder: flink.flink(folder, heals=False),
            f"Flink {flink.FLINK}, fixed-delay": lambda folder: flink.flink(folder, heals=True),
        }
    if name == "spark":
        spark.fetch_all()
        return {f"Spark {spark.SPARK}": spark.spark}
    if name == "dask":
        import distributed

        return {f"Dask {distributed.__version__}": dasks.dask}
    if name == "prism":
        program = str(binary())
        return {"Prism": lambda folder: with_pool(folder, prism(folder, program))}
    return {"portable": lambda folder: with_pool(folder, job_service(folder))}


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when all went as it must, 1 when not, 4 when something cannot be fetched."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="*", default=["portable"], metavar="ENGINE", help=f"of {', '.join(ENGINES)}")
    parser.add_argument(
        "--coco", metavar="FOLDER", help="images/ and instances.json (default: MASKMILL_TEST_DATA's, or drawn)"
    )
    parser.add_argument(
        "--masks", action="append", metavar="SPEC", help='default: "fh(scales=(500,1000,1500))" and "gt()"'
    )
    parser.add_argument("--part-size", type=int, default=8)
    parser.add_argument("--drawn", type=int, default=120, help="pictures to draw where there are none")
    parser.add_argument("--keep", default="", metavar="FOLDER", help="keep outputs and logs there")
    args = parser.parse_args(argv)
    if unknown := set(args.engines) - set(ENGINES):
        parser.error(f"there is no engine {min(unknown)!r}; there are {', '.join(ENGINES)}")
    mark = os.environ[MARK] = uuid.uuid4().hex
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that everything is ended then, too
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even when started in the background
    code, rows = 0, []
    try:
        # Fetches what is missing, before anything else takes its time.
        chosen = {name: engine for word in args.engines for name, engine in engines(word).items()}
        with scratch(args.keep) as folder:
            data = os.environ.get("MASKMILL_TEST_DATA", "")
            source = args.coco or (data and os.path.join(data, "coco"))
            if source and os.path.isdir(source):
                images, annotations = (os.path.abspath(os.path.join(source, n)) for n in ("images", "instances.json"))
            else:
                images, annotations = write_coco(folder / "drawn", args.drawn, 480, 640)
            masks = tuple(args.masks or ("fh(scales=(500,1000,1500))", "gt()"))
            drill, meter = Drill(images, annotations, masks, folder, args.part_size), CpuMeter()
            meter.start()
            rows.append(prepare(drill, meter))
            for name, engine in chosen.items():
                code = max(code, _one(drill, name, engine, rows, meter))
    except MissingError as error:
        print(f"drill: {error}", file=sys.stderr)
        code = 4
    except KeyboardInterrupt:
        code = 130
    if rows:
        print(f"\n{table(rows)}")
    deadline = time.monotonic() + 10
    while (left := left_over(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)  # grandchildren that notice their parent's end by themselves
    if left:
        print(f"drill: processes are left over: {left}", file=sys.stderr)
    return code or (1 if left else 0)


def _one(drill: Drill, name: str, engine: Engine, rows: list[Row], meter: CpuMeter) -> int:
    """An engine's rows, added to those there are; what goes wrong on one engine is no reason to leave out the next."""
    try:
        for row in run_drill(drill, name, engine, rows[0], meter):
            drill.say(f"{name}: {row.killed}: {row.outcome}, {row.wall_s:.0f} s, {row.digest}")
            rows.append(row)
    except (DrillError, AssertionError, MissingError) as error:
        print(f"drill: {name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
