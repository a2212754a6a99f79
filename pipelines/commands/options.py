"""The options that `plan` and `build` share, and how flags and a config file become a `BuildConfig`."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskmill.pipelines.parts.config import BuildConfig, RunOptions

_FLAGS = (
    # name, metavar, help
    ("dataset", "KIND", "coco, imagenet, folder, webdataset, parquet, tfds or tfrecord"),
    ("images", "PATH", "folder, .zip or .tar of the pictures, or files such as train-{000..099}.tar; local or gs://"),
    ("annotations", "FILE", "COCO instances json (coco)"),
    ("ground_truth", "FILE", "validation labels, for the flat validation folder (imagenet)"),
    ("synsets", "FILE", "list of all synsets, or the devkit's meta.mat (imagenet)"),
    ("name", "NAME", "dataset name in the shards' file names (default: the kind)"),
    ("split", "NAME", "split name in the shards' file names (default: train)"),
    (
        "bad_annotations",
        "HOW",
        "fail: an annotation that cannot be read loses its image to the ledger (default); drop: only itself",
    ),
)
_NUMBERS = (
    ("num_shards", "N", "number of shards (default: one per about 1,000 images)"),
    ("limit", "N", "only N images, a seeded random choice"),
    ("seed", "N", "seed of the order of records (default: 0)"),
    ("max_pixels", "N", "refuse larger pictures before decoding (default: 50,000,000)"),
)


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Options that change bytes; all may stand in the config file as well."""
    parser.add_argument("--config", metavar="FILE", help="YAML file with these options; flags win")
    for name, metavar, text in _FLAGS:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument(
        "--masks",
        action="append",
        metavar="SPEC",
        help='a mask generator, repeatable: "fh(scales=(500,1000,1500))", "grid(n=5)", "gt()"',
    )
    for name, metavar, text in _NUMBERS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar=metavar, help=text)
    parser.add_argument("--masks-only", action="store_true", default=None, help="leave the pictures out of the records")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options that change no byte."""
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (default: one per core; 0: none but this one)"
    )
    parser.add_argument(
        "--part-size", type=int, metavar="N", help="images per work item (default: 128; on a cluster, 90 s of work)"
    )
    parser.add_argument(
        "--image-timeout", type=float, metavar="S", help="seconds before a picture is given up (default: 300)"
    )
    parser.add_argument(
        "--max-failure-rate", type=float, metavar="R", help="exit with 3 above this share of failures (default: 0.01)"
    )


def read_options(args: argparse.Namespace) -> "tuple[BuildConfig, RunOptions, str]":
    """Flags over config file over defaults.

    Returns:
        (BuildConfig, RunOptions, out folder or ""). Raises UsageError or InputError.
    """
    from maskmill.pipelines.parts.config import BuildConfig, RunOptions, read_config_file
    from maskmill.schemas.options import keys_of

    build_types, run_types = keys_of(BuildConfig), keys_of(RunOptions)
    given: dict[str, Any] = {}
    if args.config:
        given = read_config_file(args.config, {**build_types, **run_types, "out": str})
    given.update(
        {k: v for k, v in vars(args).items() if v is not None and (k in build_types or k in run_types or k == "out")}
    )
    given["masks"] = tuple(given.get("masks", ()))
    given["beam_args"] = tuple(given.get("beam_args", ()))
    out = given.pop("out", "")
    for name in ("dataset", "images"):
        given.setdefault(name, "")
    build = BuildConfig(**{k: v for k, v in given.items() if k in build_types})
    run = RunOptions(**{k: v for k, v in given.items() if k in run_types})
    return build, run, out
