"""`maskmill export`: a finished dataset in the form of another tool."""

import argparse

_FORMATS = """\
formats:
  coco          one .json of COCO instances, a category per layer; --gt: the annotations instead
  coco-results  a .json of COCO results per layer, with scores (one layer: --to may name the file)
  webdataset    a folder of tars: jpg or png, json, cls; --gt: the annotations as well
  parquet       a folder for Hugging Face's load_dataset; --gt: the annotations as well
  label-png     a folder of 16-bit label PNGs of one layer without overlaps

An interrupted export of many files goes on with the same command.

"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("folder", metavar="FOLDER", help="a finished dataset; local or gs://")
    parser.add_argument("--format", metavar="NAME", required=True, help="one of those below")
    parser.add_argument("--to", metavar="PATH", required=True, help="file or folder to write; local or gs://")
    parser.add_argument("--layers", metavar="NAMES", help="only these layers, separated by commas (default: all)")
    parser.add_argument("--gt", action="store_true", help="the ground truth, as said below")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.epilog = _FORMATS + (parser.epilog or "")


def run(args: argparse.Namespace) -> int:
    """Exports."""
    from maskmill.pipelines.commands.cli import print_json
    from maskmill.pipelines.driver.build import output_errors
    from maskmill.pipelines.export.chosen import Chosen
    from maskmill.pipelines.export.formats import export
    from maskmill.pipelines.reading.patience import opened
    from maskmill.schemas import storage
    from maskmill.schemas.errors import UsageError
    from maskmill.schemas.reader import Dataset

    if args.gt and args.layers and args.format == "coco":
        raise UsageError("coco with --gt holds the annotations and no layers; leave out --layers, or --gt")
    names = [name.strip() for name in (args.layers or "").split(",") if name.strip()]
    chosen = opened(args.folder, lambda: Chosen.of(Dataset.open(args.folder), names, args.gt))
    with output_errors(args.to):
        opened(args.to, lambda: storage.names(args.to))
        counts = export(chosen, args.format, args.to)
    if args.json:
        print_json(counts)
        return 0
    kept = f", {counts['kept']} files were there" if counts.get("kept") else ""
    print(f"{counts['images']} images, {counts['masks']} masks{kept}: {args.to}")
    return 0
