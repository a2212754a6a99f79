"""`maskmill masks`: which generators there are, from which package, with which layers and parameters, at what cost."""

import argparse
import dataclasses
import inspect
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from maskmill.masks.registry import Generator

_SIZE = (480, 640)  # height and width of the drawn picture, COCO's usual size
_CALLS = 3  # of which the fastest counts


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "--time", action="store_true", help="measure milliseconds per picture, on one drawn picture of 640 x 480"
    )
    parser.add_argument("--json", action="store_true", help="print the list as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints every generator; one of a package that cannot be loaded is a line that says so."""
    from maskmill.pipelines.commands.cli import print_json

    entries = [describe(name, time=args.time) for name in known()]
    if args.json:
        print_json(entries)
    else:
        print("\n\n".join(map(_as_text, entries)))
    return 0


def known() -> list[str]:
    """Names of all generators: ours, and those that installed packages offer."""
    from maskmill.pipelines.parts.generators import names

    return names()


def describe(name: str, *, time: bool) -> dict:
    """One generator.

    Returns:
        `name`, `package` ("maskmill 0.2.0"), and `error`, or else `summary`, `parameters` [{name, default, meaning}],
        `layers` with the defaults [{name, overlap}] (empty where it needs a parameter, which `needs` says), and with `time`
        `ms_per_image`, None where nothing could be measured.
    """
    from maskmill.pipelines.parts.generators import generator_class, parse_spec, provider
    from maskmill.schemas.errors import MaskmillError

    entry: dict = {"name": name, "package": provider(name)}
    try:
        cls = generator_class(name)
    except MaskmillError as error:
        return {**entry, "error": str(error)}
    text = inspect.getdoc(cls) or ""
    meanings = meanings_of(text)
    entry["summary"] = text.split("\n\n")[0].replace("\n", " ")
    entry["parameters"] = [
        {"name": f.name, "default": _default(f), "meaning": meanings.get(f.name, "")}
        for f in dataclasses.fields(cls)
        if f.init
    ]
    entry["layers"] = []
    try:
        generator = parse_spec(name)
        entry["layers"] = [{"name": layer.name, "overlap": not layer.disjoint} for layer in generator.layers]
    except MaskmillError as error:
        entry["needs"] = str(error)
    except Exception as error:  # foreign code
        return {**entry, "error": f"its layers cannot be listed ({type(error).__name__}: {str(error)[:200]})"}
    if time:
        entry["ms_per_image"] = _milliseconds(generator) if entry["layers"] else None
    return entry


def meanings_of(text: str) -> dict[str, str]:
    """Parameter -> the first sentence on it, from the `Attributes:` of a docstring."""
    _, _, section = text.partition("Attributes:\n")
    lines = re.split(r"\n\s*\n", section)[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", lines, re.M)
    return {name: re.split(r"(?<=\w)\. ", " ".join(said.split()))[0].rstrip(".") for name, said in found}


def _default(field: dataclasses.Field) -> str | None:
    value = field.default
    if value is dataclasses.MISSING:
        return None if field.default_factory is dataclasses.MISSING else repr(field.default_factory())
    return repr(value)


def _milliseconds(generator: "Generator") -> float | None:
    """The fastest of a few calls on a drawn picture, after one that compiles; None where the call fails."""
    import time

    import numpy as np

    from maskmill.schemas.image import ImageRecord

    height, width = _SIZE
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], -1).astype(np.uint8)
    image[(y - 200) ** 2 + (x - 250) ** 2 < 120**2] = (220, 60, 40)
    record = ImageRecord("drawn", image)
    spent = []
    try:
        for _ in range(_CALLS + 1):
            start = time.perf_counter()
            generator(record)
            spent.append(time.perf_counter() - start)
    except Exception:  # it needs more than a picture, or is broken: the build says which
        return None
    return round(min(spent[1:]) * 1000, 2)


def _as_text(entry: dict) -> str:
    lines = [f"{entry['name']}  ({entry['package']})"]
    if "error" in entry:
        return "\n".join([*lines, f"  {entry['error']}"])
    lines.append(f"  {entry['summary']}")
    for layer in entry["layers"]:
        lines.append(f"  layer {layer['name']}: masks {'may overlap' if layer['overlap'] else 'do not overlap'}")
    if "needs" in entry:
        lines.append(f"  layers depend on parameters: {entry['needs']}")
    for p in entry["parameters"]:
        default = "" if p["default"] is None else f"={p['default']}"
        lines.append(f"  {p['name']}{default}  {p['meaning']}".rstrip())
    if "ms_per_image" in entry:
        cost = entry["ms_per_image"]
        lines.append("  cost: not measured, it needs more than a picture" if cost is None else f"  cost: {cost} ms")
    return "\n".join(lines)
