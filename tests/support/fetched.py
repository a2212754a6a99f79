"""Clusters' programs, fetched once with the ordinary clients of their registries into $XDG_CACHE_HOME/maskmill.

Beam's job servers are published as one .jar each, and as a class of a runner's library. Where a registry has no such .jar, the
library with all that it depends on does the same; that is what is fetched here. Of Flink and Spark only the libraries are
needed, which their Python packages carry; those are unpacked and not installed, since they ask for other versions of Beam.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>local</groupId><artifactId>drill</artifactId><version>1</version><dependencies>{}</dependencies></project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"
# What a JVM later than Java 11 must be told to let these programs do.
_PACKAGES = """java.io java.lang java.lang.invoke java.lang.reflect java.net java.nio java.text java.time java.util
java.util.concurrent java.util.concurrent.atomic java.util.concurrent.locks sun.net.util sun.nio.ch sun.nio.cs
sun.security.action sun.util.calendar"""
OPENS = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _PACKAGES.split()]


class MissingError(Exception):
    """Something that a cluster needs is not here and cannot be fetched."""


def cache() -> Path:
    """Where fetched things stay."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "maskmill"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fetch(command: list[str], what: str, **options) -> None:
    """Runs a client; MissingError with its reason where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except FileNotFoundError:
        raise MissingError(f"{what} cannot be fetched: {command[0]} is not installed") from None
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        lines = [line for line in said.splitlines() if "ERROR" in line.upper()]
        why = re.sub(r"^\[?ERROR\]?:?\s*|Failed to execute goal .*?: (?=[A-Z])", "", (lines or ["no reason given"])[0])
        raise MissingError(f"{what} cannot be fetched: {why.strip()}")


@contextlib.contextmanager
def _kept(name: str) -> Iterator[Path]:
    """A new folder that becomes the cache's `name` when the block has ended well."""
    with tempfile.TemporaryDirectory(dir=cache(), prefix="incomplete-") as folder:
        yield Path(folder)
        shutil.copytree(folder, cache() / f"{name}.new", dirs_exist_ok=True)
        (cache() / f"{name}.new").rename(cache() / name)


def runner_jars(artifact: str, version: str, *more: tuple[str, str, str]) -> list[str]:
    """Beam's runner of this name and version and all that it depends on, checked against the registry's checksums.

    Args:
        artifact: e.g. beam-runners-flink-1.16.
        version: of Beam.
        more: further libraries, as (group, artifact, version).
    """
    place = cache() / f"{artifact}-{version}"
    if not place.exists():
        wanted = [("org.apache.beam", artifact, version), *more]
        with _kept(place.name) as folder:
            pom = folder / "pom.xml"
            pom.write_text(_POM.format("".join(_DEPENDENCY.format(*one) for one in wanted)))
            command = ["mvn", "-B", "-q", "--strict-checksums", "-Dstyle.color=never", "-f", str(pom), _COPY]
            command += ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
            fetch(command, f"Beam's runner org.apache.beam:{artifact}:{version}")
    return sorted(map(str, place.glob("*.jar")))


def package(name: str, version: str) -> Path:
    """The folder `deps` of a Python package's source distribution: the libraries that it wraps."""
    place = cache() / f"{name}-{version}"
    if not place.exists():
        pip = [sys.executable, "-m", "pip"]
        if subprocess.run([*pip, "--version"], capture_output=True).returncode:  # an environment made without it
            pip = [shutil.which("pip") or "pip"]
        with tempfile.TemporaryDirectory(dir=cache(), prefix="incomplete-") as scratch, _kept(place.name) as folder:
            command = [*pip, "download", "-q", "--no-deps", "--dest", scratch]
            fetch([*command, f"{name}=={version}"], f"{name} {version}")
            with tarfile.open(next(Path(scratch).glob("*.tar.gz"))) as sdist:
                sdist.extractall(Path(scratch) / "unpacked", filter="data")
            shutil.copytree(next(Path(scratch, "unpacked").glob("*/deps")), folder, dirs_exist_ok=True)
    return place
