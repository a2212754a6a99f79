"""A run's configuration as text: JSON both ways, `key=value` overrides, and its identity."""

import hashlib
import json
from typing import Any

from maskmill.schemas import options
from maskmill.schemas.errors import UsageError
from maskmill.training.config import Config
from maskmill.training.presets import apply_variant


def override(config: Config, assignments: list[str] | tuple[str, ...]) -> Config:
    """Applies `key=value` texts, such as `optim.lr=0.3` or `data.layers=fh-500,fh-1000`, in order.

    `variant=...` applies the whole variant; put single points after it. Assignments are collected before the result
    is checked, so that two that are only valid together may come in either order.

    Raises:
        UsageError: no `=`, an unknown key (with the nearest known one), or a value of the wrong type.
    """
    tree, known = options.to_mapping(config), options.keys_of(Config)
    for text in assignments:
        key, separator, value = text.partition("=")
        if not separator:
            raise UsageError(f"--set takes key=value, got {text!r}; for example --set optim.lr=0.3")
        before = from_dict(tree) if key.strip() == "variant" else None
        parsed = options.set_key(tree, key.strip(), value.strip(), known)
        if before is not None:
            tree = options.to_mapping(apply_variant(before, parsed))
    return from_dict(tree)


def from_dict(values: Any) -> Config:
    """Inverse of `options.to_mapping`. Absent keys take defaults; unknown keys and wrong types raise UsageError."""
    return options.from_mapping(Config, values)


def to_json(config: Config) -> str:
    """Canonical JSON text: equal configurations give equal bytes."""
    return json.dumps(options.to_mapping(config), indent=1, sort_keys=True) + "\n"


def digest(config: Config) -> str:
    """sha256 of everything that determines the numbers of a run, hence without `log`."""
    values = {key: value for key, value in options.to_mapping(config).items() if key != "log"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every leaf on which two mappings differ."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name, "(absent)"), new.get(name, "(absent)")
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            lines.append(f"{prefix}{name}: {a} -> {b}")
    return lines
