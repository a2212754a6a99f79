"""Asks public databases for known holes in what the images hold, with pip-audit, and says plainly where there was no answer.

    python docker/audit.py [LOCK ...]                                                         (also: make audit)

PyPI's own records first, then OSV's: mirrors of PyPI often have none. Exit codes: 0 nothing known, 1 a hole, 4 nobody
could be asked, which is no all-clear.
"""

import os
import subprocess
import sys
from pathlib import Path

LOCKS = tuple(sorted(str(path) for path in Path(__file__).parent.glob("*.lock") if path.stem in ("worker", "trainer")))
SERVICES = ("pypi", "osv")
FOUND, NOBODY = 1, 4
_OPTIONS = ("--strict", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--timeout", "15")


def ask(service: str, lock: str) -> tuple[int, str]:
    """Asks one database about one lock: 0, `FOUND` or `NOBODY`, and what it said, or why it said nothing, in a line."""
    command = [sys.executable, "-m", "pip_audit", *_OPTIONS, "--vulnerability-service", service, "-r", lock]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return 0, done.stderr.strip()
    if done.stdout.strip():  # the table of what was found; whatever else stops pip-audit leaves that empty
        return FOUND, f"{done.stderr.strip()}\n{done.stdout.rstrip()}"
    return NOBODY, (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]


def main(locks: list[str]) -> int:
    """Returns the worst of what came of the locks; see the exit codes above."""
    worst = 0
    for lock in map(os.path.relpath, locks or LOCKS):
        for service in SERVICES:
            code, said = ask(service, lock)
            print(f"{lock}, {service}: {'no answer: ' * (code == NOBODY)}{said}")
            if code != NOBODY:
                break
        else:
            print(f"{lock}: not audited, since no database could be asked; this is no all-clear")
        worst = FOUND if FOUND in (code, worst) else max(code, worst)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
