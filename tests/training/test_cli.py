"""The command `detcon`: exit codes, messages without tracebacks, and a --help that does not wait for JAX."""

import json
import shutil
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
        (
            ["--preset", "smoke_cpu", "--writer", "json:nothing"],
            2,
            "takes MODULE:FACTORY of a module that Python finds",
        ),
        (["--preset", "smoke_cpu", "--writer", "no_such"], 2, "got 'no_such' (No module named 'no_such')"),
        (["--config", "nowhere.json"], 4, "nowhere.json not found; --config takes a YAML or JSON file"),
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


_EARLY = """
import sys
from maskmill.training import cli
code = cli.main(sys.argv[1:])
print(code, *sorted({"jax", "numba", "tensorflow"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def scenes_build(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    scenes.write_scenes(str(folder), 8, size=(40, 48))
    return folder


def damaged_manifest(folder):
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"records": 2', b'"records": "2"', 1))


def missing_shard(folder):
    next(folder.glob("*.tfrecord-00001-*")).unlink()


@pytest.mark.parametrize(
    ("spoil", "words", "code", "message"),
    [
        (damaged_manifest, ["data.layers=true"], 5, "manifest.json"),
        (missing_shard, ["data.layers=true"], 5, "scenes-train.tfrecord-00001-of-00004 is missing from"),
        (
            lambda folder: None,
            ["data.layers=fh-7"],
            4,
            "this data set has no layer 'fh-7'; it has true, grid-2, shuffled",
        ),
        (lambda folder: (folder / "manifest.json").unlink(), [], 4, "has no manifest.json"),
    ],
    ids=["manifest", "shard", "layer", "unfinished"],
)
def test_a_folder_that_cannot_be_trained_on_is_refused_before_the_heavy_imports(
    scenes_build, tmp_path, spoil, words, code, message
):
    folder = tmp_path / "data"
    shutil.copytree(scenes_build, folder)
    spoil(folder)
    command = ["train", "--preset", "smoke_cpu", "--data", str(folder), "--workdir", str(tmp_path / "run")]
    sets = [word for value in words for word in ("--set", value)]
    done = subprocess.run([sys.executable, "-c", _EARLY, *command, *sets], capture_output=True, text=True)
    assert (done.stdout, done.stderr.count("\n")) == (f"{code}\n", 1), done.stderr
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_that_can_be_is_not(scenes_build, tmp_path):
    """The control: a batch that is larger than the data set is found out later."""
    words = ["train", "--preset", "smoke_cpu", "--set", "data.layers=true", "--workdir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-c", _EARLY, *words, "--data", str(scenes_build)], capture_output=True, text=True
    )
    assert done.stdout == "2 jax numba\n", done.stderr


def test_argparse_errors_are_wrong_use():
    done = detcon("train", "--preset", "smoke_cpu")
    assert done.returncode == 2
    assert "--data" in done.stderr
    done = detcon("trian")
    assert done.returncode == 2
    assert "there is no command 'trian'; did you mean 'train'? The commands are train, export" in done.stderr


@pytest.mark.parametrize("blocked", ["jax", "safetensors"])
def test_a_base_install_says_what_the_trainer_needs(build, tmp_path, capsys, monkeypatch, blocked):
    """Every subcommand that needs the trainer, and none that does not. `None` is how Python marks what cannot be."""
    for name in list(sys.modules):
        ours = name.startswith("maskmill.training.") and name != "maskmill.training.cli"
        if ours or name.partition(".")[0] == blocked:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, blocked, None)
    words = {
        "jax": ["train", "export", "probe", "evaluate", "plan-step"],
        "safetensors": ["export"],
    }
    config = ["--preset", "smoke_cpu", "--data", build]
    more = {
        "train": [*config, "--workdir", str(tmp_path / "run")],
        "export": ["nowhere", "out.safetensors"],
        "probe": ["nowhere", "--data", build],
        "evaluate": ["nowhere", "--data", build],
        "plan-step": ["--preset", "smoke_cpu", "--topology", "v5e:2x2"],
    }
    for command in words[blocked]:
        assert cli.main([command, *more[command]]) == 2
        assert capsys.readouterr().err == f"detcon {command}: the trainer needs pip install 'maskmill[train]'\n"
    assert cli.main(["presets"]) == 0


def test_the_commands_are_those_of_the_parser():
    [choices] = [action.choices for action in cli._parser()._actions if action.dest == "command"]
    assert tuple(choices) == cli.COMMANDS


def test_a_config_that_is_not_json(build, capsys, tmp_path):
    bad = tmp_path / "c.json"
    bad.write_text("{")
    assert cli.main(["train", "--config", str(bad), "--data", build, "--workdir", "w"]) == 4
    assert "c.json cannot be read as YAML: " in capsys.readouterr().err


def test_a_config_may_be_yaml(build, tmp_path):
    """Comments, and 1e-6, which YAML itself reads as text."""
    file = tmp_path / "c.yaml"
    file.write_text("# ours\nbatch_size: 32\noptim:\n  weight_decay: 1e-6\ndata:\n  layers: fh-500\n")
    args = cli._parser().parse_args(["bench-input", "--config", str(file), "--data", build])
    config = cli._config(args)
    assert (config.batch_size, config.optim.weight_decay, config.data.layers) == (32, 1e-6, ("fh-500",))


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
