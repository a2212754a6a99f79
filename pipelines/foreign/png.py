"""PNGs that hold labels, not colours: values as they are written, whatever the number of bits."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from maskmill.schemas.errors import ImageError

if TYPE_CHECKING:
    from jaxtyping import Int32

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _RGB, _PALETTE = 0, 2, 3  # colour types of PNG
_SPREAD = {2: 85, 4: 17}  # Pillow spreads grey of few bits over 0..255


def read_png(data: bytes, name: str, height: int, width: int) -> Int32[np.ndarray, "{height} {width}"]:
    """Labels of a PNG.

    Args:
        data: the file's bytes.
        name: of the file, for messages.
        height, width: of the picture that it must fit, pixels; checked before anything is decoded.

    Returns:
        int32[height, width]: grey values of 1 to 16 bits, indices of a palette, or red + 256 green + 65536 blue.

    Raises:
        ImageError: no PNG, of another size, damaged, or of a kind that holds no labels (transparency, 16-bit colours).
    """
    if data[:8] != _SIGNATURE or len(data) < 33:
        raise ImageError("not_an_image", "imported", f"{name} is not a PNG")
    columns, rows, bits, kind = struct.unpack(">IIBB", data[16:26])
    if (rows, columns) != (height, width):
        raise ImageError(
            "size_mismatch", "imported", f"{name} has {columns} x {rows} pixels, the picture has {width} x {height}"
        )
    if kind not in (_GREY, _RGB, _PALETTE) or (kind == _RGB and bits != 8):
        raise ImageError(
            "unsupported_format",
            "imported",
            f"{name} has transparency or colours of 16 bits; labels are grey, a palette, or colours of 8 bits",
        )
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError("decode_error", "imported", f"{name}: {error}") from error
    if kind == _RGB:
        return (pixels.astype(np.int32) << np.array([0, 8, 16], np.int32)).sum(axis=-1, dtype=np.int32)
    labels = pixels.astype(np.int32)
    return labels // _SPREAD[bits] if kind == _GREY and bits in _SPREAD else labels


def is_panoptic(data: bytes) -> bool:
    """Whether a PNG holds colours, of which 0 is panoptic's word for no segment."""
    return data[25:26] == bytes([_RGB])
