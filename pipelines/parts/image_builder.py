"""One image from file bytes to record: decode, annotate, generate, measure, encode. No Beam, no files."""

import dataclasses
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from maskmill.masks.registry import Generator
from maskmill.pipelines.measuring.overlaps import ImageOverlaps, measure
from maskmill.pipelines.measuring.series import series_of
from maskmill.pipelines.parts.config import Settings
from maskmill.pipelines.parts.generators import Prepared, parse_specs
from maskmill.pipelines.parts.memory import out_of_memory
from maskmill.pipelines.reading.annotations import parse_annotations
from maskmill.pipelines.reading.decode import decode_image
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.schemas.errors import DamageError, ImageError
from maskmill.schemas.example import ImageExample, encode_example
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import MaskSet


@dataclasses.dataclass(frozen=True)
class Built:
    """What became of one image.

    Attributes:
        payload: the serialized Example; empty when refused.
        refusal: why there is no record, or None.
        row: the image's row of `images.parquet` (see `image_row`); {} when refused. JSON-able.
        overlaps: what the report measures of it; None when refused.
    """

    payload: bytes
    refusal: Refusal | None
    row: dict
    overlaps: ImageOverlaps | None = None


class Stopwatch:
    """CPU-independent wall time per stage, milliseconds."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] = self.ms.get(name, 0.0) + (time.perf_counter() - start) * 1e3


class ImageBuilder:
    """Builds images one by one with fixed settings. Holds no state between images."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.generators = tuple(
            generator.opened(settings.prepared) if isinstance(generator, Prepared) else generator
            for generator in parse_specs(list(settings.masks))
        )
        self.layers = tuple(layer for generator in self.generators for layer in generator.layers)
        self.series = series_of(self.layers)

    def warm_up(self) -> None:
        """Runs every generator on a tiny picture, so that compiled code is loaded before any picture is timed."""
        record = ImageRecord("warm-up", np.zeros((16, 16, 3), np.uint8))
        for generator in self.generators:
            # a generator that cannot do this says so on the first real picture, in the ledger
            with suppress(Exception):
                generator(record)

    def build(self, item: Input, data: bytes) -> Built:
        """One image's bytes to its record. Never raises for what the image holds: bad images come back as refusals.

        Raises:
            DamageError: what a generator left in the build's folder is not there as it was.
        """
        try:
            return self._build(item, data)
        except ImageError as error:
            return Built(b"", Refusal(item.id, error.stage, error.reason, str(error)), {})
        except MemoryError:
            refusal = out_of_memory("build")
            return Built(b"", Refusal(item.id, refusal.stage, refusal.reason, str(refusal)), {})

    def _build(self, item: Input, data: bytes) -> Built:
        watch = Stopwatch()
        with watch.stage("decode"):
            picture = decode_image(data, self.settings.max_pixels)
        height, width = picture.image.shape[:2]
        if item.size is not None and item.size != (height, width):
            raise ImageError(
                "size_mismatch",
                "annotate",
                f"the annotation file says {item.size[1]} x {item.size[0]} pixels, the picture has {width} x {height}",
            )
        with watch.stage("annotate"):
            annotations, dropped = parse_annotations(
                item.annotations, height, width, drop_bad=self.settings.drop_bad_annotations
            )
        picture.image.setflags(write=False)  # a generator that scribbles on its input would change the next one's masks
        record = ImageRecord(item.id, picture.image, annotations)
        masks: list[MaskSet] = []
        for generator in self.generators:
            name = generator.layers[0].generator
            with watch.stage(name):
                masks.extend(self._generate(generator, name, record))
        if not any(len(m) for m in masks):
            raise ImageError("no_masks", "masks", "no layer has a mask for this image")
        with watch.stage("overlap"):
            measured = measure(masks, self.layers, self.series, annotations, height, width)
        with watch.stage("encode"):
            sha256 = hashlib.sha256(data).hexdigest()
            try:
                payload = encode_example(
                    ImageExample(
                        encoded=None if self.settings.masks_only else picture.stored,
                        format=picture.format,
                        height=height,
                        width=width,
                        filename=item.id,
                        source_id=item.source_id,
                        sha256=sha256,
                        label=item.label,
                        synset=item.synset,
                        text=item.text,
                        masks=tuple(masks),
                        annotations=annotations,
                        best_iou=measured.best,
                    )
                )
            except (ValueError, TypeError) as error:
                raise ImageError("encode_error", "encode", f"{type(error).__name__}: {error}") from error
        row = {
            "id": item.id,
            "source_id": item.source_id,
            "label": item.label,
            "synset": item.synset,
            "height": height,
            "width": width,
            "stored_bytes": len(picture.stored),
            "record_bytes": len(payload),
            "reencoded": picture.note,
            "instances": int((~annotations.is_crowd).sum()),
            "crowds": int(annotations.is_crowd.sum()),
            "dropped_annotations": dropped,
            "masks": [len(m) for m in masks],
            "covered_px": measured.covered_px,
            "iou_units": measured.iou_units,
            "first_units": measured.first_units,
            "drawn_units": measured.drawn_units,
            "sha256": sha256,
            "ms": {name: round(ms, 3) for name, ms in watch.ms.items()},
        }
        return Built(payload, None, row, measured.overlaps)

    @staticmethod
    def _generate(generator: Generator, name: str, record: ImageRecord) -> tuple[MaskSet, ...]:
        try:
            masks = generator(record)
        except (ImageError, MemoryError, DamageError):  # the last: the build's folder is broken, not the image
            raise
        except Exception as error:  # whatever a generator does to one image must not stop the others
            raise ImageError("generator_error", name, f"{type(error).__name__}: {error}") from error
        if len(masks) != len(generator.layers):
            raise ImageError("generator_error", name, f"made {len(masks)} layers of {len(generator.layers)}")
        return masks
