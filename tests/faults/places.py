"""Where a command's folder is, and what can go wrong there: a disk, the system calls of a disk, or a bucket.

A place runs a command in a forked process and lets its n-th operation on the folder fail, or ends the process there.
"""

import contextlib
import dataclasses
import importlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from failing_calls import CALL_KINDS, arm
from faulty_bucket import BUCKET_KINDS, Requests
from faulty_disk import KILLED, KINDS, Disk
from gcs import Gcs

from maskmill.schemas import storage

Main = Callable[[list[str]], int]
DEADLINE_S = 120.0  # of one command; longer is a fault
HANGS = -1000


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, `KILLED` or `HANGS`; its stderr; its operations on the folder, by name."""

    code: int
    said: str
    log: list[str]


class Place(Protocol):
    """One kind of place.

    Attributes:
        out: what stands for the folder in a command.
        kinds: what can go wrong.
    """

    out: str
    kinds: tuple[str, ...]

    def put(self, start: Path | None) -> None:
        """Makes the folder what it is at `start`; None: there is none."""

    def take(self, folder: Path) -> None:
        """Copies it to `folder`."""

    def run(self, main: Main, argv: list[str], at: int = 0, kind: str = "") -> Ended:
        """Runs a command; OUT in `argv` stands for the folder. Operation `at` of it goes wrong, 0: none."""

    def applies(self, kind: str, operation: str) -> bool:
        """Whether `kind` can happen to an operation."""


def import_what_was(said: Path) -> None:
    """Imports here what a child had imported at its end, so that those forked from now on need not."""
    names = said.with_suffix(".modules")
    for name in names.read_text().split() if names.exists() else ():
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _forked(work: Callable[[], int], said: Path, started: Callable[[int], None] = lambda pid: None) -> tuple[int, str]:
    """Exit code and stderr of `work` in a child of ours; the child is ended when it takes too long."""
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.read(ready, 1)
            with open(said, "wb") as file, open(os.devnull, "wb") as nowhere:
                os.dup2(file.fileno(), 2)
                os.dup2(nowhere.fileno(), 1)
            code = work()
            sys.stderr.flush()
            said.with_suffix(".modules").write_text("\n".join(sys.modules))
        finally:
            os._exit(code)
    started(child)
    os.write(go, b".")
    os.close(ready)
    os.close(go)
    end = time.monotonic() + DEADLINE_S
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return HANGS, said.read_text(errors="replace")
        time.sleep(0.005)
    code = os.waitstatus_to_exitcode(status)
    return KILLED if code == -signal.SIGKILL else code, said.read_text(errors="replace")


class _Local:
    """A folder on a disk of ours."""

    def __init__(self, root: Path):
        root.mkdir(parents=True)
        self.folder = root / "trial"
        self.out = str(self.folder)

    def put(self, start: Path | None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if start is not None:
            shutil.copytree(start, self.folder)

    def take(self, folder: Path) -> None:
        shutil.copytree(self.folder, folder)

    def run(self, main: Main, argv: list[str], at: int = 0, kind: str = "") -> Ended:
        log = self.folder.with_suffix(".log")
        log.write_text("")

        def work() -> int:
            with self._failing(at, kind, log):
                return main([self.out if word == "OUT" else word for word in argv])

        code, said = _forked(work, self.folder.with_suffix(".stderr"))
        if not at:
            import_what_was(self.folder.with_suffix(".stderr"))
        return Ended(code, said, log.read_text().splitlines())

    @contextlib.contextmanager
    def _failing(self, at: int, kind: str, log: Path) -> Iterator[None]:
        raise NotImplementedError


class OnDisk(_Local):
    """Every operation of `maskmill.schemas.storage`; what was not flushed can be lost, as when power fails."""

    kinds = KINDS

    @contextlib.contextmanager
    def _failing(self, at: int, kind: str, log: Path) -> Iterator[None]:
        disk = Disk(self.out, at, kind)
        disk.install()
        yield
        log.write_text("".join(f"{line}\n" for line in disk.log))

    def applies(self, kind: str, operation: str) -> bool:
        return kind != "short" or operation.startswith("write")


class InCalls(_Local):
    """Every system call on the folder, also those that libraries below Python make; see `failing_calls`."""

    kinds = CALL_KINDS

    @contextlib.contextmanager
    def _failing(self, at: int, kind: str, log: Path) -> Iterator[None]:
        with arm(self.out, at, kind, str(log)):
            yield

    def applies(self, kind: str, operation: str) -> bool:
        if kind == "short":
            return operation.startswith(("write", "pwrite"))
        return kind != "full" or not operation.startswith(("read", "pread"))


class OnBucket:
    """Every request to a bucket, of a server in this process."""

    kinds = BUCKET_KINDS

    def __init__(self, root: Path, gcs: Gcs):
        root.mkdir(parents=True)
        self._said, self._gcs = root / "stderr", gcs
        self.out = f"gs://mill/{root.name}/trial"

    def put(self, start: Path | None) -> None:
        self._gcs.fault = lambda method, path: None
        with contextlib.suppress(FileNotFoundError):
            storage.remove_all([storage.join(self.out, name) for name, _ in storage.walk(self.out)])
        if start is not None:
            bucket, _, prefix = self.out.removeprefix("gs://").partition("/")
            self._gcs.upload(start, bucket, prefix)

    def take(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        with contextlib.suppress(FileNotFoundError):
            for name, _ in list(storage.walk(self.out)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(storage.read_bytes(storage.join(self.out, name)))

    def run(self, main: Main, argv: list[str], at: int = 0, kind: str = "") -> Ended:
        requests = Requests(at, kind)
        self._gcs.fault, self._gcs.answered = requests.fault, requests.answered
        words = [self.out if word == "OUT" else word for word in argv]
        try:
            code, said = _forked(lambda: main(words), self._said, lambda pid: setattr(requests, "pid", pid))
        finally:
            self._gcs.fault = lambda method, path: None
        if not at:
            import_what_was(self._said)
        return Ended(code, said, requests.log)

    def applies(self, kind: str, operation: str) -> bool:
        return kind != "flipped" or "alt=media" in operation
