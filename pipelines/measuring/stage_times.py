"""How long each stage took per image, counted: histograms of microseconds, and the slowest images.

Counts of integers that merge in any order, like `pipelines.measuring.statistics`; but times differ between two builds of
the same data, so nothing of them is in a manifest.
"""

import dataclasses
import heapq
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_PER_OCTAVE = 4  # histogram bins per doubling: a quantile read off them is within 9 % of the exact one
SLOWEST = 10
_LONGEST_MS = 1e9


@dataclasses.dataclass
class Times:
    """Times of one stage, counted: images, the sum and the longest in microseconds, and bin -> images."""

    images: int = 0
    total_us: int = 0
    max_us: int = 0
    hist: dict[int, int] = dataclasses.field(default_factory=dict)

    def count(self, us: np.ndarray) -> None:
        """Counts times of images, int64 microseconds."""
        if not us.size:
            return
        bins, counts = np.unique(np.floor(np.log2(np.maximum(us, 1)) * _PER_OCTAVE).astype(int), return_counts=True)
        self.add(
            Times(int(us.size), int(us.sum()), int(us.max()), dict(zip(bins.tolist(), counts.tolist(), strict=True)))
        )

    def add(self, other: "Times") -> None:
        """Counts the times of other images, already counted."""
        self.images += other.images
        self.total_us += other.total_us
        self.max_us = max(self.max_us, other.max_us)
        for k, n in other.hist.items():
            self.hist[k] = self.hist.get(k, 0) + n

    def quantile(self, share: float) -> float | None:
        """A quantile in milliseconds, read off the histogram; None without images."""
        seen, wanted = 0, math.ceil(share * self.images)
        for k, n in sorted(self.hist.items()):
            seen += n
            if seen >= wanted:
                middle = 2 ** ((k + 0.5) / _PER_OCTAVE)
                return round(min(middle, self.max_us) / 1e3, 3)
        return None


@dataclasses.dataclass
class StageTimes:
    """Times of some images.

    Attributes:
        stages: name -> its times, in the order of the columns of `images.parquet`.
        slowest: (minus milliseconds, id) of the `SLOWEST` images, in order.
    """

    stages: dict[str, Times]
    slowest: list[tuple[float, str]] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, stages: Sequence[str]) -> "StageTimes":
        """Of no image."""
        return cls({name: Times() for name in stages})

    def count(self, ids: Sequence[str], ms: Mapping[str, np.ndarray]) -> None:
        """Counts images: their ids, and by stage their milliseconds, NaN where the stage did not run."""
        total = np.zeros(len(ids))
        for name, times in self.stages.items():
            clipped = np.clip(ms[name], 0, _LONGEST_MS)  # a foreign table may hold anything
            total += np.nan_to_num(clipped)
            times.count(np.rint(clipped[np.isfinite(clipped)] * 1e3).astype(np.int64))
        # Ranked by what is shown, so that it does not matter which images were counted at once.
        limit = np.partition(total, -SLOWEST)[-SLOWEST] - 1e-3 if len(total) > SLOWEST else -1.0
        seen = [(-round(float(total[i]), 3), ids[i]) for i in np.flatnonzero(total >= limit).tolist()]
        self.slowest = heapq.nsmallest(SLOWEST, self.slowest + seen)

    def add(self, other: "StageTimes") -> None:
        """Counts other images, already counted."""
        for name, times in other.stages.items():
            self.stages[name].add(times)
        self.slowest = heapq.nsmallest(SLOWEST, self.slowest + other.slowest)

    def to_json(self) -> dict[str, Any]:
        """JSON-able; the inverse of `from_json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "StageTimes":
        """From what `to_json` gave, through JSON or not."""
        stages = {
            name: Times(own["images"], own["total_us"], own["max_us"], {int(k): n for k, n in own["hist"].items()})
            for name, own in fields["stages"].items()
        }
        return cls(stages, [(ms, identity) for ms, identity in fields["slowest"]])
