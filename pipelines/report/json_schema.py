"""JSON Schema of dataclasses: `python -m maskmill.pipelines.report.json_schema FILE` writes that of `report.json`.

Types and docstrings are the only source: a class is a definition, its docstring's first paragraph the description, and what
`Annotated` adds are JSON Schema's own words. Written out because it is one page; a library that does this would
have to be imported by every build to read its annotations.
"""

import dataclasses
import inspect
import json
import sys
import types
import typing
from pathlib import Path
from typing import Any

from maskmill.pipelines.report.model import SCHEMA_VERSION, Document

_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


class _Definitions:
    """Schemas of the dataclasses met so far, by name."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, Any]] = {}

    def schema_of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type; dataclasses become references."""
        origin, inner = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            return self.schema_of(inner[0]) | dict(inner[1:])
        if origin is typing.Literal:
            return {"const": inner[0]} if len(inner) == 1 else {"enum": list(inner)}
        if origin in (typing.Union, types.UnionType):
            return {"oneOf": [self.schema_of(one) for one in inner]}
        if origin is list:
            return {"type": "array", "items": self.schema_of(inner[0])}
        if origin is dict:
            free = inner[1] is Any
            return {"type": "object"} if free else {"type": "object", "additionalProperties": self.schema_of(inner[1])}
        if kind is dict:
            return {"type": "object"}
        if kind in _PLAIN:
            return {"type": _PLAIN[kind]}
        if not dataclasses.is_dataclass(kind):
            raise TypeError(f"{kind} has no JSON Schema here; use dataclasses, lists, dicts by text, and plain values")
        return self._reference(kind)

    def _reference(self, kind: Any) -> dict[str, Any]:
        if kind.__name__ not in self.found:
            self.found[kind.__name__] = {}  # its place, should it be met again inside
            self.found[kind.__name__] = {"description": _summary(kind), **self.fields_of(kind)}
        return {"$ref": f"#/$defs/{kind.__name__}"}

    def fields_of(self, kind: Any) -> dict[str, Any]:
        """The schema of a dataclass itself."""
        if hasattr(kind, "JSON_SCHEMA"):
            return dict(kind.JSON_SCHEMA)
        hints = typing.get_type_hints(kind, include_extras=True)
        names = sorted(field.name for field in dataclasses.fields(kind))
        return {
            "type": "object",
            "properties": {name: self.schema_of(hints[name]) for name in names},
            "required": names,
            "additionalProperties": False,
        }


def _summary(kind: Any) -> str:
    return " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())


def make_schema() -> dict[str, Any]:
    """The JSON Schema of `report.json`."""
    definitions = _Definitions()
    document = definitions.fields_of(Document)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:maskmill:report:{SCHEMA_VERSION}",
        "title": "maskmill report",
        "description": _summary(Document),
        **document,
        "$defs": dict(sorted(definitions.found.items())),
    }


def to_text(schema: dict[str, Any]) -> str:
    """The schema as its file holds it."""
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(to_text(make_schema()), encoding="utf-8")
