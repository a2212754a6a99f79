"""The trainer's input on this machine, per core: bare decode and two crops beside the whole pipeline, in one process.

    python -m benchmarks.input DATA [--layers fh-1000] [--size 224] [--masks 16] [--seconds 5]

DATA is a build's folder with images in its shards, or a folder of pictures, of which a build with the layer fh-1000 is
made first. "Bare" is the least that any input of two views must do: every picture decoded once by OpenCV and cropped
twice by our resize, nothing read, no masks. The stages take turns, twice, and the faster turn of each counts; rates are
of CPU time. The aims are 600 images/s/core on ImageNet's photographs with 16 masks, and nine tenths of bare.
"""

import argparse
import os
import tempfile

from maskmill.pipelines.commands.cli import main as maskmill
from maskmill.training.bench import bench_input, table
from maskmill.training.config import DataConfig

RATE, SHARE = 600, 0.9  # what is aimed at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a build's folder, or a folder of pictures")
    parser.add_argument("--layers", default="fh-1000", help="names of layers, separated by commas")
    parser.add_argument("--size", type=int, default=224, help="side of a view, pixels")
    parser.add_argument("--masks", type=int, default=16, help="masks per view")
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU seconds per stage and round")
    given = parser.parse_args()
    config = DataConfig(layers=tuple(given.layers.split(",")), image_size=given.size, masks_per_view=given.masks)
    with tempfile.TemporaryDirectory() as scratch:
        data = given.data
        if not os.path.exists(os.path.join(data, "manifest.json")):
            data = os.path.join(scratch, "build")
            words = ["build", "--dataset", "folder", "--images", given.data, "--masks", "fh(scales=(1000,))"]
            if code := maskmill([*words, "--num-shards", "4", "--out", data]):
                raise SystemExit(code)
        result = bench_input(data, config, seconds=given.seconds)
    share = result["per_core"] / result["bare_per_core"]
    print(table(result))
    print(f"aims: {result['per_core']:.0f} of {RATE} images/s/core, {share:.0%} of bare where {SHARE:.0%} is asked")


if __name__ == "__main__":
    main()
