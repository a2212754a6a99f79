"""Where the CPU time of a build goes, stage by stage, from a real `maskmill build`: `python -m benchmarks.build --stages`.

The command is run as users run it, and once more with clocks around its stages: in the driver, in its threads and in the
child process that makes masks. A clock counts CPU time of its own thread, less that of the clocks inside it, so that rows
add up. Two sizes of a build tell the cost per image apart from start-up. What no row names is the rest of the two processes'
CPU time, as the system counts it; the sum of all named rows is compared with the CPU time of the build without clocks.
"""

import functools
import hashlib
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

OUT = "MASKMILL_STAGES"  # environment variable: the folder where each process leaves its times
ROOT = str(Path(__file__).resolve().parent.parent)

# Title of a row -> the functions whose time it is, by the name under which they are called.
CHILD = {
    "header": ["pipelines.reading.decode:read_header"],
    "decode, check": ["pipelines.parts.image_builder:decode_image"],
    "FH smooth": ["masks._fh.stages:smooth"],
    "FH tiles: weigh, thin, sort, join": ["masks._fh.stages:join_tiles"],
    "FH sort": ["masks._fh.stages:sort_edges"],
    "FH join over the picture": [
        "masks._fh.stages:lookup_owners",
        "masks._fh.stages:make_sets",
        "masks._fh.stages:join_nodes",
        "masks._fh.stages:number_components",
    ],
    "FH pairs": ["masks._fh.stages:find_pairs"],
    "FH scales": ["masks._fh.stages:join_components"],
    "RLE: find runs": ["masks._fh.stages:find_runs"],
    "RLE: group, write": [
        "masks._fh.stages:group_runs",
        "masks._fh.stages:write_counts",
        "masks._fh.stages:split_text",
    ],
    "FH between kernels": ["masks.felzenszwalb:Felzenszwalb.__call__"],
    "overlap, ABO": ["pipelines.parts.image_builder:measure"],
    "encode": ["pipelines.parts.image_builder:encode_example"],
    "digest, row": ["pipelines.parts.image_builder:ImageBuilder.build"],
    "pipe, child's side": ["pipelines.parts.isolation:_send", "pipelines.parts.isolation:_receive"],
}
PARENT = {
    "read files": ["pipelines.reading.location:Location.read"],
    "wait for files": ["pipelines.reading.read_ahead:_Readers.answer"],
    "header, in the parent": ["pipelines.parts.isolation:read_header"],
    "pipe, parent's side": [
        "pipelines.parts.isolation:_send",
        "pipelines.parts.isolation:_receive",
        "pipelines.parts.isolation:ChildProcess.build",
    ],
    "frame, checksum": ["pipelines.parts.part:frame"],
    "sums of overlaps": ["pipelines.measuring.overlap_stats:OverlapAccumulator.add"],
    "write, digest of parts": ["pipelines.driver.graph:build_part"],
    "join shards": ["pipelines.driver.graph:assemble_shard"],
    "fold": ["pipelines.driver.graph:fold_piece"],
    "plan": ["pipelines.driver.build:plan_or_resume"],
    "tables, manifest": ["pipelines.driver.build:finish_build"],
    "report": ["pipelines.report.write:write_report"],
}
REST = {"child": "the rest of the child", "parent": "Beam, the rest of the driver"}


class Clocks:
    """CPU seconds by row, of all threads of this process; each clock without the clocks that run inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()
        self._open = threading.local()

    def around(self, row: str, work: Callable) -> Callable:
        """`work`, clocked."""

        @functools.wraps(work)
        def clocked(*args: Any, **kwargs: Any) -> Any:
            inside = getattr(self._open, "inside", 0.0)
            self._open.inside = 0.0
            start = time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                spent = time.thread_time() - start
                with self._lock:
                    self.seconds[row] = self.seconds.get(row, 0.0) + spent - self._open.inside
                self._open.inside = inside + spent

        return clocked

    def wind(self, rows: dict[str, list[str]]) -> None:
        """Puts clocks around the functions of `rows`."""
        for row, places in rows.items():
            for place in places:
                module, _, name = place.partition(":")
                owner = import_module(f"maskmill.{module}")
                *outer, last = name.split(".")
                for part in outer:
                    owner = getattr(owner, part)
                setattr(owner, last, self.around(row, getattr(owner, last)))

    def leave(self, who: str) -> None:
        """Writes the times, and the CPU time of the whole process, where the benchmark finds them."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        times = {**self.seconds, REST[who]: used.ru_utime + used.ru_stime - sum(self.seconds.values())}
        Path(os.environ[OUT], f"{who}.json").write_text(json.dumps(times))


