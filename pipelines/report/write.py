"""Statistics to `report.json` and `report.html` in a build's folder."""

import functools
import json
from collections import Counter
from collections.abc import Callable

from PIL import Image

from maskmill.pipelines.dataset.random_access import read_examples
from maskmill.pipelines.measuring.series import series_of, widest
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.pipelines.report.agreement import find_agreement
from maskmill.pipelines.report.document import describe_build, make_document
from maskmill.pipelines.report.ledger import read_ledger
from maskmill.pipelines.report.model import AuditSource, Document, to_json
from maskmill.pipelines.report.page import MAX_BYTES, render_page
from maskmill.pipelines.report.throughput import read_throughput
from maskmill.pipelines.report.thumbnails import Panels, Thumbnail, draw_match, draw_plain, encode_within
from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.image import Annotations
from maskmill.schemas.manifest import Manifest

REPORT_JSON, REPORT_HTML = "report.json", "report.html"
_SLACK = 20_000  # bytes of a page that thumbnails leave to what refers to them

Truth = Callable[[ImageExample], Annotations]


def own_truth(example: ImageExample) -> Annotations:
    """A record's own ground truth."""
    return example.annotations


def to_bytes(document: Document) -> bytes:
    """A document as `report.json` holds it: the same document always gives the same bytes."""
    return json.dumps(to_json(document), sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def draw_thumbnails(
    folder: str, manifest: Manifest, document: Document, truth: Truth, budget_bytes: int
) -> dict[str, Thumbnail]:
    """Pictures of the document's examples, read back from the shards; see `encode_within`."""
    layers = list(manifest.layers)
    members = series_of(layers)[widest(layers)].members if layers else ()
    wanted = Counter(example.id for group in vars(document.examples).values() for example in group)
    examples = read_examples(folder, manifest, wanted)
    panels: dict[str, Callable[[int], Panels]] = {}
    for identity in wanted:
        if identity in examples:
            panels[identity] = functools.partial(_draw, examples[identity], truth(examples[identity]), members)
    return encode_within(panels, wanted, budget_bytes)


def _draw(example: ImageExample, annotations: Annotations, members: tuple[int, ...], longer_px: int) -> Panels:
    masks = [example.masks[i] for i in members]
    try:
        if (~annotations.is_crowd).any():
            return draw_match(example, annotations, masks, longer_px)
        return draw_plain(example, masks[0], longer_px)
    except ImageError:  # stored bytes that no longer decode are for `validate` to report
        blank = Image.new("RGB", (longer_px, longer_px * 3 // 4), (128, 128, 128))
        return blank, blank


def write_report(
    folder: str,
    manifest: Manifest,
    stats: ReportStats,
    *,
    truth: Truth = own_truth,
    audit: AuditSource | None = None,
    categories: dict[str, str] | None = None,
    out: str = "",
) -> Document:
    """Writes both files of the report.

    Args:
        folder: the build's folder: shards, ledger and table are there, the manifest need not be yet.
        manifest: of the build.
        stats: of all its records.
        truth: ground truth of a record, where it is not the record's own.
        audit, categories: see `describe_build`.
        out: where to write, if not in `folder`.

    Returns:
        The document.

    Raises:
        DamageError: ledger, table or shards are not as they should be.
        OSError: the report cannot be written.
    """
    agreement = None if sum(stats.sums.facts.instances) else find_agreement(folder, manifest, stats)
    build = describe_build(manifest, audit, categories)
    document = make_document(build, stats, read_ledger(folder), read_throughput(folder), agreement)
    bare = render_page(document, {})
    thumbnails = draw_thumbnails(folder, manifest, document, truth, MAX_BYTES - len(bare) - _SLACK)
    storage.write_bytes(storage.join(out or folder, REPORT_JSON), to_bytes(document))
    storage.write_bytes(storage.join(out or folder, REPORT_HTML), render_page(document, thumbnails))
    return document
