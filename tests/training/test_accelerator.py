"""The accelerator's benchmark goes through on a CPU, in slots; its figures are not judged."""

import json

import pytest

from benchmarks import accelerator


def run(out, *words) -> dict:
    assert accelerator.main(["--dry-run", "--steps", "1", "--out", str(out), *words]) == 0
    return json.loads(out.read_text())["cases"] if out.exists() else {}


def test_cases_are_kept_one_by_one_and_not_measured_twice(tmp_path, monkeypatch, capsys):
    out = tmp_path / "results.json"
    found = run(out, "--only", "rounding")
    assert 0.999 < found["rounding"]["gradient_cosine"] < 1
    assert 0 < found["rounding"]["loss_gap"] < 1e-3
    monkeypatch.setattr(accelerator, "_rounding", lambda given: pytest.fail("it is in the file"))
    assert run(out, "--only", "rounding") == found
    assert run(out, "--minutes", "0") == found
    assert "cases are left; the same command goes on" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        accelerator.main(["--out", str(out), "--only", "rounding"])
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_every_case_runs(scenes, tmp_path):
    scenes.write_scenes(str(tmp_path / "build"), 12, size=(48, 64))
    found = run(tmp_path / "results.json", "--data", str(tmp_path / "build"))
    assert {"supervised", "detcon_b", "detcon_s", "simclr", "rounding", "resume", "input"} <= found.keys()
    assert found["resume"] == {"bitwise": True}
    for name in ("supervised", "detcon_b", "detcon_s_highest"):
        assert found[name]["step_ms"] > 0
        assert found[name]["mfu"] is None  # of a CPU no peak is published here
