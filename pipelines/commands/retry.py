"""`maskmill retry`: build again the parts in which images failed, once the cause is mended.

A whole part is built again (at most 128 images by default), because a shard is one sequence of records in plan order:
the result is the same, byte for byte, as if the images had never failed.
"""

import argparse

from maskmill.pipelines.commands.options import add_run_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("folder", metavar="FOLDER", help="a build's folder")
    parser.add_argument(
        "--reason", action="append", metavar="REASON", help="only failures with this reason; repeatable"
    )
    add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Uncommits what failed and builds it again."""
    import shlex

    from maskmill.pipelines.commands.cli import DONE, TOO_MANY_FAILURES, end_at_once, on_interrupt, print_json
    from maskmill.pipelines.commands.summary import summary_lines
    from maskmill.pipelines.driver.build import build, forget_failures
    from maskmill.pipelines.parts.config import RunOptions
    from maskmill.pipelines.reading.patience import watched
    from maskmill.schemas.errors import REASONS, UsageError

    for reason in args.reason or ():
        if reason not in REASONS:
            raise UsageError(f"--reason {reason!r} is unknown; the reasons are {', '.join(REASONS)}")
    on_interrupt(f"resume with: maskmill retry {shlex.quote(args.folder)}")
    given = {name: getattr(args, name) for name in ("workers", "image_timeout", "max_failure_rate")}
    options = RunOptions(**{name: value for name, value in given.items() if value is not None})
    with watched(args.folder, options.image_timeout, end_at_once):
        plan, again = forget_failures(args.folder, tuple(args.reason or ()))
        outcome = build(plan.requested, args.folder, options, quiet=args.json)
    manifest = outcome.manifest
    assert manifest is not None, "a local run ends with a manifest"
    if args.json:
        print_json({"out": args.folder, "tried_again": again, "counts": manifest.counts, "abo": manifest.abo})
    else:
        print(f"tried {again:,} failed images again")
        print("\n".join(summary_lines(manifest, args.folder)))
    return TOO_MANY_FAILURES if outcome.too_many_failures else DONE
