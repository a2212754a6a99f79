"""Small pictures made by code, and what damage makes of them."""

import io
import random

import numpy as np
from PIL import Image


def seeds() -> dict[str, bytes]:
    """Sound JPEGs and PNGs of every kind that is stored as it came, name -> bytes; a few hundred bytes each."""
    rng = np.random.default_rng(0)
    slope = np.add.outer(np.arange(40) * 3, np.arange(56) * 2)[..., None] + np.array([0, 40, 80])
    photo = Image.fromarray(np.clip(slope + rng.normal(0, 12, slope.shape), 0, 255).astype(np.uint8))
    made: dict[str, bytes] = {}

    def save(name: str, image: Image.Image, **options) -> None:
        buffer = io.BytesIO()
        image.save(buffer, "PNG" if name.startswith("png") else "JPEG", **options)
        made[name] = buffer.getvalue()

    save("jpeg", photo, quality=75)
    save("jpeg-444", photo, quality=90, subsampling=0)
    save("jpeg-422", photo, quality=60, subsampling=1)
    save("jpeg-grey", photo.convert("L"), quality=75)
    save("jpeg-progressive", photo, quality=75, progressive=True)
    save("jpeg-restarts", photo, quality=75, restart_marker_blocks=2)
    save("jpeg-optimized", photo, quality=40, optimize=True)
    save("jpeg-exif-icc", photo, quality=50, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0", icc_profile=bytes(range(128)))
    save("png", photo)
    save("png-grey", photo.convert("L"))
    save("png-palette", photo.quantize(16))
    save("png-alpha", Image.merge("RGBA", (*photo.split(), photo.convert("L"))))
    save("png-1bit", photo.convert("1"))
    save("png-16bit", Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257))
    return made


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to three damages: flipped bits, bytes changed, inserted, removed or copied, a cut, or an edit of the header."""
    bad = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if len(bad) < 4:
            break
        at, kind = rng.randrange(len(bad)), rng.randrange(8)
        if kind <= 1:
            bad[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            bad[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))
        elif kind == 3:
            bad[at:at] = rng.randbytes(rng.choice((1, 2, 3, 8, 64)))
        elif kind == 4:
            del bad[at : at + rng.choice((1, 2, 3, 8, 64))]
        elif kind == 5:
            size = rng.randrange(1, 64)
            start = rng.randrange(len(bad))
            bad[at : at + size] = bad[start : start + size]
        elif kind == 6:
            del bad[at:]
        else:  # a JPEG marker's length or table, or PNG's chunk, near the front
            bad[rng.randrange(min(len(bad), 700))] = rng.randrange(256)
    return bytes(bad)
