"""Commands whose folder fails, or that end, at every single operation on it.

    python tests/faults/trials.py [--sample N] [--seed S] [--scenario NAME ...] [--kind KIND ...]

In SQLite's manner: for every n, the n-th operation goes wrong. On a disk (names without a prefix): disk full, I/O error,
interrupted call, short write, the process killed, or power lost, with what was not flushed gone ("power") or half of it
("torn write"). In system calls, under all libraries ("calls-..."; where there is a C compiler). In requests to a bucket
("gs-..."): refusals, answers cut short or changed, connections dropped before and after, the process killed. Each trial is a
forked process, and ends as `scenario.Scenario.trial` says.
"""

import argparse
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from failing_calls import CALL_KINDS, compile_shim, compiler, is_preloaded
from faulty_bucket import BUCKET_KINDS
from faulty_disk import KINDS
from places import InCalls, OnBucket, OnDisk
from scenario import Scenario

_BUILDS = ("build", "resume", "overwrite", "retry", "report", "export")
_RUNS = ("train", "go-on", "fall-back")
_PREFIXES = ("", "calls-", "gs-")
NAMES = tuple(prefix + name for prefix in _PREFIXES for name in (*_BUILDS, *_RUNS))


def _bucket():
    """A server in this process, and the way there for it and for its children."""
    from gcs import Gcs
    from google.cloud.storage import retry

    retry.DEFAULT_RETRY = retry.DEFAULT_RETRY.with_delay(initial=0.05, maximum=1.0, multiplier=2.0)  # no time to wait
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)  # it is told of every object that is not there
    server = Gcs()
    server.create_bucket("mill")
    os.environ["STORAGE_EMULATOR_HOST"] = server.url
    return server


def scenarios(root: Path, names: Iterable[str]) -> dict[str, Scenario]:
    """Those named, in an empty folder."""
    found, made = {}, {}
    server = None
    for name in names:
        prefix = next(p for p in reversed(_PREFIXES) if name.startswith(p))
        own = name.removeprefix(prefix)
        group = (prefix, own in _RUNS)
        if group not in made:
            place_root = root / f"{prefix}{'runs' if own in _RUNS else 'builds'}"
            if prefix == "gs-":
                server = server or _bucket()
                place = OnBucket(place_root / "place", server)
            else:
                place = (InCalls if prefix else OnDisk)(place_root / "place")
            if own in _RUNS:
                from runs import Runs as Made  # JAX takes seconds to import
            else:
                from builds import Builds as Made
            made[group] = Made(place, place_root / "made")
        found[name] = made[group].scenario(own, name)
    return found


def _all_trials(found: dict[str, Scenario], kinds: list[str]) -> dict[str, list[tuple[int, str]]]:
    return {
        name: [
            (at, kind)
            for at, operation in enumerate(scenario.log, 1)
            for kind in scenario.place.kinds
            if (not kinds or kind in kinds) and scenario.place.applies(kind, operation)
        ]
        for name, scenario in found.items()
    }


def _sample(trials: dict[str, list[tuple[int, str]]], count: int, seed: int) -> list[tuple[str, int, str]]:
    """`count` of them at random, the same number of each scenario; all of them for 0."""
    rng, chosen = random.Random(seed), []
    share, more = divmod(count, len(trials))
    for number, (name, of_name) in enumerate(trials.items()):
        wanted = min(len(of_name), share + (number < more)) if count else len(of_name)
        chosen += [(name, *trial) for trial in rng.sample(of_name, wanted)]
    if count:
        rng.shuffle(chosen)
    return chosen


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="N trials, evenly of the scenarios; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0, help="begin no trial after so long; 0: all are made")
    parser.add_argument("--scenario", action="append", metavar="NAME", choices=NAMES, help=f"of {', '.join(NAMES)}")
    kinds = sorted({*KINDS, *CALL_KINDS, *BUCKET_KINDS})
    parser.add_argument("--kind", action="append", choices=kinds, help="only these; repeatable")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns 1 where anything is wrong."""
    args = _arguments(argv)
    names = args.scenario or list(NAMES)
    if any(name.startswith("calls-") for name in names) and not is_preloaded():
        if compiler():
            return _preloaded(sys.argv[1:] if argv is None else argv)
        print("no C compiler: without the scenarios of system calls", file=sys.stderr)
        names = [name for name in names if not name.startswith("calls-")]
    with tempfile.TemporaryDirectory(prefix="maskmill-faults-") as root:
        begin = time.monotonic()
        found = scenarios(Path(root), names)
        every = _all_trials(found, args.kind or [])
        trials = _sample(every, args.sample, args.seed)
        begun, came, wrongs = Counter(), Counter(), 0
        for name, at, kind in trials:
            if args.seconds and time.monotonic() - begin > args.seconds:
                break
            how, wrong = found[name].trial(at, kind)
            begun[name] += 1
            came[how] += 1
            if wrong:
                wrongs += 1
                print(f"{name}, {kind} at operation {at}, {found[name].log[at - 1]}: {wrong}", flush=True)
            if sum(begun.values()) % 50 == 0:
                print(f"{sum(begun.values())} of {len(trials)} trials, {wrongs} wrong", flush=True)
    print("operations, trials: " + ", ".join(f"{name} {len(s.log)}, {begun[name]}" for name, s in found.items()))
    total = sum(begun.values())
    print(f"{total} trials: {dict(sorted(came.items()))}; {wrongs} wrong; {time.monotonic() - begin:.0f} s")
    return 1 if wrongs or not total else 0


def _preloaded(argv: list[str]) -> int:
    """This program once more, with the failing calls under it."""
    with tempfile.TemporaryDirectory(prefix="maskmill-shim-") as folder:
        environment = {**os.environ, "LD_PRELOAD": compile_shim(Path(folder))}
        return subprocess.run([sys.executable, "-P", __file__, *argv], env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
