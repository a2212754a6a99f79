"""A finished data set in a few lines of text."""

import shlex
from collections import Counter
from typing import TYPE_CHECKING

from maskmill.pipelines.driver.progress import amount, volume, work
from maskmill.pipelines.parts.spent import read_spent
from maskmill.pipelines.report.ledger import read_ledger
from maskmill.schemas import storage
from maskmill.schemas.manifest import FAILURES, Manifest

if TYPE_CHECKING:  # `maskmill status` need not load what measures
    from maskmill.pipelines.report.model import Document


def failure_counts(folder: str) -> "Counter[str]":
    """Reason -> number of lines of the ledger. Raises DamageError where the ledger is not readable."""
    counts: Counter[str] = Counter()
    for row in read_ledger(folder):
        counts[row.reason] += row.count
    return counts


def summary_lines(manifest: Manifest, folder: str) -> list[str]:
    """What a user wants to know at the end of a build."""
    counts = manifest.counts
    lines = ["inputs {inputs:,} = written {written:,} + failed {failed:,} + skipped {skipped:,}".format(**counts)]
    if counts["failed"] + counts["skipped"]:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in failure_counts(folder).most_common())
        lines.append(f"not written: {reasons}; every one is in {storage.join(folder, FAILURES)}")
    if counts.get("dropped_annotations"):
        lines.append(f"annotations left out as unreadable: {counts['dropped_annotations']:,}")
    width = max([len(layer.name) for layer in manifest.layers], default=5)
    lines.append(f"{'layer':<{width}}  {'ABO':>6}  {'masks/image':>11}  {'coverage':>8}")
    for layer in manifest.layers:
        row = manifest.abo.get(layer.name, {"abo": None, "masks_per_image": None, "coverage": None})
        abo = "none" if row["abo"] is None else f"{row['abo']:.4f}"
        masks = "none" if row["masks_per_image"] is None else f"{row['masks_per_image']:.1f}"
        coverage = "none" if row["coverage"] is None else f"{row['coverage']:.1%}"
        lines.append(f"{layer.name:<{width}}  {abo:>6}  {masks:>11}  {coverage:>8}")
    size = sum(shard.bytes for shard in manifest.shards)
    lines.append(f"{amount(len(manifest.shards), 'shard')}, {size / 1e6:,.1f} MB, in {folder}")
    if spent := read_spent(folder):
        line = f"spent: {work(spent.seconds)} in {amount(spent.parts, 'part')}, {volume(spent.read_bytes)} of pictures read"
        if spent.class_a + spent.class_b:
            line += f"; gs:// requests: {spent.class_a:,} class A, {spent.class_b:,} class B (${spent.request_dollars:,.2f})"
        lines.append(line)
    if storage.exists(storage.join(folder, "report.html")):
        lines.append(f"report: {storage.join(folder, 'report.html')}")
    lines.append(f"next: maskmill validate {folder}")
    if counts["failed"]:
        lines.append(f"      maskmill retry {folder}   (once the cause is mended)")
    return lines


def report_lines(document: "Document", folder: str) -> list[str]:
    """A report of the data set in `folder` in text: the ABO table, layers at equal numbers of masks, and how to train."""
    series, total = document.series, document.instances.all
    width = max([len(s.name) for s in series], default=5)
    lines = [f"{document.images.measured:,} images, {total:,} instances; verdict: {document.verdict}"]
    lines += [f"  {check.state}: {check.name}: {check.text}" for check in document.checks if check.state != "good"]
    lines.append(
        f"{'layer':<{width}}  {'ABO':>6}  {'95% interval':>13}  {'recall .50':>10}  {'AR':>6}  {'masks/image':>11}"
    )
    for s in series:
        bounds = s.interval.value
        between = "none" if bounds is None else f"{bounds[0]:.4f}-{bounds[1]:.4f}"
        abo, recall, average, masks = (
            "none" if m.value is None else f"{m.value:{form}}"
            for m, form in (
                (s.abo, ".4f"),
                (s.recall[0], ".1%"),
                (s.average_recall, ".4f"),
                (s.masks_per_image, ".1f"),
            )
        )
        lines.append(f"{s.name:<{width}}  {abo:>6}  {between:>13}  {recall:>10}  {average:>6}  {masks:>11}")
    ranking = document.ranking
    if total and ranking.layers:
        order = ", ".join(f"{x.name} {x.abo.value:.3f}" for x in ranking.layers if x.abo.value is not None)
        lines.append(f"with {ranking.budget} masks per image, as a view of DetCon samples: {order}")
    if ranking.train:
        lines.append(f"next: {shlex.join(folder if word == 'OUT' else word for word in ranking.train)}")
    return lines
