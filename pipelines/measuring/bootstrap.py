"""A bootstrap over images that merges: Poisson weights drawn from the image's id.

The bootstrap draws n of n images with replacement, many times. Drawing each image a Poisson(1) number of times instead
is the same in the limit, and lets every part of a data set draw for its own images alone: a replicate of the whole is
the sum of the parts' (Chamandy et al., "Estimating uncertainty for massive data streams", 2012). Weights are a hash of the
id, so they depend neither on order nor on the machine, and two builds weigh the same image alike, which pairs them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int64

REPLICATES = 200
LEVEL = 0.95


def image_key(identity: str) -> int:
    """An image's place in all random choices of the report: uniform in 0..2**63-1, the same in every build."""
    digest = hashlib.sha256(b"report\0" + identity.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _poisson_table() -> np.ndarray:
    """Poisson(1) by inversion: entry u of 2**16 is the count that the probability u / 2**16 falls on."""
    cumulative = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    return np.searchsorted(cumulative, (np.arange(1 << 16) + 0.5) / (1 << 16)).astype(np.int64)


_TABLE = _poisson_table()


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): uint64 to well mixed uint64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def weights(keys: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "n replicates"]:
    """How often each image is drawn in each replicate.

    Args:
        keys: int64[n] from `image_key`.

    Returns:
        int64[n, REPLICATES], each Poisson(1).
    """
    steps = np.arange(1, REPLICATES // 4 + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words = _mix(np.asarray(keys, np.uint64)[:, None] + steps[None, :])
    return _TABLE[words.astype("<u8").view("<u2")]  # four draws of 16 bits from each word


def interval(numerators: Sequence[int], denominators: Sequence[int], scale: float = 1.0) -> tuple[float, float] | None:
    """Percentile interval of a ratio of sums.

    Args:
        numerators, denominators: the replicates' sums.
        scale: divides the numerators.

    Returns:
        (low, high) at `LEVEL`, or None where fewer than half of the replicates drew any instance.
    """
    ratios = sorted(n / scale / d for n, d in zip(numerators, denominators, strict=True) if d)
    if len(ratios) * 2 < len(denominators) or not ratios:
        return None
    tail = (1 - LEVEL) / 2
    return _quantile(ratios, tail), _quantile(ratios, 1 - tail)


def _quantile(ordered: list[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
