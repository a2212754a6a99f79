"""Decoding: the trainer's pixels, and a reason for every refusal."""

import io
import json
import os
import resource
import struct
import subprocess
import sys
import threading
import zlib

import cv2
import decoders
import numpy as np
import pytest
from decoders import compare
from nasty import NASTY
from PIL import Image

from maskmill.pipelines.reading import decode
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
    """Another library's decoding of the stored bytes."""
    pytest.importorskip("tensorflow")
    return decoders.tensorflow(picture)


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
        (KINDS["png"][:-30], "truncated", "the PNG ends inside its chunk at byte 33"),
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
                picture = decode_image(bytes(bad[: rng.integers(1, len(bad) + 1)]), max_pixels=2_000_000)
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


def test_a_damaged_picture_is_seen_alike_or_refused():
    tally = compare(1500)
    assert tally.taken > 300
    assert tally.reencoded > 100
    assert tally.disagreements == []


def test_without_looking_for_damage_it_is_not(monkeypatch):
    """The control."""
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(decode, "overhear", lambda call: (call(), ""))
    monkeypatch.setattr(decode, "_looks_damaged", lambda data: False)
    monkeypatch.setattr(decode, "_check_png", lambda data: True)
    assert compare(2000).disagreements


@pytest.mark.parametrize(("marker", "taken"), [(0xC0, False), (0xDA, False), (0xC4, True), (0xDB, True), (0xDD, True)])
def test_a_jpeg_with_more_than_remarks_behind_its_picture_is_never_stored_as_it_came(marker, taken):
    """A frame, a scan or a table: libjpeg, as OpenCV calls it, has the picture before it comes there, and says nothing."""
    data = KINDS["jpeg"]
    at = data.find(bytes((0xFF, marker)))
    segment = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")] if at >= 0 else b"\xff\xdd\0\x04\0\x07"
    data = data[:-2] + segment + data[-2:]
    if not taken:
        with pytest.raises(ImageError, match="broken data stream"):
            decode.decode_image(data)
        return
    picture = decode.decode_image(data)
    assert (picture.format, picture.note) == ("PNG", "damaged_jpeg")
    assert np.array_equal(tensorflow_pixels(picture), picture.image)


def test_a_jpeg_with_remarks_behind_its_picture_is_stored_as_it_came():
    remarks = b"\xff\xfe\0\x07hello" + b"\xff\xe5\0\x04ab"
    data = KINDS["jpeg"][:-2] + remarks + KINDS["jpeg"][-2:]
    picture = decode.decode_image(data)
    assert (picture.stored, picture.note) == (data, "")
    assert np.array_equal(tensorflow_pixels(picture), picture.image)


def warned() -> bytes:
    """A JPEG with bytes too many in its scan, all else in order: Pillow decodes it, and libjpeg warns."""
    data = bytearray(saved(Image.fromarray(PIXELS).resize((64, 48)), "JPEG"))
    data[-2:-2] = bytes(range(1, 40))
    return bytes(data)


def test_a_jpeg_that_libjpeg_warns_of_is_stored_as_the_pixels_that_were_used(capfd):
    picture = decode_image(warned())
    assert (picture.format, picture.note) == ("PNG", "damaged_jpeg")
    assert np.array_equal(cv2.imdecode(np.frombuffer(picture.stored, np.uint8), cv2.IMREAD_COLOR_RGB), picture.image)


def test_a_png_with_a_wrong_checksum_is_stored_anew():
    data = bytearray(KINDS["png"])
    data[-1] ^= 1  # of the end chunk, which OpenCV forgives and TensorFlow does not
    picture = decode_image(bytes(data))
    assert (picture.format, picture.note) == ("PNG", "damaged_png")
    assert np.array_equal(tensorflow_pixels(picture), PIXELS)


def test_a_second_scan_of_a_whole_picture_is_damage():
    """TensorFlow refuses it: libjpeg does, where it is asked whether the picture ended well."""
    data = KINDS["jpeg"]
    scan = data[data.index(b"\xff\xda") : -2]
    with pytest.raises(ImageError):  # by the second opinion as well
        decode_image(data[:-2] + scan + data[-2:])


def test_a_chunk_longer_than_its_file_takes_no_memory():
    data = bytearray(KINDS["png-grey"])
    at = data.index(b"IDAT") - 4
    data[at : at + 4] = b"\xf5\0\0\0"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImageError, match=f"the PNG ends inside its chunk at byte {at}") as caught:
        decode_image(bytes(data))
    assert caught.value.reason == "truncated"
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000
    )  # kB; of the 4 GB that the chunk states


_LISTENER = r"""
import os, sys, threading, time
from maskmill.pipelines.reading.decode import decode_image
if sys.argv[1] == "closed":
    os.close(2)
data, sound = sys.stdin.buffer.read().split(b"SPLIT")
stop = threading.Event()
def chatter():
    while not stop.is_set():
        os.write(2, b"Corrupting nothing\n")
        time.sleep(0.0005)
if sys.argv[1] == "chatter":
    threading.Thread(target=chatter).start()
notes = [(decode_image(data).note, decode_image(sound).note) for _ in range(50)]
stop.set()
print(set(notes))
"""


@pytest.mark.parametrize("kind", ["pipe", "file", "write-only", "closed", "chatter"])
def test_warnings_are_heard_whatever_stderr_is_and_whoever_else_speaks(kind, tmp_path):
    mode = "wb" if kind == "write-only" else "w+b"
    with open(tmp_path / "stderr", mode) as file:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _LISTENER, kind],
            input=warned() + b"SPLIT" + KINDS["jpeg"],
            stdout=subprocess.PIPE,
            stderr=file if kind in ("file", "write-only") else subprocess.PIPE,
            timeout=120,
        )
    assert done.stdout.decode().strip() == "{('damaged_jpeg', '')}"
    if kind in ("pipe", "write-only", "closed"):
        assert not done.stderr
        assert kind != "write-only" or not (tmp_path / "stderr").read_bytes()
    if kind == "chatter":
        assert set(done.stderr.splitlines()) == {b"Corrupting nothing"}


def test_threads_do_not_hear_one_anothers_warnings():
    data, notes = warned(), []

    def work(picture: bytes, note: str) -> None:
        notes.extend(decode_image(picture).note == note for _ in range(40))

    threads = [threading.Thread(target=work, args=pair) for pair in ((data, "damaged_jpeg"), (KINDS["jpeg"], "")) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert notes == [True] * 160


def test_no_sound_picture_is_stored_anew(test_data):
    """Real photographs: warnings do not change what is stored of any of them."""
    found = [path for kind in ("coco", "imagenet", "bsds500") for path in (test_data / kind).rglob("*.[jJ][pP]*[gG]")]
    assert len(found) > 500
    for path in found[:: 1 if os.environ.get("MASKMILL_REPEATS") else 5]:
        assert decode_image(path.read_bytes()).note == "", path
