"""Builds on clusters as in an emergency: the same bytes as at home, whatever is killed in the middle.

    python tests/support/drill.py flink spark dask portable prism      (also: make clusters-test)

1. Builds a data set locally. 2. Starts a cluster, builds there, and compares shards, manifest and ledger byte by byte. 3. Where
the engine can be left alone, starts a build with --detach and waits for its job to finish it. 4. For everything that the cluster
can lose: builds into a new folder, kills it once a quarter of the parts is committed, lets another come after 5 s, and compares
again. Where the engine goes on by itself, nobody types anything; where it gives up, the same command is typed again, what was
committed must be left alone, and the bytes must be the same. 5. Prints a table, with what it cost there more than locally.

With `--keep FOLDER --minutes M` it stops after the scenario that is under way when M minutes are over, with exit code 3; the same
command goes on with the next one. The table is of all of them (also: make clusters-test PIECE=4).

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
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import dasks
import flink
import spark
from clusters import ROOT, Cluster, Loss, end, job_server, with_pool
from drawn import content, write_coco
from fetched import MissingError
from prism import binary, prism
from processes import MARK, CpuMeter, left_over

ENGINES = ("flink", "spark", "dask", "portable", "prism")
_PATIENCE_S = 900
_UNTIL_ANOTHER_COMES_S = 5.0
NOT_DONE = 3


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
        meter: of the CPU time of all that the drill started; None where that is not asked for.
    """

    images: str
    annotations: str
    masks: tuple[str, ...]
    folder: Path
    part_size: int
    say: Callable[[str], None] = print
    at: Sequence[str] = ()
    meter: CpuMeter | None = None

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

    def build(self, out: str, *beam: str) -> "Spent":
        """Builds from start to end."""
        start, before = time.monotonic(), self._cpu_s()
        process = self.start(out, *beam)
        samples: list[tuple[int, float]] = []
        while self.meter is not None and process.poll() is None and time.monotonic() - start < _PATIENCE_S:
            samples.append((len(self.sidecars(out)), self._cpu_s()))
            time.sleep(0.3)
        self.finish(process, out, 0)
        spent = Spent(time.monotonic() - start, self._cpu_s() - before)
        parts, images = len(self.sidecars(out)), sum(json.loads(d)["images"] for d in self.sidecars(out).values())
        begun = next((sample for sample in samples if sample[0] >= parts / 4), None)
        done = next((sample for sample in samples if sample[0] == parts), None)
        if begun and done and done[0] > begun[0]:
            spent.image_ms = (done[1] - begun[1]) / ((done[0] - begun[0]) * images / parts) * 1e3
        return spent

    def _cpu_s(self) -> float:
        return 0.0 if self.meter is None else self.meter.seconds()

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


