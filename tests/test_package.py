"""The wheel as users have it: one top-level name, and commands that do not care what lies in the user's folder."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
HOSTILE = "raise RuntimeError('the user\\'s own module was imported')\n"


def run(*command: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """A command as a real process, without what the tests' own environment adds to the path."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: setuptools leaves a build folder behind
    source.mkdir()
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    tops = {
        "maskmill",
        "schemas",
        "masks",
        "pipelines",
        "training",
        "setup.py",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    if names.returncode:
        pytest.fail("the tests of the package need the git checkout")
    for name in filter(None, names.stdout.split("\0")):
        if name.partition("/")[0] in tops and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = run(*pip, "--wheel-dir", folder, source, cwd=folder)
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment that has the wheel; everything else it finds where the tests do."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    own = next(folder.glob("lib/python*/site-packages"))
    shared = [p for p in sys.path if p.endswith("site-packages")] or [sysconfig.get_path("purelib")]
    (own / "shared.pth").write_text("\n".join(shared) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-deps"]
    done = run(*pip, "--ignore-installed", "--no-index", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A folder of a user who has modules of every name that could be ours."""
    folder = tmp_path / "project"
    for name in (
        "masks.py",
        "training.py",
        "maskmill.py",
        "registry.py",
        "schemas/__init__.py",
        "pipelines/__init__.py",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(HOSTILE)
    (folder / "numpy_helper").mkdir()
    (folder / "numpy_helper" / "__init__.py").write_text(HOSTILE)
    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(str(folder / "pictures" / f"{i}.png"), rng.integers(0, 256, (48, 64, 3), np.uint8))
    return folder


def test_one_name_at_top_level(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"maskmill"}
    assert {"maskmill/py.typed", "maskmill/schemas/example.proto", "maskmill/masks/mcg/models/ranker.npz"} <= set(names)
    assert "maskmill/pipelines/report/report.html.j2" in names
    assert not [
        name for name in names if ("test" in name and name != "maskmill/testing.py") or name.endswith((".nbi", ".nbc"))
    ]
    for line in ("License-Expression: Apache-2.0", "Author:", "Project-URL:", "Classifier: Typing :: Typed"):
        assert line in metadata
    for minor in (11, 12, 13):
        assert f"Classifier: Programming Language :: Python :: 3.{minor}" in metadata


@pytest.mark.parametrize(
    "words", [["check_wheel_contents"], ["twine", "check", "--strict"]], ids=["check-wheel-contents", "twine"]
)
def test_the_wheel_is_clean(wheel, words, tmp_path):
    done = run(sys.executable, "-m", *words, wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_is_what_is_imported(installed, hostile):
    code = "import maskmill, maskmill.schemas; print(maskmill.__file__, maskmill.schemas.__file__)"
    done = run(installed / "python", "-P", "-c", code, cwd=hostile)
    assert done.returncode == 0, done.stderr
    assert all(str(installed.parent) in place for place in done.stdout.split())


def test_commands_work_beside_modules_of_every_name(installed, hostile):
    maskmill, detcon = installed / "maskmill", installed / "detcon"
    asked = ["--dataset", "folder", "--images", "pictures", "--masks", "grid(n=2)"]
    for words, said in [
        ([maskmill, "--version"], "maskmill"),
        ([maskmill, "plan", *asked], "4"),
        ([maskmill, "build", *asked, "--workers", "1", "--out", "out"], "inputs 4 = written 4 + failed 0 + skipped 0"),
        ([maskmill, "validate", "out"], "valid"),
        ([detcon, "presets"], "smoke_cpu"),
    ]:
        done = run(*words, cwd=hostile)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert "the user's own module" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_training_works_beside_modules_of_every_name(installed, hostile):
    asked = ["--dataset", "folder", "--images", "pictures", "--masks", "grid(n=2)", "--out", "out", "--workers", "0"]
    assert run(installed / "maskmill", "build", *asked, cwd=hostile).returncode == 0
    few = ["--set", "batch_size=4", "--set", "steps=2", "--set", "data.layers=grid-2"]
    done = run(
        installed / "detcon", "train", "--preset", "smoke_cpu", "--data", "out", "--workdir", "run", *few, cwd=hostile
    )
    assert done.returncode == 0, done.stderr


def test_the_folder_is_hostile_indeed(installed, hostile):
    """The control: a process that looks into the current folder does meet the user's modules."""
    done = run(installed / "python", "-c", "import maskmill.schemas", cwd=hostile)
    assert done.returncode == 1
    assert "the user's own module was imported" in done.stderr


def test_the_public_face_is_what_it_says():
    import maskmill

    assert all(getattr(maskmill, name) is not None for name in maskmill.__all__)
    assert set(maskmill.__all__) <= set(dir(maskmill))
    with pytest.raises(AttributeError, match="has no attribute 'Datset'; it has BuildConfig, Dataset"):
        _ = maskmill.Datset
    masks = maskmill.propose(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8), top=3)
    assert maskmill.decode_mask(masks.counts[0], 40, 50).shape == (40, 50)
    with pytest.raises(ValueError, match=r"takes uint8\[height, width, 3\], got float64\[4, 4\]"):
        maskmill.propose(np.zeros((4, 4)))


def test_importing_the_face_loads_nothing():
    code = (
        "import sys, maskmill; print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'numba', 'apache_beam')])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_changelog_begins_with_this_version():
    import re
    from importlib.metadata import version

    stated = re.search(r'^VERSION = "([^"]+)"$', (ROOT / "setup.py").read_text(), re.M)
    heading = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert stated[1] == heading[1] == version("maskmill")
