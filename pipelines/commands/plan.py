"""`maskmill plan`: what a build would cost, before anything runs."""

import argparse
from typing import TYPE_CHECKING

from maskmill.pipelines.commands.options import add_build_options, add_run_options, read_options

if TYPE_CHECKING:
    from maskmill.pipelines.driver.estimate import Estimate


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_build_options(parser)
    parser.add_argument("--out", metavar="FOLDER", help="where the dataset would go: its free space is checked")
    add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def memory_warning(cost: "Estimate", max_pixels: int) -> str:
    """What to do where one worker alone, with the largest picture, could need more than half of the memory; else ""."""
    if cost.worker_bytes <= cost.machine_bytes // 2:
        return ""
    return (
        f"a picture of {max_pixels:,} pixels could need {cost.worker_bytes / 1e9:.1f} GB, more than half of this machine's "
        f"{cost.machine_bytes / 1e9:.1f} GB; refuse such large ones: --max-pixels {cost.large_pixels}"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the estimate."""
    import dataclasses

    from maskmill.pipelines.commands.cli import print_json
    from maskmill.pipelines.driver.build import usable_cores
    from maskmill.pipelines.driver.estimate import estimate
    from maskmill.pipelines.driver.progress import amount, duration, volume, work

    config, options, out = read_options(args)
    cost = estimate(config, out, options.workers or usable_cores(), options.part_size, options.image_timeout)
    seconds, size = cost.core_seconds, cost.out_bytes
    warning = memory_warning(cost, config.max_pixels)
    if args.json:
        print_json({**dataclasses.asdict(cost), "core_seconds": seconds, "out_bytes": size})
        return 0
    print(
        f"{cost.inputs:,} inputs, {cost.to_build:,} to build into {amount(cost.shards, 'shard')}; "
        f"class labels: {cost.labels}"
    )
    for reason, count in cost.refused.items():
        print(f"  refused or skipped at listing: {count:,} {reason}")
    print(
        f"memory: at most {cost.worker_bytes / 1e9:.1f} GB for a worker, for a picture of {config.max_pixels:,} pixels, and "
        f"{cost.file_bytes / 1e9:.1f} GB more where its file has {cost.file_limit >> 20} MB, the most that is read; those of "
        f"{cost.large_pixels:,} pixels and more are built one at a time here ({cost.machine_bytes / 1e9:.0f} GB)"
    )
    if warning:
        print(f"warning: {warning}")
    if seconds is None or size is None:
        print("no image of the sample could be built; see why with a small build: maskmill build ... --limit 20")
        return 0
    free = "" if cost.free_bytes is None else f", {volume(cost.free_bytes)} free"
    print(
        f"sampled {cost.sampled}: {cost.seconds_per_image:.3f} s and {volume(size / max(1, cost.to_build))} per image, "
        f"{cost.sample_failures} failed\n"
        f"estimate: {work(seconds)}, {duration(seconds / cost.cores)} on {cost.cores} cores; "
        f"{volume(size)} of shards{free}"
    )
    if cost.free_bytes is not None and size > cost.free_bytes:
        print("warning: the shards would need more than the free space")
    return 0
