"""Which software makes the bytes: versions that a build records, and refuses to mix."""

import functools
import importlib.metadata
from collections.abc import Sequence

from maskmill.pipelines.parts.generators import packages_of, parse_specs

# This package, and the libraries whose version can change a byte of a record.
VERSIONED = ("maskmill", "higra", "numba", "numpy", "opencv-python-headless", "pycocotools", "scikit-image", "scipy")


@functools.lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Name -> version installed here; "none" where a package is not."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def mask_packages(masks: Sequence[str]) -> dict[str, str]:
    """Name -> version of the packages, other than this one, from which some of these generators come."""
    return packages_of(parse_specs(list(masks)))
