"""Everything that a drill has started, by a mark in its environment: its CPU time, and whether any of it is left."""

import contextlib
import os
import threading
import time
from pathlib import Path

MARK = "MASKMILL_DRILL"  # in the environment of everything that a drill starts


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
