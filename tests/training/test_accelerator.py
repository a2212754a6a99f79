"""The accelerator's benchmark goes through on a CPU, in slots; its figures are not judged."""

import json

import pytest

from benchmarks import accelerator


def run(out, *words) -> dict:
    assert accelerator.main(["--dry-run", "--steps", "1", "--out", str(out), *words]) == 0
    return json.loads(out.read_text())["cases"] if out.exists() else {}


DEVICE = {"kind": "cpu", "count": 1, "jax": "0"}
STEP = {"step_ms": 10.0, "images_per_s": 800.0, "mfu": 0.25, "planned_peak_bytes": 3 << 30, "peak_bytes": 4 << 30}


@pytest.fixture
def children(monkeypatch):
    """Cases that answer at once, by name; None is one that is cut off."""
    answers = dict.fromkeys(accelerator.CASES, STEP) | {"device": DEVICE}
    asked = []
    monkeypatch.setattr(accelerator, "_in_child", lambda name, *_: asked.append(name) or dict(answers[name] or {}))
    answers["asked"] = asked
    return answers


def test_cases_are_kept_one_by_one_and_not_measured_twice(tmp_path, children, capsys):
    out = tmp_path / "results.json"
    children["simclr"] = None
    found = run(out)
    assert list(found) == ["supervised", "detcon_b", "byol", "detcon_s"]
    assert capsys.readouterr().out.splitlines()[-1].endswith("cases are left; the same command goes on")
    children["simclr"] = STEP | {"step_ms": 8.0}
    children["input"] = {"failed": "out of memory"}
    children["asked"].clear()
    found = run(out)
    assert not {"supervised", "detcon_b", "detcon_s"} & set(children["asked"])
    assert found.keys() == accelerator.CASES.keys() - {"device"}
    said = capsys.readouterr().out
    assert "detcon_s takes +25.0% of simclr's time; of compute the paper says 5.3%" in said
    assert '{"failed": "out of memory"' in said
    assert "10.0 ms      800 images/s  MFU 25.0%  4.00 GiB, planned 3.00" in said
    children["device"] = DEVICE | {"kind": "other"}
    with pytest.raises(SystemExit):
        run(out)
    assert "give another --out" in capsys.readouterr().err


def test_a_case_runs_in_a_process_of_its_own(tmp_path):
    found = run(tmp_path / "results.json", "--only", "rounding")
    assert 0.999 < found["rounding"]["gradient_cosine"] < 1
    assert 0 < found["rounding"]["loss_gap"] < 1e-3


@pytest.mark.slow
def test_every_kind_of_case_runs(capsys):
    """Networks and precisions beside these differ in numbers only."""
    found = {}
    for name in ("device", "supervised", "detcon_b", "detcon_s_high", "rounding", "resume", "input"):
        assert accelerator.main(["--dry-run", "--steps", "1", "--here", name]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert found["device"]["kind"] == "cpu"
    assert found["resume"] == {"bitwise": True, "repeats": True}
    for name in ("supervised", "detcon_b", "detcon_s_high"):
        assert found[name]["step_ms"] > 0
        assert found[name]["planned_peak_bytes"] > 0
        assert found[name]["mfu"] is None  # of a CPU no peak is published here
    assert 0 <= found["input"]["waited_for_input"] <= 1
