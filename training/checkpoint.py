"""Checkpoints of a run: every array of the state in one file, and a card with its digest, written after it.

`RUN/checkpoints/STEP.safetensors` and `STEP.json`, on a disk or on gs://. The state is the same on every device (data
parallel), so the first process writes it alone, and any number of devices may read it. A step exists once its card
does. What is read is what was written, by sha256, or it counts as damaged.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, InputError
from maskmill.training import config_io, folder, pod
from maskmill.training.config import Config

_CARD_LIMIT = 1 << 16  # bytes; ours have about 120


def _warn(text: str) -> None:
    print(f"detcon: {text}", file=sys.stderr)


class Checkpoints:
    """Saves, in the background, and restores the states of one run.

    Args:
        workdir: the run's folder.
        keep: newest steps that stay.
        warn: told, in one line, which damaged steps were passed over.
    """

    def __init__(self, workdir: str, *, keep: int, warn: Callable[[str], None] = _warn):
        self._workdir, self._keep, self._warn = workdir, keep, warn
        self._latest: int | None = None
        self._writer = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: tuple[int, concurrent.futures.Future] | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except InputError:
            if kind is None:  # a failure on its way up matters more than one in closing
                raise
        finally:
            self._writer.shutdown()

    @property
    def latest(self) -> int | None:
        """The last step that was restored or saved; waits for a save under way."""
        if self._pending is not None and self._pending[1].exception() is None:
            return self._pending[0]
        return self._latest

    def save(self, step: int, state: dict[str, Any], *, wait: bool = False) -> None:
        """Copies `state` and begins to write it as `step`; with `wait`, returns when it is there.

        Raises:
            InputError: this or the previous save failed (disk full, permissions); the steps before it are intact.
        """
        self.wait()
        if jax.process_index() != 0:
            self._latest = step
        elif step != self._latest:
            for leaf in jax.tree.leaves(state):
                leaf.copy_to_host_async()
            # Copies: the next step reuses the state's buffers, and on a CPU an array may be a view of them.
            arrays = {name: np.array(leaf, copy=True, order="C") for name, leaf in _named(state).items()}
            self._pending = step, self._writer.submit(_write, self._workdir, step, arrays, self._keep)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits for the save under way. Raises InputError if it failed."""
        if self._pending is None:
            return
        (step, future), self._pending = self._pending, None
        try:
            future.result()
        except OSError as error:
            intact = f"the checkpoint of step {self._latest} is intact" if self._latest else "no earlier one exists"
            raise InputError(
                f"could not save a checkpoint at step {step} in {self._workdir}: "
                f"{error.strerror or pod.first_line(error)}; {intact}. "
                "Free space or fix permissions, then run the same command to go on"
            ) from error
        self._latest = step

    def restore(self, state: dict[str, Any]) -> dict[str, Any]:
        """The newest state that reads as it was written, with the shapes and sharding of `state`; or `state` itself
        where nothing was saved yet.

        Raises:
            InputError: every checkpoint is damaged, or the newest is of another network.
        """
        first = jax.process_index() == 0
        found = pod.together(lambda: _newest(self._workdir, self._warn) if first else None)
        step = pod.gather(str(found[0]) if found else "")[0]
        if not step:
            return state
        leaves = _named(state)
        arrays = pod.together(lambda: self._fitting(int(step), leaves, found[1] if found else None))
        self._latest = int(step)

        def placed(name: str, old: jax.Array) -> jax.Array:
            # A callback, so that several processes may each fill their own devices.
            return jax.make_array_from_callback(old.shape, old.sharding, lambda index: arrays[name][index])

        new = [placed(name, old) for name, old in leaves.items()]
        return jax.tree.unflatten(jax.tree.structure(state), new)

    def _fitting(self, step: int, like: dict[str, Any], arrays: dict[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        arrays = _read(self._workdir, step) if arrays is None else arrays
        if {n: (x.shape, x.dtype) for n, x in like.items()} != {n: (x.shape, x.dtype) for n, x in arrays.items()}:
            raise InputError(
                f"the checkpoint of step {step} in {self._workdir} is of another network; use another --workdir"
            )
        return arrays


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network read back.

    Attributes:
        config: of the run.
        step: of the checkpoint.
        params, stats: float32 NumPy arrays of the online network by dotted path (see `training.model`).
        manifest_digest: of the data set it was trained on.
    """

    config: Config
    step: int
    params: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    manifest_digest: str


def load_run(workdir: str, step: int | None = None, *, warn: Callable[[str], None] = _warn) -> Run:
    """Reads a run's checkpoint: the newest that is as it was written, unless `step` says which.

    Raises:
        InputError: no run, no checkpoint, or not this step (the steps there are, are listed).
    """
    card = folder.read_card(workdir)
    if card is None:
        raise InputError(
            f"{workdir} holds no run: there is no {folder.CARD} in it; give the --workdir of `detcon train`"
        )
    config = config_io.from_dict(card["config"])
    if step is None:
        found = _newest(workdir, warn)
        if found is None:
            raise InputError(
                f"{workdir} holds no complete checkpoint yet; let `detcon train` reach log.checkpoint_every"
            )
        step, arrays = found
    else:
        there = steps(workdir)
        if step not in there:
            listed = f"there are {', '.join(map(str, there))}" if there else "there are none"
            raise InputError(f"{workdir} holds no checkpoint of step {step}; {listed}")
        try:
            arrays = _read(workdir, step)
        except DamageError as error:
            raise InputError(
                f"the checkpoint of step {step} is damaged: {error}; leave --step out for the newest good one"
            ) from error
    params, stats = (
        {name.removeprefix(f"{part}/"): x for name, x in arrays.items() if name.startswith(f"{part}/")}
        for part in ("params", "stats")
    )
    return Run(config, step, params, stats, card["manifest_digest"])


def steps(workdir: str) -> list[int]:
    """The steps whose cards are there, rising."""
    there = storage.names(storage.join(workdir, "checkpoints"))
    return sorted(int(name[:-5]) for name in there if name.endswith(".json") and name[:-5].isdigit())


def _paths(workdir: str, step: int) -> tuple[str, str]:
    stem = storage.join(workdir, "checkpoints", str(step))
    return f"{stem}.safetensors", f"{stem}.json"


def _named(state: dict[str, Any]) -> dict[str, Any]:
    """Leaves by path, such as `opt/2/trace/encoder.conv1.kernel`, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _write(workdir: str, step: int, arrays: dict[str, np.ndarray], keep: int) -> None:
    path, card_path = _paths(workdir, step)
    data = safetensors.numpy.save(arrays)
    card = {"step": step, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    storage.remove(card_path)  # of a damaged checkpoint of this step, for whose sake it is written again
    storage.write_bytes(path, data)
    storage.write_bytes(card_path, (json.dumps(card) + "\n").encode())
    # Later steps can only be damaged ones that were passed over: the run comes to them again.
    for old in [s for s in steps(workdir) if s <= step][:-keep]:
        for gone in reversed(_paths(workdir, old)):
            storage.remove(gone)


def _read(workdir: str, step: int) -> dict[str, np.ndarray]:
    """Every array of a step. Raises DamageError where they are not what was saved."""
    path, card_path = _paths(workdir, step)
    try:
        card = json.loads(storage.read_whole(card_path, _CARD_LIMIT))
        size, sha256 = card["bytes"], card["sha256"]
        data = storage.read_bytes(path)
    except (ValueError, KeyError, TypeError):
        raise DamageError(f"{card_path} is not the card of a checkpoint") from None
    except FileNotFoundError as error:
        raise DamageError(f"{error.filename} is missing") from None
    if len(data) != size:
        raise DamageError(f"{path} has {len(data)} bytes instead of {size}")
    found = hashlib.sha256(data).hexdigest()
    if found != sha256 or card.get("step") != step:
        raise DamageError(f"{path} has sha256 {found[:12]}..., its card says {str(sha256)[:12]}...")
    return safetensors.numpy.load(data)


def _newest(workdir: str, warn: Callable[[str], None]) -> tuple[int, dict[str, np.ndarray]] | None:
    """The newest step that reads as it was written, and its arrays; None where nothing was saved."""
    damaged: list[tuple[int, DamageError]] = []
    for step in reversed(steps(workdir)):
        try:
            arrays = _read(workdir, step)
        except DamageError as error:
            damaged.append((step, error))
            continue
        if damaged:
            names = ", ".join(str(number) for number, _ in damaged)
            warn(f"warning: the checkpoint of step {names} is damaged ({damaged[0][1]}); going on from step {step}")
        return step, arrays
    if damaged:
        raise InputError(
            f"no checkpoint in {workdir} is as it was written: {damaged[0][1]}; "
            "move its folder `checkpoints` away to start again"
        )
    return None
