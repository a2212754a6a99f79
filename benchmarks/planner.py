"""What planning costs: seconds and peak memory for a data set of the size of ImageNet, names only.

    python -m benchmarks.planner --images 1300000

The names are synthetic and stand for a listing of gs://; everything behind the listing is the real planner: sources,
order, parts, files. Loading the plan again and handing out its parts, as a driver does, is measured too.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from unittest import mock

from maskmill.pipelines.parts.config import BuildConfig
from maskmill.pipelines.parts.plan import load_plan, make_plan
from maskmill.pipelines.parts.plan_lines import read_part
from maskmill.pipelines.reading import folder, imagenet
from maskmill.pipelines.reading.location import Location

ROOT = "gs://bucket/ILSVRC2012/train"


def synthetic_tree(count: int) -> Iterator[tuple[str, Location]]:
    """`count` names in 1,000 synset folders, as `pipelines.reading.tree.list_tree` gives them."""
    for i in range(count):
        synset = f"n{1440764 + i % 1000 * 13:08d}"
        name = f"{synset}/{synset}_{i // 1000}.JPEG"
        yield name, Location(f"{ROOT}/{name}")


def peak_mb() -> float:
    """Peak resident memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    """Plans, loads and reads one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1_300_000, metavar="N", help="how many names")
    parser.add_argument("--dataset", choices=("imagenet", "folder"), default="imagenet")
    args = parser.parse_args()
    config = BuildConfig(args.dataset, ROOT, ("grid(n=5)",))
    before = peak_mb()
    with (
        tempfile.TemporaryDirectory() as out,
        mock.patch.object(imagenet, "list_tree", return_value=synthetic_tree(args.images)),
        mock.patch.object(folder, "list_tree", return_value=synthetic_tree(args.images)),
        mock.patch.object(imagenet.storage, "exists", lambda path: path.startswith(out)),
    ):
        start = time.perf_counter()
        plan = make_plan(config, out)
        made = time.perf_counter() - start
        peak = peak_mb()
        start = time.perf_counter()
        loaded = load_plan(out)
        assert loaded == plan
        reading = time.perf_counter() - start
        items = read_part(out, plan.tasks[len(plan.tasks) // 2])
    print(f"{plan.inputs:,} inputs, {plan.num_shards:,} shards, {len(plan.tasks):,} parts of up to {len(items)}")
    print(f"planning {made:.1f} s ({made / plan.inputs * 1e6:.1f} us an image), loading the plan {reading:.2f} s")
    print(f"peak memory {peak:.0f} MB, of it {before:.0f} MB before planning")


if __name__ == "__main__":
    main()
