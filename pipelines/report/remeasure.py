"""Statistics of a finished data set: from what its build recorded, or measured anew from its records.

Both ways give the same integers. The records are the truth; the sidecars are the quick way to it. No Beam here; the job
that measures many shards is `pipelines.report.job`.
"""

from collections.abc import Iterator, Sequence

from maskmill.pipelines.folding.pieces import pieces_of, read_piece
from maskmill.pipelines.measuring.overlaps import ImageOverlaps, measure
from maskmill.pipelines.measuring.series import series_of
from maskmill.pipelines.measuring.statistics import ReportStats, Row
from maskmill.pipelines.parts.plan import load_plan
from maskmill.pipelines.report.audit import AuditTask, read_entries
from maskmill.schemas.errors import DamageError
from maskmill.schemas.example import ImageExample, check_example
from maskmill.schemas.image import Annotations
from maskmill.schemas.manifest import Manifest, Shard
from maskmill.schemas.mask import Layer
from maskmill.schemas.reader import read_shard


def recorded_stats(folder: str, manifest: Manifest) -> ReportStats | None:
    """Statistics from a build's sidecars, or None where the folder holds none of this data set (it was copied without)."""
    try:
        return _recorded_stats(folder, manifest)
    except (DamageError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError):
        return None  # what a folder of elsewhere holds as `_work` need not be ours


def _recorded_stats(folder: str, manifest: Manifest) -> ReportStats | None:
    plan = load_plan(folder)
    if plan is None or plan.digest != manifest.plan_digest:
        return None
    stats = ReportStats.zero(len(manifest.layers), len(series_of(manifest.layers)))
    for index, shards in enumerate(pieces_of(plan)):
        stats += read_piece(folder, plan, index, [manifest.shards[shard].sha256 for shard in shards]).stats
    return stats if stats.sums.images == manifest.num_records else None


def measure_example(example: ImageExample, layers: Sequence[Layer], truth: Annotations) -> tuple[Row, ImageOverlaps]:
    """One record as the report counts it: what of its row `fold_rows` needs, and its overlaps.

    Args:
        example: a record whose RLEs were checked.
        layers: of the data set.
        truth: its ground truth, or what stands in for it.
    """
    measured = measure(example.masks, layers, series_of(layers), truth, example.height, example.width)
    row: Row = {
        "id": example.filename,
        "height": example.height,
        "width": example.width,
        "instances": int((~truth.is_crowd).sum()),
        "crowds": int(truth.is_crowd.sum()),
        "masks": [len(m) for m in example.masks],
        "covered_px": measured.covered_px,
        "iou_units": measured.iou_units,
        "first_units": measured.first_units,
        "drawn_units": measured.drawn_units,
        "sha256": example.sha256,
    }
    return row, measured.overlaps


def measure_shard(
    task: AuditTask, folder: str, shards: Sequence[Shard], layers: Sequence[Layer]
) -> Iterator[tuple[Row, ImageOverlaps]]:
    """(row, overlaps) of every record of a shard, against its own ground truth or the task's entries."""
    shard = shards[task.shard]
    entries = read_entries(task) if task.audits else {}
    for example in read_shard(folder, shard, len(layers)):
        try:
            check_example(example)
        except DamageError as error:
            raise DamageError(f"{shard.name}: {example.filename}: {error}") from error
        if not task.audits:
            yield measure_example(example, layers, example.annotations)
            continue
        entry = entries.get(example.filename)
        truth, dropped, mismatch = Annotations(), 0, 0
        if entry is not None:
            mismatch = int(not entry.fits(example))
            truth, dropped = entry.truth(example)
        row, overlaps = measure_example(example, layers, truth)
        row["audit_dropped"], row["size_mismatch"] = dropped, mismatch
        yield row, overlaps
