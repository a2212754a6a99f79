"""Decoding: the trainer's pixels, and a reason for every refusal."""

import io
import json
import struct
import zlib

import cv2
import numpy as np
import pytest
from nasty import NASTY
from PIL import Image

from maskmill.pipelines.reading.decode import decode_image, encode_png
from maskmill.schemas.errors import ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
SMOOTH = np.clip(np.add.outer(np.arange(40) * 3, np.arange(56) * 2)[..., None] + np.array([0, 40, 80]), 0, 255).astype(
    np.uint8
)


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tensorflow_pixels(picture) -> np.ndarray:
    """The trainer's decoding of the stored bytes."""
    tf = pytest.importorskip("tensorflow")
    if picture.format == "JPEG":
        return tf.io.decode_jpeg(picture.stored, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    return tf.io.decode_png(picture.stored, channels=3).numpy()


KINDS = {
    "jpeg": saved(Image.fromarray(SMOOTH), "JPEG"),
    "jpeg-progressive-444": saved(Image.fromarray(SMOOTH), "JPEG", progressive=True, subsampling=0),
    "jpeg-grey": saved(Image.fromarray(SMOOTH).convert("L"), "JPEG"),
    "jpeg-cmyk": saved(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"),
    "png": saved(Image.fromarray(PIXELS), "PNG"),
    "png-grey": saved(Image.fromarray(PIXELS).convert("L"), "PNG"),
    "png-1bit": saved(Image.fromarray(PIXELS).convert("1"), "PNG"),
    "png-palette": saved(Image.fromarray(PIXELS).quantize(16), "PNG"),
    "png-palette-transparent": saved(Image.fromarray(PIXELS).quantize(16), "PNG", transparency=3),
    "png-rgba": saved(Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]])), "PNG"),
    "png-la": saved(Image.fromarray(PIXELS).convert("LA"), "PNG"),
    "png-rgb-transparent": saved(Image.fromarray(PIXELS), "PNG", transparency=(1, 2, 3)),
    "png16-grey": saved(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257), "PNG"),
    "gif": saved(Image.fromarray(PIXELS).quantize(16), "GIF"),
    "webp": saved(Image.fromarray(PIXELS), "WEBP", lossless=True),
    "bmp": saved(Image.fromarray(PIXELS), "BMP"),
    "tiff": saved(Image.fromarray(PIXELS), "TIFF"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_trainer_decodes_the_same_pixels(kind):
    picture = decode_image(KINDS[kind])
    assert picture.image.dtype == np.uint8
    assert picture.image.shape[2] == 3
    assert np.array_equal(tensorflow_pixels(picture), picture.image)
    kept = kind.startswith("png") or (kind.startswith("jpeg") and "cmyk" not in kind)
    assert (picture.stored == KINDS[kind]) == kept
    assert bool(picture.note) != kept


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "tiff"])
def test_lossless_files_keep_their_pixels(kind):
    assert np.array_equal(decode_image(KINDS[kind]).image, PIXELS)


def test_tensorflows_default_idct_is_not_ours():
    """The control: with its default, 'the same pixels' would be false, and so would the masks."""
    tf = pytest.importorskip("tensorflow")
    data = saved(Image.fromarray(PIXELS).resize((200, 150)), "JPEG", quality=80)
    assert not np.array_equal(tf.io.decode_jpeg(data, channels=3).numpy(), decode_image(data).image)


@pytest.mark.parametrize("orientation", range(9))
def test_exif_orientation_is_ignored(orientation):
    image = Image.fromarray(SMOOTH)
    exif = image.getexif()
    exif[0x0112] = orientation
    picture = decode_image(saved(image, "JPEG", exif=exif))
    assert picture.image.shape == SMOOTH.shape
    assert np.array_equal(tensorflow_pixels(picture), picture.image)


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (b"", "empty_file", "empty"),
        (b"hello, this is no picture at all", "not_an_image", "not that of any known picture format"),
        (png_header(60_000, 60_000), "too_large", r"60000 x 60000 = 3600000000 pixels, the limit is 50000000"),
        (png_header(0, 5), "decode_error", "0 x 5 pixels"),
        (png_header(5, 5), "truncated", "ends before its picture data"),
        (KINDS["png"][:-30], "truncated", "runcated"),
        (KINDS["jpeg"][:-90], "truncated", "runcated"),
        (KINDS["jpeg"][:3], "truncated", "ends before its picture data"),
        (KINDS["gif"][:9], "decode_error", "broken header"),
        (saved(Image.fromarray(PIXELS), "PCX"), "unsupported_format", "PCX pictures are not supported"),
    ],
)
def test_refusals_have_the_right_reason_and_words(data, reason, message):
    with pytest.raises(ImageError, match=message) as caught:
        decode_image(data)
    assert caught.value.reason == reason
    assert caught.value.stage == "decode"


def test_a_jpeg_with_a_reserved_marker_in_its_scan_is_not_trusted():
    data = bytearray(saved(Image.fromarray(PIXELS).resize((300, 200)), "JPEG"))
    at = data.index(b"\xff\xda") + 400
    data[at : at + 2] = b"\xff\xf7"
    with pytest.raises(ImageError) as caught:
        decode_image(bytes(data))
    assert caught.value.reason in ("decode_error", "truncated")


def test_the_pixel_limit_is_the_callers():
    assert decode_image(KINDS["png"], max_pixels=13 * 17).image.shape == PIXELS.shape
    with pytest.raises(ImageError, match="the limit is 220"):
        decode_image(KINDS["png"], max_pixels=220)


def test_random_damage_never_raises_anything_else():
    rng = np.random.default_rng(7)
    for data in KINDS.values():
        for _ in range(60):
            bad = bytearray(data)
            for _ in range(rng.integers(1, 6)):
                bad[rng.integers(0, len(bad))] = rng.integers(0, 256)
            try:
                picture = decode_image(bytes(bad[: rng.integers(1, len(bad) + 1)]))
            except ImageError:
                continue
            assert picture.image.ndim == 3


def test_png_encoding_is_lossless_and_repeatable():
    assert encode_png(PIXELS) == encode_png(PIXELS)
    assert np.array_equal(cv2.imdecode(np.frombuffer(encode_png(PIXELS), np.uint8), cv2.IMREAD_COLOR_RGB), PIXELS)


def test_every_nasty_file_decodes_or_is_refused_rightly(test_data):
    listed = {f["file"] for f in json.loads((test_data / "nasty" / "manifest.json").read_text())["files"]}
    found = {}
    for path in sorted((test_data / "nasty" / "images").iterdir()):
        try:
            picture = decode_image(path.read_bytes())
        except ImageError as error:
            found[path.name] = error.reason if str(error) else "without words"
        else:
            assert np.array_equal(tensorflow_pixels(picture), picture.image), path.name
    assert found == NASTY
    assert len(listed) == 43
