"""Storage that never answers: listing is given up, work that goes on is not."""

import hashlib
import os
import threading
import time

import pytest
from drawn import write_coco

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.dataset import leftovers
from maskmill.pipelines.driver import build, estimate
from maskmill.pipelines.reading import folder_index, patience
from maskmill.pipelines.reading.patience import patiently
from maskmill.schemas import local_files, storage
from maskmill.schemas.errors import InputError


@pytest.fixture
def gone():
    """Blocks whoever waits for it, until the test is over."""
    back = threading.Event()
    yield back
    back.set()


def test_results_and_errors_are_passed_on():
    assert patiently(lambda: 7, 1.0, "there") == 7
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 // 0, 1.0, "there")


def test_a_pipe_that_nobody_writes_to_is_given_up(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    begin = time.monotonic()
    with pytest.raises(
        InputError, match=r"pipe has not answered for 0\.5 s; is its storage gone\? Give the same command"
    ):
        patiently(pipe.read_bytes, 0.5, str(pipe), "")
    assert time.monotonic() - begin < 10
    os.close(os.open(pipe, os.O_WRONLY))  # lets the thread go


def slowly():
    for _ in range(30):
        time.sleep(0.05)
    return "listed"


def busily():
    hashlib.sha256(bytes(400 << 20))  # one call, without Python's lock
    return "listed"


@pytest.mark.parametrize("work", [slowly, busily])
def test_work_that_goes_on_is_waited_for(work):
    """The control: both take longer than the patience."""
    assert patiently(work, 0.8 if work is slowly else 0.4, "there") == "listed"


@pytest.mark.parametrize("command", ["plan", "build"])
def test_a_folder_on_a_dead_mount_is_one_sentence(command, tmp_path, monkeypatch, capsys, gone):
    images, _ = write_coco(tmp_path, 3)

    class Dead:
        def __getattr__(self, name):
            return getattr(os, name)

        def scandir(self, path):
            gone.wait()
            raise OSError("it is back")

    monkeypatch.setattr(folder_index, "os", Dead())
    words = [command, "--dataset", "folder", "--images", images, "--masks", "grid(n=2)", "--out", str(tmp_path / "out")]
    assert main([*words, "--workers", "0", "--image-timeout", "0.6"]) == 4
    said = capsys.readouterr().err
    assert said.startswith(f"maskmill: {images} has not answered for 0.6 s; is its storage gone?")
    assert said.count("\n") == 1


def test_annotations_on_a_dead_mount_are_too(tmp_path, monkeypatch, capsys, gone):
    images, annotations = write_coco(tmp_path, 3)
    monkeypatch.setattr(storage, "read_bytes", lambda path, *rest: gone.wait())
    words = ["plan", "--dataset", "coco", "--images", images, "--annotations", annotations, "--masks", "grid(n=2)"]
    assert main([*words, "--image-timeout", "0.6"]) == 4
    assert f"maskmill: {images} or {annotations} has not answered for 0.6 s" in capsys.readouterr().err


def test_a_picture_that_never_answers_is_a_failure_of_the_sample(tmp_path, monkeypatch, capsys, gone):
    images, annotations = write_coco(tmp_path, 3)
    whole = storage.read_whole

    def read_whole(path, limit):
        if path.endswith("1.png"):
            gone.wait()
        return whole(path, limit)

    monkeypatch.setattr(storage, "read_whole", read_whole)
    words = ["plan", "--dataset", "coco", "--images", images, "--annotations", annotations, "--masks", "grid(n=2)"]
    assert main([*words, "--image-timeout", "0.6"]) == 0
    assert "sampled 3: " in (said := capsys.readouterr().out)
    assert "1 failed" in said


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished")
    images, annotations = write_coco(root, 3)
    words = [
        "--dataset",
        "coco",
        "--images",
        images,
        "--annotations",
        annotations,
        "--masks",
        "grid(n=2)",
        "--masks",
        "gt()",
    ]
    assert main(["build", *words, "--out", str(root / "out"), "--workers", "0"]) == 0
    return root


class Gone:
    """`os`, but for what looks at one path: it waits."""

    def __init__(self, path, until):
        self._gone, self._until = str(path), until

    def __getattr__(self, name):
        return (
            getattr(os, name) if name == "path" or not callable(getattr(os, name)) else self.waiting(getattr(os, name))
        )

    def waiting(self, call):
        def wrapped(*args, **kwargs):
            if any(str(arg).startswith(self._gone) for arg in args if isinstance(arg, str | os.PathLike)):
                self._until.wait()
            return call(*args, **kwargs)

        return call if isinstance(call, type) else wrapped


@pytest.mark.parametrize(
    ("command", "dead"),
    [
        (["validate", "OUT"], "OUT"),
        (["status", "OUT"], "OUT"),
        (["view", "OUT", "1", "--out", "PLACE"], "OUT"),
        (["compare", "OUT", "OUT"], "OUT"),
        (["report", "OUT"], "OUT"),
        (["retry", "OUT"], "OUT"),
        (["export", "OUT", "--format", "parquet", "--to", "PLACE"], "OUT"),
        (["export", "OUT", "--format", "parquet", "--to", "PLACE"], "PLACE"),
        (["report", "OUT", "--out", "PLACE"], "PLACE"),
        (["report", "OUT", "--out", "PLACE", "--annotations", "TRUTH"], "TRUTH"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_every_command_gives_up_a_mount_that_does_not_answer(
    command, dead, finished, tmp_path, monkeypatch, capsys, gone
):
    places = {"OUT": finished / "out", "PLACE": tmp_path / "place", "TRUTH": finished / "instances.json"}
    (tmp_path / "place").mkdir()
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    for module in (local_files, leftovers, build):
        monkeypatch.setattr(module, "os", Gone(places[dead], gone), raising=False)
    capsys.readouterr()
    assert main([str(places.get(word, word)) for word in command]) == 4
    said = capsys.readouterr().err
    assert said == (
        f"maskmill: {places[dead]} has not answered for 0.5 s; is its storage gone? Give the same command again when it is back\n"
    )


def test_a_build_gives_up_an_output_that_does_not_answer(finished, tmp_path, monkeypatch, capsys, gone):
    monkeypatch.setattr(build, "os", Gone(tmp_path, gone))
    words = ["build", "--dataset", "folder", "--images", str(finished / "images"), "--masks", "grid(n=2)"]
    assert main([*words, "--out", str(tmp_path / "out"), "--workers", "0", "--image-timeout", "2"]) == 4
    assert f"{tmp_path / 'out'} has not answered for 2 s; is its storage gone?" in capsys.readouterr().err


def test_an_output_that_goes_away_ends_what_writes_there(tmp_path, monkeypatch, gone):
    told = []
    monkeypatch.setattr(patience, "os", Gone(tmp_path, gone))
    with patience.watched(str(tmp_path), 0.4, told.append):
        time.sleep(1.5)
    assert told == [
        f"{tmp_path} has not answered for 0.4 s; is its storage gone? Give the same command again when it is back"
    ]


def test_an_output_that_answers_is_left_in_peace(tmp_path):
    """The control; that it is not there yet is an answer."""
    told = []
    with patience.watched(str(tmp_path / "none"), 0.4, told.append):
        time.sleep(1.2)
    assert told == []


def test_a_plan_gives_up_the_output_that_it_measures(finished, tmp_path, monkeypatch, capsys, gone):
    monkeypatch.setattr(estimate, "free_space", lambda folder: gone.wait())
    words = ["plan", "--dataset", "folder", "--images", str(finished / "images"), "--masks", "grid(n=2)"]
    assert main([*words, "--out", str(tmp_path), "--image-timeout", "2"]) == 4
    assert f"{tmp_path} has not answered for 2 s; is its storage gone?" in capsys.readouterr().err


def test_a_check_before_a_cluster_gives_up_what_does_not_answer(finished, tmp_path, monkeypatch, capsys, gone):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    monkeypatch.setattr(local_files, "os", Gone(tmp_path, gone))
    words = [
        "--dataset",
        "folder",
        "--images",
        str(finished / "images"),
        "--masks",
        "grid(n=2)",
        "--out",
        str(tmp_path),
    ]
    assert main(["cluster", "check", *words, "--quick"]) == 4
    said = capsys.readouterr()
    assert f"{tmp_path} has not answered for 0.5 s" in said.out + said.err
