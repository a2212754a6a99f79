"""Prism, Beam's runner written in Go, as a service of its own on loopback: built once with Go, from Beam's Go module."""

import contextlib
import os
import subprocess
from pathlib import Path

from clusters import service
from fetched import MissingError, cache


def binary() -> Path:
    """The program, of the version of Beam that is installed."""
    from apache_beam.version import __version__ as beam

    folder = cache() / f"prism-{beam}"
    if not (folder / "prism").exists():
        try:
            done = subprocess.run(
                ["go", "install", f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{beam}"],
                env={**os.environ, "GOBIN": str(folder)},
                capture_output=True,
                text=True,
            )
        except FileNotFoundError:
            raise MissingError("Prism cannot be built: go is not installed") from None
        if done.returncode:
            raise MissingError(f"Prism cannot be built: {done.stderr.strip().splitlines()[-1]}")
    return folder / "prism"


def prism(folder: Path, port: int) -> contextlib.AbstractContextManager[subprocess.Popen]:
    """The service, to be asked by the portable interface, as any other: PrismRunner would start one of its own."""
    command = [str(binary()), "-job_port", str(port), "-serve_http=false", "-log_kind", "text"]
    return service(command, port=port, log=folder / "prism.log")
