"""What a build has cost so far: time of cores inside parts, bytes, and requests to gs://.

Every process that works on a build keeps its own account in `_work/spent/`, one small file that it writes again as it goes. So
attempts that came to nothing are in it, as they are on the bill, and nothing of it touches a file that readers rely on.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import threading
from typing import Any

from maskmill.schemas import operations, storage
from maskmill.schemas.manifest import WORK

SPENT = "spent"
# List prices of requests to gs://, regional standard storage, dollars.
_DOLLARS_A, _DOLLARS_B = 5e-6, 4e-7


@dataclasses.dataclass(frozen=True)
class Spent:
    """An account, or a sum of some.

    Attributes:
        parts: attempts at parts that ended.
        seconds: wall time inside them, each of which keeps one core busy.
        read_bytes, written_bytes: of pictures, and of records.
        class_a, class_b: requests to gs://; see `schemas.operations`.
    """

    parts: int = 0
    seconds: float = 0.0
    read_bytes: int = 0
    written_bytes: int = 0
    class_a: int = 0
    class_b: int = 0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    @property
    def request_dollars(self) -> float:
        """For the requests, at list prices."""
        return self.class_a * _DOLLARS_A + self.class_b * _DOLLARS_B


_LOCK = threading.Lock()
_ACCOUNTS: dict[tuple[int, str], tuple[str, Spent]] = {}  # process and folder -> file and what it holds


def book(folder: str, spent: Spent) -> None:
    """Adds to this process' account of a build, with the requests that it has made meanwhile, and writes it down.

    An account that cannot be written costs nobody a build.
    """
    with _LOCK:
        key = os.getpid(), folder  # a fork has an account of its own
        name, before = _ACCOUNTS.get(key) or (f"{secrets.token_hex(8)}.json", Spent())
        class_a, class_b = operations.take()
        total = before + spent + Spent(class_a=class_a, class_b=class_b)
        _ACCOUNTS[key] = name, total
        content = json.dumps(dataclasses.asdict(total)).encode() + b"\n"
        with contextlib.suppress(OSError):
            storage.write_bytes(storage.join(folder, WORK, SPENT, name), content)


def read_spent(folder: str) -> Spent | None:
    """The sum of all accounts of a build; None where there are none, or one that cannot be read."""
    place = storage.join(folder, WORK, SPENT)
    total: Spent | None = None
    try:
        names = sorted(name for name in storage.names(place) if name.endswith(".json"))
        for data in storage.in_parallel(
            lambda name: storage.read_whole(storage.join(place, name), 4096), names, folder
        ):
            fields: dict[str, Any] = json.loads(data)
            one = Spent(**{name: type(default)(fields[name]) for name, default in _ZERO.items()})
            total = one if total is None else total + one
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return total


_ZERO = dataclasses.asdict(Spent())
