"""How long each stage took per image, from the times that `images.parquet` keeps.

The only numbers of a report that differ between two builds of the same data; kept in a section of their own. The same
folder always gives the same section.
"""

import dataclasses
import heapq
import math
from collections import defaultdict

import numpy as np

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.parts.spent import read_spent
from maskmill.pipelines.report.model import Cost, SlowImage, Stage, Throughput

_PER_OCTAVE = 4  # histogram bins per doubling: a quantile read off them is within 9 % of the exact one
SLOWEST = 10
_LONGEST_MS = 1e9


@dataclasses.dataclass
class _Times:
    """Times of one stage, counted."""

    images: int = 0
    total_us: int = 0
    max_us: int = 0
    hist: dict[int, int] = dataclasses.field(default_factory=lambda: defaultdict(int))

    def count(self, us: np.ndarray) -> None:
        """Counts times of images, int64 microseconds."""
        if not us.size:
            return
        self.images += int(us.size)
        self.total_us += int(us.sum())
        self.max_us = max(self.max_us, int(us.max()))
        bins, counts = np.unique(np.floor(np.log2(np.maximum(us, 1)) * _PER_OCTAVE).astype(int), return_counts=True)
        for k, n in zip(bins.tolist(), counts.tolist(), strict=True):
            self.hist[k] += n

    def quantile(self, share: float) -> float | None:
        """A quantile in milliseconds, read off the histogram; None without images."""
        seen, wanted = 0, math.ceil(share * self.images)
        for k, n in sorted(self.hist.items()):
            seen += n
            if seen >= wanted:
                middle = 2 ** ((k + 0.5) / _PER_OCTAVE)
                return round(min(middle, self.max_us) / 1e3, 3)
        return None

    def stage(self, name: str) -> Stage:
        """As a report holds it."""
        return Stage(
            stage=name,
            images=self.images,
            total_us=self.total_us,
            max_us=self.max_us,
            hist={str(k): n for k, n in sorted(self.hist.items())},
            mean_ms=self.total_us / self.images / 1e3 if self.images else None,
            p50_ms=self.quantile(0.5),
            p95_ms=self.quantile(0.95),
            max_ms=self.max_us / 1e3 if self.images else None,
        )


def read_throughput(folder: str) -> Throughput:
    """Times per stage and the slowest images.

    Raises:
        DamageError: the table is missing or cannot be read.
    """
    slowest: list[tuple[float, str]] = []
    table = ImagesTable(folder)
    stages = {name: _Times() for name in table.stages}
    for rows in table.batches(["id", *(f"ms/{name}" for name in stages)]):
        total = np.zeros(len(rows["id"]))
        for name, times in stages.items():
            ms = np.clip(rows[f"ms/{name}"], 0, _LONGEST_MS)  # a foreign table may hold anything
            total += np.nan_to_num(ms)
            times.count(np.rint(ms[np.isfinite(ms)] * 1e3).astype(np.int64))
        top = np.argsort(-total, kind="stable")[:SLOWEST].tolist()
        seen = [(-round(float(total[i]), 3), rows["id"][i]) for i in top]
        slowest = heapq.nsmallest(SLOWEST, slowest + seen)
    return Throughput(
        stages=[times.stage(name) for name, times in stages.items()],
        slowest=[SlowImage(identity, -ms) for ms, identity in slowest],
        cost=read_cost(folder),
    )


def read_cost(folder: str) -> Cost | None:
    """What the build has taken so far; None where its accounts are gone."""
    spent = read_spent(folder)
    if spent is None:
        return None
    return Cost(
        parts=spent.parts,
        core_hours=round(spent.seconds / 3600, 6),
        read_bytes=spent.read_bytes,
        written_bytes=spent.written_bytes,
        class_a=spent.class_a,
        class_b=spent.class_b,
        request_dollars=round(spent.request_dollars, 6),
    )
