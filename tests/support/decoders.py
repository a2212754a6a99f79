"""What becomes of damaged pictures: the builder's decoding beside the trainer's, and beside TensorFlow's where it is installed.

    python tests/support/decoders.py [--count 100000] [--seed 0] [--seconds 0]              (also: make mutants)

TensorFlow is no part of the trainer; it is another reader of the same records, with a libjpeg of its own.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import os
import random
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
from mutants import mutate, seeds

from maskmill.pipelines.reading.decode import Picture, decode_image
from maskmill.schemas.errors import ImageError
from maskmill.training import record

MAX_PIXELS = 2_000_000

Decoder = Callable[[Picture], np.ndarray | None]


@dataclasses.dataclass
class Tally:
    """What came of some damaged pictures.

    Attributes:
        tried, taken: how many there were, and how many of them the builder took.
        reencoded: of those taken, how many are stored as other bytes than they came in.
        disagreements: decoder and seed picture of each that a decoder refuses or sees otherwise.
    """

    tried: int = 0
    taken: int = 0
    reencoded: int = 0
    disagreements: list[str] = dataclasses.field(default_factory=list)


def trainer(picture: Picture) -> np.ndarray | None:
    """The trainer's decoding of the stored bytes."""
    return record.decode_image(picture.stored)


@functools.cache
def _tensorflow():
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    return tf


def tensorflow(picture: Picture) -> np.ndarray:
    """TensorFlow's decoding of the stored bytes, with the accurate IDCT."""
    tf = _tensorflow()
    if picture.format == "JPEG":
        return tf.io.decode_jpeg(picture.stored, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    return tf.io.decode_png(picture.stored, channels=3).numpy()


def decoders() -> dict[str, Decoder]:
    """Name -> decoder, of those that can be had here."""
    both: dict[str, Decoder] = {"trainer": trainer}
    if importlib.util.find_spec("tensorflow") is not None:
        both["tensorflow"] = tensorflow
    return both


def compare(count: int, seed: int = 0, seconds: float = 0.0) -> Tally:
    """Damages pictures `count` times, or for `seconds`, and compares what decoders make of those that the builder takes."""
    rng, sound, others = random.Random(seed), seeds(), decoders()
    names, tally = sorted(sound), Tally()
    end = time.monotonic() + seconds
    while tally.tried < count and not (seconds and time.monotonic() > end):
        name = rng.choice(names)
        data = mutate(sound[name], rng)
        tally.tried += 1
        try:
            picture = decode_image(data, MAX_PIXELS)
        except ImageError:
            continue
        tally.taken += 1
        tally.reencoded += bool(picture.note)
        for other, decode in others.items():
            try:
                seen = decode(picture)
            except Exception as error:
                tally.disagreements.append(f"{other}, {name}: {str(error)[:80]}")
                continue
            if seen is None:
                tally.disagreements.append(f"{other}, {name}: refused")
            elif not np.array_equal(seen, picture.image):
                tally.disagreements.append(f"{other}, {name}: other pixels")
    return tally


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps what libraries say of every broken picture off the terminal."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def main(argv: list[str] | None = None) -> int:
    """Returns 1 where decoders disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0, help="stop after so long (default: when all are done)")
    args = parser.parse_args(argv)
    begin = time.monotonic()
    with _silence():
        tally = compare(args.count, args.seed, args.seconds)
    print(
        f"seed {args.seed}: {tally.tried} damaged pictures, {tally.taken} taken, {tally.reencoded} of them stored as other "
        f"bytes; {len(tally.disagreements)} disagreements with {', '.join(decoders())}; {time.monotonic() - begin:.0f} s"
    )
    for line in tally.disagreements[:50]:
        print(line)
    return 1 if tally.disagreements or not tally.taken else 0


if __name__ == "__main__":
    sys.exit(main())
