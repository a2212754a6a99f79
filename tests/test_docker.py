"""The images and the template as far as they can be checked without an engine that builds them."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from maskmill.pipelines.commands.cli import COMMANDS, build_parser
from maskmill.pipelines.parts.config import BuildConfig, RunOptions

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))


def load(name: str):
    """A script of docker/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCKER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load("check")


def instructions(path: Path) -> list[tuple[str, str]]:
    return check.instructions(path.read_text())


def final_stage(path: Path) -> list[tuple[str, str]]:
    steps = instructions(path)
    last = max(i for i, (word, _) in enumerate(steps) if word == "FROM")
    return steps[last:]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_instruction_is_known_and_what_is_copied_is_there(path):
    known = {"FROM", "ARG", "COPY", "RUN", "ENV", "USER", "WORKDIR", "ENTRYPOINT"}
    stages, ignored = set(), (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in instructions(path):
        assert word in known
        if word == "FROM" and " AS " in rest:
            stages.add(rest.rsplit(" ", 1)[1])
        if word == "COPY":
            *sources, _ = [part for part in rest.split() if not part.startswith("--")]
            stage = re.match(r"--from=(\S+)", rest)
            if stage:
                assert stage[1] in stages
                continue
            for source in sources:
                assert (ROOT / source).exists(), source
                assert f"!{source.split('/')[0]}" in ignored, f"{source} is not sent to the builder"
        if word == "ENTRYPOINT":
            assert isinstance(json.loads(rest), list)


def test_every_package_that_is_installed_is_copied():
    rooms = re.search(r"^ROOMS = (\[.*\])", (ROOT / "setup.py").read_text(), re.M)
    for name in ("worker", "trainer"):
        copied = [rest.split()[0] for word, rest in instructions(DOCKER / f"{name}.Dockerfile") if word == "COPY"]
        assert set(json.loads(rooms[1].replace("'", '"'))) <= set(copied)


@pytest.mark.parametrize("name", ["worker", "trainer"])
def test_images_end_without_build_tools(name):
    commands = " ".join(rest for word, rest in final_stage(DOCKER / f"{name}.Dockerfile") if word == "RUN")
    assert "pip install" not in commands
    assert "apt-get" not in commands


def test_who_runs_what():
    """The trainer's image is a user's; Beam's launcher and Dataflow's must write where only root may."""
    users = {path.name: [rest for word, rest in final_stage(path) if word == "USER"] for path in FILES}
    assert users == {"worker.Dockerfile": [], "flex.Dockerfile": [], "trainer.Dockerfile": ["miller"]}


def test_the_worker_starts_beams_launcher_with_kernels_compiled():
    steps = final_stage(DOCKER / "worker.Dockerfile")
    assert ("ENTRYPOINT", '["/opt/apache/beam/boot"]') in steps
    ran = next(rest for word, rest in steps if word == "RUN" and rest.startswith("maskmill"))
    assert ran.split()[1] in COMMANDS
    assert "chmod -R a+rwX /opt/kernels" in ran  # Numba leaves a cache that it cannot write to alone


def test_the_image_has_the_beam_that_is_pinned():
    pinned = re.search(r"^apache-beam==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)[1]
    assert ("ARG", f"BEAM={pinned}") in instructions(DOCKER / "worker.Dockerfile")


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A registry's answers, by image, behind a `docker` of ours."""
    answers = tmp_path / "answers.json"
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\nassert sys.argv[1:4] == ['buildx', 'imagetools', 'inspect'], sys.argv\n"
        f"said = json.load(open({str(answers)!r})).get(sys.argv[4])\nprint(said) if said else sys.exit('ERROR: no such host')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    return lambda said: answers.write_text(json.dumps(said))


def test_base_images_are_pinned_by_what_the_registry_says(docker, tmp_path, capsys):
    pin = load("pin")
    images = pin.bases()
    assert images["PYTHON_IMAGE"] == "python:3.11-slim"
    assert images["BEAM_IMAGE"].startswith("apache/beam_python3.11_sdk:2.")
    docker({image: f"sha256:{number:064x}" for number, image in enumerate(sorted(images.values()))})
    assert pin.main(tmp_path / "images.lock") == 0
    lines = dict(line.split("=", 1) for line in (tmp_path / "images.lock").read_text().splitlines())
    assert {name: value.split("@sha256:")[0] for name, value in lines.items()} == images
    for path in FILES:  # each is an argument, and nothing else is built on
        named = {re.sub(r"[${}]", "", rest.split()[0]) for word, rest in instructions(path) if word == "FROM"}
        assert named <= {*lines, "WORKER"}


@pytest.mark.parametrize("said", ["", "<html>", "sha256:1234"])
def test_a_digest_that_is_none_is_not_written(said, docker, tmp_path, capsys):
    pin = load("pin")
    docker(dict.fromkeys(pin.bases().values(), said))
    assert pin.main(tmp_path / "images.lock") == 4
    assert "the digest of apache/beam_python3.11_sdk:2" in capsys.readouterr().err
    assert not (tmp_path / "images.lock").exists()


@pytest.mark.parametrize(
    ("answers", "code", "says"),
    [
        ({"pypi": (0, "")}, 0, "No known"),
        ({"pypi": (1, "jinja2 3.1.2 GHSA-1 3.1.3")}, 1, "GHSA-1"),
        ({"pypi": (1, ""), "osv": (0, "")}, 0, "no answer: ERROR: Dependency not found on PyPI"),
        ({"pypi": (1, ""), "osv": (1, "jinja2 3.1.2 GHSA-1 3.1.3")}, 1, "GHSA-1"),
        ({"pypi": (1, ""), "osv": (1, "")}, 4, "not audited, since no database could be asked; this is no all-clear"),
    ],
)
def test_an_audit_without_an_answer_is_no_all_clear(answers, code, says, monkeypatch, capsys):
    audit = load("audit")

    def run(command, **_):
        status, table = answers[command[command.index("--vulnerability-service") + 1]]
        said = "Found 1 known" if table else "ERROR: Dependency not found on PyPI" if status else "No known holes"
        return subprocess.CompletedProcess(command, status, table, said)

    monkeypatch.setattr(audit.subprocess, "run", run)
    assert audit.main(["worker.lock"]) == code
    assert says in capsys.readouterr().out


def test_the_templates_parameters_are_all_options_of_a_build():
    flex = load("flex_main")
    written = (DOCKER / "flex_template_metadata.json").read_text()
    assert written == flex.metadata(), "run: python docker/flex_main.py --metadata > docker/flex_template_metadata.json"
    parameters = {p["name"]: p for p in json.loads(written)["parameters"]}
    of_builds = {field.name for cls in (BuildConfig, RunOptions) for field in dataclasses.fields(cls)}
    assert of_builds | {"out", "overwrite"} == set(parameters) | {"workers", "detach", "beam_args"}
    assert {n for n, p in parameters.items() if not p.get("isOptional")} == {"dataset", "images", "masks", "out"}
    for parameter in parameters.values():
        assert {"name", "label", "helpText", "paramType"} <= set(parameter)
        assert parameter["helpText"]
        for pattern in parameter["regexes"]:
            re.compile(pattern)
    given = {
        "dataset": "coco",
        "images": "gs://b/i",
        "masks": "fh;gt()",
        "max_failure_rate": "1e-2",
        "overwrite": "true",
    }
    assert all(re.match(parameters[name]["regexes"][0], value) for name, value in given.items())
    refused = {"dataset": "cocoa", "annotations": "/tmp/x.json", "limit": "all", "masks_only": "yes"}
    assert not any(re.match(parameters[name]["regexes"][0], value) for name, value in refused.items())


def test_the_launchers_words_become_a_command():
    words = ["--dataset=folder", "--images=gs://b/i", "--masks=fh;grid(n=(1, 2))", "--num_shards=7", "--seed="]
    words += ["--masks_only=true", "--overwrite=false", "--bad_annotations=drop", "--max_failure_rate=0.5"]
    words += ["--out=gs://b/o", "--runner=DataflowRunner", "--job_name=x", "--template_location=gs://b/t"]
    command = load("flex_main").split_flags(words)
    own, beam = command[: command.index("--")], command[command.index("--") + 1 :]
    args = build_parser().parse_args(own)
    assert (args.dataset, args.images, args.out, args.num_shards, args.seed) == (
        "folder",
        "gs://b/i",
        "gs://b/o",
        7,
        None,
    )
    assert args.masks == ["fh", "grid(n=(1, 2))"]
    assert (args.masks_only, args.overwrite, args.bad_annotations, args.max_failure_rate) == (True, False, "drop", 0.5)
    assert beam == ["--runner=DataflowRunner", "--job_name=x", "--template_location=gs://b/t"]


_SMALL = """
FROM python:3 AS build
WORKDIR /src
COPY setup.py LICENSE ./
# a comment
COPY schemas schemas
RUN python -m venv --without-pip /opt/maskmill \\
 && cp setup.py /opt/maskmill/
FROM python:3
COPY --from=other /opt/other /opt/other
COPY --from=build /opt/maskmill /opt/maskmill
ENV PATH=/opt/maskmill/bin:$PATH
RUN useradd me && test -f /opt/maskmill/setup.py && test -f /src/schemas/errors.py
ENTRYPOINT ["python"]
"""


def test_a_dockerfiles_steps_are_carried_out_under_a_folder(tmp_path):
    said: list[str] = []
    image = check.check("small", _SMALL, tmp_path, {}, said.append)
    assert image.run("command -v python").strip() == str(tmp_path / "opt" / "maskmill" / "bin" / "python")
    assert [line for line in said if "left out" in line] == [
        "  left out: COPY --from=other /opt/other /opt/other",
        "  left out: useradd me",
    ]


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("COPY schemas schemas", "", "`test -f .*/src/schemas/errors.py` ended with 1"),
        ("COPY schemas schemas", "COPY nothing nothing", "COPY nothing: .dockerignore does not let it through"),
        ("COPY schemas schemas", "COPY docker/no.py no.py", "COPY docker/no.py: there is no such file"),
        ("cp setup.py", "cp setup.p", "`cp setup.p .*` ended with 1:\ncp: cannot stat"),
        ('ENTRYPOINT ["python"]', 'ENTRYPOINT ["maskmil"]', "the entry command maskmil is not in the image's PATH"),
        ('ENTRYPOINT ["python"]', "", "there is no ENTRYPOINT"),
        ("ENV PATH", "ENV NUMBA_CACHE_DIR=/opt/kernels PATH", "no compiled kernels are in .*/opt/kernels"),
    ],
)
def test_a_broken_dockerfile_is_found(good, bad, message, tmp_path):
    assert good in _SMALL
    with pytest.raises(check.CheckError, match=message):
        check.check("small", _SMALL.replace(good, bad), tmp_path, {}, lambda line: None)


