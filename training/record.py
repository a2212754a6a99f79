"""One record of a build to two views with their masks: parsed, decoded once, cropped twice, masks pooled.

Every step of it but the parsing releases Python's lock, so that threads run records side by side: decoding is OpenCV's,
the rest is compiled (`training.geometry`, `training.resize`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from google.protobuf.message import DecodeError

from maskmill.schemas import rle
from maskmill.schemas.errors import DamageError
from maskmill.schemas.example_pb2 import Example  # type: ignore[attr-defined]
from maskmill.training import geometry
from maskmill.training.config import DataConfig
from maskmill.training.data_set import Layers
from maskmill.training.resize import resize_crop

if TYPE_CHECKING:
    from jaxtyping import UInt8, UInt64

_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(encoded: bytes) -> UInt8[np.ndarray, "height width 3"] | None:
    """JPEG or PNG bytes to uint8[height, width, 3], RGB, by the decoder of every build; None where they are neither."""
    try:
        return cv2.imdecode(np.frombuffer(encoded, np.uint8), _FLAGS)
    except cv2.error:  # a picture too large for OpenCV's limits, or no bytes at all
        return None


class Parsed(NamedTuple):
    """What training needs of a record: its file's name, encoded picture, its size and class; counts of its masks and
    their layers."""

    filename: str
    encoded: bytes
    height: int
    width: int
    label: int
    counts: list[bytes]
    layer: list[int]


def parse(payload: bytes, layers: Layers) -> Parsed:
    """Bytes of an Example to the parts that training needs; the rest is left as it is.

    Raises:
        DamageError: not an Example, or without the features of a record.
    """
    message = Example()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise DamageError(f"not a tf.train.Example: {error}") from None
    features = message.features.feature
    try:
        name = features["image/filename"].bytes_list.value[0].decode("utf-8", "surrogateescape")
        encoded = features["image/encoded"].bytes_list.value[0]
        height, width, label = (
            features[f"image/{of}"].int64_list.value[0] for of in ("height", "width", "class/label")
        )
    except IndexError:
        raise DamageError("the record lacks its name, image, size or class") from None
    counts: list[bytes] = []
    layer: list[int] = []
    if any(layers.wanted):
        masks, of = features["masks/counts"].bytes_list.value, features["masks/layer"].int64_list.value
        if len(masks) != len(of) or (of and not 0 <= min(of) <= max(of) < len(layers.wanted)):
            raise DamageError(f"{len(masks)} masks, of layers {sorted(set(of))} of {len(layers.wanted)}")
        for mask, index in zip(masks, of):
            if layers.wanted[index]:
                counts.append(mask)
                layer.append(index)
    if layers.annotations:
        for mask, crowd in zip(features["gt/counts"].bytes_list.value, features["gt/is_crowd"].int64_list.value):
            if not crowd:
                counts.append(mask)
                layer.append(len(layers.wanted))
    return Parsed(name, encoded, height, width, label, counts, layer)


def fill_views(
    payloads: list[bytes],
    keys: UInt64[np.ndarray, " n"],
    layers: Layers,
    config: DataConfig,
    out: dict[str, np.ndarray],
) -> None:
    """Views of some records, written into their rows of a batch.

    Args:
        payloads: n records; so many that the cost of a call is spread, so few that threads share a batch.
        keys: uint64[n], one seed per record and epoch.
        layers: which masks are sampled from.
        config: what to crop and sample.
        out: arrays of a batch, see `training.input.Batches.at`, cut to these n rows.

    Raises:
        BrokenRecord: says which of them, and what is wrong with it.
    """
    records: list[Parsed] = []
    for payload in payloads:
        try:
            records.append(parse(payload, layers))
        except DamageError as error:
            raise BrokenRecord(len(records), f": {error}") from None
    counts = [c for record in records for c in record.counts]
    numbers = [len(record.counts) for record in records]
    boxes, weights, ids, broken = geometry.make_views(
        keys,
        np.array([record.height for record in records], np.int64),
        np.array([record.width for record in records], np.int64),
        np.frombuffer(b"".join(counts), np.uint8),
        np.cumsum([len(c) for c in counts], dtype=np.int64),
        np.repeat(np.arange(len(records)), numbers),
        np.array([layer for record in records for layer in record.layer], np.int64),
        geometry.Geometry.of(config),
    )
    if broken >= 0:
        index = int(np.searchsorted(np.cumsum(numbers), broken, side="right"))
        raise _broken(index, records[index], _what_is_wrong(records[index], broken - sum(numbers[:index])))
    for view in range(2):
        out[f"weights{view + 1}"][:] = weights[:, view]
        out[f"ids{view + 1}"][:] = ids[:, view]
    out["label"][:] = [record.label for record in records]
    out["key"][:] = keys.view(np.uint32).reshape(-1, 2)
    for index, record in enumerate(records):
        image = decode_image(record.encoded)
        if image is None:
            raise _broken(index, record, "the image does not decode")
        if image.shape[:2] != (record.height, record.width):
            said = (record.height, record.width)
            raise _broken(index, record, f"the image is {image.shape[:2]}, the record says {said}")
        resize_crop(image, boxes[index, 0], config.antialias, out["image1"][index])
        if config.views == 1:
            out["image2"][index] = out["image1"][index]
        else:
            resize_crop(image, boxes[index, 1], config.antialias, out["image2"][index])


class BrokenRecord(Exception):
    """Record `index` of those given is damaged."""

    def __init__(self, index: int, what: str):
        super().__init__(what)
        self.index = index


def _broken(index: int, record: Parsed, what: str) -> BrokenRecord:
    return BrokenRecord(index, f" ({record.filename}): {what}")


def _what_is_wrong(record: Parsed, number: int) -> str:
    """Why a mask does not fill its picture, in words; the compiled loop says only that it does not."""
    try:
        rle.decode_counts(record.counts[number], record.height, record.width)
    except rle.RleError as error:
        return f"mask {number}: {error}"
    return f"mask {number}: its runs do not fill the image"
