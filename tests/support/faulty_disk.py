"""A disk that fails at its n-th operation, under `maskmill.schemas.local_files`.

Only operations below one folder count, and those on reading as well as on writing: inputs that cannot be read are the
ledger's matter, not this. What was written or renamed, and not yet flushed, is known, and can be lost as in a loss of power.
"""

import errno
import io
import os
import sys
import threading

from maskmill.schemas import local_files

FAILURES = {"full": errno.ENOSPC, "broken": errno.EIO, "interrupted": errno.EINTR}
KILLS = ("kill", "power", "torn write")
KINDS = (*FAILURES, "short", *KILLS)
KILLED = 137


class _File(io.FileIO):
    """An unbuffered file whose reads, writes and truncations are operations of the disk."""

    disk: "Disk"

    def readinto(self, buffer):
        self.disk.operation("read", self.path)
        return super().readinto(buffer)

    def readall(self):
        self.disk.operation("read", self.path)
        return super().readall()

    def write(self, data):
        taken = self.disk.operation("write", self.path, short=True)
        self.disk.unsynced.setdefault(self.path, os.fstat(self.fileno()).st_size)
        return super().write(memoryview(data)[: max(1, len(data) // 2)] if taken else data)


class Disk:
    """Stands for the modules `os` and `builtins.open` in `local_files`.

    Attributes:
        count: operations until now.
        log: name and path of each.
        at, kind: which operation fails, and how; 0 fails none.
        unsynced: path -> bytes of it that are safe, of files written and not flushed.
        pending: undoing each change of names that was not flushed, by folder.
    """

    def __init__(self, root: str, at: int = 0, kind: str = "full"):
        self.root, self.at, self.kind = os.path.abspath(root), at, kind
        self.count = 0
        self.log: list[str] = []
        self.unsynced: dict[str, int] = {}
        self.pending: list[tuple[str, object]] = []
        self._paths: dict[int, str] = {}
        self._lock = threading.Lock()

    def __getattr__(self, name):
        return getattr(os, name)

    def operation(self, name: str, path, *, short: bool = False) -> bool:
        """Counts; fails or ends this process where it is the one. True when a write is to be a short one."""
        path = os.path.abspath(path)
        if path != self.root and not path.startswith(self.root + os.sep):
            return False
        with self._lock:
            self.count += 1
            self.log.append(f"{name} {os.path.relpath(path, self.root)}")
            if self.count != self.at:
                return False
        if self.kind == "short":
            return short
        if self.kind in FAILURES:
            number = FAILURES[self.kind]
            raise OSError(number, os.strerror(number), path)
        self._lose()
        os._exit(KILLED)

    def _lose(self) -> None:
        if self.kind == "power":
            for _, undo in reversed(self.pending):
                undo()
        if self.kind in ("power", "torn write"):
            for path, safe in self.unsynced.items():
                if os.path.exists(path):
                    size = os.path.getsize(path)
                    os.truncate(path, safe + (size - safe) // 2 if self.kind == "torn write" else safe)

    def _undo_of(self, *paths: str):
        before = {}
        for path in paths:
            before[path] = None
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    before[path] = file.read()

        def undo():
            for path, data in before.items():
                if data is None:
                    if os.path.isfile(path):
                        os.remove(path)
                else:
                    with open(path, "wb") as file:
                        file.write(data)

        return undo

    def new_file(self, path, mode="rb"):
        """For `open`."""
        self.operation("open", path)
        path = os.path.abspath(path)
        safe = self.unsynced.get(path, os.path.getsize(path) if os.path.exists(path) else 0)
        raw = type("File", (_File,), {"disk": self, "path": path})(path, mode.replace("b", ""))
        self._paths[raw.fileno()] = raw.path
        self.unsynced[raw.path] = safe
        buffered = io.BufferedWriter(raw, 4096)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding="utf-8")

    def open(self, path, flags, *args):
        self.operation("open", path)
        descriptor = os.open(path, flags, *args)
        self._paths[descriptor] = os.path.abspath(path)
        return descriptor

    def fdopen(self, descriptor, mode):
        raw = type("File", (_File,), {"disk": self, "path": self._paths[descriptor]})(descriptor, "r")
        return io.BufferedReader(raw)

    def fsync(self, descriptor):
        path = self._paths[descriptor]
        self.operation("fsync", path)
        os.fsync(descriptor)
        self.unsynced.pop(path, None)
        self.pending = [(folder, undo) for folder, undo in self.pending if folder != path]

    def replace(self, old, new):
        self.operation("rename", new)
        old, new = os.path.abspath(old), os.path.abspath(new)
        undo = self._undo_of(new)
        os.replace(old, new)
        if old in self.unsynced:
            self.unsynced[new] = self.unsynced.pop(old)
        self.pending.append((os.path.dirname(new), undo))

    def remove(self, path):
        self.operation("remove", path)
        path = os.path.abspath(path)
        undo = self._undo_of(path)
        os.remove(path)
        self.unsynced.pop(path, None)
        self.pending.append((os.path.dirname(path), undo))

    def makedirs(self, path, exist_ok=False):
        self.operation("makedirs", path)
        os.makedirs(path, exist_ok=exist_ok)

    def scandir(self, path):
        self.operation("list", path)
        return os.scandir(path)

    def stat(self, path):
        self.operation("stat", path)
        return os.stat(path)

    def install(self) -> None:
        """Puts the disk under `local_files`, in this process, for good."""
        local_files.os = self
        local_files.open = self.new_file
        if runlog := sys.modules.get("maskmill.training.runlog"):
            runlog.os, runlog.open = self, self.new_file
