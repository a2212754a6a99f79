"""`maskmill build`: build a mask dataset, or resume one."""

import argparse
import shlex
import sys

from maskmill.pipelines.commands.options import add_build_options, add_run_options, read_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    add_build_options(parser)
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="where the dataset goes; local or gs://; FOLDER/{split}: several splits that TFDS opens together",
    )
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier build in --out first")
    add_run_options(parser)
    parser.add_argument(
        "--detach",
        action="store_true",
        default=None,
        help="end once the job runs on its cluster, which finishes the build",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.usage = "maskmill build --dataset KIND --images PATH --masks SPEC --out FOLDER [options] [-- BEAM OPTIONS]"


def run(args: argparse.Namespace) -> int:
    """Builds and prints the summary."""
    from maskmill.pipelines.commands.cli import DONE, TOO_MANY_FAILURES, end_at_once, on_interrupt, print_json
    from maskmill.pipelines.commands.summary import summary_lines
    from maskmill.pipelines.driver.build import build, output_errors
    from maskmill.pipelines.driver.splits import mark_split, place_of
    from maskmill.pipelines.reading.patience import patiently, watched
    from maskmill.schemas.errors import UsageError

    config, options, out = read_options(args)
    if not out:
        raise UsageError("--out is missing: the folder for the dataset")
    if (place := place_of(out, config.split)) != out:
        out = place
        with output_errors(out):
            patiently(lambda: mark_split(place, config), options.image_timeout, place)
    on_interrupt(
        f"what is finished is kept, and the same command resumes; see how far: maskmill status {shlex.quote(out)}"
    )
    with watched(out, options.image_timeout, end_at_once):
        outcome = build(config, out, options, overwrite=args.overwrite, quiet=args.json)
    manifest = outcome.manifest
    if manifest is None:
        if options.detach:
            print(f"the job runs by itself, and finishes {out}; see how far: maskmill status {shlex.quote(out)}")
        else:
            print(f"the job is written down, not started; whoever starts it builds and finishes {out}")
        return DONE
    if args.json:
        print_json({"out": out, "counts": manifest.counts, "abo": manifest.abo, "digest": manifest.digest})
    else:
        if not outcome.built:
            print(f"{out} was complete already")
        print("\n".join(summary_lines(manifest, out)))
    if outcome.too_many_failures:
        counts = manifest.counts
        rate = counts["failed"] / max(1, counts["written"] + counts["failed"])
        print(
            f"maskmill: {rate:.2%} of the images failed, above --max-failure-rate {options.max_failure_rate:.2%}; "
            "everything good is kept",
            file=sys.stderr,
        )
        return TOO_MANY_FAILURES
    return DONE
