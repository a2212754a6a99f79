"""COCO run-length encoding, the one form in which masks are stored.

A mask of h x w pixels is read in *column-major* order (down the first column, then the second ...) and described by the
lengths of its runs, which alternate and begin with zeros (so a mask whose first pixel is set starts with a run of 0).
The runs sum to h * w. In *compressed* form each run is one little-endian base-32 varint, written as ASCII characters
from 48 up: 5 data bits, one continuation bit (32), the last group's bit 16 being the sign. From the fourth run on, the
*difference* to the run two places before is written, because neighbouring columns look alike.

    [6, 1, 40, 4, 5, 4, 5, 4, 21]  (runs)   <->   b"61X13mN000`0"  (compressed)

Everything read from outside goes through `decode_counts`, in pure NumPy, before any C code sees it: pycocotools 2.0.11
reads uninitialised memory when runs do not fill the picture, crashes on absurd sizes and can hang on malformed strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64, Integer, Shaped, UInt8

# 2**31 pixels is far beyond what any decoder here accepts; it keeps every sum in range of int64 and of pycocotools' uint32.
MAX_PIXELS = 2**31 - 1
_BLOCK = 1 << 20  # codes, or runs, that are worked on at once
_GROUPS = 7  # of a number, which hold 35 bits; a run has at most 31 and a difference 32


class RleError(ValueError):
    """Runs that do not describe a mask of the stated size."""


def check_runs(runs: np.ndarray, height: int, width: int) -> Int64[np.ndarray, " runs"]:
    """Checks that runs describe an h x w mask.

    Args:
        runs: integers, any shape-1 sequence; alternating zeros and ones, zeros first.
        height, width: pixels, each at least 1, product at most `MAX_PIXELS`.

    Returns:
        The runs as int64[n], n >= 1.

    Raises:
        RleError: not one-dimensional integers, a negative run, or a sum other than height * width.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise RleError(f"mask size {height} x {width} is outside 1 .. {MAX_PIXELS} pixels")
    values = np.asarray(runs)
    if values.ndim != 1 or values.size == 0:
        raise RleError(f"runs must be a non-empty flat list, got shape {values.shape}")
    if values.dtype.kind not in "iu":
        raise RleError(f"runs must be integers, got {values.dtype}")
    # uint64 beyond int64 would wrap to negative and be caught just below; object arrays (huge Python ints) fail above.
    values = values.astype(np.int64, copy=False)
    if values.min() < 0:
        raise RleError(f"run {int(values.argmin())} is negative ({int(values.min())})")
    if values.max() > height * width or int(values.sum()) != height * width:
        raise RleError(f"runs sum to {int(values.sum())}, but {height} x {width} has {height * width} pixels")
    return values


def decode_counts(counts: bytes, height: int, width: int) -> Int64[np.ndarray, " runs"]:
    """Compressed counts to runs, trusting nothing.

    Args:
        counts: compressed COCO counts, ASCII.
        height, width: the mask's size in pixels.

    Returns:
        Runs, int64[n], alternating zeros and ones from zeros, summing to height * width.

    Raises:
        RleError: a character outside 48..111, an unfinished or overlong number, or what `check_runs` refuses.
    """
    if not isinstance(counts, bytes | bytearray | memoryview):
        raise RleError(f"compressed counts must be bytes, got {type(counts).__name__}")
    if len(counts) > _GROUPS * (height * width + 1):  # before any array is made of it
        raise RleError(f"compressed counts of {len(counts)} bytes are longer than any mask of {height} x {width} needs")
    codes = np.frombuffer(counts, np.uint8)
    if codes.size == 0:
        raise RleError("compressed counts are empty")
    codes = codes - np.uint8(48)  # what is below 48 wraps to above 63
    if codes.max() > 63:
        bad = int(np.argmax(codes > 63))
        raise RleError(f"byte {bad} of the compressed counts is {counts[bad]}, outside 48..111")
    if codes[-1] & 32:
        raise RleError("compressed counts end in the middle of a number")
    values = _numbers(codes) if codes.size <= _BLOCK else _by_blocks(codes)
    # Undo the differences: runs 1, 3, 5, ... and 2, 4, 6, ... are two independent running sums (run 0 stands alone).
    np.cumsum(values[1::2], out=values[1::2])
    np.cumsum(values[2::2], out=values[2::2])
    return check_runs(values, height, width)


