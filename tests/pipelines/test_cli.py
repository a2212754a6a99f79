"""The command as a user meets it: words, exit codes, speed of help."""

import ast
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from drawn import write_coco
from PIL import Image

from maskmill.masks.registry import GENERATORS, generator_class
from maskmill.pipelines.commands.cli import COMMANDS, main, split_beam_args
from maskmill.pipelines.commands.options import list_generators

GRID = ("--masks", "grid(n=2)")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[str, str]:
    return write_coco(tmp_path_factory.mktemp("data"), 12)


@pytest.fixture(scope="module")
def dataset(data, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("cli") / "out")
    assert main(build_args(data, out)) == 0
    return out


def build_args(data, out, *more) -> list[str]:
    images, annotations = data
    args = ["build", "--dataset", "coco", "--images", images, "--annotations", annotations, *GRID, "--masks", "gt()"]
    return [*args, "--out", out, "--workers", "0", *more]


def said(capsys) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out + captured.err


def test_a_build_says_what_it_did(data, tmp_path, capsys):
    assert main(build_args(data, str(tmp_path / "out"))) == 0
    text = said(capsys)
    assert "inputs 12 = written 12 + failed 0 + skipped 0" in text
    assert "gt      1.0000" in text
    assert f"next: maskmill validate {tmp_path / 'out'}" in text


def test_json_is_one_document(data, tmp_path, capsys):
    assert main(build_args(data, str(tmp_path), "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["counts"]["written"] == 12
    assert result["abo"]["gt"]["abo"] == 1.0


def test_the_same_again_is_complete_already(data, dataset, capsys):
    assert main(build_args(data, dataset)) == 0
    assert "was complete already" in said(capsys)


def test_too_many_failures_is_exit_3_and_keeps_the_rest(tmp_path, capsys):
    images, annotations = write_coco(tmp_path / "data", 5)
    next(Path(images).iterdir()).write_bytes(b"")
    assert main(build_args((images, annotations), str(tmp_path / "out"))) == 3
    text = said(capsys)
    assert "not written: empty_file 1; every one is in" in text
    assert "20.00% of the images failed, above --max-failure-rate 1.00%; everything good is kept" in text
    assert main(build_args((images, annotations), str(tmp_path / "out"), "--max-failure-rate", "0.5")) == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        ([], 2, "usage: maskmill"),
        (["buidl"], 2, "no command 'buidl'; did you mean 'build'"),
        (["--debug", "frobnicate"], 2, "no command 'frobnicate'; the commands are plan, build"),
        (["build"], 2, "--dataset is missing: the kind of the pictures' collection, coco or imagenet or folder"),
        (["build", "--dataset", "folder"], 2, "--images is missing"),
        (["build", "--dataset", "cocoa"], 2, "got 'cocoa'; did you mean 'coco'"),
        (["build", "--dataset", "folder", "--images", "x", *GRID], 2, "--out is missing"),
        (
            ["build", "--dataset", "folder", "--images", "/nowhere", *GRID, "--out", "OUT"],
            4,
            "/nowhere not found; --images takes",
        ),
        (
            ["build", "--dataset", "folder", "--images", "x", "--masks", "fg()", "--out", "OUT"],
            2,
            "unknown mask generator 'fg'",
        ),
        (
            ["build", "--dataset", "folder", "--images", "x", *GRID, "--out", "OUT", "--seed", "one"],
            2,
            "invalid int value: 'one'",
        ),
        (
            ["build", "--dataset", "folder", "--images", "x", *GRID, "--out", "OUT", "--workers", "-1"],
            2,
            r"--workers must lie in 0\.\.1024",
        ),
        (["build", "--config", "/nowhere.yaml"], 4, "/nowhere.yaml not found; --config takes"),
        (["status", "OUT"], 4, "holds no build"),
        (["retry", "OUT"], 4, "holds no build"),
        (["retry", "OUT", "--reason", "bad_luck"], 2, "--reason 'bad_luck' is unknown; the reasons are not_found"),
        (["validate", "OUT"], 4, "not a maskmill data set"),
        (["view", "OUT", "1"], 4, "not a maskmill data set"),
        (["status", "OUT", "--", "--runner=X"], 2, "arguments after -- are for Beam"),
    ],
)
def test_wrong_use_is_answered_in_words(args, code, message, tmp_path, capsys):
    import re

    assert main([str(tmp_path / "out") if a == "OUT" else a for a in args]) == code
    assert re.search(message, said(capsys))


