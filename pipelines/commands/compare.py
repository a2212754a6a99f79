"""`maskmill compare`: two datasets of the same pictures, which masks fit the ground truth better, and how sure that is."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("old", metavar="OLD", help="a finished dataset; local or gs://")
    parser.add_argument("new", metavar="NEW", help="another, of the same pictures")
    parser.add_argument(
        "--layers",
        action="append",
        metavar="OLD=NEW",
        help="compare these layers (default: those of one name); repeatable",
    )
    parser.add_argument("--html", metavar="FILE", help="write the comparison as a page")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Compares image by image."""
    import functools

    from maskmill.pipelines.commands.cli import print_json
    from maskmill.pipelines.driver.build import output_errors
    from maskmill.pipelines.reading.patience import opened
    from maskmill.pipelines.report.compare import compare, compare_lines
    from maskmill.pipelines.report.model import to_json
    from maskmill.schemas import storage
    from maskmill.schemas.reader import Dataset

    old, new = (opened(folder, functools.partial(Dataset.open, folder)) for folder in (args.old, args.new))
    result = opened(args.old, lambda: compare(old, new, args.layers or ()))
    if args.html:
        from maskmill.pipelines.report.compare_page import make_page

        with output_errors(args.html):
            opened(args.html, lambda: storage.write_bytes(args.html, make_page(old, new, result)))
    if args.json:
        print_json(to_json(result))
    else:
        print("\n".join(compare_lines(result)))
        if args.html:
            print(args.html)
    return 0
