"""Oracles for the tests of masks."""

import numpy as np
import pytest
from skimage.filters import gaussian


def reference_segments(image: np.ndarray, scale: float, min_size: int, sigma: float) -> np.ndarray:
    """FH with scikit-image's arithmetic and ties in stable order. Labels dense in raster order."""
    pixels = np.atleast_3d(image * (1 / 255.0) if image.dtype == np.uint8 else image.astype(np.float64))
    colours = gaussian(pixels, sigma=sigma, mode="reflect", channel_axis=-1)
    index = np.arange(image.shape[0] * image.shape[1]).reshape(image.shape[:2])
    right, down = (index[:, :-1], index[:, 1:]), (index[:-1], index[1:])
    falling, rising = (index[:-1, :-1], index[1:, 1:]), (index[1:, :-1], index[:-1, 1:])
    first, second = (np.concatenate([e[end].ravel() for e in (right, down, falling, rising)]) for end in (0, 1))
    difference = colours.reshape(index.size, -1)[first] - colours.reshape(index.size, -1)[second]
    weight = np.sqrt(np.sum(difference * difference, axis=-1))
    root, size, cost = list(range(index.size)), [1] * index.size, [0.0] * index.size

    def find(pixel):
        while root[pixel] != pixel:
            root[pixel] = root[root[pixel]]
            pixel = root[pixel]
        return pixel

    def tolerance(pixel):
        return np.float32(cost[pixel] + scale / 255.0 / size[pixel])

    for enforcing_size in (False, True):
        for edge in np.argsort(weight, kind="stable"):
            a, b = find(first[edge]), find(second[edge])
            joins = (
                min(size[a], size[b]) < min_size if enforcing_size else weight[edge] < min(tolerance(a), tolerance(b))
            )
            if a != b and joins:
                root[b], size[a] = a, size[a] + size[b]
                cost[a] = cost[a] if enforcing_size else weight[edge]
    return relabel([find(pixel) for pixel in range(index.size)], image.shape[:2])


def relabel(labels, shape: tuple[int, ...]) -> np.ndarray:
    """The same partition with labels 0, 1, 2, ... in raster order of their first pixels."""
    names: dict[int, int] = {}
    return np.array([names.setdefault(label, len(names)) for label in np.asarray(labels).ravel().tolist()]).reshape(
        shape
    )


@pytest.fixture(scope="session", name="reference_segments")
def _reference_segments():
    return reference_segments


@pytest.fixture(scope="session", name="relabel")
def _relabel():
    return relabel
