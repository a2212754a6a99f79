"""The trainer's input on this machine, per core: bare decode and two crops beside the whole pipeline, in one run.

    python -m benchmarks.input DATA [--layers fh-1000] [--size 224] [--masks 16] [--seconds 5]

DATA is a build's folder with images in its shards. The aim is 600 images/s/core on ImageNet, and nine tenths of bare.
"""

import argparse

from maskmill.training.bench import bench_input, table
from maskmill.training.config import DataConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a build's folder")
    parser.add_argument("--layers", default="fh-1000", help="names of layers, separated by commas")
    parser.add_argument("--size", type=int, default=224, help="side of a view, pixels")
    parser.add_argument("--masks", type=int, default=16, help="masks per view")
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU seconds per stage and round")
    given = parser.parse_args()
    config = DataConfig(layers=tuple(given.layers.split(",")), image_size=given.size, masks_per_view=given.masks)
    print(table(bench_input(given.data, config, seconds=given.seconds)))


if __name__ == "__main__":
    main()
