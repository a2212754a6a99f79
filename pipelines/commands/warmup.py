"""`maskmill warmup`: compile the kernels once, e.g. while a worker image is built, so that no worker pays for it."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument(
        "--masks", action="append", metavar="SPEC", help="only what these generators need (default: all)"
    )


def run(args: argparse.Namespace) -> int:
    """Compiles each generator's, or loads what is compiled, in a process of its own; says how long it took."""
    import subprocess
    import sys
    import time
    from concurrent.futures import ThreadPoolExecutor

    import numba

    from maskmill.pipelines.driver.build import usable_cores
    from maskmill.pipelines.parts.generators import GENERATORS, parse_specs

    start = time.perf_counter()
    specs = args.masks or sorted(GENERATORS)
    parse_specs(specs)  # a wrong one is said here, once
    code = f"import sys; from {__name__} import compile_kernels; compile_kernels(sys.argv[1])"

    def compile_elsewhere(spec: str) -> None:
        subprocess.run([sys.executable, "-P", "-c", code, spec], check=True)

    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(compile_elsewhere, specs))
    where = getattr(numba.config, "CACHE_DIR", "") or "beside the installed modules, or in the user's cache directory"
    print(f"kernels ready in {time.perf_counter() - start:.1f} s; compiled code is kept {where}")
    return 0


def compile_kernels(spec: str) -> None:
    """Runs a generator once on a tiny picture."""
    from maskmill.pipelines.parts.config import Settings
    from maskmill.pipelines.parts.image_builder import ImageBuilder

    ImageBuilder(Settings((spec,), 1, False, False)).warm_up()
