"""Shapes and dtypes as jaxtyping writes them, held against every call that a test makes.

The annotations are strings at run time, and the package does not need jaxtyping: a build pays nothing for them. Tests load
maskmill's modules through `install`, which puts a check round each function that states a shape.
"""

import functools
import importlib.machinery
import inspect
import re
import sys
from types import FunctionType, ModuleType, SimpleNamespace

import beartype
import jaxtyping
import numpy as np

KINDS = {name: getattr(jaxtyping, name) for name in dir(jaxtyping) if name[0].isupper()}
_STATED = re.compile(rf"\b({'|'.join(KINDS)})\[")


def stated(annotation: object) -> bool:
    """Whether an annotation, as text, says a shape."""
    return isinstance(annotation, str) and bool(_STATED.search(annotation))


def checked(function: FunctionType) -> FunctionType:
    """The function with a check of what it takes and gives; itself where it states no shape."""
    wanted = {name: text for name, text in function.__annotations__.items() if stated(text)}
    if not wanted:
        return function
    names = {**function.__globals__, **KINDS}
    if "jax" in names:  # what takes JAX's arrays takes NumPy's
        names["jax"] = SimpleNamespace(Array=names["jax"].Array | np.ndarray)
    copy = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__, copy.__qualname__, copy.__module__ = (
        function.__kwdefaults__,
        function.__qualname__,
        function.__module__,
    )
    copy.__annotations__ = {name: eval(text, names) for name, text in wanted.items()}
    return functools.wraps(function)(jaxtyping.jaxtyped(typechecker=beartype.beartype)(copy))


def check(module: ModuleType) -> None:
    """Checks the functions and methods that a module defines, from now on."""
    own = [module, *(c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)]
    for owner in own:
        for name, value in list(vars(owner).items()):
            if isinstance(value, FunctionType) and value.__module__ == module.__name__:
                setattr(owner, name, checked(value))


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        check(module)


class _Finder:
    def find_spec(self, name, path=None, target=None):
        if not name.startswith("maskmill."):
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)):
                if type(spec.loader) is importlib.machinery.SourceFileLoader:
                    spec.loader = _Loader(spec.loader.name, spec.loader.path)
                return spec
        return None


def install() -> None:
    """Checks every module of maskmill that is imported after this."""
    sys.meta_path.insert(0, _Finder())