def _by_blocks(codes: UInt8[np.ndarray, " codes"]) -> Int64[np.ndarray, " numbers"]:
    """`_numbers`, of so many codes at a time that its arrays, which are sixty times as large, stay small."""
    values = np.empty(np.count_nonzero(codes & 32 == 0), np.int64)
    begin = at = 0
    while begin < codes.size:
        block = codes[begin : begin + _BLOCK]
        ends = np.flatnonzero(block & 32 == 0)
        if not ends.size:
            raise RleError(f"a number of {_BLOCK} groups or more is longer than any run")
        values[at : at + ends.size] = _numbers(block[: ends[-1] + 1])
        begin, at = begin + int(ends[-1]) + 1, at + ends.size
    return values


def _numbers(codes: UInt8[np.ndarray, " codes"]) -> Int64[np.ndarray, " numbers"]:
    """Groups of five bits, the last one of them whole, to the numbers that they make."""
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > _GROUPS:
        raise RleError(f"a number of {int(lengths.max())} groups is longer than any run")
    place = np.arange(codes.size) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 31).astype(np.int64) << (5 * place), starts)
    negative = (codes[ends] & 16) != 0
    values[negative] -= np.int64(1) << (5 * lengths[negative])
    return values


def encode_runs(runs: Integer[np.ndarray, " runs"]) -> bytes:
    """Runs to compressed counts, byte for byte what pycocotools writes.

    Args:
        runs: int64[n], n >= 1, non-negative (see `check_runs`, which the caller has applied).

    Returns:
        Compressed counts, ASCII.
    """
    values = np.array(runs, np.int64)
    values[3:] = values[3:] - np.asarray(runs, np.int64)[1:-2]
    pieces = bytearray()
    for begin in range(0, values.size, _BLOCK):
        for value in values[begin : begin + _BLOCK].tolist():
            more = True
            while more:
                code = value & 31
                value >>= 5
                more = value != (-1 if code & 16 else 0)
                pieces.append(48 + (code | 32 if more else code))
    return bytes(pieces)


def runs_to_mask(runs: np.ndarray, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
    """Draws runs as a picture: bool[height, width]. The runs are checked first."""
    runs = check_runs(runs, height, width)
    flat = np.repeat(np.arange(runs.size) & 1, runs).astype(bool)
    return flat.reshape(width, height).T


def mask_to_runs(mask: Shaped[np.ndarray, "height width"]) -> Int64[np.ndarray, " runs"]:
    """Runs of a picture bool[height, width]; int64[n], zeros first."""
    flat = np.asarray(mask, bool).T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    runs = np.diff(bounds)
    return np.concatenate(([0], runs)) if flat[0] else runs


def decode_mask(counts: bytes, height: int, width: int) -> Bool[np.ndarray, "{height} {width}"]:
    """Compressed counts to bool[height, width]; raises RleError as `decode_counts`."""
    return runs_to_mask(decode_counts(counts, height, width), height, width)


def encode_mask(mask: Shaped[np.ndarray, "height width"]) -> bytes:
    """A picture bool[height, width] to compressed counts."""
    return encode_runs(mask_to_runs(mask))


def area_of_runs(runs: Integer[np.ndarray, " runs"]) -> int:
    """Pixels set in the mask that `runs` describe."""
    return int(np.sum(runs[1::2]))


def box_of_runs(runs: Integer[np.ndarray, " runs"], height: int) -> tuple[int, int, int, int]:
    """The smallest box around a mask as COCO's (left, top, width, height) in pixels; zeros where the mask is empty."""
    ends = np.cumsum(runs)[1::2]
    starts = ends - runs[1::2]
    starts, ends = starts[starts < ends], ends[starts < ends] - 1
    if not starts.size:
        return 0, 0, 0, 0
    left, right = int(starts[0]) // height, int(ends[-1]) // height
    if (starts // height != ends // height).any():  # a run that goes on in the next column touches top and bottom
        return left, 0, right - left + 1, height
    top, bottom = int((starts % height).min()), int((ends % height).max())
    return left, top, right - left + 1, bottom - top + 1
