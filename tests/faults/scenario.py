"""A command tried at a place where something goes wrong, and what must come of it."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from faulty_bucket import PASSING
from faulty_disk import KILLED
from places import HANGS, Ended, Main, Place

KILLS = ("kill", "kill after", "power", "torn write")
TOLD = ("maskmill: ", "detcon train: ")  # what our sentences begin with
_PROGRESS = "maskmill: attempt "
Content = Callable[[Path], dict[str, bytes]]


@dataclasses.dataclass(frozen=True)
class Program:
    """A command line's program.

    Attributes:
        main: runs it; returns its exit code.
        content: of its folder, what must not depend on what happened on the way, by name.
    """

    main: Main
    content: Content


def sentences(said: str) -> list[str]:
    """Lines of stderr that are neither progress nor a warning."""
    return [
        line
        for line in said.splitlines()
        if line.startswith(TOLD) and not line.startswith(_PROGRESS) and ": warning: " not in line
    ]


class Scenario:
    """A command on a folder as others before it left it.

    Attributes:
        name: of the scenario.
        place: where.
        program: of all its commands.
        command: to try.
        after: commands that must succeed afterwards, where nothing goes wrong.
        log: the operations of an undisturbed run.
        end: `state` after it.
    """

    def __init__(
        self,
        name: str,
        place: Place,
        program: Program,
        command: list[str],
        after: Sequence[list[str]],
        start: Path | None,
        scratch: Path,
    ):
        self.name, self.place, self.program, self.command, self.after = name, place, program, command, after
        self._start, self._scratch = start, scratch / name
        place.put(start)
        ended = place.run(program.main, command)
        assert ended.code == 0, (name, ended.code, ended.said)
        self.log = ended.log
        self.end = self._state()[0]

    def _state(self) -> tuple[dict[str, str], list[str]]:
        """Digests of what must not depend on what happened, and files that should not be there."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        self.place.take(self._scratch)
        digests = {name: hashlib.sha256(data).hexdigest() for name, data in self.program.content(self._scratch).items()}
        return digests, [
            path.name for path in self._scratch.rglob("*") if path.name.endswith((".incomplete", "lock.json"))
        ]

    def trial(self, at: int, kind: str) -> tuple[str, str]:
        """What came of operation `at` going wrong ("failed", "killed", "went on"), and what is wrong with that, "" if nothing.

        A command that failed has said why in one sentence, with exit code 4; one that went on has made what it would have
        made. Afterwards, where nothing goes wrong, the same command makes it in any case, and leaves nothing behind.
        """
        self.place.put(self._start)
        ended = self.place.run(self.program.main, self.command, at, kind)
        came, wrong = self._judge(ended, kind)
        if not wrong:
            for argv in (self.command, *self.after):
                ended = self.place.run(self.program.main, argv)
                if ended.code:
                    return came, f"then {argv[0]}: exit code {ended.code}: {ended.said[-600:]}"
            digests, left = self._state()
            if digests != self.end:
                wrong = f"other bytes after the same command: {_difference(digests, self.end)}"
            elif left:
                wrong = f"left behind: {left}"
        return came, wrong

    def _judge(self, ended: Ended, kind: str) -> tuple[str, str]:
        if ended.code == HANGS:
            return "hangs", f"took longer than may be: {ended.said[-600:]}"
        came = {0: "went on", 4: "failed", KILLED: "killed"}.get(ended.code, f"exit code {ended.code}")
        if came.startswith("exit") or (came == "killed") != (kind in KILLS and came != "went on"):
            return came, f"{came}: {ended.said[-600:]}"
        if came == "failed" and kind in PASSING:
            return came, f"did not try again: {ended.said[-600:]}"
        if "Traceback" in ended.said or "internal error" in ended.said:
            return came, f"said: {ended.said[-1200:]}"
        if came == "failed" and len(sentences(ended.said)) != 1:
            return came, f"said: {ended.said[-600:]}"
        if came == "went on" and (digests := self._state()[0]) != self.end:
            return came, f"exit code 0, and other bytes: {_difference(digests, self.end)}"
        return came, ""


def _difference(digests: dict[str, str], wanted: dict[str, str]) -> list[str]:
    return sorted(name for name in digests.keys() | wanted.keys() if digests.get(name) != wanted.get(name))
