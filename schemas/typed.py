"""JSON checked against the type annotations of a dataclass: what comes out is what the annotations say, or there is an
error that names the field.

For files that may come from anyone. Whole numbers are sizes and counts here, so none may be negative; a value whose type
is not annotated further (`dict`, `Any`) may be any JSON of a bearable depth.
"""

import dataclasses
import math
import types
import typing
from typing import Any

MAX_DEPTH = 32  # of free JSON; what is deeper cannot be walked, written or hashed without care
_LARGEST = 2**63 - 1
_WORDS = {str: "text", int: "a whole number from 0 on", float: "a number", bool: "true or false", type(None): "null"}


class FieldError(ValueError):
    """A value is missing or of another type than its field; the text begins with the field's path."""


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return f"a JSON {'object' if isinstance(value, dict) else 'list'}"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of more than 30 digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _word(kind: Any) -> str:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " or ".join(_word(member) for member in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        return "a list"
    return _WORDS.get(kind, "a JSON object")


def _check_free(value: Any, path: str, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise FieldError(f"{path} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_free(inner, f"{path}.{name[:60]}" if depth < 3 else path, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_free(inner, path, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise FieldError(f"{path} should be a finite number, is {value}")


def _fits(kind: Any, value: Any) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and 0 <= value <= _LARGEST
    if kind is float:
        return isinstance(value, int | float) and abs(value) <= 1e300  # which NaN is not either
    return isinstance(value, kind)


def typed(kind: Any, value: Any, path: str) -> Any:
    """A JSON value as a type says it: lists become tuples, objects become dataclasses, the rest stays as it is.

    Args:
        kind: str, int, float, bool, None, `X | Y` of these, `tuple[X, ...]`, `dict[str, X]`, `dict`, `Any`, or a
            dataclass whose fields are annotated so. Fields that the dataclass does not have are read over.
        value: from `json.loads`.
        path: what the value is called in messages.

    Raises:
        FieldError: a field without default is missing, or a value is of another type.
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        _check_free(value, path)
        return value
    if origin in (types.UnionType, typing.Union):
        for member in inner:
            try:
                return typed(member, value, path)
            except FieldError:
                continue
    elif origin is tuple and isinstance(value, list):
        return tuple(typed(inner[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    elif (origin or kind) is dict and isinstance(value, dict):
        member = inner[1] if inner else Any
        return {name: typed(member, item, f"{path}.{name[:60]}") for name, item in value.items()}
    elif dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, value, path)
    elif kind in _WORDS and _fits(kind, value):
        return value
    raise FieldError(f"{path} should be {_word(kind)}, got {_shown(value)}")


def _dataclass(kind: Any, value: dict, path: str) -> Any:
    hints = typing.get_type_hints(kind)
    prefix = f"{path}." if path else ""
    found = {}
    for field in dataclasses.fields(kind):
        if field.name in value:
            found[field.name] = typed(hints[field.name], value[field.name], f"{prefix}{field.name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise FieldError(f"{prefix}{field.name} is missing")
    return kind(**found)
