"""The one table of mask generators, and the spec strings that name them.

A generator is a frozen dataclass: its fields are its parameters (checked in `__post_init__`), `layers` says what it
makes, and calling it with an `ImageRecord` gives one `MaskSet` per layer, in the order of `layers`. To add one: a file
in this folder, a line in `GENERATORS`, a test.

Spec strings look like calls, `fh(scales=(500, 1000, 1500))`, and are parsed with `ast`, never evaluated.
"""

import ast
import dataclasses
import difflib
import importlib
from typing import Protocol

from maskmill.schemas.errors import UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

# name -> "module:class"; modules are imported when the name is used, so that `--help` stays fast.
GENERATORS = {
    "fh": "maskmill.masks.felzenszwalb:Felzenszwalb",
    "grid": "maskmill.masks.grid:Grid",
    "gt": "maskmill.masks.ground_truth:GroundTruth",
    "mcg": "maskmill.masks.mcg.generator:Mcg",
}
# Masks made elsewhere. They read files, so they live where files are read, and have no meaning without a path.
IMPORTED = {
    "mcg_mat": "maskmill.pipelines.reading.imported_masks:MatProposals",
    "coco_json": "maskmill.pipelines.reading.imported_masks:JsonResults",
}


class Generator(Protocol):
    """What the build calls. Instances are immutable, picklable and safe to call from several threads."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers this generator makes, in the order of its results.

        A class may also say how many bytes of memory a pixel costs at most, as `bytes_per_pixel`, what the build does with
        a picture (20 bytes) included. Workers are given as much memory as that makes.
        """

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        """Masks of one image, one `MaskSet` per layer. Deterministic; does not modify the record."""


def generator_class(name: str) -> type:
    """The generator registered as `name`; UsageError lists the names there are."""
    known = {**GENERATORS, **IMPORTED}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"unknown mask generator {name!r}; there are {', '.join(sorted(known))}{hint}")
    module, _, attribute = known[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def _literal(node: ast.AST, spec: str):
    """A literal argument; a bare name counts as a string (`quality=high`)."""
    if isinstance(node, ast.Name) and node.id not in ("None", "True", "False"):
        return node.id
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise UsageError(
            f"masks spec {spec!r}: arguments must be plain values, such as 5, 0.8 or (500, 1000)"
        ) from None


def parse_spec(spec: str) -> Generator:
    """A spec string to a generator.

    Args:
        spec: `name` or `name(key=value, ...)`; values are Python literals.

    Returns:
        The generator with these parameters.

    Raises:
        UsageError: not such a call, an unknown name or parameter, or a value the generator refuses.
    """
    try:
        node = ast.parse(spec.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise UsageError(f'masks spec {spec!r} is not of the form name(key=value, ...), e.g. "grid(n=5)"') from None
    if isinstance(node, ast.Name):
        name, keywords, positional = node.id, [], []
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        name, keywords, positional = node.func.id, node.keywords, node.args
    else:
        raise UsageError(f'masks spec {spec!r} is not of the form name(key=value, ...), e.g. "grid(n=5)"')
    cls = generator_class(name)
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    listed = ", ".join(sorted(fields)) or "none"
    if positional:
        raise UsageError(f"masks spec {spec!r}: write parameters by name; {name} takes {listed}")
    params = {}
    for keyword in keywords:
        if keyword.arg not in fields:
            near = difflib.get_close_matches(keyword.arg or "", fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"masks spec {spec!r}: {name} has no parameter {keyword.arg!r}; it takes {listed}{hint}")
        if keyword.arg in params:
            raise UsageError(f"masks spec {spec!r}: parameter {keyword.arg!r} is given twice")
        params[keyword.arg] = _literal(keyword.value, spec)
    try:
        return cls(**params)
    except (TypeError, ValueError) as error:
        raise UsageError(f"masks spec {spec!r}: {error}") from error


def canonical_spec(generator: Generator) -> str:
    """The spec string with every parameter written out; `parse_spec` of it gives an equal generator."""
    name = next(n for n in (*GENERATORS, *IMPORTED) if generator_class(n) is type(generator))
    params = ", ".join(
        f"{f.name}={getattr(generator, f.name)!r}" for f in dataclasses.fields(generator_class(name)) if f.init
    )
    return f"{name}({params})"


def parse_specs(specs: list[str]) -> tuple[Generator, ...]:
    """Several specs; UsageError when two of them would make a layer of the same name."""
    generators = tuple(parse_spec(spec) for spec in specs)
    seen: dict[str, str] = {}
    for spec, generator in zip(specs, generators, strict=True):
        for layer in generator.layers:
            if layer.name in seen:
                raise UsageError(f"layer {layer.name!r} is asked for twice: by {seen[layer.name]!r} and by {spec!r}")
            seen[layer.name] = spec
    return generators
