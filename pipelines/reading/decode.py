"""File bytes to pixels: the one decoder of every build and every audit.

OpenCV decodes, EXIF orientation is ignored, the result is RGB. What a file is, is decided by its content. The header is
read first (Pillow reads it without decoding), so a picture over the pixel limit is refused before any memory is taken.

The trainer decodes the stored bytes in the same way, and others may with other libraries. Integer-accurate decoders give the
same pixels for a sound JPEG with one or three components and for PNG; everything else is stored as lossless PNG instead of its
original bytes. That holds for damaged JPEGs too: decoders differ in what they make of broken data.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import warnings
import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from maskmill.pipelines.reading.decoder_warnings import overhear
from maskmill.schemas.errors import ImageError
from maskmill.schemas.manifest import MAX_PIXELS  # FH takes about 0.1 s per megapixel and 100 bytes per pixel

if TYPE_CHECKING:
    from jaxtyping import UInt8

DECODER = f"opencv {cv2.__version__} IMREAD_COLOR_RGB|IMREAD_IGNORE_ORIENTATION"

_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# Formats that OpenCV's wheels decode; others are refused by name rather than by a failed attempt.
_SUPPORTED = {"JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "DIB", "PPM", "TIFF", "JPEG2000", "AVIF"}
# In entropy-coded data, 0xFF is followed by 0 (a stuffed byte), a restart marker or a fill byte; anything else is a marker.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_END, _SCAN = 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
_RESERVED = {0x01, *range(0x02, 0xC0), 0xC8, *range(0xF0, 0xFE)}  # markers that no decoder of ours knows
_REMARKS = {*range(0xE0, 0xF0), 0xFE}  # of applications, and comments: decoders pass over them wherever they are


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: uint8[height, width, 3], RGB.
        stored: the bytes to store: the original ones, or a lossless PNG of `image`.
        format: of `stored`, "JPEG" or "PNG".
        note: "" or why the bytes were re-encoded: a key of the manifest's `decoder` counters.
    """

    image: np.ndarray
    stored: bytes
    format: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says of itself: format and mode in Pillow's words, width and height in pixels."""

    format: str
    mode: str
    width: int
    height: int


def _png_header(data: bytes) -> Header | None:
    """PNG's own header, read directly: Pillow also reads text chunks and refuses files for what those hold."""
    if len(data) < 26 or data[12:16] != b"IHDR":
        return None
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    return Header("PNG", f"{depth} bit, colour type {colour}", width, height)


def read_header(data: bytes, max_pixels: int) -> Header:
    """Format and size without decoding.

    Raises:
        ImageError: empty_file, not_an_image, truncated, unsupported_format or too_large.
    """
    if not data:
        raise ImageError("empty_file", "decode", "the file is empty")
    header = _png_header(data) if data.startswith(_PNG) else None
    if header is None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of what we refuse just below
                with Image.open(io.BytesIO(data)) as image:
                    header = Header(image.format or "?", image.mode, *image.size)
        except Image.DecompressionBombError as error:
            raise ImageError(
                "too_large", "decode", f"over {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, the limit is {max_pixels}"
            ) from error
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, struct.error) as error:
            raise _unopenable(data, error) from error
    if header.width < 1 or header.height < 1:
        raise ImageError("decode_error", "decode", f"the header says {header.width} x {header.height} pixels")
    if header.width * header.height > max_pixels:
        raise ImageError(
            "too_large",
            "decode",
            f"{header.width} x {header.height} = {header.width * header.height} pixels, the limit is {max_pixels}; "
            "raise it with --max-pixels",
        )
    if header.format not in _SUPPORTED:
        raise ImageError("unsupported_format", "decode", f"{header.format} pictures are not supported")
    return header


def _unopenable(data: bytes, error: Exception) -> ImageError:
    """Why a file whose header Pillow cannot read gave no picture."""
    if data.startswith(_JPEG[:2]):
        if any(data.find(bytes((0xFF, sof))) >= 0 for sof in (0xC3, 0xC7, 0xCB, 0xCF)) and b"\xff\xda" in data:
            return ImageError("unsupported_format", "decode", "lossless JPEG is not supported")
        if b"\xff\xda" not in data:
            return ImageError("truncated", "decode", "the JPEG ends before its picture data")
        return ImageError("decode_error", "decode", "the JPEG's header is broken (no usable frame size)")
    if data.startswith(_PNG):
        return ImageError("decode_error", "decode", "the PNG's header is broken")
    if data[:4] in (b"GIF8", b"RIFF", b"II*\0", b"MM\0*"):
        return ImageError("decode_error", "decode", f"broken header: {error}")
    return ImageError("not_an_image", "decode", "the content is not that of any known picture format")


