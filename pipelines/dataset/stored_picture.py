"""The picture that a record holds, checked against what the record says of it before anything is decoded.

A folder that came from elsewhere may hold a picture of a few kilobytes that fills a machine's memory. What bounds it is
the record's height and width, and these are bounded by the manifest (`check_size`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maskmill.pipelines.reading.decode import decode_image, read_header
from maskmill.schemas import rle
from maskmill.schemas.errors import DamageError, ImageError
from maskmill.schemas.example import ImageExample
from maskmill.schemas.manifest import Manifest

if TYPE_CHECKING:
    from jaxtyping import UInt8


def check_size(example: ImageExample, manifest: Manifest) -> None:
    """Refuses a record of more pixels than the build took. Raises DamageError."""
    if example.height < 1 or example.width < 1 or example.height * example.width > manifest.max_pixels:
        raise DamageError(
            f"{example.filename!r} has {example.width} x {example.height} pixels, of which the manifest allows 1 to "
            f"{manifest.max_pixels}"
        )


def check_picture(example: ImageExample) -> None:
    """Compares the header of a record's picture with the record; decodes nothing. Raises ImageError."""
    assert example.encoded is not None
    header = read_header(example.encoded, rle.MAX_PIXELS)
    if (header.height, header.width) != (example.height, example.width):
        raise ImageError(
            "size_mismatch",
            "decode",
            f"the stored picture has {header.width} x {header.height} pixels, its record says {example.width} x {example.height}",
        )
    stored = "JPEG" if header.format == "MPO" else header.format
    if stored != example.format:
        raise ImageError(
            "unsupported_format", "decode", f"the stored picture is {stored}, its record says {example.format}"
        )


def decode_picture(example: ImageExample) -> UInt8[np.ndarray, "{example.height} {example.width} 3"]:
    """A record's picture: uint8[height, width, 3], RGB.

    Raises:
        ImageError: it is not what the record says, or does not decode.
    """
    check_picture(example)
    assert example.encoded is not None
    return decode_image(example.encoded, max_pixels=example.height * example.width).image
