"""Builds to be disturbed: of six drawn pictures, one of them broken, as six commands on one folder."""

from pathlib import Path

from drawn import content, write_coco
from faulty_disk import KILLED
from places import Place
from scenario import Program, Scenario

from maskmill.pipelines.commands.cli import main

SCENARIOS = ("build", "resume", "overwrite", "retry", "report", "export")
_RUN = ["--workers", "0", "--max-failure-rate", "1", "--json"]


def _exported(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


BUILD = Program(main, content)
EXPORT = Program(main, _exported)


class Builds:
    """Scenarios at one place.

    Args:
        place: where.
        root: an empty folder for data sets and copies.
    """

    def __init__(self, place: Place, root: Path):
        self._place, self._root = place, root
        root.mkdir(parents=True)
        write_coco(root, 6)
        broken = root / "images" / "000000000000.jpg"
        broken.write_bytes(broken.read_bytes()[:200])
        data = ["--dataset", "coco", "--images", str(root / "images"), "--annotations", str(root / "instances.json")]
        size = ["--masks", "grid(n=2)", "--num-shards", "2", "--part-size", "2"]
        self._build = ["build", *data, *size, *_RUN, "--out", "OUT"]
        self._made: dict[str, Path] = {}

    def _start(self, kind: str) -> Path | None:
        """The folder before a command: "none", "half" a build, or the "whole"."""
        if kind == "none":
            return None
        if kind not in self._made:
            folder = self._root / kind
            self._place.put(None)
            whole = self._place.run(main, self._build)
            assert whole.code == 0, whole
            if kind == "half":
                self._place.put(None)
                half = self._place.run(main, self._build, len(whole.log) // 2, "kill")
                assert half.code == KILLED, half
            self._place.take(folder)
            self._made[kind] = folder
        return self._made[kind]

    def scenario(self, name: str, full_name: str) -> Scenario:
        """One of `SCENARIOS`."""
        build, check = self._build, ["validate", "OUT"]
        retry, report = ["retry", "OUT", *_RUN], ["report", "OUT", "--json"]
        if name == "export":
            data = str(self._start("whole"))
            command = ["export", data, "--format", "parquet", "--gt", "--to", "OUT", "--json"]
            return Scenario(full_name, self._place, EXPORT, command, [], None, self._root)
        # After an interrupted retry the same build command goes on as well.
        command, after, start = {
            "build": (build, [check], "none"),
            "resume": (build, [check], "half"),
            "overwrite": ([*build, "--overwrite"], [check], "whole"),
            "retry": (retry, [build, check], "whole"),
            "report": (report, [check], "whole"),
        }[name]
        return Scenario(full_name, self._place, BUILD, command, after, self._start(start), self._root)
