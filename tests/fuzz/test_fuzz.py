"""Every target of the fuzzer on its seeds and a few hundred damaged ones; `make fuzz` goes on from there."""

import gzip
import random

import pytest
from fuzz_readers import READERS
from fuzz_targets import TARGETS, decode_example, parse_manifest, rle
from mutants import mutate

from maskmill.pipelines.folding.fold import Fold


@pytest.mark.parametrize("name", TARGETS)
def test_no_promise_is_broken(name):
    target, rng = TARGETS[name], random.Random(11)
    if name == "image":
        pytest.importorskip("tensorflow")
    seeds = target.seeds()
    for data in seeds:
        target.check(data)
    for _ in range(60 if name in READERS else 400):
        target.check(mutate(rng.choice(seeds), rng))


def test_seeds_are_sound():
    """The control: checks of inputs that are all refused at once would find nothing."""
    assert decode_example(TARGETS["example"].seeds()[0], 1).masks
    assert parse_manifest(TARGETS["manifest"].seeds()[0], "seed").layers
    assert all(Fold.from_bytes(gzip.compress(seed) if seed[:1] == b"{" else seed) for seed in TARGETS["fold"].seeds())
    for seed in TARGETS["rle"].seeds():
        assert rle.decode_counts(seed[2:], seed[0] + 1, seed[1] + 1).size
