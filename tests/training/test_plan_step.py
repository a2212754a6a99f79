"""A step compiled for a TPU that is not there: what it needs, and what is said where it cannot be done."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from benchmarks import plan_step_table
from maskmill.schemas.errors import UsageError
from maskmill.training import chips, cli, hlo, plan_step
from maskmill.training.presets import PRESETS

# What a TPU's compiler writes, shortened: one gather before the loop, spread over two computations; one in the loop's
# body, reached through a fusion; a background gather in the entry; a sum of two arrays.
PROGRAM = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  ROOT %sum = f32[] add(%x, %y)
}

%fused.1 (p: s32[32,2,16]) -> s32[256,2,16] {
  ROOT %all-gather.11 = s32[256,2,16]{2,1,0:T(2,128)} all-gather(%p), channel_id=41, dimensions={0}
}

%fused.2 (p: s32[32,2,16]) -> s32[256,2,16] {
  ROOT %all-gather.13 = s32[256,2,16]{2,1,0:T(2,128)} all-gather(%p), channel_id=41, dimensions={0}
}

%in.body (p: f32[1,512,256]) -> f32[1,4096,256] {
  ROOT %all-gather.20 = f32[1,4096,256]{2,1,0:T(8,128)} all-gather(%p), channel_id=50, dimensions={1}
}

%body.sunk (state: (s32[], f32[1,512,256])) -> (s32[], f32[1,512,256]) {
  %state = (s32[], f32[1,512,256]) parameter(0)
  %piece = f32[1,4096,256] fusion(%state), kind=kLoop, calls=%in.body
  ROOT %next = (s32[], f32[1,512,256]) tuple(%state)
}

%condition (state: (s32[], f32[1,512,256])) -> pred[] {
  ROOT %less = pred[] compare(%state, %state), direction=LT
}

ENTRY %main (p: f32[8]) -> f32[] {
  %ids.1 = s32[256,2,16] fusion(%p), calls=%fused.1
  %ids.2 = s32[256,2,16] fusion(%p), calls=%fused.2
  %start = (bf16[1,1024,256]{2,1,0}, bf16[8,1,1024,256]{3,2,1,0}) all-gather-start(%p), channel_id=78, dimensions={0}
  %done = bf16[8,1,1024,256] all-gather-done(%start)
  %total = (f32[64]{0}, f32[3,64]{1,0}) all-reduce(%p, %p), channel_id=7, to_apply=%add
  %while.1 = (s32[], f32[1,512,256]) while(%p), condition=%condition, body=%body.sunk
  ROOT %out = f32[] constant(0)
}
"""


def test_collectives_are_counted_once_and_told_in_or_out_of_loops():
    assert hlo.collectives(PROGRAM) == [
        hlo.Collective("all-gather", 256 * 2 * 16 * 4, False),
        hlo.Collective("all-gather", 4096 * 256 * 4, True),
        hlo.Collective("all-gather", 8 * 1024 * 256 * 2, False),
        hlo.Collective("all-reduce", (64 + 3 * 64) * 4, False),
    ]
    # The control: without the loop nothing is in one, and without channels every copy counts.
    straight = PROGRAM.replace(" while(", " call(")
    assert not any(found.in_loop for found in hlo.collectives(straight))
    assert len(hlo.collectives(PROGRAM.replace("channel_id", "other"))) == 5


def test_slices_are_found_by_shape_and_by_accelerator_type():
    for name, other, count in (
        ("v5e:8x16", "v5e-128", 128),
        ("v4:2x2x4", "v4-32", 16),
        ("v5p:2x4x4", "v5p-64", 32),
        ("v6e:2x2", "v6e-4", 4),
    ):
        assert chips.find_topology(name) is chips.find_topology(other)
        assert (chips.find_topology(other).name, chips.find_topology(other).chips) == (name, count)
    with pytest.raises(UsageError, match=r"unknown topology 'v5e:9x16'; did you mean 'v5e:8x16'\? Known.* v5p: 2x2x1 "):
        chips.find_topology("v5e:9x16")


def test_wrong_words_end_in_a_sentence(monkeypatch, capsys):
    words = ["plan-step", "--preset", "detcon_b_coco", "--topology"]
    assert cli.main([*words, "v9:1x1"]) == 2
    assert "unknown topology 'v9:1x1'" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main([*words, "v5e:2x2"]) == 2
    assert "needs libtpu" in (said := capsys.readouterr().err)
    assert "pip install 'maskmill[train,plan]'" in said


def test_a_batch_too_large_for_the_memory_says_by_how_much(tiny_config):
    config = dataclasses.replace(tiny_config, batch_size=4096)
    slice_ = chips.find_topology("v5e:2x2")
    message = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (52.20G) "
    said = plan_step.too_large(config, slice_, message + "exceeds available HBM (15.75G).")
    assert said.startswith(
        "1024 images per chip do not fit the memory of a v5e, it needs 52.20 GiB of 15.75 GiB; lower"
    )
    assert plan_step.too_large(config, slice_, "RESOURCE_EXHAUSTED").startswith("1024 images per chip do not fit")


