"""Objects of each category beside the mask that fits them best: the pictures behind a category's number.

They are found among the images drawn at random, whatever the size of the data set. Records pass one by one, because pictures of a
cautious size would be gigabytes together; what stays of a record is a few numbers per object, and a small picture of those shown.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from PIL import Image

from maskmill.pipelines.dataset.random_access import each_example
from maskmill.pipelines.measuring.statistics import ReportStats
from maskmill.pipelines.report.model import CategoryExamples, Document, ObjectExample
from maskmill.pipelines.report.thumbnails import BestMasks, Panels, draw_object
from maskmill.schemas.errors import DamageError, ImageError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.image import Annotations
from maskmill.schemas.manifest import Manifest

CATEGORIES = 80  # most frequent first; as many as COCO has
SHARES = (0.1, 0.5, 0.9)  # the objects of a category that are shown, by how well they are fitted
LONGER_PX = 150
READ_BYTES = 1 << 29  # of pictures, looked at: large ones take long, and show no more


class ObjectKey(NamedTuple):
    """What a picture of the page shows: an annotation of a record."""

    id: str
    annotation: int


class _Found(NamedTuple):
    """An object of the sample, `place` among its record's annotations; ordered from hard to easy, ties by name."""

    iou: float
    id: str
    place: int
    annotation: int


Drawings = dict[ObjectKey, Callable[[int], Panels]]


def find_objects(
    folder: str,
    manifest: Manifest,
    stats: ReportStats,
    document: Document,
    truth: Callable[[ImageExample], Annotations],
    pieces: Mapping[str, int] | None = None,
) -> tuple[list[CategoryExamples], Drawings]:
    """Examples of the most frequent categories, as the best layer fits them, and their pictures.

    Args:
        folder: the build's folder.
        manifest: of the build.
        stats: of all its records, with the sample.
        document: made of these; says which layer is the best.
        truth: ground truth of a record.
        pieces: id -> number of the table's file that has it, of every pick of `stats`, where that is known.

    Raises:
        DamageError: a record is not where `images.parquet` says, or its picture cannot be decoded.
    """
    layers = [i for i, layer in enumerate(manifest.layers) if layer.name == document.examples.layer]
    wanted = [c.id for c in document.categories if c.instances][:CATEGORIES]
    if not layers or not wanted:
        return [], {}

    def read(ids: Iterable[str]) -> Iterator[ImageExample]:
        return each_example(folder, manifest, ids, None if pieces is None else {pieces[one] for one in ids})

    sample = [p.id for p in stats.picks.sample if p.instances]
    found = _found(read(sample), layers[0], set(wanted), truth)
    shown = {category: _at_shares(sorted(found[category])) for category in wanted if category in found}
    examples = [
        CategoryExamples(category, len(found[category]), [ObjectExample(f.id, f.annotation, f.iou) for f in objects])
        for category, objects in shown.items()
    ]
    return examples, _draw(read, [one for objects in shown.values() for one in objects], layers[0], truth)


def _found(
    examples: Iterable[ImageExample],
    layer: int,
    wanted: set[int],
    truth: Callable[[ImageExample], Annotations],
) -> Mapping[int, list[_Found]]:
    """Category -> its objects in some images."""
    found: dict[int, list[_Found]] = defaultdict(list)
    read = 0
    for example in examples:
        annotations = truth(example)
        best = BestMasks([example.masks[layer]], annotations, example.height, example.width)
        for index, iou in zip(best.instances, best.iou, strict=True):
            category = int(annotations.category_id[index])
            if category in wanted:
                found[category].append(_Found(iou, example.filename, index, int(annotations.annotation_id[index])))
        read += len(example.encoded or b"")
        if read > READ_BYTES:  # records lie in a random order, so what was read is a sample all the same
            break
    return found


def _at_shares(objects: list[_Found]) -> list[_Found]:
    return [objects[int(share * len(objects))] for share in SHARES] if len(objects) >= len(SHARES) else objects


def _draw(
    read: Callable[[Iterable[str]], Iterator[ImageExample]],
    shown: Sequence[_Found],
    layer: int,
    truth: Callable[[ImageExample], Annotations],
) -> Drawings:
    of_image: dict[str, list[_Found]] = defaultdict(list)
    for own in shown:
        of_image[own.id].append(own)
    drawings: Drawings = {}
    for example in read(of_image):
        annotations = truth(example)
        for own in of_image[example.filename]:
            try:
                picture = draw_object(example, annotations, own.place, example.masks[layer], LONGER_PX)
            except ImageError as error:
                raise DamageError(
                    f"{example.filename!r}: {error}; `maskmill validate --deep` finds all such pictures"
                ) from error
            drawings[ObjectKey(own.id, own.annotation)] = _at_most(picture)
    return {key: drawings[key] for own in shown if (key := ObjectKey(own.id, own.annotation)) in drawings}


def _at_most(picture: Image.Image) -> Callable[[int], Panels]:
    """For `encode_within`: a picture that is there, no larger than asked for."""

    def panels(longer_px: int) -> Panels:
        smaller = picture.copy()
        smaller.thumbnail((longer_px, longer_px))
        return [smaller]

    return panels
