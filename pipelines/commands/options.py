"""The options that `plan` and `build` share, and how flags and a config file become a `BuildConfig`."""

import argparse
import ast
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskmill.pipelines.parts.config import BuildConfig, RunOptions


class LateParser(argparse.ArgumentParser):
    """A parser part of whose help is made only when it is asked for.

    Attributes:
        before_epilog: gives the text above the epilog, or None.
    """

    before_epilog: Callable[[], str] | None = None

    def format_help(self) -> str:
        """The help, with the late text in it."""
        plain = self.epilog
        try:
            self.epilog = (self.before_epilog() if self.before_epilog else "") + (plain or "")
            return super().format_help()
        finally:
            self.epilog = plain


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
    (
        "num_shards",
        "N",
        "number of shards (default: one per 1,000 images; up to 16,000 images, one per 16 and at most 16)",
    ),
    ("limit", "N", "only N images, a seeded random choice"),
    ("seed", "N", "seed of the order of records (default: 0)"),
    ("max_pixels", "N", "refuse larger pictures before decoding (default: 50,000,000)"),
)


def list_generators() -> list[tuple[str, str, str]]:
    """The built-in mask generators, for `--help`: read from the source, since importing them takes seconds.

    Returns:
        (name, parameters with defaults as written, what it makes) in the table's order.
    """
    house = Path(__file__).resolve().parents[2]
    table = next(
        ast.literal_eval(node.value)
        for node in _statements(house / "masks" / "registry.py")
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "GENERATORS"
    )
    rows = []
    for name, target in table.items():
        module, _, attribute = target.partition(":")
        path = house.joinpath(*module.split(".")[1:]).with_suffix(".py")
        cls = next(n for n in _statements(path) if isinstance(n, ast.ClassDef) and n.name == attribute)
        stated = [n for n in cls.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        fields = [n for n in stated if not ast.unparse(n.annotation).startswith("ClassVar")]  # facts, not parameters
        parameters = ", ".join(
            ast.unparse(n.target) + (f"={ast.unparse(n.value)}" if n.value is not None else "=...") for n in fields
        )
        said = (ast.get_docstring(cls) or "").splitlines() or [""]
        rows.append((name, parameters, said[0].partition(": ")[2].rstrip(".").replace("`", "")))
    return rows


def _statements(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


def _generators_text() -> str:
    lines = [f"  {name}({parameters})\n      {makes}" for name, parameters, makes in list_generators()]
    return (
        "mask generators for --masks, with their parameters and defaults:\n" + "\n".join(lines) + "\n"
        "  Installed packages may offer more (entry points of the group maskmill.generators).\n\n"
    )


def add_build_options(parser: argparse.ArgumentParser) -> None:
    """Options that change bytes; all may stand in the config file as well."""
    if isinstance(parser, LateParser):
        parser.before_epilog = _generators_text
    parser.add_argument("--config", metavar="FILE", help="YAML file with these options; flags win")
    for name, metavar, text in _FLAGS:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=text)
    parser.add_argument(
        "--masks",
        action="append",
        metavar="SPEC",
        help='a mask generator, repeatable, as a call: "grid(n=5)"; all of them are listed below',
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
        "--image-timeout",
        type=float,
        metavar="S",
        help="seconds before a picture, or storage that does not answer, is given up (default: 300)",
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
