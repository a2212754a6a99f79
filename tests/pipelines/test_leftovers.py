"""What killed reports and exports leave is cleared away by the next, but never what somebody is writing."""

import fcntl
import os
import shutil

import pytest
from drawn import write_coco

from maskmill.pipelines.commands.cli import main


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("built")
    images, annotations = write_coco(root, 4)
    words = ["build", "--dataset", "coco", "--images", images, "--annotations", annotations, "--masks", "grid(n=2)"]
    assert main([*words, "--workers", "0", "--out", str(root / "data")]) == 0
    return root / "data"


@pytest.fixture
def data(built, tmp_path):
    shutil.copytree(built, tmp_path / "data")
    return tmp_path / "data"


def begin(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"half")
    return [folder / name for name in names]


def test_a_report_clears_away_what_a_killed_one_began(data):
    old = begin(data, "report.json.7-ab.incomplete", "report.html.7-ab.incomplete", "SHA256SUMS.7-ab.incomplete")
    [other] = begin(data, "somebodys.incomplete")
    assert main(["report", str(data)]) == 0
    assert not any(path.exists() for path in old)
    assert other.exists()
    assert main(["validate", str(data)]) == 0


def test_it_does_not_while_another_writes(data):
    [theirs] = begin(data, "report.json.7-ab.incomplete")
    descriptor = os.open(data, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert main(["report", str(data)]) == 0
    assert theirs.exists()
    os.close(descriptor)


@pytest.mark.parametrize("name", ["export.json.7-ab.incomplete", "data/train-00000-of-00001.parquet.7-ab.incomplete"])
def test_an_export_goes_on_and_clears_away(built, tmp_path, name):
    to = tmp_path / "out"
    words = ["export", str(built), "--format", "parquet", "--to", str(to)]
    if name.startswith("data"):
        assert main(words) == 0
    [old] = begin((to / name).parent, os.path.basename(name))
    assert main(words) == 0
    assert not old.exists()
    assert sorted(path.name for path in to.rglob("*") if path.is_file())[:2] == ["README.md", "export.json"]


def test_an_export_to_one_file_clears_away_its_own_only(built, tmp_path):
    mine, other = begin(tmp_path, "masks.json.7-ab.incomplete", "else.json.7-ab.incomplete")
    assert main(["export", str(built), "--format", "coco", "--to", str(tmp_path / "masks.json")]) == 0
    assert not mine.exists()
    assert other.exists()


def test_a_folder_that_is_no_export_is_left_alone(built, tmp_path, capsys):
    to = tmp_path / "theirs"
    kept = begin(to, "notes.txt", "download.incomplete")
    assert main(["export", str(built), "--format", "parquet", "--to", str(to)]) == 4
    assert "is not empty and holds no export of ours" in capsys.readouterr().err
    assert all(path.exists() for path in kept)
