"""Configurations as text: JSON both ways, and `key=value` overrides with types and suggestions."""

import ast
import dataclasses
import difflib
import hashlib
import json
import types
import typing
from typing import Any, Literal

from maskmill.schemas.errors import UsageError
from maskmill.training.config import Config, check_choice
from maskmill.training.presets import apply_variant


def override(config: Config, assignments: list[str] | tuple[str, ...]) -> Config:
    """Applies `key=value` texts, such as `optim.lr=0.3` or `data.layers=fh-500,fh-1000`, in order.

    `variant=...` applies the whole variant; put single points after it. Assignments are collected before the result
    is checked, so that two that are only valid together may come in either order.

    Raises:
        UsageError: no `=`, an unknown key (with the nearest known one), or a value of the wrong type.
    """
    tree = to_dict(config)
    for text in assignments:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator:
            raise UsageError(f"--set takes key=value, got {text!r}; for example --set optim.lr=0.3")
        hint = _hint(key)
        parsed = _coerce(_literal(value.strip(), hint), hint, key)
        if key == "variant":
            tree = to_dict(apply_variant(from_dict(tree), parsed))
            continue
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node[parent]
        node[leaf] = parsed
    return from_dict(tree)


def keys(cls: type = Config, prefix: str = "") -> dict[str, Any]:
    """Every settable dotted key of a config class, with its type hint."""
    found = {}
    for name, hint in typing.get_type_hints(cls).items():
        found |= keys(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {prefix + name: hint}
    return found


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain nested values, tuples as lists: what JSON gives back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any], cls: type = Config, prefix: str = "") -> Any:
    """Inverse of `to_dict`. Absent keys take defaults; unknown keys and wrong types raise UsageError."""
    if not isinstance(values, dict):
        raise UsageError(f"{prefix.rstrip('.') or 'the configuration'} must be a mapping of keys, got {values!r}")
    hints = typing.get_type_hints(cls)
    kwargs = {}
    for name, value in values.items():
        key = prefix + name
        if name not in hints:
            raise _unknown_key(key)
        hint = hints[name]
        nested = dataclasses.is_dataclass(hint)
        kwargs[name] = from_dict(value, hint, f"{key}.") if nested else _coerce(value, hint, key)
    return cls(**kwargs)


def to_json(config: Config) -> str:
    """Canonical JSON text: equal configurations give equal bytes."""
    return json.dumps(to_dict(config), indent=1, sort_keys=True) + "\n"


def digest(config: Config) -> str:
    """sha256 of everything that determines the numbers of a run, hence without `log`."""
    values = {key: value for key, value in to_dict(config).items() if key != "log"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old -> new` for every leaf on which two `to_dict` results differ."""
    lines = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name, "(absent)"), new.get(name, "(absent)")
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            lines.append(f"{prefix}{name}: {a} -> {b}")
    return lines


def _hint(key: str) -> Any:
    known = keys()
    if key not in known:
        raise _unknown_key(key)
    return known[key]


def _unknown_key(key: str) -> UsageError:
    known = keys()
    leaf = key.rsplit(".", 1)[-1]
    near = [k for k in known if k.rsplit(".", 1)[-1] == leaf] or difflib.get_close_matches(key, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"
    return UsageError(f"unknown key {key!r}{hint}")


def _literal(text: str, hint: Any) -> Any:
    """A command-line word as a Python value; lists are comma-separated, with or without brackets."""
    if isinstance(hint, types.GenericAlias):
        return [_literal(part.strip(), str) for part in text.strip("()[]").split(",") if part.strip()]
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return text


def _coerce(value: Any, hint: Any, key: str) -> Any:
    """`value` as the field's type, or UsageError saying what was expected."""
    if typing.get_origin(hint) is Literal:
        return check_choice(value, typing.get_args(hint), key)
    if isinstance(hint, types.GenericAlias):
        items = typing.get_args(hint)
        fixed = items[-1] is not Ellipsis
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(items)):
            count = f"{len(items)} values" if fixed else "a list of values"
            raise UsageError(f"{key} takes {count}, such as {key}=a,b; got {value!r}")
        return tuple(_coerce(item, items[0], key) for item in value)
    if hint in (int, float) and isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise UsageError(f"{key} takes {_ARTICLE[hint]}, got {value!r}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not hint or (hint is float and value != value):
        raise UsageError(f"{key} takes {_ARTICLE[hint]}, got {value!r}")
    return value


_ARTICLE = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
