"""How long each stage took per image, from the times that `images.parquet` keeps.

The only numbers of a report that differ between two builds of the same data; kept in a section of their own. The same
folder always gives the same section.
"""

import heapq
import math
from collections import defaultdict

import numpy as np

from maskmill.pipelines.dataset.images_table import ImagesTable

_PER_OCTAVE = 4  # histogram bins per doubling: a quantile read off them is within 9 % of the exact one
SLOWEST = 10
_LONGEST_MS = 1e9


def read_throughput(folder: str) -> dict:
    """Times per stage and the slowest images.

    Returns:
        {"stages": [{"stage", "images", "total_us", "max_us", "hist": bin -> images}], "slowest": [{"id", "ms"}]};
        bin k holds times from 2**(k/4) microseconds on.

    Raises:
        DamageError: the table is missing or cannot be read.
    """
    stages: dict[str, dict] = {}
    slowest: list[tuple[float, str]] = []
    table = ImagesTable(folder)
    for name in table.stages:
        stages[name] = {"stage": name, "images": 0, "total_us": 0, "max_us": 0, "hist": defaultdict(int)}
    for rows in table.batches(["id", *(f"ms/{name}" for name in stages)]):
        total = np.zeros(len(rows["id"]))
        for name, stage in stages.items():
            ms = np.clip(rows[f"ms/{name}"], 0, _LONGEST_MS)  # a foreign table may hold anything
            total += np.nan_to_num(ms)
            _count(stage, np.rint(ms[np.isfinite(ms)] * 1e3).astype(np.int64))
        top = np.argsort(-total, kind="stable")[:SLOWEST].tolist()
        seen = [(-round(float(total[i]), 3), rows["id"][i]) for i in top]
        slowest = heapq.nsmallest(SLOWEST, slowest + seen)
    listed = [{**stage, "hist": {str(k): n for k, n in sorted(stage["hist"].items())}} for stage in stages.values()]
    return with_quantiles({"stages": listed, "slowest": [{"id": identity, "ms": -ms} for ms, identity in slowest]})


def _count(stage: dict, us: np.ndarray) -> None:
    if not us.size:
        return
    stage["images"] += int(us.size)
    stage["total_us"] += int(us.sum())
    stage["max_us"] = max(stage["max_us"], int(us.max()))
    bins, counts = np.unique(np.floor(np.log2(np.maximum(us, 1)) * _PER_OCTAVE).astype(int), return_counts=True)
    for k, n in zip(bins.tolist(), counts.tolist(), strict=True):
        stage["hist"][k] += n


def with_quantiles(throughput: dict) -> dict:
    """Adds to every stage what follows from its sums: mean, p50, p95 and max, milliseconds (None without images)."""
    for stage in throughput["stages"]:
        stage["mean_ms"] = stage["total_us"] / stage["images"] / 1e3 if stage["images"] else None
        stage["p50_ms"], stage["p95_ms"] = _quantile(stage, 0.5), _quantile(stage, 0.95)
        stage["max_ms"] = stage["max_us"] / 1e3 if stage["images"] else None
    return throughput


def _quantile(stage: dict, share: float) -> float | None:
    seen, wanted = 0, math.ceil(share * stage["images"])
    for k, n in sorted((int(k), n) for k, n in stage["hist"].items()):
        seen += n
        if seen >= wanted:
            middle = 2 ** ((k + 0.5) / _PER_OCTAVE)
            return round(min(middle, stage["max_us"]) / 1e3, 3)
    return None


def merge_throughput(a: dict, b: dict) -> dict:
    """Of two disjoint sets of images."""
    stages: dict[str, dict] = {}
    for row in (*a["stages"], *b["stages"]):
        one = stages.setdefault(
            row["stage"], {"stage": row["stage"], "images": 0, "total_us": 0, "max_us": 0, "hist": {}}
        )
        one["images"] += row["images"]
        one["total_us"] += row["total_us"]
        one["max_us"] = max(one["max_us"], row["max_us"])
        for k, n in row["hist"].items():
            one["hist"][k] = one["hist"].get(k, 0) + n
    slowest = sorted((*a["slowest"], *b["slowest"]), key=lambda row: (-row["ms"], row["id"]))[:SLOWEST]
    return with_quantiles({"stages": list(stages.values()), "slowest": slowest})
