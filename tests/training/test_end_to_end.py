"""`detcon train` on a build of drawn scenes, as a user runs it: interrupted, resumed, and failing cleanly."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from scenes import write_scenes

from maskmill.training import cli

# Small enough that reading, decoding and a compiled step cost little beside the imports.
SMALL = (
    "data.layers=true", "data.image_size=64", "data.masks_per_view=4", "model.hidden=16", "model.out=8",
    "batch_size=8", "optim.warmup_epochs=0.5", "log.log_every=1", "log.checkpoint_every=4", "log.tensorboard=false",
)  # fmt: skip


def words(data, workdir, *more):
    settings = [f"--set={s}" for s in (*SMALL, "steps=12", *more)]
    return ["train", "--preset", "smoke_cpu", "--data", str(data), "--workdir", str(workdir), *settings]


LITTLE_ROOM = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from maskmill.training import cli
sys.exit(cli.main())
"""


def start(*args, program=("-m", "maskmill.training.cli"), **kwargs):
    command = [sys.executable, *program, *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def losses(workdir):
    return [(line["step"], line["loss"]) for line in map(json.loads, (workdir / "log.jsonl").read_text().splitlines())]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(str(folder), 24, seed=1)
    return folder


@pytest.fixture(scope="module")
def whole_run(scenes, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(words(scenes, workdir)) == 0
    return workdir


@pytest.mark.slow
def test_control_c_and_the_same_command_again_equal_one_run(scenes, whole_run, tmp_path):
    """Another process, another start in the data, the same losses to the last bit."""
    workdir = tmp_path / "run"
    process = start(*words(scenes, workdir))
    log = workdir / "log.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 2) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=120)
    stopped = len(losses(workdir))
    if stopped < 12:  # the signal came before the end
        assert process.returncode == 130, error
        assert f"interrupted after step {stopped}, which is saved; the same command goes on from there" in error
    assert cli.main(words(scenes, workdir)) == 0
    assert losses(workdir) == losses(whole_run)
    assert [step for step, _ in losses(workdir)] == list(range(1, 13))


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint(scenes, whole_run, tmp_path):
    """A limit on file size fails writes as a full disk does; the message says what is left and what to do."""
    workdir = tmp_path / "run"
    assert cli.main([*words(scenes, workdir), "--until", "4"]) == 0

    # What the cache of compiled steps lacks could not be written there either.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    process = start(*words(scenes, workdir), program=["-c", LITTLE_ROOM], env=environment)
    _, error = process.communicate(timeout=280)
    assert process.returncode == 4, error
    # Around our line the storage library's native threads print what they think of it.
    said = [line for line in error.splitlines() if line.startswith("detcon train: ")]
    assert len(said) == 1
    assert said[0].startswith("detcon train: could not save a checkpoint")
    assert "the checkpoint of step 4 is intact. Free space or fix permissions, then run the same command" in said[0]
    assert cli.main(words(scenes, workdir)) == 0
    assert losses(workdir) == losses(whole_run)


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("data.layers=treu", 4, "true"),
        ("batch_size=64", 2, "24 records"),
    ],
)
def test_what_does_not_fit_the_data_is_said_before_training(scenes, tmp_path, capsys, setting, code, message):
    assert cli.main(words(scenes, tmp_path / "run", setting)) == code
    error = capsys.readouterr().err
    assert error.startswith("detcon train: ")
    assert message in error
    assert not (tmp_path / "run").exists()
