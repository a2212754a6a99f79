"""`maskmill warmup`: compile the kernels once, e.g. while a worker image is built, so that no worker pays for it."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "--masks", action="append", metavar="SPEC", help="only what these generators need (default: all)"
    )


def run(args: argparse.Namespace) -> int:
    """Compiles, or loads what is compiled, and says how long it took and where it is kept."""
    import time

    import numba

    from maskmill.pipelines.parts.config import Settings
    from maskmill.pipelines.parts.generators import GENERATORS
    from maskmill.pipelines.parts.image_builder import ImageBuilder

    start = time.perf_counter()
    specs = tuple(args.masks or sorted(GENERATORS))
    ImageBuilder(Settings(specs, 1, False, False)).warm_up()
    where = getattr(numba.config, "CACHE_DIR", "") or "beside the installed modules, or in the user's cache directory"
    print(f"kernels ready in {time.perf_counter() - start:.1f} s; compiled code is kept {where}")
    return 0
