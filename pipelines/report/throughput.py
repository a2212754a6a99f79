"""How long each stage took per image, from the times that `images.parquet` keeps.

The only numbers of a report that differ between two builds of the same data; kept in a section of their own. The same
folder always gives the same section.
"""

from maskmill.pipelines.dataset.images_table import ImagesTable
from maskmill.pipelines.measuring.stage_times import StageTimes, Times
from maskmill.pipelines.parts.spent import read_spent
from maskmill.pipelines.report.model import Cost, SlowImage, Stage, Throughput


def read_times(folder: str, records: int) -> StageTimes:
    """The times of all records, of which there are so many.

    Raises:
        DamageError: the table is missing or cannot be read.
    """
    table = ImagesTable(folder, records)
    times = StageTimes.of(table.stages)
    for rows in table.batches(["id", *(f"ms/{name}" for name in table.stages)]):
        times.count(rows["id"], {name: rows[f"ms/{name}"] for name in table.stages})
    return times


def describe_times(times: StageTimes, cost: Cost | None) -> Throughput:
    """Times as a report holds them, with what they came to (see `read_cost`)."""
    return Throughput(
        stages=[_stage(name, one) for name, one in times.stages.items()],
        slowest=[SlowImage(identity, -ms) for ms, identity in times.slowest],
        cost=cost,
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


def _stage(name: str, times: Times) -> Stage:
    return Stage(
        stage=name,
        images=times.images,
        total_us=times.total_us,
        max_us=times.max_us,
        hist={str(k): n for k, n in sorted(times.hist.items())},
        mean_ms=times.total_us / times.images / 1e3 if times.images else None,
        p50_ms=times.quantile(0.5),
        p95_ms=times.quantile(0.95),
        max_ms=times.max_us / 1e3 if times.images else None,
    )