def _verdict(data: bytes) -> ImageError | None:
    """A second opinion, Pillow's, on data that OpenCV refused or that looks damaged; None when Pillow can decode it."""
    if data.startswith(_PNG) and b"IDAT" not in data:
        return ImageError("truncated", "decode", "the PNG ends before its picture data")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                image.load()
    except (OSError, ValueError, SyntaxError, IndexError, struct.error, Image.DecompressionBombError) as error:
        reason = "truncated" if "truncated" in str(error).lower() else "decode_error"
        return ImageError(reason, "decode", str(error))
    return None


def _check_png(data: bytes) -> bool:
    """Walks over a PNG's chunks, before anything is decoded.

    Returns:
        Whether all have the CRC-32 that they state, up to an end chunk. Decoders differ in which wrong ones they forgive.

    Raises:
        ImageError: truncated or decode_error, a chunk is longer than the rest of the file. OpenCV would take memory for all
            that a length states, up to 4 GB for a file of 200 bytes.
    """
    at, sound = len(_PNG), True
    while at + 8 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            if not kind.isalpha():
                raise ImageError("decode_error", "decode", f"there is no chunk at byte {at} of the PNG")
            raise ImageError("truncated", "decode", f"the PNG ends inside its chunk at byte {at}")
        sound &= zlib.crc32(memoryview(data)[at + 4 : end]) == int.from_bytes(data[end : end + 4], "big")
        if kind == b"IEND":
            return sound
        at = end + 4
    return False


def _looks_damaged(data: bytes) -> bool:
    """Whether a JPEG that OpenCV decoded may be damaged: a walk over its markers that does not arrive at the end marker,
    meets a second frame, or after a scan that was the whole picture anything but remarks and the end.

    OpenCV has its pixels by then and looks no further; decoders that read on to the end refuse what they find there. The
    walk costs microseconds and finds what libjpeg skips without a warning; what it suspects, `_verdict` decides.
    """
    at, components, framed, whole = 2, b"", False, False
    while (found := _NEXT_MARKER.search(data, at)) is not None:
        marker, at = data[found.end() - 1], found.end()
        if marker == _END:
            return False
        if marker in _RESERVED or (whole and marker not in _REMARKS) or (framed and marker in _FRAMES):
            return True
        if marker in _FRAMES:
            framed = True
            components = b"" if marker in _PROGRESSIVE else data[at + 7 : at + 8]
        elif marker == _SCAN:
            whole = data[at + 2 : at + 3] == components
        at += int.from_bytes(data[at : at + 2], "big")  # past the segment; a scan's data follow its header
    return True


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Bytes of a picture file to pixels.

    Args:
        data: the file's bytes, trusted in nothing.
        max_pixels: pictures with more are refused before decoding.

    Returns:
        The picture; of animations the first frame.

    Raises:
        ImageError: with one of the reasons of `read_header`, truncated or decode_error.
    """
    header = read_header(data, max_pixels)
    sound_png = header.format == "PNG" and _check_png(data)
    try:
        image, warning = overhear(lambda: cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS))
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        raise ImageError("decode_error", "decode", f"OpenCV: {str(error).strip().splitlines()[-1]}") from error
    if image is None:
        raise _verdict(data) or ImageError("decode_error", "decode", f"OpenCV cannot decode this {header.format}")
    if image.shape[:2] != (header.height, header.width):
        raise ImageError(
            "decode_error",
            "decode",
            f"the header says {header.width} x {header.height}, the picture has {image.shape[1]} x {image.shape[0]}",
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ImageError("decode_error", "decode", f"decoded to {image.dtype}{image.shape}, not RGB bytes")
    if header.format in ("JPEG", "MPO"):
        damaged = bool(warning) or _looks_damaged(data)
        if damaged and (verdict := _verdict(data)):
            raise verdict
        if header.mode in ("L", "RGB") and not damaged:
            return Picture(image, data, "JPEG")
        note = "damaged_jpeg" if damaged else f"{header.mode.lower()}_jpeg"
    elif header.format == "PNG":
        if sound_png:
            return Picture(image, data, "PNG")
        if verdict := _verdict(data):
            raise verdict
        note = "damaged_png"
    else:
        note = header.format.lower()
    return Picture(image, encode_png(image), "PNG", note)


def encode_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """uint8[height, width, 3] RGB to lossless PNG bytes, the same for the same pixels and OpenCV version."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_PNG_COMPRESSION, 6))
    if not done:
        raise ImageError("encode_error", "encode", f"OpenCV cannot encode a PNG of {image.shape}")
    return data.tobytes()
