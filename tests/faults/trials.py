"""Commands on a disk that fails, or with a process that ends, at every single operation on their folder.

    python tests/faults/trials.py [--sample N] [--seed S] [--scenario NAME ...] [--kind KIND ...]

In SQLite's manner: for every n, the n-th operation fails (disk full, I/O error, interrupted call, short write), or the process
is killed there, or the machine loses power there: what was not flushed is gone ("power"), or half of it ("torn"). Each trial is
a forked process. A command that failed has said why in one sentence, with exit code 4. The same command on a sound disk
then ends well, with the very bytes of a build that nothing happened to.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from drawn import content, write_coco
from faulty_disk import FAILURES, KILLED, KILLS, KINDS, Disk

# Imported before a trial is forked, or each would import them again.
import maskmill.pipelines.clusters.runners
import maskmill.pipelines.driver.build
import maskmill.pipelines.driver.graph
import maskmill.pipelines.report.write  # noqa: F401
from maskmill.pipelines.commands.cli import main as command

SCENARIOS = ("build", "resume", "overwrite", "retry", "report")
_RUN = ["--workers", "0", "--max-failure-rate", "1", "--json"]


def build_command(root: Path) -> list[str]:
    data = ["--dataset", "coco", "--images", str(root / "images"), "--annotations", str(root / "instances.json")]
    return ["build", *data, "--masks", "grid(n=2)", "--num-shards", "2", "--part-size", "2", *_RUN, "--out", "OUT"]


def run(argv: list[str], folder: Path, at: int = 0, kind: str = "full", log: Path | None = None) -> tuple[int, str]:
    """Runs a command in a forked process on a disk that fails at its `at`-th operation; its exit code and stderr."""
    said = folder.with_suffix(".stderr")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(said, "wb") as file, open(os.devnull, "wb") as nowhere:
                os.dup2(file.fileno(), 2)
                os.dup2(nowhere.fileno(), 1)
            disk = Disk(str(folder), at, kind)
            disk.install()
            code = command([str(folder) if word == "OUT" else word for word in argv])
            sys.stderr.flush()
            if log is not None:
                log.write_text(json.dumps(disk.log))
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), said.read_text(errors="replace")


def state(folder: Path) -> dict[str, str]:
    """Digests of what must not depend on what happened on the way."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in content(folder).items()}


class Scenario:
    """A command on a folder as it was left by others before it.

    Attributes:
        name: of the scenario.
        command: to try.
        after: commands that must succeed afterwards, on a sound disk.
        start: the folder as the command finds it; None where there is none.
        log: the operations of an undisturbed run.
        end: `state` after it.
    """

    def __init__(self, name: str, argv: list[str], after: list[list[str]], place: Path, start: Path | None):
        self.name, self.command, self.after, self.place, self.start = name, argv, after, place, start
        folder = self.fresh()
        code, said = run(argv, folder, log=place / "log.json")
        assert code == 0, (name, code, said)
        self.log = json.loads((place / "log.json").read_text())
        self.end = state(folder)

    def fresh(self) -> Path:
        folder = self.place / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        if self.start is not None:
            shutil.copytree(self.start, folder)
        return folder

    def trial(self, at: int, kind: str) -> tuple[str, str]:
        """What came of it ("failed", "killed", "went on", "not reached"), and what is wrong, "" if nothing."""
        folder = self.fresh()
        code, said = run(self.command, folder, at, kind)
        lines = [line for line in said.splitlines() if not line.startswith("maskmill: attempt ")]
        came = {0: "went on", 4: "failed", KILLED: "killed"}.get(code, f"exit code {code}")
        wrong = ""
        if (
            came.startswith("exit")
            or (came == "failed" and kind not in FAILURES)
            or (came == "killed" and kind not in KILLS)
        ):
            wrong = f"{came}: {said[-600:]}"
        elif came == "failed" and (
            len(lines) != 1 or "internal error" in said or not lines[0].startswith("maskmill: ")
        ):
            wrong = f"said: {said[-600:]}"
        elif came == "went on" and state(folder) != self.end:
            wrong = "exit code 0, and other bytes"
        if not wrong:
            for argv in (self.command, *self.after):
                code, said = run(argv, folder)
                if code:
                    wrong = f"then {argv[0]}: exit code {code}: {said[-600:]}"
                    break
            else:
                if state(folder) != self.end:
                    wrong = "other bytes after the same command"
                elif left := [path.name for path in folder.rglob("*.incomplete")]:
                    wrong = f"left behind: {left}"
        return came, wrong


def scenarios(root: Path, names: Sequence[str]) -> dict[str, Scenario]:
    """Those named, from a data set of six pictures, one of them broken."""
    write_coco(root, 6)
    broken = root / "images" / "000000000000.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    build = build_command(root)
    whole, half = root / "whole", root / "half"
    assert run(build, whole)[0] == 0
    code, _ = run(build, half, at=len(_operations(build, root)) // 2, kind="kill")
    assert code == KILLED
    retry, report = ["retry", "OUT", *_RUN], ["report", "OUT", "--json"]
    check = ["validate", "OUT"]
    # After an interrupted retry the same build command goes on as well; and it clears away, under its lock, what an
    # interrupted report began to write.
    plans = {
        "build": (build, [check], None),
        "resume": (build, [check], half),
        "overwrite": ([*build, "--overwrite"], [check], whole),
        "retry": (retry, [build, check], whole),
        "report": (report, [build, check], whole),
    }
    return {name: Scenario(name, *plans[name][:2], _made(root / name), plans[name][2]) for name in names}


def _operations(build: list[str], root: Path) -> list[str]:
    run(build, root / "counted", log=root / "counted.json")
    return json.loads((root / "counted.json").read_text())


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def main(argv: list[str] | None = None) -> int:
    """Returns 1 where anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="a random choice of N trials; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only these; repeatable")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these; repeatable")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="maskmill-faults-") as root:
        found = scenarios(Path(root), args.scenario or SCENARIOS)
        trials = [
            (name, at, kind)
            for name, scenario in found.items()
            for at in range(1, len(scenario.log) + 1)
            for kind in args.kind or KINDS
            if kind != "short" or scenario.log[at - 1].startswith("write")
        ]
        if args.sample:
            trials = random.Random(args.seed).sample(trials, min(args.sample, len(trials)))
        begin, wrongs, came = time.monotonic(), 0, Counter()
        for number, (name, at, kind) in enumerate(trials, 1):
            how, wrong = found[name].trial(at, kind)
            came[how] += 1
            if wrong:
                wrongs += 1
                print(f"{name}, {kind} at operation {at}, {found[name].log[at - 1]}: {wrong}", flush=True)
            if number % 50 == 0:
                print(f"{number} of {len(trials)} trials, {wrongs} wrong, {time.monotonic() - begin:.0f} s", flush=True)
        lengths = ", ".join(f"{name} {len(scenario.log)}" for name, scenario in found.items())
        print(f"operations: {lengths}\n{len(trials)} trials: {dict(sorted(came.items()))}; {wrongs} wrong")
    return 1 if wrongs or not trials else 0


if __name__ == "__main__":
    sys.exit(main())
