"""What is known of some consecutive shards, added up: everything that the end of a build needs but the rows themselves."""

import dataclasses
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np

from maskmill.pipelines.dataset.images_table import ImageRow
from maskmill.pipelines.measuring.overlap_stats import BATCH
from maskmill.pipelines.measuring.series import Series, series_of
from maskmill.pipelines.measuring.stage_times import StageTimes
from maskmill.pipelines.measuring.statistics import ReportStats, Row
from maskmill.pipelines.parts.generators import parse_specs
from maskmill.pipelines.parts.lines import id_key
from maskmill.pipelines.parts.part import Sidecar
from maskmill.pipelines.parts.plan import Plan
from maskmill.schemas.manifest import File
from maskmill.schemas.mask import Layer
from maskmill.schemas.stats import LayerSums

FORMAT = 1
_STAGES = ("decode", "annotate", "overlap", "encode")
_ID_BITS = 64


@dataclasses.dataclass(frozen=True)
class Subject:
    """What the images of a build are measured in: its layers, their series, and the stages that are timed."""

    layers: tuple[Layer, ...]
    series: tuple[Series, ...]
    stages: tuple[str, ...]

    @classmethod
    def of(cls, plan: Plan) -> "Subject":
        """Of a planned build."""
        layers = tuple(layer for g in parse_specs(list(plan.config.masks)) for layer in g.layers)
        stages = (*_STAGES, *dict.fromkeys(layer.generator for layer in layers))
        return cls(layers, series_of(layers), stages)


@dataclasses.dataclass(frozen=True)
class IdSum:
    """Ids counted so that neither their order nor the way in which they are put together matters.

    Two sets of ids with one count and one sum of 64-bit hashes are the same, but for a chance of 1 in 2**64.
    """

    count: int = 0
    total: int = 0

    def __add__(self, other: "IdSum") -> "IdSum":
        return IdSum(self.count + other.count, (self.total + other.total) % (1 << _ID_BITS))

    @classmethod
    def of(cls, ids: Sequence[str], seed: int) -> "IdSum":
        """Of some ids, those that come twice counted twice."""
        return cls(len(ids), sum(id_key(seed, identity) for identity in ids) % (1 << _ID_BITS))


@dataclasses.dataclass
class Totals:
    """What records add up to."""

    written: int = 0
    failed: int = 0
    dropped_annotations: int = 0
    reencoded: Counter = dataclasses.field(default_factory=Counter)
    sums: list[LayerSums] = dataclasses.field(default_factory=list)

    def add(self, other: "Totals") -> None:
        """Counts the records of another piece."""
        self.written += other.written
        self.failed += other.failed
        self.dropped_annotations += other.dropped_annotations
        self.reencoded += other.reencoded
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)] if self.sums else list(other.sums)

    def add_rows(self, rows: Sequence[dict]) -> None:
        """Counts records by their rows."""
        instances, pixels = sum(row["instances"] for row in rows), sum(row["height"] * row["width"] for row in rows)
        columns = (zip(*(row[name] for row in rows), strict=True) for name in ("masks", "iou_units", "covered_px"))
        layers = [
            LayerSums(len(rows), sum(masks), instances, sum(units), sum(covered), pixels)
            for _, masks, units, covered in zip(self.sums, *columns, strict=False)  # series beyond layers are unions
        ]
        reencoded = Counter(row["reencoded"] for row in rows if row["reencoded"])
        dropped = sum(row["dropped_annotations"] for row in rows)
        self.add(Totals(len(rows), 0, dropped, reencoded, layers or [LayerSums() for _ in self.sums]))


@dataclasses.dataclass
class Fold:
    """Some consecutive shards of a build.

    Attributes:
        plan_digest: of the build's plan.
        first: index of the first shard.
        shards: their sha256, in order: a fold of other bytes is none of this build.
        ids: per shard, the inputs that became records or failures.
        failures: ledger lines in plan order, as dicts.
        totals, stats, times: of the records.
        rows: the file of their rows, with its name below `_work` or the data set's folder.
    """

    plan_digest: str
    first: int
    shards: list[str]
    ids: list[IdSum]
    failures: list[dict]
    totals: Totals
    stats: ReportStats
    times: StageTimes
    rows: File

    @classmethod
    def zero(cls, plan: Plan, subject: Subject, first: int = 0) -> "Fold":
        """Of no shard."""
        return cls(
            plan.digest,
            first,
            [],
            [],
            [],
            Totals(sums=[LayerSums() for _ in subject.layers]),
            ReportStats.zero(len(subject.layers), len(subject.series)),
            StageTimes.of(subject.stages),
            File("", 0, ""),
        )

    def add_shard(self, sha256: str, sidecars: Iterator[Sidecar], seed: int) -> Iterator[list[ImageRow]]:
        """Counts the next shard by its parts' sidecars, and gives their rows, a part's at a time."""
        ids = IdSum()
        waiting: list[dict] = []
        for sidecar in sidecars:
            ids += IdSum.of([row["id"] for row in sidecar.rows], seed)
            ids += IdSum.of([failure["id"] for failure in sidecar.failures], seed)
            self.failures += sidecar.failures
            self.totals.failed += len(sidecar.failures)
            self.stats.add_overlaps(sidecar.overlaps)
            waiting += sidecar.rows
            while len(waiting) >= BATCH:
                self._count(waiting[:BATCH])
                del waiting[:BATCH]
            yield [ImageRow.of_built(row, sidecar.shard) for row in sidecar.rows]
        self._count(waiting)
        self.shards.append(sha256)
        self.ids.append(ids)

    def _count(self, rows: list[dict]) -> None:
        if not rows:
            return
        self.totals.add_rows(rows)
        self.stats.add_rows(cast("list[Row]", rows))
        ms = {stage: np.asarray([row["ms"].get(stage, np.nan) for row in rows]) for stage in self.times.stages}
        self.times.count([row["id"] for row in rows], ms)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields |= {
            "format": FORMAT,
            "ids": [[one.count, one.total] for one in self.ids],
            "totals": {
                **vars(self.totals),
                "reencoded": dict(self.totals.reencoded),
                "sums": [vars(one) for one in self.totals.sums],
            },
            "stats": self.stats.to_json(),
            "times": self.times.to_json(),
            "rows": dataclasses.astuple(self.rows),
        }
        return gzip.compress(json.dumps(fields).encode(), 1, mtime=0)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Fold":
        """The inverse of `to_bytes`. Raises ValueError where it is none."""
        try:
            return cls._parsed(json.loads(gzip.decompress(data)))
        except (OSError, EOFError, zlib.error, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"no fold ({type(error).__name__}: {error})") from error

    @classmethod
    def _parsed(cls, fields: dict[str, Any]) -> "Fold":
        if fields.pop("format") != FORMAT:
            raise ValueError("a fold of another version")
        totals = fields["totals"]
        fields["ids"] = [IdSum(*one) for one in fields["ids"]]
        fields["totals"] = Totals(
            **{
                **totals,
                "reencoded": Counter(totals["reencoded"]),
                "sums": [LayerSums(**one) for one in totals["sums"]],
            }
        )
        fields["stats"] = ReportStats.from_json(fields["stats"])
        fields["times"] = StageTimes.from_json(fields["times"])
        fields["rows"] = File(*fields["rows"])
        return cls(**fields)