def test_an_empty_folder_is_an_input_error(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    args = [
        "build",
        "--dataset",
        "folder",
        "--images",
        str(tmp_path / "pictures"),
        *GRID,
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(args) == 4
    assert "holds no pictures" in said(capsys)


def test_a_mistake_of_ours_is_exit_1_without_traceback(monkeypatch, capsys, dataset):
    monkeypatch.setattr("maskmill.pipelines.dataset.validate.find_damage", lambda dataset, deep: 1 / 0)
    assert main(["validate", dataset]) == 1
    assert "internal error: ZeroDivisionError: division by zero\nRun with --debug" in said(capsys)
    with pytest.raises(ZeroDivisionError):
        main(["validate", dataset, "--debug"])


def test_a_config_file_and_flags_win_over_it(data, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"dataset: coco\nimages: {data[0]}\nannotations: {data[1]}\nmasks: ['grid(n=2)', 'gt()']\n"
        f"seed: 5\nout: {tmp_path / 'out'}\nworkers: 0\nnum-shards: 2\n"
    )
    assert main(["build", "--config", str(recipe), "--seed", "7"]) == 0
    config = json.loads((tmp_path / "out" / "manifest.json").read_text())["config"]
    assert (config["seed"], config["num_shards"]) == (7, 2)
    capsys.readouterr()
    for text, message in (
        ("sede: 5", "unknown option 'sede'; did you mean 'seed'"),
        ("seed: five", "seed takes int, got 'five'"),
        ("seed: true", "seed takes int, got True"),
        ("masks: 5", "masks takes text or a list"),
        ("- a\n- b", "must hold options"),
        ("{", "cannot be read as YAML"),
        ("x: !!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ):
        recipe.write_text(text)
        assert main(["build", "--config", str(recipe)]) in (2, 4)
        assert message in said(capsys)


def test_plan_builds_nothing(data, tmp_path, capsys):
    args = build_args(data, str(tmp_path / "out"))
    args = ["plan", *args[1:]]
    assert main(args) == 0
    text = said(capsys)
    assert "12 inputs, 12 to build into 1 shard;" in text
    assert " of one core, " in text
    assert not (tmp_path / "out").exists()
    assert main([*args, "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert (estimate["inputs"], estimate["sampled"], estimate["sample_failures"]) == (12, 12, 0)
    assert 400 << 20 < estimate["worker_bytes"] < 100 << 30
    assert estimate["machine_bytes"] > 1 << 30
    assert estimate["large_pixels"] >= 1_000_000


def test_status_of_a_finished_and_of_an_unfinished_build(data, dataset, tmp_path, capsys):
    assert main(["status", dataset]) == 0
    assert said(capsys).startswith("finished")
    out = tmp_path / "out"
    assert main(build_args(data, str(out), "--part-size", "5")) == 0
    (out / "manifest.json").unlink()
    capsys.readouterr()
    for done in (3, 0):
        assert main(["status", str(out), "--json"]) == 0
        state = json.loads(capsys.readouterr().out)
        assert (state["finished"], state["parts"], state["parts_done"], state["done"]) == (False, 3, done, 4 * done)
        for path in (out / "_work" / "shards").glob("*.json"):
            path.unlink()
    assert main(["status", str(out)]) == 0
    assert "the same build command goes on from here" in said(capsys)


def test_retry_of_nothing_is_harmless(dataset, capsys):
    assert main(["retry", dataset, "--workers", "0"]) == 0
    assert "tried 0 failed images again" in said(capsys)


def test_view_draws_a_png(data, dataset, tmp_path, capsys):
    for wanted in ("000000000004.png", "5", "000000000005"):
        out = tmp_path / "view.png"
        assert main(["view", dataset, wanted, "--out", str(out), "--layers", "gt"]) == 0
        picture = np.asarray(Image.open(out))
        assert picture.ndim == 3
        assert picture.std() > 10
    capsys.readouterr()
    assert main(["view", dataset, "nothing.png"]) == 4
    assert "has no record 'nothing.png'" in said(capsys)
    assert main(["view", dataset, "5", "--layers", "fh-1000"]) == 4
    assert "no layer 'fh-1000'; it has grid-2, gt" in said(capsys)


def test_help_is_fast_and_every_command_has_it():
    code = (
        "import sys, maskmill.pipelines.commands.cli as c; c.main(['--help'])\n"
        "print([m for m in ('numpy', 'apache_beam', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"  # nothing heavy: that is what makes it fast
    for command in COMMANDS:
        assert main([command, "--help"]) == 0


def test_the_help_of_build_names_every_generator_as_the_table_has_it(capsys):
    rows = {name: (parameters, makes) for name, parameters, makes in list_generators()}
    assert set(rows) == set(GENERATORS)
    assert main(["build", "--help"]) == 0
    text = capsys.readouterr().out
    for name, (parameters, makes) in rows.items():
        fields = [f for f in dataclasses.fields(generator_class(name)) if f.init]
        call = ast.parse(f"{name}({parameters})", mode="eval").body
        assert [k.arg for k in call.keywords] == [f.name for f in fields]
        for keyword, field in zip(call.keywords, fields, strict=True):
            if field.default is not dataclasses.MISSING:
                assert ast.unparse(keyword.value) == repr(field.default)
        assert f"{name}({parameters})" in text
        assert makes in text
        assert makes


def test_the_help_of_build_stays_fast():
    code = (
        "import sys, maskmill.pipelines.commands.cli as c; c.main(['build', '--help'])\n"
        "print([m for m in ('numpy', 'numba', 'apache_beam', 'cv2', 'maskmill.masks.registry') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_arguments_after_the_dashes_are_beams():
    assert split_beam_args(["build", "--out", "x", "--", "--runner=Y", "--", "z"]) == (
        ["build", "--out", "x"],
        ["--runner=Y", "--", "z"],
    )
    assert split_beam_args(["build"]) == (["build"], [])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_exit_130_and_says_how_to_resume(number, tmp_path):
    data = write_coco(tmp_path / "data", 60, 200, 300)
    command = build_args(data, str(tmp_path / "out"), "--part-size", "1", "--masks", "fh")
    process = subprocess.Popen(
        [sys.executable, "-m", "maskmill.pipelines.commands.cli", *command], stderr=subprocess.PIPE, text=True
    )
    for _ in range(1200):  # until it is at work
        if (tmp_path / "out" / "_work" / "plan.json").exists():
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what is finished is kept, and the same command resumes" in error
    assert "Traceback" not in error
