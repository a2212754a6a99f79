"""`maskmill import mcg-mat|coco-json`: a dataset whose masks were made elsewhere; a build with one generator."""

import argparse

from maskmill.pipelines.commands.options import add_build_options, add_run_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("format", choices=("mcg-mat", "coco-json"), help="folder of MCG's .mat files, or COCO results")
    parser.add_argument(
        "path", metavar="PATH", help="where the masks are: a folder (mcg-mat) or a json file (coco-json)"
    )
    add_build_options(parser)
    parser.add_argument("--layer", metavar="NAME", help="name of the layer (default: the format)")
    parser.add_argument("--top", type=int, metavar="N", help="masks per picture (default: mcg-mat 16, coco-json 100)")
    parser.add_argument("--out", metavar="FOLDER", help="where the dataset goes; local or gs://")
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier build in --out first")
    add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.usage = "maskmill import FORMAT PATH --dataset KIND --images PATH --out FOLDER [options] [-- BEAM OPTIONS]"


def spec_of(args: argparse.Namespace) -> str:
    """The generator spec that the arguments stand for."""
    params = {"path": args.path, "name": args.layer, "top": args.top}
    written = ", ".join(f"{name}={value!r}" for name, value in params.items() if value is not None)
    return f"{args.format.replace('-', '_')}({written})"


def run(args: argparse.Namespace) -> int:
    """Builds with the masks given, beside any `--masks`."""
    import importlib

    args.masks = [spec_of(args), *(args.masks or ())]
    return importlib.import_module("maskmill.pipelines.commands.build").run(args)
