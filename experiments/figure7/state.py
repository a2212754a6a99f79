"""What a run of the experiment leaves behind: one JSON per finished cell, whole or not there, and what they belong to.

A state folder belongs to one size, one data set and one version of the code that numbers depend on; it refuses others, so
that no table mixes them. Killing a run costs the cell in progress.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

from experiments.figure7.arms import Cell
from experiments.figure7.sizes import Size
from maskmill.schemas import storage
from maskmill.schemas.errors import UsageError

_ROOT = Path(__file__).parents[2]
# What a score depends on. How results are tested, shown or told does not.
_CODE = ("arms", "bench", "evaluate", "linear", "prepare", "regions", "scenes", "sizes", "split", "train", "views")
_TRAINER = ("augment", "config", "geometry", "knn", "losses", "model", "optim", "order", "probe", "record", "resize",
            "resnet", "step")  # fmt: skip


def code_digest() -> str:
    """sha256 over the modules that a score depends on."""
    files = [_ROOT / "experiments" / "figure7" / f"{name}.py" for name in _CODE]
    files += [_ROOT / "training" / f"{name}.py" for name in _TRAINER]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(_ROOT)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


class State:
    """A folder of finished cells."""

    def __init__(self, folder: str, size: Size, code: str):
        """Opens or starts it.

        Raises:
            UsageError: it belongs to another size or other code.
        """
        self.folder = os.path.abspath(folder)
        self._cells = os.path.join(self.folder, "cells")
        os.makedirs(self._cells, exist_ok=True)
        mine = {"size": json.loads(json.dumps(dataclasses.asdict(size))), "code": code}
        path = os.path.join(self.folder, "experiment.json")
        if not os.path.exists(path):
            storage.write_bytes(path, json.dumps(mine, indent=1).encode())
        with open(path, encoding="utf-8") as file:
            theirs = json.load(file)
        different = [name for name in mine if theirs.get(name) != mine[name]]
        if different:
            raise UsageError(
                f"{folder} holds cells of another {' and another '.join(different)}, which one table must not mix; "
                "give another --state, or check out the code that began this one"
            )

    def path(self, cell: Cell) -> str:
        """Where a cell's result is once it is finished."""
        return os.path.join(self._cells, f"{cell.name}.json")

    def has(self, cell: Cell) -> bool:
        """Whether a cell is finished."""
        return os.path.exists(self.path(cell))

    def write(self, cell: Cell, result: dict) -> None:
        """Commits a cell, by renaming."""
        storage.write_bytes(self.path(cell), json.dumps({"cell": dataclasses.asdict(cell)} | result).encode())

    def read(self, cell: Cell) -> dict:
        """A finished cell's result."""
        with open(self.path(cell), encoding="utf-8") as file:
            return json.load(file)

    def all(self) -> list[dict]:
        """All finished cells, by name."""
        names = sorted(name for name in os.listdir(self._cells) if name.endswith(".json"))
        found = []
        for name in names:
            with open(os.path.join(self._cells, name), encoding="utf-8") as file:
                found.append(json.load(file))
        return found
