"""Runs the steps of the images' Dockerfiles without a container engine, and tries what comes out.

    python docker/check.py worker [trainer] [--build-arg NAME=VALUE] [--folder FOLDER]      (also: make docker-check)

Every COPY from the repository and every RUN is carried out literally, under a folder that stands for the image's root:
/opt/maskmill becomes FOLDER/opt/maskmill. So the environment is a fresh one, made by the Dockerfile's own commands from what
.dockerignore lets through, and the kernels are compiled by its own command. Beam's launcher, which comes from another image, is
compiled from Beam's Go module of the same version (a minute or two; Go is needed). Left out, and said: other images' files,
system packages, users. The Python is the one that runs this script; it should be the image's.

Tried afterwards: the entry command, imports, consistency of the installed packages, that another process finds the compiled
kernels instead of compiling again, and, of the worker, a build whose workers Beam's launcher starts (docker/boot.py).
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ("worker", "trainer")
_LEFT_OUT = ("useradd", "apt-get")
_LAUNCHER = "github.com/apache/beam/sdks/v2/python/container@v{beam}"
_ABSOLUTE = re.compile(r"(?<![\w./:-])/(opt|src|home|tmp)\b")
# In an image made for these, a worker must be able to do this, from any folder.
_TRIALS = {
    "worker": (
        "maskmill --version",
        "maskmill build --help",
        "python -c 'import apache_beam.runners.worker.sdk_worker_main, apache_beam.runners.dataflow, google.cloud.storage'",
        "python -c 'import maskmill.pipelines.driver.graph, maskmill.pipelines.driver.finish, maskmill.masks.registry as r; "
        "[r.generator_class(n) for n in r.GENERATORS]'",
        "pip check",
    ),
    "trainer": (
        "detcon --help",
        "detcon presets",
        "python -c 'import maskmill.training.train, google.cloud.storage'",
        "pip check",
    ),
}


class CheckError(Exception):
    """A step of a Dockerfile, or what it made, does not work."""


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M)
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


class Image:
    """A Dockerfile being carried out.

    Attributes:
        root: the folder that stands for `/`.
        environment: of its commands.
        entry: the entry point, once it is known.
        user: whom it runs as.
    """

    def __init__(self, root: Path, arguments: dict[str, str], say=print):
        self.root, self.say = root, say
        self.entry: list[str] = []
        self.user = "root"
        self.environment = {"HOME": str(root / "home"), "LANG": "C.UTF-8"}
        for name in ("TMPDIR", "LD_LIBRARY_PATH", *(n for n in os.environ if n.startswith("PIP_"))):
            if name in os.environ:
                self.environment[name] = os.environ[name]
        self._given, self._arguments = arguments, dict[str, str]()
        self._stages: set[str] = set()
        self._start("")

    def _start(self, name: str) -> None:
        """A stage begins: what it builds on is Python and nothing of ours."""
        self.folder = self.root / "home"
        self.folder.mkdir(parents=True, exist_ok=True)
        python = self.root / "python" / "bin"  # a Python and nothing that is installed beside it
        python.mkdir(parents=True, exist_ok=True)
        for link in (python / "python", python / "python3"):
            if not link.is_symlink():
                link.symlink_to(getattr(sys, "_base_executable", sys.executable))
        self.environment["PATH"] = os.pathsep.join([str(python), "/usr/bin", "/bin"])
        self._stages.add(name)
        self.user = "root"

    def inside(self, text: str) -> str:
        """A text with the image's absolute paths, and arguments, as they are here."""
        values = {**self._arguments, **self.environment}
        text = re.sub(r"\$\{(\w+)\}|\$(\w+)", lambda m: values.get(m[1] or m[2], ""), text)
        return _ABSOLUTE.sub(lambda m: f"{self.root}/{m[1]}", text)

    def run(self, command: str) -> str:
        """Runs one command; CheckError with its last words when it fails."""
        environment = {**self.environment, "PWD": str(self.folder)}
        done = subprocess.run(
            ["sh", "-ec", command],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            words = "\n".join(done.stdout.strip().splitlines()[-8:])
            raise CheckError(f"`{command}` ended with {done.returncode}:\n{words}")
        return done.stdout

    def step(self, word: str, rest: str) -> None:
        """Carries out one instruction."""
        if word == "ARG":
            name, _, default = rest.partition("=")
            self._arguments[name] = self._given.get(name, default or self._arguments.get(name, ""))
        elif word == "FROM":
            self._start(rest.rpartition(" AS ")[2] if " AS " in rest else "")
        elif word == "WORKDIR":
            self.folder = Path(self.inside(rest))
            self.folder.mkdir(parents=True, exist_ok=True)
        elif word == "ENV":
            for pair in shlex.split(rest):
                name, _, value = pair.partition("=")
                self.environment[name] = self.inside(value)
        elif word == "COPY":
            self._copy(shlex.split(rest))
        elif word == "RUN":
            for command in rest.split(" && "):
                if command.split()[0] in _LEFT_OUT:
                    self.say(f"  left out: {command.strip()}")
                else:
                    # Owners are users of the image; here everything is ours.
                    self.say(f"  {command.strip()}")
                    self.run(self.inside(re.sub(r"(install -d) -o \w+", r"\1", command.strip())))
        elif word == "USER":
            self.user = rest
        elif word == "ENTRYPOINT":
            self.entry = [self.inside(part) for part in re.findall(r'"([^"]+)"', rest)]

    def _copy(self, parts: list[str]) -> None:
        if parts[0].startswith("--from="):
            stage = parts[0].removeprefix("--from=")
            made = Path(self.inside(parts[1]))
            if stage in self._stages and made.exists():
                return  # all stages share one root here
            if parts[1] == "/opt/apache/beam":
                self._compile_launcher(made)
                return
            self.say(f"  left out: COPY {' '.join(parts)}")
            made.mkdir(parents=True, exist_ok=True)
            return
        self._copy_from_repository(parts)

    def _compile_launcher(self, place: Path) -> None:
        module = _LAUNCHER.format(beam=self._arguments["BEAM"])
        self.say(f"  go install {module}")
        if shutil.which("go") is None:
            raise CheckError("Beam's launcher is compiled with Go, which is not on this machine")
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["go", "install", module], env={**os.environ, "GOBIN": str(place)}, capture_output=True, text=True
        )
        if done.returncode:
            raise CheckError(f"Beam's launcher cannot be compiled: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        (place / "container").rename(place / "boot")

    def _copy_from_repository(self, parts: list[str]) -> None:
        *sources, target = parts
        let_through = (ROOT / ".dockerignore").read_text().splitlines()
        for source in sources:
            if f"!{source.split('/')[0]}" not in let_through:
                raise CheckError(f"COPY {source}: .dockerignore does not let it through")
            place = self.folder / target if not target.startswith("/") else Path(self.inside(target))
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
            elif (ROOT / source).exists():
                place = place / Path(source).name if target.endswith("/") else place
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
            else:
                raise CheckError(f"COPY {source}: there is no such file")


def check(name: str, text: str, root: Path, arguments: dict[str, str], say=print) -> Image:
    """Carries out a Dockerfile under `root` and tries what it made; CheckError at the first thing that does not work."""
    image = Image(root, arguments, say)
    for word, rest in instructions(text):
        image.step(word, rest)
    if not image.entry:
        raise CheckError("there is no ENTRYPOINT")
    launcher = image.entry[0] == str(root / "opt/apache/beam/boot")
    if launcher and image.user != "root":
        raise CheckError(
            f"USER {image.user}: Beam's launcher needs root, since the folder that Dataflow mounts for staged files is root's"
        )
    if shutil.which(image.entry[0], path=image.environment["PATH"]) is None:
        raise CheckError(f"the entry command {image.entry[0]} is not in the image's PATH")
    for command in _TRIALS.get(name, ()):
        say(f"  trying: {command}")
        image.run(command)
    if kernels := image.environment.get("NUMBA_CACHE_DIR"):
        before = compiled(Path(kernels))
        if not before:
            raise CheckError(f"no compiled kernels are in {kernels}")
        image.run("maskmill warmup")
        if compiled(Path(kernels)) != before:
            raise CheckError("another process compiled the kernels again instead of using those of the image")
        say(f"  {len(before)} compiled kernels are found again")
    if launcher:
        said = image.run(f"PYTHONPATH={ROOT}/tests/support python {ROOT}/docker/boot.py {image.entry[0]}")
        say(f"  {said.strip()}")
    return image


def compiled(folder: Path) -> dict[str, int]:
    """Compiled code under a folder, with the time each file was last written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.nb[ci]")}


def main(argv: list[str] | None = None) -> int:
    """Returns 0 when every image's steps work, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", default=["worker"], help=f"of {', '.join(IMAGES)} (default: worker)")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--folder", help="stands for the image's root, and is kept (default: a temporary one)")
    args = parser.parse_args(argv)
    arguments = {"ACCELERATOR": "cpu", **dict(pair.split("=", 1) for pair in args.build_arg)}
    for name in args.images:
        print(f"{name}.Dockerfile")
        root = Path(args.folder or tempfile.mkdtemp(prefix="maskmill-image-")).resolve()
        try:
            check(name, (ROOT / "docker" / f"{name}.Dockerfile").read_text(), root, arguments)
        except CheckError as error:
            print(f"docker/check.py: {name}.Dockerfile: {error}", file=sys.stderr)
            return 1
        finally:
            if not args.folder:
                shutil.rmtree(root, ignore_errors=True)
        print("  works")
    return 0


if __name__ == "__main__":
    sys.exit(main())
