"""Progress from sidecars, in words people use."""

import pytest
from drawn import write_coco

from maskmill.pipelines.driver.build import build
from maskmill.pipelines.driver.progress import Tally, amount, duration
from maskmill.pipelines.parts.config import BuildConfig, RunOptions
from maskmill.pipelines.parts.plan import load_plan


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45, "45 s"),
        (119.6, "120 s"),
        (150, "2.5 min"),
        (3000, "50 min"),
        (9000, "2.5 h"),
        (180_000, "2.1 d"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_amounts():
    assert [amount(n, "shard") for n in (0, 1, 1024)] == ["0 shards", "1 shard", "1,024 shards"]


def test_the_tally_counts_each_sidecar_once_and_only_of_this_plan(tmp_path):
    images, annotations = write_coco(tmp_path / "data", 10)
    config = BuildConfig("coco", images, ("grid(n=2)",), annotations=annotations)
    out = tmp_path / "out"
    build(config, str(out), RunOptions(workers=0, part_size=3), quiet=True)
    tally = Tally(str(out), load_plan(str(out)))
    for _ in range(2):
        tally.refresh()
        assert (tally.done, tally.failed, tally.total, tally.parts) == (10, 0, 10, 4)
    (out / "_work" / "parts" / "99999-00000.json").write_text('{"plan_digest": "another", "images": 5}')
    (out / "_work" / "parts" / "99999-00001.json").write_text("torn")
    tally.refresh()
    assert tally.done == 10
