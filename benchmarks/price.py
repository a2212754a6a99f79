"""What builds cost on a cluster, by simulation: the table of docs/cloud.md.

    python -m benchmarks.price                                        ImageNet and 100 million images; FH, MCG and both
    python -m benchmarks.price --images 118287 --seconds-per-image 0.5

`pipelines.clusters.price` simulates; here jobs are run a few times each, with and without what goes wrong, and printed.
"""

import argparse
import statistics

from maskmill.pipelines.clusters.price import NONE, Cloud, Outcome, Trouble, Work, simulate
from maskmill.pipelines.parts.plan import images_per_part

IMAGENET, MANY = 1_331_167, 100_000_000
# CPU seconds of an image on a quiet core: FH at three scales on ImageNet's pictures, MCG on COCO's.
MASKS = {"FH": 0.0148, "MCG": 0.53, "FH and MCG": 0.5448}
WORKERS = (10, 100, 1000)
GROWTH = 10  # workers more a minute, in the column of a job that begins with one


def duration(seconds: float) -> str:
    """Seconds to two digits: 3.1 min, 33 min, 5.0 h, 16 d."""
    for limit, unit, size in ((7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.1f} d" if seconds < 864000 else f"{seconds / 86400:.0f} d"


def dollars(amount: float) -> str:
    """To two digits below a hundred: $0.55, $15, $1,130."""
    return f"${amount:.2f}" if amount < 10 else f"${amount:,.0f}" if amount < 1000 else f"${round(amount, -1):,.0f}"


def typical(work: Work, cloud: Cloud, trouble: Trouble, runs: int) -> Outcome:
    """The run of the median time."""
    outcomes = [simulate(work, cloud, trouble, seed) for seed in range(runs)]
    return sorted(outcomes, key=lambda outcome: outcome.wall_s)[(runs - 1) // 2]


def row(name: str, work: Work, trouble: Trouble, start_s: float, runs: int) -> str:
    """A line of the table: time and dollars by number of workers; at a hundred, if they come slowly, and what trouble costs."""
    cells = []
    for machines in WORKERS:
        outcome = typical(work, Cloud(machines, start_s=start_s), trouble, runs)
        cells.append(f"{duration(outcome.wall_s)}, {dollars(outcome.dollars)}")
    slowly = typical(work, Cloud(WORKERS[1], first=1, more_a_minute=GROWTH, start_s=start_s), trouble, runs)
    cells.append(f"{duration(slowly.wall_s)}, {dollars(slowly.dollars)}")
    middle = Cloud(WORKERS[1], start_s=start_s)
    paid = [
        statistics.mean(simulate(work, middle, kind, seed).paid_core_s for seed in range(runs))
        for kind in (trouble, NONE)
    ]
    lost = typical(work, middle, trouble, runs)
    said = f"{paid[0] / paid[1] - 1:+.0%}, {lost.taken} machines, {lost.again:,} parts"
    hours = f"{work.core_hours:,.1f}" if work.core_hours < 100 else f"{work.core_hours:,.0f}"
    return f"| {name} | {work.seconds:g} | {hours} | {' | '.join(cells)} | {said} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=0, metavar="N", help="default: ImageNet, and 100 million")
    parser.add_argument("--seconds-per-image", type=float, default=0.0, metavar="S", help="mean, on one core")
    parser.add_argument("--start", type=float, default=180.0, help="seconds until a worker begins")
    parser.add_argument("--taken", type=float, default=0.01, help="share of workers taken away within an hour")
    parser.add_argument("--slow", type=float, default=0.02, help="share of workers that are half as fast")
    parser.add_argument("--failing", type=float, default=0.005, help="share of attempts at parts that fail")
    parser.add_argument("--runs", type=int, default=5, help="of each job; the median is shown")
    args = parser.parse_args()
    trouble = Trouble(args.taken, args.slow, 2.0, args.failing)
    jobs: list[tuple[str, Work]] = []
    kinds = {"this": args.seconds_per_image} if args.seconds_per_image else MASKS
    for images in (args.images,) if args.images else (IMAGENET, MANY):
        place = "ImageNet" if images == IMAGENET else f"{images:,} images"
        jobs += [
            (f"{place}, {name}", Work(images, seconds, part_images=images_per_part(seconds)))
            for name, seconds in kinds.items()
        ]
    heads = " | ".join(f"{machines:,} workers" for machines in WORKERS)
    grown = f"{WORKERS[1]}, from 1 by {GROWTH} a minute"
    print(f"| what | CPU s an image | core-hours | {heads} | {grown} | trouble at {WORKERS[1]}: paid, taken, again |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name, work in jobs:
        print(row(name, work, trouble, args.start, args.runs), flush=True)


if __name__ == "__main__":
    main()
