"""Prism, Beam's runner written in Go, as a service of its own on loopback: built once with Go, from Beam's Go module."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from clusters import free_port, service
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


@contextlib.contextmanager
def prism(folder: Path, program: str = "") -> Iterator[list[str]]:
    """The service and Beam's flags for it, without those of a pool. `program` is Prism, if it is here already."""
    port = free_port()
    command = [program or str(binary()), "-job_port", str(port), "-serve_http=false", "-log_kind", "text"]
    with service(command, port=port, log=folder / "prism.log"):
        # By the portable interface, as any other service: PrismRunner would start one of its own.
        yield ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"]
