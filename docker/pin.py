"""Looks up the digests of the images that ours are built on, and writes them to docker/images.lock.

    python docker/pin.py                                                                  (also: make pin-images)
    docker build $(sed 's/^/--build-arg /' docker/images.lock) -f docker/worker.Dockerfile -t IMAGE .

A tag such as python:3.11-slim is another image next week; with its digest it is the same one, or an error. Needs docker, and
the way to the registries, once; which digests are right for you is yours to decide, so the lock is not part of the
repository until you add it.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LOCK = FOLDER / "images.lock"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def bases() -> dict[str, str]:
    """Name of the build argument -> image with its tag, of all base images in the Dockerfiles."""
    found: dict[str, str] = {}
    values: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*.Dockerfile")):
        for name, value in re.findall(r"^ARG (\w+)=(\S+)$", path.read_text(), re.M):
            values[name] = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], value)
            if name.endswith("_IMAGE"):
                found[name] = values[name]
    return found


def digest_of(image: str) -> str:
    """What the registry says. Raises ValueError where it says none."""
    command = ["docker", "buildx", "imagetools", "inspect", image, "--format", "{{.Manifest.Digest}}"]
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout.strip().strip('"')
    if done.returncode or not _DIGEST.fullmatch(said):
        why = (done.stderr.strip().splitlines() or [said or "no answer"])[-1]
        raise ValueError(f"the digest of {image} cannot be looked up: {why}")
    return said


def main(lock: Path = LOCK) -> int:
    """Writes the lock; returns 4, and writes nothing, where a digest cannot be looked up."""
    if shutil.which("docker") is None:
        print("pin-images: docker is not on this machine, and asks the registries for the digests", file=sys.stderr)
        return 4
    try:
        lines = [f"{name}={image}@{digest_of(image)}\n" for name, image in sorted(bases().items())]
    except ValueError as error:
        print(f"pin-images: {error}", file=sys.stderr)
        return 4
    lock.write_text("".join(lines))
    print("".join(lines), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