def test_what_is_tried_of_the_images_can_fail(tmp_path):
    with pytest.raises(check.CheckError, match="`maskmill --version` ended with 127"):
        check.check("worker", _SMALL, tmp_path, {}, lambda line: None)


def test_a_worker_image_of_a_user_is_refused(tmp_path):
    (tmp_path / "opt/apache/beam").mkdir(parents=True)
    text = "ARG BEAM=2.77.0\n" + _SMALL.replace('["python"]', '["/opt/apache/beam/boot"]')
    with pytest.raises(check.CheckError, match="USER me: Beam's launcher needs root, since the folder that Dataflow"):
        check.check("small", text.replace("ENTRYPOINT", "USER me\nENTRYPOINT"), tmp_path, {}, lambda line: None)


def pins(path: Path) -> dict[str, set[str]]:
    """Name -> versions that a file pins."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?==([^\s;]+)", path.read_text(), re.M | re.I):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("name", ["worker", "trainer"])
def test_images_install_what_is_pinned_and_nothing_else(name):
    lock = DOCKER / f"{name}.lock"
    locked, pinned = pins(lock), pins(ROOT / "constraints.txt")
    assert len(locked) > 50
    assert {k: v for k, v in locked.items() if not v <= pinned.get(k, set())} == {}
    entries = re.split(r"\n(?=\S)", lock.read_text().strip())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert "://" not in lock.read_text()
    install = " ".join(rest for word, rest in instructions(DOCKER / f"{name}.Dockerfile") if word == "RUN")
    assert f"--require-hashes -r {name}.lock" in install


def test_every_dependency_of_setup_is_pinned():
    declared = re.findall(r"""^ {4}["']([A-Za-z0-9-]+)""", (ROOT / "setup.py").read_text(), re.M)
    pinned = pins(ROOT / "constraints.txt")
    assert len(declared) > 30
    assert [name for name in declared if name.lower() not in pinned] == []
