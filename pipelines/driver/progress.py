"""How far a build is, read from the sidecars: the same on every runner, from this process or any other."""

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator

from maskmill.pipelines.parts.part import PARTS
from maskmill.pipelines.parts.plan import Plan
from maskmill.schemas import storage
from maskmill.schemas.manifest import WORK

_LINE_EVERY_S = 30.0


def read_head(path: str) -> dict | None:
    """The numbers at the beginning of a part's sidecar, or None. What follows them is a hundred times as much."""
    try:
        text = storage.read_bytes(path, 0, 1024).decode("utf-8", "replace")
    except OSError:
        return None
    head, separator, _ = text.partition(', "failures": ')
    try:
        return json.loads(head + "}") if separator else None
    except ValueError:
        return None


class Tally:
    """Images done and failed, counted from sidecars; each sidecar is read once.

    Attributes:
        done: images of committed parts, failures included.
        failed: of them, failures.
        parts: committed parts.
    """

    def __init__(self, folder: str, plan: Plan):
        self.folder, self.digest = folder, plan.digest
        self.total = plan.inputs
        self.done = self.failed = self.parts = 0
        self._seen: set[str] = set()

    def refresh(self) -> None:
        """Counts the sidecars that have appeared since the last call."""
        folder = storage.join(self.folder, WORK, PARTS)
        new = [n for n in storage.names(folder) if n.endswith(".json") and n not in self._seen]
        heads = storage.in_parallel(lambda name: read_head(storage.join(folder, name)), new, folder)
        for name, head in zip(new, heads, strict=True):
            if head is None or head["plan_digest"] != self.digest:
                continue  # torn or vanishing: it will be built again, and is counted then
            self.done += head["images"]
            self.failed += head["images"] - head["records"]
            self.parts += 1
            self._seen.add(name)


def amount(count: int, noun: str) -> str:
    """A count and its noun: 1 shard, 1,024 shards."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3.4 h, 2.1 d."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            value = seconds / size
            return f"{value:.0f} {unit}" if value >= 10 or unit == "s" else f"{value:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


@contextlib.contextmanager
def show_progress(tally: Tally, quiet: bool = False) -> Iterator[None]:
    """Shows progress on stderr while the block runs: a bar on a terminal, a line every 30 s elsewhere."""
    tally.refresh()
    stop = threading.Event()
    if quiet:
        yield
        return
    target = _bar if sys.stderr.isatty() else _lines
    thread = threading.Thread(target=target, args=(tally, stop), daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


def _every(tally: Tally) -> float:
    return 10.0 if storage.is_remote(tally.folder) else 1.0


def _lines(tally: Tally, stop: threading.Event) -> None:
    start, before = time.monotonic(), tally.done
    while not stop.wait(_LINE_EVERY_S):
        with contextlib.suppress(OSError):
            tally.refresh()
        rate = (tally.done - before) / (time.monotonic() - start)
        left = duration((tally.total - tally.done) / rate) if rate else "unknown"
        print(
            f"maskmill: {tally.done:,} of {tally.total:,} images, {rate:.1f} images/s, {tally.failed:,} failed, {left} left",
            file=sys.stderr,
            flush=True,
        )


def _bar(tally: Tally, stop: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("building"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} images/s, {task.fields[failed]} failed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    start, before = time.monotonic(), tally.done
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("build", total=tally.total, completed=tally.done, rate=0.0, failed=tally.failed)
        while not stop.wait(_every(tally)):
            with contextlib.suppress(OSError):
                tally.refresh()
            rate = (tally.done - before) / (time.monotonic() - start)
            progress.update(task, completed=tally.done, rate=rate, failed=tally.failed)
