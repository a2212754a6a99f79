"""How far a build is, read from the sidecars: the same on every runner, from this process or any other.

Parts that this process is building are counted image by image as well, so that a laptop's progress moves before the first
part is committed.
"""

import collections
import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np

from maskmill.pipelines.parts.assemble import SHARDS
from maskmill.pipelines.parts.part import PARTS, UNDER_WAY, sidecar_path
from maskmill.pipelines.parts.part_index import DIGEST_DIGITS
from maskmill.pipelines.parts.plan import Plan
from maskmill.schemas import storage
from maskmill.schemas.manifest import WORK

_LINE_EVERY_S = 30.0
_STARTING_S = 2.0  # a build that has no image by then says what it is waiting for
_WINDOW_S = 60.0
_PATIENCE = 10.0  # times as long as the last look took, until the next
STARTING = (
    "no image yet: workers start and load their kernels; the first build on a machine compiles them (a minute or two)"
)


def read_head(path: str) -> dict | None:
    """The numbers at the beginning of a part's sidecar, or None. What follows them is a hundred times as much."""
    try:
        text = storage.read_bytes(path, 0, 1024).decode("utf-8", "replace")
    except OSError:
        return None
    head, separator, _ = text.partition(', "failures": ')
    try:
        return json.loads(head + "}") if separator else None
    except (ValueError, RecursionError):
        return None


class Tally:
    """Images done and failed, counted from sidecars; each sidecar is read once.

    Attributes:
        done: images of committed parts and of those under way in this process, failures included.
        failed: of them, failures.
        parts: committed parts.
    """

    def __init__(self, folder: str, plan: Plan):
        self.folder, self.digest = folder, plan.digest
        self.total = plan.inputs
        self.done = self.failed = self.parts = 0
        self._images = plan.parts.images()
        self._parts_of_shard = np.diff(plan.parts.firsts())
        self._shards: dict[int, int] = {}  # joined ones -> failures
        self._parts: dict[int, dict[str, tuple[int, int]]] = {}  # of other shards: name -> (images, failures)

    def refresh(self) -> None:
        """Counts the sidecars that have appeared since the last call, and what is under way.

        A joined shard is one name, however many parts it had, and what is known already is not read again.
        """
        under_way = dict(
            UNDER_WAY
        )  # before sidecars are listed: what is committed meanwhile is found in one of the two
        self._count_shards()
        self._count_parts()
        prefix, tag = sidecar_path(self.folder, "").removesuffix(".json"), f"-{self.digest[:DIGEST_DIGITS]}.json"
        counts = [count for parts in self._parts.values() for count in parts.values()]
        counts += [(int(self._images[shard]), failed) for shard, failed in self._shards.items()]
        for path, count in under_way.items():
            name = path.removeprefix(prefix)
            shard = _shard_of(name)
            if path.startswith(prefix) and name.endswith(tag) and shard not in self._shards:
                counts += [count] if name not in self._parts.get(shard, {}) else []
        self.done, self.failed = sum(done for done, _ in counts), sum(failed for _, failed in counts)
        joined = sum(int(self._parts_of_shard[shard]) for shard in self._shards)
        self.parts = joined + sum(map(len, self._parts.values()))

    def _count_shards(self) -> None:
        folder, tag = storage.join(self.folder, WORK, SHARDS), f"-{self.digest[:DIGEST_DIGITS]}.json"
        names = [name for name in storage.names(folder) if name.endswith(tag)]
        new = [n for n in names if _shard_of(n) not in self._shards and _shard_of(n) < len(self._images)]
        commits = storage.in_parallel(lambda name: _read_commit(storage.join(folder, name)), new, folder)
        for name, commit in zip(new, commits, strict=True):
            if commit is not None and commit.get("plan_digest") == self.digest:
                shard = _shard_of(name)
                self._shards[shard] = int(self._images[shard]) - commit["records"]
                self._parts.pop(shard, None)

    def _count_parts(self) -> None:
        folder = storage.join(self.folder, WORK, PARTS)
        new = [
            name
            for name in storage.names(folder)
            if name.endswith(".json")
            and (shard := _shard_of(name)) not in self._shards
            and name not in self._parts.get(shard, {})
        ]
        heads = storage.in_parallel(lambda name: read_head(storage.join(folder, name)), new, folder)
        for name, head in zip(new, heads, strict=True):
            if head is None or head["plan_digest"] != self.digest:
                continue  # torn or vanishing: it will be built again, and is counted then
            self._parts.setdefault(_shard_of(name), {})[name] = (head["images"], head["images"] - head["records"])


def _shard_of(name: str) -> int:
    """The shard that the file of a part or shard belongs to; -1 where the name is none of ours."""
    number = name.partition("-")[0]
    return int(number) if number.isdecimal() else -1


