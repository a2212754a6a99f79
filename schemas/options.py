"""Options of a command as frozen dataclasses and as text: mappings from JSON or YAML, and single words, both ways.

One set of rules for both commands: a value has its field's type, a key that no field has is an error that names the
nearest one, and what a file may say the command line may say too.
"""

import ast
import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, UsageError, did_you_mean

WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
_LIMIT = 16 << 20  # bytes of a file of options


def read_file(path: str) -> Any:
    """What a YAML or JSON file given as --config says. Raises InputError where there is none, or it says nothing."""
    import yaml

    try:
        return yaml.load(storage.read_whole(path, _LIMIT), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise InputError(f"{path} not found; --config takes a YAML or JSON file of options") from None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        words = " ".join(str(error).split()) or "it is nested too deeply"
        raise InputError(f"{path} cannot be read as YAML: {words}") from error


def keys_of(cls: type, prefix: str = "") -> dict[str, Any]:
    """Every key of a dataclass with its type hint; those of nested dataclasses dotted."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls).items():
        nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        found |= keys_of(hint, f"{prefix}{name}.") if nested else {prefix + name: hint}
    return found


def to_mapping(options: Any) -> dict[str, Any]:
    """A dataclass as plain nested values, tuples as lists: what JSON gives back."""
    return json.loads(json.dumps(dataclasses.asdict(options)))


def from_mapping(cls: type, values: Any, prefix: str = "", root: type | None = None) -> Any:
    """Inverse of `to_mapping`. Absent keys take their defaults.

    Args:
        cls: dataclass to make.
        values: a mapping of its keys.
        prefix: what stands before a key in messages, dotted.
        root: dataclass among whose dotted keys a wrong one is looked for.

    Raises:
        UsageError: not a mapping, an unknown key, or a value of another type.
    """
    root = root or cls
    if not isinstance(values, Mapping):
        raise UsageError(f"{prefix.rstrip('.') or 'the configuration'} must be a mapping of keys, got {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if name not in hints:
            raise unknown_key(key, keys_of(root))
        hint = hints[name]
        nested = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        fields[name] = from_mapping(hint, value, f"{key}.", root) if nested else convert(value, hint, key)
    return cls(**fields)


def set_key(values: dict[str, Any], key: str, text: str, known: Mapping[str, Any]) -> Any:
    """Sets one dotted key of a `to_mapping` to what a word says; returns the value. Raises UsageError."""
    if key not in known:
        raise unknown_key(key, known)
    value = convert(_split(text, known[key]), known[key], key)
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values[parent]
    values[leaf] = value
    return value


def unknown_key(key: str, known: Mapping[str, Any]) -> UsageError:
    """The error for a key that is not known: it suggests one whose last part is the same, or the nearest."""
    leaf = key.rpartition(".")[2]
    same = [k for k in known if k.rpartition(".")[2] == leaf]
    hint = f"; did you mean {same[0]!r}?" if same else did_you_mean(key, known) or f"; there are {', '.join(known)}"
    return UsageError(f"unknown key {key!r}{hint}")


def check_choice(value: Any, allowed: tuple, key: str) -> Any:
    """`value` if it is one of `allowed`, else UsageError with the nearest that is."""
    if value not in allowed:
        hint = did_you_mean(str(value), allowed)
        raise UsageError(f"{key} must be one of {', '.join(allowed)}, got {value!r}{hint}")
    return value


def convert(value: Any, hint: Any, key: str, words: Mapping[type, str] = WORDS) -> Any:
    """`value` as a field's type: a number may be written as text (YAML reads 1e-6 as text), a list of one as its item.

    Args:
        value: of JSON, YAML or a word.
        hint: the field's type: str, int, float, bool, a tuple of them, Literal, or one of these or None.
        key: for messages.
        words: what to call the types in messages.

    Raises:
        UsageError: it says what was expected.
    """
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
        return None if value is None else convert(value, hint, key, words)
    if typing.get_origin(hint) is Literal:
        return check_choice(value, typing.get_args(hint), key)
    if typing.get_origin(hint) is tuple:
        return _convert_tuple(value, typing.get_args(hint), key, words)
    given = value
    if hint in (int, float) and isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise UsageError(f"{key} takes {words[hint]}, got {given!r}") from None
    if hint is float and type(value) is int:
        value = float(value)
    if type(value) is not hint or (hint is float and value != value):
        raise UsageError(f"{key} takes {words[hint]}, got {value!r}")
    return value


def _convert_tuple(value: Any, items: tuple, key: str, words: Mapping[type, str]) -> tuple:
    fixed = items[-1] is not Ellipsis
    if not fixed and items[0] is str:
        value = [value] if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise UsageError(f"{key} takes text or a list of texts, got {value!r}")
    if not isinstance(value, list | tuple) or (fixed and len(value) != len(items)):
        count = f"{len(items)} values" if fixed else "a list of values"
        raise UsageError(f"{key} takes {count}, such as {key}=a,b; got {value!r}")
    return tuple(convert(item, items[0], key, words) for item in value)


def _split(text: str, hint: Any) -> Any:
    """A word of the command line as JSON would have it; lists are comma-separated, with or without brackets."""
    if typing.get_origin(hint) is tuple:
        return [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    return text
