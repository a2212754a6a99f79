"""Which software makes the bytes: versions that a build records, and refuses to mix."""

import functools
import importlib.metadata

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