def _read_commit(path: str) -> dict | None:
    try:
        fields = json.loads(storage.read_bytes(path))
        return fields if isinstance(fields["records"], int) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


class Pace:
    """Images per second of late.

    The clock starts with the first image that is done: start-up and compiling are nobody's speed. Old samples go, so that a
    slow beginning does not weigh on the time that is left; half of the time so far is kept, so that it does not jump either.
    """

    def __init__(self) -> None:
        self._before: int | None = None
        self._samples: collections.deque[tuple[float, int]] = collections.deque()

    def add(self, now: float, done: int) -> None:
        """Takes note of how many images are done at a moment, in seconds of a clock that never goes back."""
        if self._before is None:
            self._before = done
        if not self._samples and done == self._before:
            return
        if not self._samples:
            self._start = now
        self._samples.append((now, done))
        oldest = now - max(_WINDOW_S, (now - self._start) / 2)
        while len(self._samples) > 2 and self._samples[1][0] <= oldest:
            self._samples.popleft()

    @property
    def started(self) -> bool:
        """Whether an image has been done since the first call."""
        return bool(self._samples)

    @property
    def rate(self) -> float | None:
        """Images per second, or None until three more than the first are done."""
        if not self._samples:
            return None
        (since, before), (now, done) = self._samples[0], self._samples[-1]
        return (done - before) / (now - since) if now > since and done - before >= 3 else None


def state(tally: Tally, pace: Pace) -> str:
    """The numbers of a progress line; speed and time left only once they are known."""
    text = f"{tally.done:,} of {tally.total:,} images"
    if tally.failed:
        text += f", {tally.failed:,} failed"
    if (rate := pace.rate) is not None:
        left = (
            f", {duration((tally.total - tally.done) / rate)} left" if tally.done < tally.total else ", closing shards"
        )
        text += f", {rate:.1f} images/s{left}"
    return text


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


def work(core_seconds: float) -> str:
    """Time of cores as people say it: 35 s of one core, 12 core-minutes, 5.5 core-hours."""
    if core_seconds < 1:
        return "less than 1 s of one core"
    if core_seconds < 120:
        return f"{core_seconds:.0f} s of one core"
    if core_seconds < 7200:
        return f"{core_seconds / 60:.0f} core-minutes"
    return f"{core_seconds / 3600:,.1f} core-hours"


def volume(size: float) -> str:
    """Bytes as people say them: 640 kB, 2.6 MB, 31 GB."""
    for limit, unit, step in ((1e6, "kB", 1e3), (1e9, "MB", 1e6), (1e12, "GB", 1e9)):
        if size < limit:
            value = size / step
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{size / 1e12:,.1f} TB"


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


class _Watch:
    """When to look again: every second, or ten on gs://; and where looking takes long, it is to take a tenth of the time."""

    def __init__(self, tally: Tally):
        self._tally, self._least = tally, 10.0 if storage.is_remote(tally.folder) else 1.0
        self._next = 0.0

    def wait_s(self) -> float:
        """Seconds between two looks at the clock."""
        return self._least

    def refresh(self) -> None:
        """Counts, where it is time to."""
        began = time.monotonic()
        if began < self._next:
            return
        with contextlib.suppress(OSError):
            self._tally.refresh()
        self._next = began + max(0.9 * self._least, _PATIENCE * (time.monotonic() - began))


def _lines(tally: Tally, stop: threading.Event) -> None:
    pace, watch = Pace(), _Watch(tally)
    began = time.monotonic()
    pace.add(began, tally.done)
    said, told = began, False
    while not stop.wait(min(watch.wait_s(), _STARTING_S, _LINE_EVERY_S)):
        watch.refresh()
        now = time.monotonic()
        pace.add(now, tally.done)
        if not pace.started and not told and now - began >= _STARTING_S:
            _say(STARTING)
            told = True
        if now - said >= _LINE_EVERY_S:
            said = now
            _say(
                state(tally, pace)
                if pace.started or not told
                else f"{state(tally, pace)}; kernels are still loading or compiling"
            )


def _say(line: str) -> None:
    print(f"maskmill: {line}", file=sys.stderr, flush=True)


def _bar(tally: Tally, stop: threading.Event) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("building"), BarColumn(), TextColumn("{task.fields[state]}"))
    pace, began, watch = Pace(), time.monotonic(), _Watch(tally)
    pace.add(began, tally.done)
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("build", total=tally.total, completed=tally.done, state=state(tally, pace))
        while not stop.wait(watch.wait_s()):
            watch.refresh()
            now = time.monotonic()
            pace.add(now, tally.done)
            waiting = not pace.started and now - began >= _STARTING_S
            progress.update(task, completed=tally.done, state=STARTING if waiting else state(tally, pace))
