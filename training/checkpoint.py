"""Checkpoints of a run (Orbax, saved in the background) and the card that says which run they belong to.

A work folder holds `run.json` (configuration and the data set's manifest digest, written before the first step) and
`checkpoints/STEP/`. Orbax commits a step by renaming its folder, so an interrupted save leaves no step behind.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from maskmill.schemas.errors import InputError, MaskmillError, UsageError
from maskmill.training import config_io
from maskmill.training.config import Config
from maskmill.training.step import abstract_state

CARD = "run.json"


class Checkpoints:
    """Saves and restores the states of one run.

    Raises:
        UsageError: the folder holds a run of another configuration (the differences are listed).
        InputError: the folder's run used another data set, or its card cannot be read.
    """

    def __init__(self, workdir: str, config: Config, manifest_digest: str):
        self.workdir = Path(workdir)
        _check_card(self.workdir, config, manifest_digest)
        options = ocp.CheckpointManagerOptions(max_to_keep=config.log.keep, step_prefix=None)
        self._manager = ocp.CheckpointManager(_folder(workdir), options=options)
        self._config = config

    @property
    def latest(self) -> int | None:
        """The last complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: dict[str, Any], *, wait: bool = False) -> None:
        """Begins to save `state` as `step`; with `wait`, returns when it is on disk.

        Raises:
            InputError: this or the previous save failed (disk full, permissions); the steps before it are intact.
        """
        try:
            if step != self._manager.latest_step():
                self._manager.save(step, args=ocp.args.StandardSave(state))
            if wait:
                self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(step, error) from error

    def restore(self, state: dict[str, Any]) -> dict[str, Any]:
        """The latest state, with the shapes and sharding of `state`."""
        return _restore(
            self._manager, self._manager.latest_step(), jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        )

    def close(self) -> None:
        """Waits for saves under way. Raises InputError if they failed."""
        try:
            self._manager.wait_until_finished()
            self._manager.close()
        except Exception as error:
            raise self._failed(None, error) from error

    def _failed(self, step: int | None, error: Exception) -> MaskmillError:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        at = "" if step is None else f" at step {step}"
        kept = ocp.utils.checkpoint_steps(_folder(self.workdir))
        intact = f"the checkpoint of step {max(kept)} is intact" if kept else "no earlier checkpoint exists"
        return InputError(
            f"could not save a checkpoint{at} in {self.workdir}: {lines[0][:300]}; {intact}. "
            "Free space or fix permissions, then run the same command to go on"
        )


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


def load_run(workdir: str, step: int | None = None) -> Run:
    """Reads a run's checkpoint (the latest unless `step` says which), on whatever devices there are now.

    For one process: several would wait for one another, so none of a distributed run may call it alone.

    Raises:
        InputError: no run, no checkpoint, or not this step (the steps there are, are listed).
    """
    card = _read_card(Path(workdir))
    if card is None:
        raise InputError(f"{workdir} holds no run: there is no {CARD} in it; give the --workdir of `detcon train`")
    config = config_io.from_dict(card["config"])
    with ocp.CheckpointManager(_folder(workdir)) as manager:
        steps = sorted(manager.all_steps())
        if not steps:
            raise InputError(
                f"{workdir} holds no complete checkpoint yet; let `detcon train` reach log.checkpoint_every"
            )
        if step is not None and step not in steps:
            raise InputError(f"{workdir} holds no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
        step = steps[-1] if step is None else step
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        state = _restore(manager, step, abstract_state(config, device))
    params, stats = ({name: np.asarray(x) for name, x in state[part].items()} for part in ("params", "stats"))
    return Run(config, step, params, stats, card["manifest_digest"])


def _folder(workdir) -> Path:
    return Path(workdir).resolve() / "checkpoints"


def _restore(manager, step: int, like: dict[str, Any]) -> dict[str, Any]:
    try:
        return manager.restore(step, args=ocp.args.StandardRestore(like))
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"the checkpoint of step {step} cannot be read: {line}; delete its folder to go on from an earlier one"
        ) from error


def _read_card(workdir: Path) -> dict[str, Any] | None:
    path = workdir / CARD
    if not path.exists():
        return None
    try:
        card = json.loads(path.read_text())
        card["config"], card["manifest_digest"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a run's card ({error}); use another --workdir") from error
    return card


def _check_card(workdir: Path, config: Config, manifest_digest: str) -> None:
    """Refuses a folder of another run; claims an empty one."""
    card = _read_card(workdir)
    new = {"config": config_io.to_dict(config), "config_digest": config_io.digest(config)}
    new["manifest_digest"] = manifest_digest
    if card is not None:
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
        return
    if jax.process_index() == 0:
        workdir.mkdir(parents=True, exist_ok=True)
        partial = workdir / f"{CARD}.partial"
        partial.write_text(json.dumps(new, indent=1, sort_keys=True) + "\n")
        partial.rename(workdir / CARD)
