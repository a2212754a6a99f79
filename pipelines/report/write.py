"""Statistics to `report.json` and `report.html` in a build's folder."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from maskmill.pipelines.dataset.random_access import read_examples
from maskmill.pipelines.measuring.stage_times import StageTimes
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.pipelines.report.agreement import find_agreement
from maskmill.pipelines.report.document import describe_build, make_document
from maskmill.pipelines.report.ledger import read_ledger
from maskmill.pipelines.report.model import AuditSource, Document, to_json
from maskmill.pipelines.report.objects import find_objects
from maskmill.pipelines.report.page import CARDS_SHOWN, MATCH, OBJECTS, PictureKey, render_page
from maskmill.pipelines.report.templating import MAX_BYTES
from maskmill.pipelines.report.throughput import describe_times, read_cost, read_times
from maskmill.pipelines.report.thumbnails import (
    Panels,
    Thumbnail,
    draw_masks,
    draw_match,
    draw_objects,
    encode_within,
)
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, ImageError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.image import Annotations
from maskmill.schemas.manifest import REPORT_HTML, REPORT_JSON, Manifest

_OBJECTS_BYTES = 1_500_000  # of a page, for pictures of objects
_SLACK = 20_000  # bytes of a page that thumbnails leave to what refers to them

Truth = Callable[[ImageExample], Annotations]


def own_truth(example: ImageExample) -> Annotations:
    """A record's own ground truth."""
    return example.annotations


def to_bytes(document: Document) -> bytes:
    """A document as `report.json` holds it: the same document always gives the same bytes."""
    return json.dumps(to_json(document), sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"


def draw_thumbnails(
    folder: str,
    manifest: Manifest,
    document: Document,
    truth: Truth,
    budget_bytes: int,
    pieces: Mapping[str, int] | None = None,
) -> dict[PictureKey, Thumbnail]:
    """Pictures of the document's examples, read back from the shards; see `encode_within`."""
    shown = document.examples
    best = [i for i, layer in enumerate(manifest.layers) if layer.name == shown.layer]
    matched = list(dict.fromkeys(e.id for e in (*shown.worst, *shown.median, *shown.best)))
    common = [e.id for e in shown.by_layer[0].images] if shown.by_layer else []
    wanted = {*matched, *common}
    examples = read_examples(folder, manifest, wanted, None if pieces is None else {pieces[one] for one in wanted})
    drawings: dict[PictureKey, Callable[[int], Panels]] = {}
    for identity in (identity for identity in common if identity in examples):
        own = examples[identity]
        drawings[PictureKey(OBJECTS, identity)] = _decoded(draw_objects, own, truth(own))
        for i, layer in enumerate(manifest.layers[:CARDS_SHOWN]):
            drawings[PictureKey(layer.name, identity)] = _decoded(draw_masks, own, own.masks[i])
    for identity in (identity for identity in matched if identity in examples):
        own = examples[identity]
        drawings[PictureKey(MATCH, identity)] = _decoded(draw_match, own, truth(own), [own.masks[i] for i in best])
    return encode_within(drawings, budget_bytes)


def _decoded(draw: Callable[..., Any], example: ImageExample, *values: Any) -> Callable[[int], Panels]:
    """A drawing of a record at a longer side: one panel or several."""

    def panels(longer_px: int) -> Panels:
        try:
            drawn = draw(example, *values, longer_px)
        except ImageError as error:
            raise DamageError(
                f"{example.filename!r}: {error}; `maskmill validate --deep` finds all such pictures"
            ) from error
        return drawn if isinstance(drawn, list) else [drawn]

    return panels


def write_report(
    folder: str,
    manifest: Manifest,
    stats: ReportStats,
    *,
    times: StageTimes | None = None,
    pieces: Mapping[str, int] | None = None,
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
        times: of all its records; read from the table where None.
        pieces: id -> number of the table's file that has it, of every pick of `stats`, where that is known.
        truth: ground truth of a record, where it is not the record's own.
        audit, categories: see `describe_build`.
        out: where to write, if not in `folder`.

    Returns:
        The document.

    Raises:
        DamageError: ledger, table or shards are not as they should be.
        OSError: the report cannot be written.
    """
    agreement = None if sum(stats.sums.overlaps.instances) else find_agreement(folder, manifest, stats, pieces)
    build = describe_build(manifest, audit, categories)
    throughput = describe_times(read_times(folder, manifest.num_records) if times is None else times, read_cost(folder))
    document = make_document(build, stats, read_ledger(folder), throughput, agreement)
    objects, drawings = find_objects(folder, manifest, stats, document, truth, pieces)
    document = dataclasses.replace(document, examples=dataclasses.replace(document.examples, by_category=objects))
    room = MAX_BYTES - len(render_page(document, {})) - _SLACK
    pictures = draw_thumbnails(folder, manifest, document, truth, room, pieces)
    room -= sum(len(picture.url) for picture in pictures.values())
    cut_out = encode_within(drawings, min(room, _OBJECTS_BYTES))
    storage.write_bytes(storage.join(out or folder, REPORT_JSON), to_bytes(document))
    storage.write_bytes(
        storage.join(out or folder, REPORT_HTML), render_page(document, dict([*pictures.items(), *cut_out.items()]))
    )
    return document
