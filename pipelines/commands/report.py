"""`maskmill report`: the mask-quality report of a finished data set, made again from its folder."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("folder", metavar="FOLDER", help="a finished dataset; local or gs://")
    parser.add_argument(
        "--annotations",
        metavar="FILE",
        help="measure against this COCO instances file instead of the records' own ground truth",
    )
    parser.add_argument(
        "--from-shards", action="store_true", help="measure the records again instead of using what the build recorded"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where to write report.html and report.json (default: FOLDER)")
    printed = parser.add_mutually_exclusive_group()
    printed.add_argument("--json", action="store_true", help="print report.json")
    printed.add_argument("--markdown", action="store_true", help="print it for a pull request or a data set's card")


def run(args: argparse.Namespace) -> int:
    """Collects the statistics and writes the report."""
    import logging

    from maskmill.pipelines.commands.summary import report_lines
    from maskmill.pipelines.dataset.checksums import renew_checksums
    from maskmill.pipelines.dataset.leftovers import cleared
    from maskmill.pipelines.driver.build import output_errors
    from maskmill.pipelines.reading.patience import entered, opened
    from maskmill.pipelines.report.remeasure import recorded_stats
    from maskmill.pipelines.report.write import own_truth, to_bytes, write_report
    from maskmill.schemas import storage
    from maskmill.schemas.manifest import CHECKSUMS, REPORT_HTML, REPORT_JSON, WORK
    from maskmill.schemas.reader import Dataset

    dataset = opened(args.folder, lambda: Dataset.open(args.folder))
    out = args.out or args.folder
    work = args.out or storage.join(args.folder, WORK)
    with output_errors(out), entered(cleared(out, REPORT_HTML, REPORT_JSON, CHECKSUMS), out):
        truth, audit, categories = own_truth, None, None
        stats = None if args.annotations or args.from_shards else recorded_stats(args.folder, dataset.manifest)
        if args.annotations:
            from maskmill.pipelines.report.audit import Audit

            found = opened(args.annotations, lambda: Audit(args.folder, dataset.manifest, args.annotations))
            tasks = found.tasks(work)
            from maskmill.pipelines.report.job import measured_stats

            try:
                stats = measured_stats(args.folder, dataset.manifest, work, tasks, args.beam_args)
            finally:
                found.forget(tasks)
            truth, categories = found.truth, found.categories
            audit = found.describe(stats.sums.audit)
        elif stats is None:
            if not args.from_shards:
                logging.getLogger("maskmill").warning(
                    "the build's own measurements are not in %s; measuring its records", args.folder
                )
            from maskmill.pipelines.report.job import measured_stats

            stats = measured_stats(args.folder, dataset.manifest, work, (), args.beam_args)
        document = write_report(
            args.folder, dataset.manifest, stats, truth=truth, audit=audit, categories=categories, out=out
        )
        if not args.out or storage.is_same(args.folder, out):
            renew_checksums(out, (REPORT_HTML, REPORT_JSON))
    if args.json:
        print(to_bytes(document).decode(), end="")
    elif args.markdown:
        from maskmill.pipelines.report.markdown import to_markdown

        print(to_markdown(document), end="")
    else:
        print("\n".join(report_lines(document, args.folder)))
        print(storage.join(out, REPORT_HTML))
    return 0
