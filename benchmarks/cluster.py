"""What a build costs on a cluster, by calculation: hours, stragglers, retries and dollars for ImageNet on 10 to 1,000 workers.

    python -m benchmarks.cluster --seconds-per-image 0.1

Images take log-normal times, parts are dealt to whichever core is free, a share of parts is lost half-way (a preempted
machine) and built again. Nothing is measured here: give the seconds that `maskmill plan` measured on your data.
"""

import argparse
import heapq

import numpy as np

CORES = 4  # n2-standard-4
DOLLARS_PER_CORE_HOUR = 0.056 + 4 * 0.0036 + 0.003  # Dataflow batch list price: core, 4 GB of memory, 12.5 GB of disk


def makespan(
    parts: np.ndarray, cores: int, lost: float, start_s: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Seconds until the last part is done, and core-seconds worked.

    Args:
        parts: seconds of each part.
        cores: how many parts are built at once.
        lost: share of parts that are lost half-way and built again.
        start_s: seconds until a core takes its first part: machine, image, kernels.
        rng: for the losses.
    """
    free = [start_s] * cores
    worked = 0.0
    for seconds in parts:
        begin = heapq.heappop(free)
        spent = seconds * (1.5 if rng.random() < lost else 1.0)
        worked += spent
        heapq.heappush(free, begin + spent)
    return max(free), worked


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, default=1_331_167, metavar="N", help="default: ImageNet, train and validation"
    )
    parser.add_argument("--seconds-per-image", type=float, default=0.1, metavar="S", help="mean, on one core")
    parser.add_argument("--spread", type=float, default=0.8, help="standard deviation of log seconds of an image")
    parser.add_argument("--lost", type=float, default=0.01, help="share of parts built twice")
    parser.add_argument("--start", type=float, default=180.0, help="seconds until a worker begins")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    images = rng.lognormal(-(args.spread**2) / 2, args.spread, args.images) * args.seconds_per_image
    print(f"{args.images:,} images, {images.sum() / 3600:.1f} core-hours; longest image {images.max():.1f} s")
    print("workers  cores  part   parts  minutes  of them ideal  idle core-hours  dollars")
    for workers in (10, 100, 1000):
        for size in (32, 128, 512):
            parts = np.add.reduceat(images, np.arange(0, len(images), size))
            cores = workers * CORES
            wall, worked = makespan(parts, cores, args.lost, args.start, rng)
            paid = wall * cores / 3600
            ideal = args.start + images.sum() / cores
            print(
                f"{workers:7,} {cores:6,} {size:5} {len(parts):7,} {wall / 60:8.1f} {ideal / 60:14.1f} "
                f"{paid - worked / 3600:16.1f} {paid * DOLLARS_PER_CORE_HOUR:8.2f}"
            )


if __name__ == "__main__":
    main()
