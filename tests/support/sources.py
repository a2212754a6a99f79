"""What the tests of all sources of many files ask: what is listed, what is read, and what a build makes of it."""

from collections.abc import Iterable

import numpy as np

from maskmill.pipelines.driver.build import build
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.reading.inputs import Input, Refusal
from maskmill.schemas.reader import Dataset

IN_PROCESS = RunOptions(workers=0, part_size=4, max_failure_rate=1.0)
GRID = ("grid(n=2)",)


def photo(seed: int, height: int = 24, width: int = 32) -> bytes:
    """A JPEG of noise: like a photograph it cannot be packed, so its size in a file is its own."""
    import cv2

    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def taken(source) -> dict[str, Input]:
    """The inputs of a source, by id; each comes back from its plan line as it went in."""
    inputs = [item for item in source.list_inputs() if isinstance(item, Input)]
    assert len({item.id for item in inputs}) == len(inputs)
    assert [Input.from_json(item.to_json()) for item in inputs] == inputs
    return {item.id: item for item in inputs}


def left(source) -> dict[str, tuple[str, str]]:
    """The lines of the ledger of a source, id -> (outcome, reason)."""
    lines = [item for item in source.list_inputs() if isinstance(item, Refusal)]
    assert len({line.id for line in lines}) == len(lines)
    return {line.id: (line.outcome, line.reason) for line in lines}


def built(config: BuildConfig, out) -> dict[str, tuple[bytes, int, str, str]]:
    """A build's records, id -> (picture, label, synset, name); asserts that everything is accounted for."""
    outcome = build(config, str(out), IN_PROCESS, quiet=True)
    dataset = Dataset.open(str(out))
    records = {e.filename: (e.encoded, e.label, e.synset, e.text) for e in dataset}
    assert outcome.manifest is not None
    assert outcome.manifest.num_records == len(records)
    return records


def flattened(listed: Iterable) -> list:
    """Of a listing shard by shard."""
    return [item for _, items in listed for item in items]
