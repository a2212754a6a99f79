"""The command `detcon`: exit codes, messages without tracebacks, and a --help that does not wait for JAX."""

import json
import subprocess
import sys
import time

import pytest

from maskmill.training import cli


def detcon(*words):
    return subprocess.run([sys.executable, "-m", "maskmill.training.cli", *words], capture_output=True, text=True)


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["presets"]], ids=" ".join)
def test_help_imports_nothing_heavy(words):
    code = (
        "import sys; from maskmill.training import cli\n"
        f"try: cli.main({words})\n"
        "except SystemExit as e: assert not e.code\n"
        "heavy = {'jax', 'numpy', 'tensorflow', 'flax', 'orbax'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_is_quick():
    best = min(_seconds("train", "--help") for _ in range(3))
    assert best < 0.3


def _seconds(*words):
    begin = time.perf_counter()
    assert detcon(*words).returncode == 0
    return time.perf_counter() - begin


@pytest.fixture
def build(tmp_path):
    """A folder that looks finished; its manifest is read only after the words are checked."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text("{}")
    return str(tmp_path / "data")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--preset", "detcon_b_cooc"], 2, "unknown preset 'detcon_b_cooc'; did you mean 'detcon_b_coco'?"),
        (["--preset", "smoke_cpu", "--set", "lr=1"], 2, "unknown key 'lr'; did you mean 'optim.lr'?"),
        (["--preset", "smoke_cpu", "--coordinator", "a:1"], 2, "belong together; give all three"),
        (["--config", "nowhere.json"], 4, "cannot read --config nowhere.json: No such file"),
        (["--preset", "smoke_cpu", "--data", "nowhere"], 4, "--data nowhere is not a folder"),
        (["--preset", "smoke_cpu", "--data", "."], 4, "has no manifest.json, so it is not a finished build"),
    ],
)
def test_wrong_words_end_with_one_line(build, capsys, tmp_path, words, code, message):
    data = [] if "--data" in words else ["--data", build]
    assert cli.main(["train", *words, *data, "--workdir", str(tmp_path / "run")]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("detcon train: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_argparse_errors_are_wrong_use():
    done = detcon("train", "--preset", "smoke_cpu")
    assert done.returncode == 2
    assert "--data" in done.stderr
    assert detcon("trian").returncode == 2


def test_a_config_that_is_not_json(build, capsys, tmp_path):
    bad = tmp_path / "c.json"
    bad.write_text("{")
    assert cli.main(["train", "--config", str(bad), "--data", build, "--workdir", "w"]) == 2
    assert "is not JSON" in capsys.readouterr().err


def test_a_runs_card_serves_as_config(build, tmp_path, monkeypatch):
    """`--config RUN/run.json` starts a run like another, and overrides apply to it."""
    card = tmp_path / "run.json"
    card.write_text(json.dumps({"config": {"batch_size": 32}, "manifest_digest": "x"}))
    args = cli._parser().parse_args(
        ["train", "--config", str(card), "--data", build, "--workdir", "w", "--set", "seed=3", "--variant", "release"]
    )
    config = cli._config(args)
    assert (config.batch_size, config.seed, config.loss.form) == (32, 3, "release")


def test_presets_are_listed_and_shown(capsys):
    assert cli.main(["presets"]) == 0
    assert "detcon_b_in1k_300" in capsys.readouterr().out
    assert cli.main(["presets", "smoke_cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["smoke_cpu"]["config"]["model"]["arch"] == "tiny"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RuntimeError("first line\nsecond"), 1, "internal error: RuntimeError: first line; --debug shows where\n"),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the last checkpoint\n"),
    ],
)
def test_what_goes_wrong_inside_is_one_line(capsys, monkeypatch, error, code, message):
    def fail(args):
        raise error

    monkeypatch.setattr(cli, "_presets", fail)
    assert cli.main(["presets"]) == code
    assert capsys.readouterr().err == f"detcon presets: {message}"


def test_debug_shows_the_traceback(monkeypatch):
    def fail(args):
        raise RuntimeError("boom")

    monkeypatch.setattr(cli, "_presets", fail)
    with pytest.raises(RuntimeError, match="boom"):
        cli.main(["presets", "--debug"])
