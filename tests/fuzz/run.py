"""Fuzzes the readers of everything that strangers may have made.

    python tests/fuzz/run.py [--seconds 60] [--corpus FOLDER] [TARGET ...]         (also: make fuzz SECONDS=60)

Guided by coverage where atheris is installed (`pip install 'maskmill[fuzz]'`), else by chance. Seeds are made by code; a corpus
that grew can be kept in a folder and used again. An input that breaks a promise is written down and ends the run with 1.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))


def guided(name: str, seconds: int, corpus: Path) -> int:
    """Does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["maskmill"]):
        from fuzz_targets import TARGETS
    arguments = [
        f"-max_total_time={seconds}",
        "-max_len=8192",
        "-timeout=30",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], str(corpus), f"-artifact_prefix=fault-{name}-", *arguments], TARGETS[name].check)
    return atheris.Fuzz() or 0


def by_chance(name: str, seconds: int, corpus: Path) -> int:
    """Damages seeds at random; 1 at the first fault, whose input is written down."""
    from fuzz_targets import TARGETS
    from mutants import mutate

    rng, seeds = random.Random(time.time_ns()), [path.read_bytes() for path in sorted(corpus.iterdir())]
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutate(rng.choice(seeds), rng)
        try:
            TARGETS[name].check(data)
        except Exception:
            Path(f"fault-{name}-{count}").write_bytes(data)
            raise
        count += 1
    print(f"stat::number_of_executed_units: {count}", file=sys.stderr)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Returns 1 where a target has a fault."""
    from fuzz_targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for all of them together")
    parser.add_argument(
        "--corpus", help="folder in which inputs that reach new code are kept (default: a temporary one)"
    )
    parser.add_argument("--engine", choices=("atheris", "chance"), help="default: atheris where it is installed")
    args = parser.parse_args(argv)
    names = args.targets or list(TARGETS)
    faults = []
    with tempfile.TemporaryDirectory(prefix="maskmill-fuzz-") as temporary:
        for name in names:
            corpus = Path(args.corpus or temporary) / name
            corpus.mkdir(parents=True, exist_ok=True)
            for number, seed in enumerate(TARGETS[name].seeds()):
                (corpus / f"seed-{number}").write_bytes(seed)
            seconds = max(1, args.seconds // len(names))
            command = [sys.executable, "-P", __file__, "--one", name, str(seconds), str(corpus), args.engine or ""]
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace")
            lines = done.stderr.splitlines()
            said = [line for line in lines if line.startswith(("stat::number_of_executed_units", "INFO: found LLVM"))]
            print(f"{name}: {'; '.join(said) or 'ended early'}, {len(list(corpus.iterdir()))} inputs kept", flush=True)
            if done.returncode:
                faults.append(name)
                print("\n".join(lines[-40:]), flush=True)
    print(f"faults in {', '.join(faults)}" if faults else "no fault")
    return 1 if faults else 0


def _one(name: str, seconds: str, corpus: str, engine: str) -> int:
    if not engine:
        try:
            import atheris  # noqa: F401

            engine = "atheris"
        except ImportError:
            engine = "chance"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    return (guided if engine == "atheris" else by_chance)(name, int(seconds), Path(corpus))


if __name__ == "__main__":
    sys.exit(_one(*sys.argv[2:]) if sys.argv[1:2] == ["--one"] else main())
