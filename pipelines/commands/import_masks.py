"""`maskmill import`: a dataset whose masks were made elsewhere; a build with the generator `imported`."""

import argparse

from maskmill.pipelines.commands.options import add_build_options, add_run_options

_FORMATS = """\
formats, found out or named with --format:
  coco       a .json of COCO results or instances: Detectron2, CutLER, MaskCut, FastSAM, ultralytics
  sam        a folder with a .json per picture: SAM's amg.py --convert-to-rle, SAM 2, SA-1B
  sam-png    a folder with a folder per picture, of PNG masks and metadata.csv: amg.py
  mcg        a folder with a .mat per picture: MCG as published, or im2mcg's struct
  label-png  a folder with a label PNG per picture: superpixels, instances, panoptic

Pictures are found by file name; numbers are ids of COCO (--dataset coco) and of nothing else. Pictures that nothing
fits, or more than one thing, go to failures.jsonl as "unmatched"; below half of the pictures nothing is built.

"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("path", metavar="PATH", help="the masks: a .json or a folder, local or gs://")
    parser.add_argument("--format", metavar="NAME", help="coco, sam, sam-png, mcg or label-png (default: found out)")
    add_build_options(parser)
    parser.add_argument("--layer", metavar="NAME", help="name of the layer (default: imported)")
    parser.add_argument(
        "--top", type=int, metavar="N", help="masks per picture, the best (default: 100, label-png all)"
    )
    parser.add_argument(
        "--score",
        metavar="NAME",
        help="what ranks masks: score, predicted_iou or stability_score (default: the first two)",
    )
    parser.add_argument("--void", type=int, metavar="LABEL", help="label-png: a label that is no mask (default: none)")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="where the dataset goes; local or gs://; FOLDER/{split}: several splits that TFDS opens together",
    )
    parser.add_argument("--overwrite", action="store_true", help="remove an earlier build in --out first")
    add_run_options(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.usage = "maskmill import PATH --dataset KIND --images PATH --out FOLDER [options] [-- BEAM OPTIONS]"
    parser.epilog = _FORMATS + (parser.epilog or "")


def spec_of(args: argparse.Namespace) -> str:
    """The generator spec that the arguments stand for."""
    params = {name: getattr(args, name) for name in ("path", "format", "top", "score", "void")}
    params["name"] = args.layer
    written = ", ".join(f"{name}={value!r}" for name, value in params.items() if value is not None)
    return f"imported({written})"


def run(args: argparse.Namespace) -> int:
    """Builds with the masks given, beside any `--masks`."""
    import importlib

    args.masks = [spec_of(args), *(args.masks or ())]
    return importlib.import_module("maskmill.pipelines.commands.build").run(args)