def serve_clocked() -> None:
    """What the child runs instead of `isolation.serve`."""
    from maskmill.pipelines.parts import isolation

    clocks = Clocks()
    clocks.wind(CHILD)
    isolation.serve()
    clocks.leave("child")


def build_clocked(arguments: list[str]) -> int:
    """`maskmill ARGUMENTS` in this process, with clocks."""
    from maskmill.pipelines.commands import cli
    from maskmill.pipelines.parts import isolation

    clocks = Clocks()
    clocks.wind(PARENT)
    isolation.ChildProcess.program = (
        f"import sys; sys.path.insert(0, {ROOT!r}); from benchmarks.build_stages import serve_clocked; serve_clocked()"
    )
    isolation.ChildProcess.close = _close_gently  # type: ignore[method-assign]
    code = cli.main(arguments)
    clocks.leave("parent")
    return code


def _close_gently(child: Any) -> None:
    """Ends a child by closing its pipe, so that it leaves its times; the real one is killed."""
    if child._process is not None:
        child._process.stdin.close()
        child._process.wait()
        child._process.stdout.close()
        child._process = None


def calibrate() -> float:
    """CPU milliseconds of fixed work of a build's kinds, so that tables of different days and machines can be compared.

    Digests, sorting, look-ups all over an array, vector arithmetic in and out of the cache: about a third of a second.
    """
    random = np.random.default_rng(0)
    values = random.random(1 << 20)
    places = random.integers(0, values.size, values.size)
    content = values.tobytes()
    start = time.thread_time()
    for _ in range(2):
        hashlib.sha256(content).digest()
        np.sort(values)
        values[places].cumsum()
        for block in values.reshape(64, -1):
            for _ in range(8):
                np.sqrt(block * block + block)
    return (time.thread_time() - start) * 1e3


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def show_stages(
    few: tuple[int, list[str]],
    many: tuple[int, list[str]],
    measure: Callable[[list[str]], tuple[float, float]],
    scratch: Path,
) -> None:
    """Prints the table.

    Args:
        few, many: numbers of images, and the arguments of `maskmill` that build as many, but for `--out`.
        measure: CPU seconds and peak MB of a command and its children.
        scratch: an empty folder.
    """
    clocked = [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
               "from benchmarks.build_stages import build_clocked; sys.exit(build_clocked(sys.argv[1:]))", ROOT]  # fmt: skip
    plain = [sys.executable, "-m", "maskmill.pipelines.commands.cli"]
    seconds: dict[tuple[str, int], float] = {}
    rows: dict[int, dict[str, dict[str, float]]] = {}
    loops = [calibrate()]
    for count, arguments in (few, many):
        for name, command in (("plain", plain), ("clocked", clocked)):
            place = scratch / f"{name}-{count}"
            place.mkdir()
            with _variable(OUT, str(place)):
                seconds[name, count], _ = measure([*command, *arguments, "--out", str(place / "out")])
            loops.append(calibrate())
        rows[count] = {who: json.loads((place / f"{who}.json").read_text()) for who in REST}

    images = many[0] - few[0]

    def per_image(small: float, large: float) -> float:
        return (large - small) * 1e3 / images

    whole = {name: per_image(seconds[name, few[0]], seconds[name, many[0]]) for name in ("plain", "clocked")}
    named = 0.0
    print(
        f"{many[0]} images less {few[0]}; CPU ms an image, share of the build without clocks ({whole['plain']:.2f} ms)"
    )
    for who, titles in (("child", CHILD), ("parent", PARENT)):
        for title in (*titles, REST[who]):
            ms = per_image(rows[few[0]][who].get(title, 0.0), rows[many[0]][who].get(title, 0.0))
            named += ms if title != REST[who] else 0.0
            print(f"  {title:<36}{ms:>8.3f}{ms / whole['plain']:>8.1%}")
    start_up = seconds["plain", few[0]] - whole["plain"] * few[0] / 1e3
    print(f"  {'sum of the named rows':<36}{named:>8.3f}{named / whole['plain']:>8.1%}")
    print(f"  {'the build with clocks':<36}{whole['clocked']:>8.3f}{whole['clocked'] / whole['plain']:>8.1%}")
    print(f"start-up and end {start_up:.1f} s a build; {1e3 / whole['plain']:.1f} images/s/core")
    loop = min(loops)
    print(
        f"calibration loop {loop:.1f} ms (at most {max(loops):.1f}); an image takes {whole['plain'] / loop:.4f} of it"
    )