class FakeCompiled:
    """What JAX gives of a compiled program: memory, cost and text."""

    def memory_analysis(self):
        class Memory:
            peak_memory_in_bytes, argument_size_in_bytes = 3 << 30, 1 << 30

        return Memory()

    def cost_analysis(self):
        return {"bytes accessed": 81.9e9}

    def as_text(self):
        return PROGRAM


def test_the_bound_is_the_slower_of_work_and_memory(tiny_config):
    config, slice_ = dataclasses.replace(tiny_config, batch_size=128), chips.find_topology("v5e-128")
    result = plan_step._report(config, slice_, FakeCompiled(), 128 * 1.97e12, 500.0, 0.0)
    assert result["seconds"] == {"compute": pytest.approx(0.01), "memory": pytest.approx(0.1)}
    assert (result["bound_by"], result["mfu_at_most"]) == ("memory", pytest.approx(0.1))
    assert result["images_per_s"] == pytest.approx(1280)
    assert result["input"]["cores_per_host"] == pytest.approx(1280 / 32 / 500)
    assert result["collectives"]["in loops"] == {"all-gather": {"count": 1, "bytes": 4096 * 256 * 4}}
    text = plan_step.table(result)
    assert "3.00 GiB at the peak of 16.0" in text
    assert "in loops              1 all-gather (4.2 MB)" in text
    assert "100.0 ms, bound by memory (compute 10.0, memory 100.0)" in text


def test_the_table_of_the_docs_shows_the_results():
    """Every preset of the paper is in it, alone or beside the one whose step it shares; what was not compiled says so."""
    results = json.loads(plan_step_table.RESULTS.read_text())
    shown = plan_step_table.table(results)
    assert f"{plan_step_table.BEGIN}{shown}{plan_step_table.END}" in plan_step_table.DOCS.read_text()
    for name, preset in PRESETS.items():
        of_the_paper = preset.config.batch_size == 4096 and preset.config.algorithm in plan_step_table.ALGORITHMS
        assert (f"`{name}`" in shown) == of_the_paper, name
    row = next(r for r in results if (r["preset"], r["slice"]) == ("detcon_b_in1k_300", "v5e-128"))
    assert f"| {row['memory']['peak'] / 2**30:.2f} of 16 |" in shown
    other = row | {"memory": row["memory"] | {"peak": 2**30}}  # the control
    assert "| 1.00 of 16 | 47.6 | 0 / 1 (67 MB) | 58 |" in plan_step_table.table([other])
    compiled = {(r["preset"], r["slice"]) for r in results if r["slice"] != plan_step_table.ANY}
    pairs = len(plan_step_table.SLICES) * len(plan_step_table.steps())
    assert shown.count("not compiled") == pairs - len(compiled)


def test_a_quick_answer_stands_until_there_is_a_thorough_one():
    results = json.loads(plan_step_table.RESULTS.read_text())
    row = next(r for r in results if (r["preset"], r["slice"]) == ("detcon_b_in1k_300", "v5e-128"))
    quick = row | {"quick": True, "bytes_accessed": 1e9}
    assert "| 2.93 of 16 (quick) | | 0 / 1 | | |" in plan_step_table.table([quick])
    for both in ([quick, row], [row, quick]):
        assert plan_step_table.table(both) == plan_step_table.table([row])


def test_steps_are_alike_where_only_data_and_schedules_differ():
    steps = plan_step_table.steps()
    assert "detcon_b_in1k_1000" in steps["detcon_b_in1k_300"]
    assert "detcon_s_coco_grid_5" in steps["detcon_s_in1k_100"]
    assert {"detcon_s_coco_fh_384", "detcon_s_coco_fh_local", "byol_in1k_300", "simclr_coco_512"} <= steps.keys()


@pytest.mark.slow
@pytest.mark.timeout(1200)  # 40 s of a core that is free
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu, the TPU's compiler, is not installed")
def test_a_small_slices_step_gathers_only_before_its_loops(tmp_path):
    """Four v5e chips, the tiny network, logits in four blocks; in a process of its own, whose JAX finds the compiler."""
    config = {"algorithm": "detcon_b", "batch_size": 16, "loss": {"chunk": 32}}
    config |= {"data": {"image_size": 32, "masks_per_view": 4}, "model": {"arch": "tiny", "hidden": 16, "out": 8}}
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    words = ["plan-step", "--config", str(tmp_path / "tiny.json"), "--topology", "v5e:2x2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "maskmill.training.cli", *words],
        env=os.environ | {"XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert "all-gather" not in result["collectives"]["in loops"]
    assert 1 <= result["collectives"]["outside loops"]["all-gather"]["count"] <= 3
    assert 0 < result["memory"]["peak"] < 1 << 30
    assert result["flops"] > 0
