"""Turns the DetCon authors' released weights (.npy) into named arrays (.npz) that `detcon` reads.

    python examples/released_weights.py resnet50_detcon_b_imagenet_1k.npy weights.npz
    detcon export weights.npz backbone.safetensors

A .npy file of named arrays is a pickle. Loading a pickle runs whatever its author put in it; this reader stops at anything
but dictionaries, lists, numbers, texts and NumPy's arrays, and names it.
"""

import collections
import pickle
import sys
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

# Where NumPy keeps what its arrays are pickled as, before and since version 2.
_MODULES = {"numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric"}
_NAMES = {"ndarray", "dtype", "_reconstruct", "scalar", "_frombuffer"}


class ArraysOnly(pickle.Unpickler):
    """An unpickler that makes arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _NAMES:
            return super().find_class(module, name)
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is neither a dictionary nor an array")


def read(file: BinaryIO) -> Any:
    """What a .npy file of pickled objects holds."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    _, _, dtype = header(file)
    if not dtype.hasobject:
        raise ValueError("it is a plain array; named arrays were expected")
    return ArraysOnly(file).load()


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """(path, array) of every numeric array inside of dictionaries, lists and arrays of objects, however they are nested."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = value.item() if value.ndim == 0 else value.tolist()
    if isinstance(value, Mapping):
        items = [(str(name), part) for name, part in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(name), part) for name, part in enumerate(value)]
    else:
        if isinstance(value, np.ndarray | np.generic):
            yield path, np.asarray(value)
        return
    for name, part in items:
        yield from flattened(part, f"{path}/{name}" if path else name)


def main(argv: list[str]) -> int:
    """Converts; says in one sentence why not."""
    if len(argv) != 2 or not argv[1].endswith(".npz"):
        print("usage: python examples/released_weights.py WEIGHTS.npy WEIGHTS.npz", file=sys.stderr)
        return 2
    try:
        with open(argv[0], "rb") as file:
            arrays = dict(flattened(read(file)))
    except (OSError, ValueError, EOFError, pickle.UnpicklingError) as error:
        print(f"{argv[0]} was not converted: {error}", file=sys.stderr)
        return 4
    np.savez(argv[1], **arrays)
    print(f"{argv[1]}: {len(arrays)} arrays, {sum(x.nbytes for x in arrays.values())} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
