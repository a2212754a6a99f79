"""The one table of mask generators, and the spec strings that name them.

A generator is a frozen dataclass: its fields are its parameters (checked in `__post_init__`), `layers` says what it
makes, and calling it with an `ImageRecord` gives one `MaskSet` per layer, in the order of `layers`. To add one: a file
in this folder, a line in `GENERATORS`, a test; or, in a package of your own, the class and an entry point

    [project.entry-points."maskmill.generators"]
    mine = "my_package.masks:Mine"


Spec strings look like calls, `fh(scales=(500, 1000, 1500))`, and are parsed with `ast`, never evaluated.
"""

import abc
import ast
import dataclasses
import functools
import importlib
import importlib.metadata
from collections.abc import Iterable, Sequence, Set
from typing import Protocol

from maskmill.schemas.errors import UsageError, did_you_mean
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

# name -> "module:class"; modules are imported when the name is used, so that `--help` stays fast.
GENERATORS = {
    "fh": "maskmill.masks.felzenszwalb:Felzenszwalb",
    "grid": "maskmill.masks.grid:Grid",
    "gt": "maskmill.masks.ground_truth:GroundTruth",
    "mcg": "maskmill.masks.mcg.generator:Mcg",
}
ENTRY_POINTS = "maskmill.generators"  # group in which installed packages offer generators of their own
_REGISTERED: dict[str, str] = {}


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


@dataclasses.dataclass(frozen=True)
class Preparation:
    """What `Prepared.prepare` found.

    Attributes:
        generator: the same generator, completed by what identifies its files (digests), so that its spec says all.
        refused: key of a picture that it has no masks for -> why, in words.
        said: one line for the user.
    """

    generator: "Generator"
    refused: dict[str, str]
    said: str


class Prepared(abc.ABC):
    """Base of generators that look at files before a build: once in the driver, and then as little as they can."""

    @abc.abstractmethod
    def prepare(self, pictures: Sequence[tuple[str, str]], wanted: Set[str], folder: str) -> Preparation:
        """Reads what it needs and leaves it in a folder of the build.

        Args:
            pictures: (key, COCO image id or "") of every picture of the data set.
            wanted: keys of those that will be built.
            folder: where workers will find what is left here, local or gs://.

        Raises:
            InputError: the files are not what they should be, or belong to other pictures.
        """

    @abc.abstractmethod
    def verify(self, folder: str) -> None:
        """Raises InputError when its files have changed since `prepare`, DamageError when what that left is gone."""

    @abc.abstractmethod
    def opened(self, folder: str) -> "Generator":
        """What makes the masks, in a worker."""

    @property
    def joins_pictures(self) -> bool:
        """Whether its files name pictures, so that the manifest counts those that were matched."""
        return True

    @property
    def read_by_workers(self) -> tuple[str, ...]:
        """Paths that `opened` reads besides the folder, which workers on other machines must see as well."""
        return ()


def register(name: str, target: str) -> None:
    """Adds a generator that lives in a room above this one.

    Args:
        name: its name in specs.
        target: "module:class", imported when the name is used.

    Raises:
        ValueError: there is another one of that name.
    """
    if {**GENERATORS, **_REGISTERED}.get(name, target) != target:
        raise ValueError(f"a mask generator {name!r} is there already")
    _REGISTERED[name] = target


def plugins() -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Generators that installed packages offer, by name; nothing of theirs is imported."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in sorted(importlib.metadata.entry_points(group=ENTRY_POINTS), key=_owner):
        found.setdefault(point.name, []).append(point)
    return found


def _owner(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def names() -> list[str]:
    """Names of all generators, ours and those of installed packages."""
    return sorted({**GENERATORS, **_REGISTERED, **plugins()})


def provider(name: str) -> str:
    """The package, with its version, that offers a generator; several where several do."""
    ours = [f"maskmill {importlib.metadata.version('maskmill')}"] if name in {**GENERATORS, **_REGISTERED} else []
    return " and ".join([*ours, *map(_owner, plugins().get(name, []))])


def generator_class(name: str) -> type:
    """The generator of that name: one of ours, or of an installed package.

    Raises:
        UsageError: there is none (lists those there are), several claim the name, or the package's cannot be loaded.
    """
    ours, theirs = {**GENERATORS, **_REGISTERED}, plugins()
    claims = theirs.get(name, [])
    if len(claims) + (name in ours) > 1:
        owners = [*(["maskmill itself"] if name in ours else []), *map(_owner, claims)]
        raise UsageError(f"mask generator {name!r} is offered by {' and by '.join(owners)}; uninstall all but one")
    if claims:
        return _plugin_class(claims[0])
    if name not in ours:
        hint = did_you_mean(name, [*ours, *theirs])
        raise UsageError(f"unknown mask generator {name!r}; there are {', '.join(sorted({*ours, *theirs}))}{hint}")
    module, _, attribute = ours[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


@functools.lru_cache(maxsize=64)
def _plugin_class(point: importlib.metadata.EntryPoint) -> type:
    """Loads an entry point; whatever goes wrong in foreign code is one sentence that names its package."""
    where = f"mask generator {point.name!r} of package {_owner(point)}"
    try:
        cls = point.load()
    except Exception as error:
        text = (str(error).splitlines() or [""])[0][:200]
        raise UsageError(
            f"{where} cannot be loaded ({type(error).__name__}: {text}); mend or uninstall that package"
        ) from error
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls) and callable(cls) and hasattr(cls, "layers")):
        raise UsageError(
            f"{where} is {point.value}, which is no dataclass with `layers`; mend or uninstall that package"
        )
    return cls


def _literal(node: ast.expr, spec: str) -> object:
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
            retired = getattr(cls, "RETIRED", {}).get(keyword.arg)
            hint = f"; {retired}" if retired else did_you_mean(keyword.arg or "", fields)
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
    name = _name_of(type(generator))
    # Types of this room's and of plugins' generators are dataclasses, which `Generator` cannot say.
    fields = [f for f in dataclasses.fields(generator) if f.init]  # type: ignore[arg-type]
    return f"{name}({', '.join(f'{f.name}={getattr(generator, f.name)!r}' for f in fields)})"


def _name_of(cls: type) -> str:
    """The name a class is registered under."""
    target = f"{cls.__module__}:{cls.__qualname__}"
    for name, known in {**GENERATORS, **_REGISTERED}.items():
        if known == target:
            return name
    return next(name for name, points in plugins().items() if len(points) == 1 and _plugin_class(points[0]) is cls)


def packages_of(generators: Iterable[Generator]) -> dict[str, str]:
    """Name -> version of the installed packages that some of the generators come from; ours are not among them."""
    ours = {**GENERATORS, **_REGISTERED}
    points = [plugins()[name][0] for name in map(_name_of, map(type, generators)) if name not in ours]
    return {point.dist.name: point.dist.version for point in points if point.dist}


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