@dataclasses.dataclass
class Spent:
    """What a build took.

    Attributes:
        wall_s, cpu_s: from start to end, of everything that the drill has started.
        image_ms: CPU milliseconds an image between the first quarter of the parts and the last part: workers have started and
            loaded their kernels, and whatever else still runs is counted. None where that was too short to be seen.
    """

    wall_s: float
    cpu_s: float
    image_ms: float | None = None


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


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        engine, machines, killed, outcome: in words.
        digest: of what was built.
        wall_s, cpu_s: of all that ran, the start of the job included.
        more: what it cost more than locally: all processes' CPU time; and of an image, the start left out.
        image_ms: CPU milliseconds an image, the start left out; None where it was too short to be seen.
        scenario: which of the engine's it was: clean, detach, or what was lost.
    """

    engine: str
    machines: str
    killed: str
    outcome: str
    digest: str
    wall_s: float
    cpu_s: float = 0.0
    more: str = ""
    image_ms: float | None = None
    scenario: str = "clean"


LOCAL = "local"


@dataclasses.dataclass
class Done:
    """Rows so far, kept in a file so that a drill can be run in pieces.

    Attributes:
        path: of the file, a line for each row, and one for each engine of which all rows are there.
        rows: in the order in which they were made; the local build is the first.
        whole: engines of which nothing is left to be done.
    """

    path: Path
    rows: list[Row] = dataclasses.field(default_factory=list)
    whole: set[str] = dataclasses.field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> "Done":
        """What the file says; nothing where there is none."""
        done = cls(path)
        for line in path.read_text().splitlines() if path.exists() else ():
            fields = json.loads(line)
            if "whole" in fields:
                done.whole.add(fields["whole"])
            else:
                done.rows.append(Row(**fields))
        return done

    def _write(self, fields: dict) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps(fields) + "\n")

    def add(self, row: Row) -> None:
        """Keeps a row."""
        self.rows.append(row)
        self._write(dataclasses.asdict(row))

    def close(self, engine: str) -> None:
        """Nothing of this engine is left to be done."""
        self.whole.add(engine)
        self._write({"whole": engine})

    def has(self, engine: str, scenario: str) -> bool:
        """Whether a row is there."""
        return any((row.engine, row.scenario) == (engine, scenario) for row in self.rows)


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


def prepare(drill: Drill) -> Row:
    """Compiles the kernels and makes the reference, locally."""
    specs = [word for spec in drill.masks for word in ("--masks", spec)]
    warm = [sys.executable, "-m", "maskmill.pipelines.commands.cli", "warmup", *specs]
    subprocess.run(warm, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    spent = drill.build("local")
    records, parts = _records(drill.folder / "local"), len(drill.sidecars("local"))
    images = f"{records} images, {parts} parts"
    more = "" if spent.image_ms is None else f"{spent.image_ms:.0f} CPU ms an image"
    own = digest(drill.folder / "local")
    return Row(LOCAL, "1 host", "-", images, own, spent.wall_s, spent.cpu_s, more, spent.image_ms)


def run_drill(drill: Drill, name: str, engine: Engine, done: Done) -> Iterator[Row]:
    """The drill on one engine, less what is done; see the head of this file. DrillError where anything is not as it must be."""
    reference, local = drill.folder / LOCAL, done.rows[0]
    parts = len(drill.sidecars(LOCAL))
    folder = drill.folder / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)

    def begin(scenario: str, out: str) -> bool:
        """Whether it is still to be done; what an interrupted drill has left of it is removed."""
        if done.has(name, scenario):
            return False
        shutil.rmtree(folder / out, ignore_errors=True)
        return True

    with engine(folder) as cluster:
        drill = dataclasses.replace(drill, at=cluster.at)
        if begin("clean", "out"):
            spent = drill.build(f"{folder.name}/out", *cluster.flags)
            check_same(folder / "out", reference, f"the build on {name}")
            more = f"{spent.cpu_s - local.cpu_s:+.0f} CPU s in all"
            if spent.image_ms is not None and local.image_ms is not None:
                more += f", {spent.image_ms - local.image_ms:+.0f} CPU ms an image once it runs"
            own = digest(folder / "out")
            yield Row(name, cluster.machines, "-", "done", own, spent.wall_s, spent.cpu_s, more, spent.image_ms)
        if cluster.detaches and begin("detach", "left"):
            start = time.monotonic()
            outcome = leave(drill, f"{folder.name}/left", cluster, reference)
            wall = time.monotonic() - start
            yield Row(name, cluster.machines, "-", outcome, digest(folder / "left"), wall, scenario="detach")
        for loss in cluster.losses:
            if begin(loss.what, f"{loss.what}-lost"):
                out = f"{folder.name}/{loss.what}-lost"
                start = time.monotonic()
                outcome = lose(drill, out, cluster, loss, reference, parts)
                wall = time.monotonic() - start
                own = digest(drill.folder / out)
                yield Row(name, cluster.machines, loss.what, outcome, own, wall, scenario=loss.what)
    done.close(name)


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
        binary()
        return {"Prism": lambda folder: with_pool(folder, prism)}
    return {"portable": lambda folder: with_pool(folder, job_server)}


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when all went as it must, 1 when not, 3 when time ran out before the end, 4 when something cannot be fetched."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", nargs="*", default=["portable"], metavar="ENGINE", help=f"of {', '.join(ENGINES)}")
    parser.add_argument(
        "--coco", metavar="FOLDER", help="images/ and instances.json (default: MASKMILL_TEST_DATA's, or drawn)"
    )
    parser.add_argument(
        "--masks", action="append", metavar="SPEC", help='default: "fh(scales=(500,1000,1500))" and "gt()"'
    )
    parser.add_argument("--part-size", type=int, default=8)
    parser.add_argument(
        "--drawn", type=int, default=0, help="draw so many pictures (default: 120 where there are none)"
    )
    parser.add_argument("--keep", default="", metavar="FOLDER", help="keep outputs, logs and the table's rows there")
    parser.add_argument(
        "--minutes", type=float, default=0.0, metavar="M", help="begin no scenario after so long; needs --keep"
    )
    args = parser.parse_args(argv)
    if args.minutes and not args.keep:
        parser.error("--minutes needs --keep FOLDER, where the next run finds what is done")
    deadline = time.monotonic() + args.minutes * 60 if args.minutes else float("inf")
    if unknown := set(args.engines) - set(ENGINES):
        parser.error(f"there is no engine {min(unknown)!r}; there are {', '.join(ENGINES)}")
    mark = os.environ[MARK] = uuid.uuid4().hex
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that everything is ended then, too
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even when started in the background
    code, rows = 0, list[Row]()
    try:
        # Fetches what is missing, before anything else takes its time.
        chosen = {name: engine for word in args.engines for name, engine in engines(word).items()}
        with scratch(args.keep) as folder:
            data = os.environ.get("MASKMILL_TEST_DATA", "")
            source = args.coco or (data and os.path.join(data, "coco"))
            if source and os.path.isdir(source) and not args.drawn:
                images, annotations = (os.path.abspath(os.path.join(source, n)) for n in ("images", "instances.json"))
            else:
                shutil.rmtree(folder / "drawn", ignore_errors=True)  # the same is drawn again
                images, annotations = write_coco(folder / "drawn", args.drawn or 120, 480, 640)
            masks = tuple(args.masks or ("fh(scales=(500,1000,1500))", "gt()"))
            meter = CpuMeter()
            meter.start()
            drill = Drill(images, annotations, masks, folder, args.part_size, meter=meter)
            done = Done.read(folder / "rows.jsonl")
            rows = done.rows
            if chosen.keys() <= done.whole:
                print(f"drill: all of it is done and kept in {folder}; another --keep begins anew", file=sys.stderr)
            if not rows:
                shutil.rmtree(folder / LOCAL, ignore_errors=True)
                done.add(prepare(drill))
            for name, engine in chosen.items():
                if name not in done.whole and time.monotonic() < deadline:
                    code = max(code, run_in_pieces(drill, name, engine, done, deadline))
            if left := chosen.keys() - done.whole:
                print(
                    f"drill: not done, or not all of it: {', '.join(sorted(left))}; the same command goes on",
                    file=sys.stderr,
                )
                code = code or NOT_DONE
    except MissingError as error:
        print(f"drill: {error}", file=sys.stderr)
        code = 4
    except (KeyboardInterrupt, SystemExit) as stop:  # what was found so far is told all the same
        code = getattr(stop, "code", 130)
    if rows:
        print(f"\n{table(rows)}")
    until = time.monotonic() + 10
    while (left := left_over(mark)) and time.monotonic() < until:
        time.sleep(0.2)  # grandchildren that notice their parent's end by themselves
    if left:
        print(f"drill: processes are left over: {left}", file=sys.stderr)
    return code or (1 if left else 0)


def run_in_pieces(drill: Drill, name: str, engine: Engine, done: Done, deadline: float) -> int:
    """An engine's rows, added to those there are; what goes wrong on one engine is no reason to leave out the next."""
    try:
        with contextlib.closing(run_drill(drill, name, engine, done)) as rows:
            for row in rows:
                drill.say(f"{name}: {row.killed}: {row.outcome}, {row.wall_s:.0f} s, {row.digest}")
                done.add(row)
                if time.monotonic() > deadline:
                    break
    except (DrillError, AssertionError, MissingError) as error:
        print(f"drill: {name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
