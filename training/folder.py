"""A run's folder, local or gs://: the card that says which run it holds, and who may write to it.

`run.json` holds the configuration and the data set's manifest digest, and is written before the first step. `lock.json`
names the trainer at work; the same file shows that all processes of a run see one and the same folder.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

from maskmill.schemas import options, storage
from maskmill.schemas.errors import InputError, UsageError
from maskmill.training import config_io, pod
from maskmill.training.config import Config

CARD = "run.json"
LOCK = "lock.json"
_LIMIT = 1 << 20  # bytes of either

BEAT_S = 10.0  # between two signs of life in the lock
WATCH_S = 3 * BEAT_S  # a lock of another machine that shows none for so long is of a dead process
SETTLE_S = 0.1  # between taking a lock and looking whether somebody else took it too
SEEN_S = 20.0  # a shared mount may show a new file so much later


class RunFolder:
    """The right to write to a run's folder, for as long as the context lasts; the card is there from its beginning.

    With several processes the first one holds it, and the others show that they see its files and ask for the same run.

    Args:
        workdir: the folder.
        config: of the run.
        manifest_digest: of the data set.
        say: told, in one line, why the start takes longer.

    Raises (on entering):
        UsageError: the folder holds a run of another configuration (the differences are listed).
        InputError: its run used another data set, its card cannot be read, another trainer is at work in it, or some
            process does not see what the first one writes there.
    """

    def __init__(self, workdir: str, config: Config, manifest_digest: str, *, say: Callable[[str], None] = print):
        self._workdir, self._config, self._manifest_digest = workdir, config, manifest_digest
        self._lock = _Lock(workdir, say)

    def __enter__(self) -> "RunFolder":
        first = jax.process_index() == 0
        try:
            pod.together(self._claim if first else lambda: None)
            token = pod.gather(self._lock.token)[0]
            pod.together(lambda: None if first else self._recognise(token))
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def check(self) -> None:
        """Raises InputError where another trainer has taken the folder meanwhile."""
        self._lock.check()

    def _claim(self) -> None:
        try:
            _check_card(self._workdir, self._config, self._manifest_digest)
            self._lock.take()
            _clear_away(self._workdir)
            if read_card(self._workdir) is None:
                card = _card(self._config, self._manifest_digest)
                text = json.dumps(card, indent=1, sort_keys=True) + "\n"
                storage.write_bytes(storage.join(self._workdir, CARD), text.encode())
        except OSError as error:
            raise InputError(
                f"cannot use the run's folder {self._workdir}: {error.strerror or pod.first_line(error)}"
            ) from error

    def _recognise(self, token: str) -> None:
        deadline = time.monotonic() + SEEN_S
        while (held := _read_lock(self._workdir)) is None or held.get("token") != token:
            if time.monotonic() > deadline:
                raise InputError(
                    f"{pod.here()} does not see what process 0 writes to {self._workdir}; give a folder that all hosts "
                    "share: gs://BUCKET/RUN, or a mounted one"
                )
            time.sleep(0.5)
        _check_card(self._workdir, self._config, self._manifest_digest)


def read_card(workdir: str) -> dict[str, Any] | None:
    """What `run.json` says, None where there is none. Raises InputError where it is no run's, or one of maskmill 0.1."""
    path = storage.join(workdir, CARD)
    try:
        card = json.loads(storage.read_whole(path, _LIMIT))
        card["config"], card["manifest_digest"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a run's card ({error}); use another --workdir") from error
    saved = storage.join(workdir, "checkpoints")
    if os.path.isdir(saved) and any(entry.name.isdigit() for entry in os.scandir(saved)):  # a folder for each step
        raise InputError(
            f"{workdir} holds a run of maskmill 0.1, whose checkpoints this version does not read; finish it with "
            "pip install 'maskmill<0.2', or start again with another --workdir"
        )
    return card


def _card(config: Config, manifest_digest: str) -> dict[str, Any]:
    digest = config_io.digest(config)
    return {"config": options.to_mapping(config), "config_digest": digest, "manifest_digest": manifest_digest}


def _check_card(workdir: str, config: Config, manifest_digest: str) -> None:
    """Refuses a folder of another run."""
    card = read_card(workdir)
    if card is None:
        return
    new = _card(config, manifest_digest)
    if card["manifest_digest"] != manifest_digest:
        raise InputError(
            f"{workdir} holds a run on another data set (manifest {card['manifest_digest'][:12]}, now "
            f"{manifest_digest[:12]}); train there again only with the same data, or use another --workdir"
        )
    if card.get("config_digest") != new["config_digest"]:
        old = {key: value for key, value in card["config"].items() if key != "log"}
        changed = config_io.differences(old, {k: v for k, v in new["config"].items() if k != "log"})
        raise UsageError(
            f"{workdir} holds a run of another configuration; use another --workdir, or undo: {'; '.join(changed)}"
        )


def _clear_away(workdir: str) -> None:
    """Removes what a trainer that was killed had begun to write: as much as a whole checkpoint. On gs:// nothing appears half."""
    if storage.is_remote(workdir):
        return
    for place in (workdir, storage.join(workdir, "checkpoints")):
        begun = sorted(name for name in storage.names(place) if name.endswith(storage.INCOMPLETE))
        storage.remove_all(storage.join(place, name) for name in begun)


def _read_lock(workdir: str) -> dict[str, Any] | None:
    """The lock's content, {} where it is not ours to understand, None where there is none."""
    try:
        held = json.loads(storage.read_whole(storage.join(workdir, LOCK), _LIMIT))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return held if isinstance(held, dict) else {}


class _Lock:
    """One trainer per folder, on any storage: a file that its holder renews every few seconds.

    Whether a holder on this machine lives is asked of the system; of another machine's, whether the file changes while
    it is watched, so that no two clocks are compared. Kernel locks would need neither, but gs:// and mounts of it have
    none.
    """

    def __init__(self, workdir: str, say: Callable[[str], None]):
        self.token = secrets.token_hex(8)
        self._workdir, self._path, self._say = workdir, storage.join(workdir, LOCK), say
        self._stop, self._lost = threading.Event(), ""
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Raises InputError where another trainer is at work here."""
        held = _read_lock(self._workdir)
        if held is not None and self._lives(held):
            raise InputError(self._refusal(held))
        self._write(0)
        time.sleep(SETTLE_S)
        now = _read_lock(self._workdir)
        if now is None or now.get("token") != self.token:  # two started at the same moment, and wrote after each other
            raise InputError(self._refusal(now or {}))
        self._thread = threading.Thread(target=self._beat, daemon=True, name="lock")
        self._thread.start()

    def check(self) -> None:
        """Raises InputError where another trainer took the folder, as it may from one that seemed dead."""
        if self._lost:
            raise InputError(self._lost)

    def release(self) -> None:
        """Removes the lock where it is ours; without failing, since nothing depends on it."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(OSError):
            if not self._lost and (_read_lock(self._workdir) or {}).get("token") == self.token:
                storage.remove(self._path)

    def _write(self, beat: int) -> None:
        pid = os.getpid()
        content = {"token": self.token, "beat": beat, "machine": _machine(), "pid": pid, "started": _started(pid)}
        storage.write_bytes(self._path, (json.dumps(content) + "\n").encode())

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(BEAT_S):
            beat += 1
            with contextlib.suppress(OSError):  # a bucket that does not answer now may the next time
                held = _read_lock(self._workdir)
                if held is not None and held.get("token") != self.token:
                    self._lost = self._refusal(held)
                    return
                self._write(beat)

    def _lives(self, held: dict[str, Any]) -> bool:
        if held.get("machine") == _machine() and isinstance(held.get("pid"), int):
            started = _started(held["pid"])
            return started is not None and held.get("started") in (started, None)
        self._say(f"{self._refusal(held).partition(';')[0]}, or was; waiting {WATCH_S:.0f} s for a sign of life")
        deadline = time.monotonic() + WATCH_S
        while time.monotonic() < deadline:
            time.sleep(min(1.0, WATCH_S / 10))
            now = _read_lock(self._workdir)
            if now is None:
                return False
            if now != held:
                return True
        return False

    def _refusal(self, held: dict[str, Any]) -> str:
        machine = str(held.get("machine", "an unknown machine")).partition(" ")[0]
        return (
            f"another trainer is at work in {self._workdir} (process {held.get('pid', 'unknown')} on {machine}); "
            "wait for it, stop it, or use another --workdir"
        )


def _machine() -> str:
    """Name of this machine and, where the system tells, a number of its present run: names are not unique."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{socket.gethostname()} {file.read().strip()}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process of this machine began, in its own units, "" where the system does not tell; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()  # the name before it may hold anything
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return ""
