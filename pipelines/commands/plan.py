"""`maskmill plan`: what a build would cost, before anything runs."""

import argparse

from pipelines.commands.options import add_build_options, add_run_options, read_options

SAMPLE_IMAGES = 50
SAMPLE_SECONDS = 30.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_build_options(parser)
    parser.add_argument("--out", metavar="FOLDER", help="where the dataset would go: its free space is checked")
    add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Lists the inputs, times a sample in this process, and prints the estimate."""
    import collections
    import os
    import shutil
    import time

    from pipelines.build import usable_cores
    from pipelines.cli import print_json
    from pipelines.decode import ImageError, read_header
    from pipelines.image_builder import ImageBuilder, Settings
    from pipelines.inputs import Input
    from pipelines.plan import IMAGES_PER_PART, default_num_shards, list_inputs
    from pipelines.progress import duration
    from schemas import storage

    config, options, out = read_options(args)
    source = config.source()
    lines, refused = list_inputs(config, source)
    builder = ImageBuilder(
        Settings(config.masks, config.max_pixels, config.masks_only, config.bad_annotations == "drop")
    )
    # Lines are in the seeded order of records, so the first ones are a random sample.
    seconds, sizes, failures, oversize = [], [], 0, 0
    begin = time.perf_counter()
    for number, line in enumerate(lines[:SAMPLE_IMAGES]):
        item = Input.from_json(line)
        start = time.perf_counter()
        try:
            data = item.location.read()
            oversize += _is_oversize(read_header, data, config.max_pixels)
            built = builder.build(item, data)
        except ImageError:
            failures += 1
            continue
        failures += built.refusal is not None
        if number:  # the first one pays for loading compiled code
            seconds.append(time.perf_counter() - start)
        sizes.append(len(built.payload))
        if time.perf_counter() - begin > SAMPLE_SECONDS:
            break
    sampled = len(sizes) + 0
    per_image = sum(seconds) / len(seconds) if seconds else None
    per_record = sum(sizes) / len(sizes) if sizes else None
    cores = options.workers or usable_cores()
    cpu_s = per_image * len(lines) if per_image is not None else None
    out_bytes = per_record * len(lines) if per_record is not None else None
    free = None
    if out and not storage.is_remote(out):
        place = os.path.abspath(out)
        while not os.path.exists(place):
            place = os.path.dirname(place)
        free = shutil.disk_usage(place).free
    shards = config.num_shards or default_num_shards(len(lines))
    estimate = {
        "inputs": len(lines) + len(refused),
        "to_build": len(lines),
        "refused_at_listing": dict(collections.Counter(r.reason for r in refused)),
        "shards": shards,
        "parts": -(-len(lines) // (options.part_size or IMAGES_PER_PART)),
        "sampled": sampled,
        "sample_failures": failures,
        "sample_over_pixel_limit": oversize,
        "seconds_per_image": per_image,
        "core_hours": cpu_s / 3600 if cpu_s is not None else None,
        "cores": cores,
        "hours": cpu_s / 3600 / cores if cpu_s is not None else None,
        "out_bytes": out_bytes,
        "free_bytes": free,
    }
    if args.json:
        print_json(estimate)
        return 0
    print(
        f"{len(lines) + len(refused):,} inputs, {len(lines):,} to build into {shards:,} shards; labels: {source.labels}"
    )
    for reason, count in sorted(estimate["refused_at_listing"].items()):
        print(f"  refused or skipped at listing: {count:,} {reason}")
    if per_image is None:
        print("no image of the sample could be built; see what a small build says: maskmill build ... --limit 20")
        return 0
    print(
        f"sampled {sampled}: {per_image:.3f} s and {per_record / 1e3:.0f} kB per image, {failures} failed\n"
        f"estimate: {cpu_s / 3600:.2f} core-hours, {duration(cpu_s / cores)} on {cores} cores; {out_bytes / 1e9:.2f} GB of shards"
        + (f", {free / 1e9:.0f} GB free" if free is not None else "")
    )
    if free is not None and out_bytes > free:
        print("warning: the estimate is more than the free space")
    return 0


def _is_oversize(read_header, data: bytes, max_pixels: int) -> bool:
    from schemas.errors import ImageError

    try:
        read_header(data, max_pixels)
    except ImageError as error:
        return error.reason == "too_large"
    return False
