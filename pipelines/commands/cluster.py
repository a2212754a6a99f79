"""`maskmill cluster check`: all that a build on a cluster needs, asked before anything is built."""

import argparse

from maskmill.pipelines.commands.options import add_build_options, add_run_options, read_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("action", choices=["check"], metavar="check", help="what to do; there is only this")
    add_build_options(parser)
    parser.add_argument("--out", metavar="FOLDER", help="where the dataset would go; local or gs://")
    add_run_options(parser)
    parser.add_argument(
        "--quick", action="store_true", help="list and time nothing; then space and price are not known"
    )
    parser.add_argument(
        "--job", action="store_true", help="also run a small job, which sees the workers' software, memory and folders"
    )
    parser.add_argument("--json", action="store_true", help="print the answers as JSON")
    parser.usage = (
        "maskmill cluster check --dataset KIND --images PATH --masks SPEC --out FOLDER [options] [-- BEAM OPTIONS]"
    )


def run(args: argparse.Namespace) -> int:
    """Prints a line for each question; 4 where an answer is a refusal."""
    import dataclasses

    from maskmill.pipelines.commands.cli import DONE, print_json
    from maskmill.pipelines.driver.check import check_cluster
    from maskmill.schemas.errors import InputError, UsageError

    config, options, out = read_options(args)
    if not out:
        raise UsageError("--out is missing: the folder for the dataset")
    found = []
    for check in check_cluster(config, out, options, quick=args.quick, job=args.job):
        found.append(check)
        if not args.json:
            print(f"{check.state:<8} {check.about:<12} {check.text}", flush=True)
    if args.json:
        print_json([dataclasses.asdict(check) for check in found])
    return InputError.exit_code if any(check.state == "refused" for check in found) else DONE
