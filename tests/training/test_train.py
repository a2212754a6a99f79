"""The loop: resume bit for bit, refuse other runs, stop where the loss breaks, leave a readable log."""

import dataclasses
import io
import json
import os
import signal

import numpy as np
import pytest
from conftest import TINY, FakeBatches

from schemas.errors import InputError, UsageError
from training.checkpoint import load_run
from training.config_io import override
from training.train import DivergedError, Interrupted, train


def run(workdir, config=TINY, batches=FakeBatches, data="data", **kwargs):
    stream = io.StringIO()
    return train(data, config, str(workdir), batches=batches, stream=stream, **kwargs), stream.getvalue()


def everything(workdir):
    """All arrays of the last checkpoint, optimizer included."""
    import jax
    import orbax.checkpoint as ocp

    from training.step import abstract_state

    run = load_run(str(workdir))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.CheckpointManager(workdir / "checkpoints") as manager:
        state = manager.restore(run.step, args=ocp.args.StandardRestore(abstract_state(run.config, device)))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def log_lines(workdir):
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def test_a_run_killed_twice_equals_one_that_was_not(tiny_run, tmp_path):
    """Every array of the state and every logged loss, bit for bit; the second stop is between two checkpoints."""
    workdir, last = tiny_run

    class Killed(Exception):
        pass

    class DyingBatches(FakeBatches):
        def at(self, step):
            for index, batch in enumerate(super().at(step), start=step):
                if index == 11:
                    raise Killed
                yield batch

    _, told = run(tmp_path, until=6)
    assert "starting of 20 steps" in told
    with pytest.raises(Killed):
        run(tmp_path, batches=DyingBatches)
    resumed, told = run(tmp_path)
    assert "resuming after step 8 of 20" in told  # checkpoints come every 4 steps
    assert resumed["loss"] == last["loss"]
    expected, found = everything(workdir), everything(tmp_path)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)

    def lines(folder):
        return [{k: v for k, v in x.items() if k not in ("images_per_second", "input_wait")} for x in log_lines(folder)]

    assert lines(tmp_path) == lines(workdir)


def test_log_has_the_diagnostics(tiny_run):
    workdir, last = tiny_run
    lines = log_lines(workdir)
    assert [line["step"] for line in lines] == list(range(2, 21, 2))
    assert lines[-1].items() <= last.items()
    expected = {
        "step", "epoch", "loss", "learning_rate", "ema_decay", "gradient_norm", "positive_similarity",
        "negative_similarity", "matched", "distinct_masks", "projection_std", "images_per_second", "input_wait",
    }  # fmt: skip
    assert set(lines[-1]) == expected
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert lines[0]["epoch"] == 0.5
    assert 0 < lines[-1]["matched"] <= 1
    assert 1 <= lines[-1]["distinct_masks"] <= 3


def test_a_finished_run_stays_as_it_is(tiny_run):
    workdir, last = tiny_run
    before = (workdir / "log.jsonl").read_bytes()
    again, _ = run(workdir)
    assert again["loss"] == last["loss"]
    assert (workdir / "log.jsonl").read_bytes() == before


def test_the_target_follows_the_online_network(tmp_path):
    """One step of xi <- lambda xi + (1 - lambda) theta, with the new theta (A.2), from equal starts."""
    from training.model import initialize, online_network

    _, _ = run(tmp_path, until=1)
    state = everything(tmp_path)
    initial, _ = initialize(online_network(TINY), TINY.seed)
    moved = 0
    for name, start in initial.items():
        if name.startswith("predictor."):
            assert f"['target_params']['{name}']" not in state
            continue
        new, target = state[f"['params']['{name}']"], state[f"['target_params']['{name}']"]
        np.testing.assert_allclose(target, 0.99 * start + 0.01 * new, rtol=1e-4, atol=1e-7)
        moved += not np.array_equal(new, start)
    assert moved == 0  # the first step of a warm-up from zero moves nothing


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"config": override(TINY, ["optim.lr=0.1"])}, UsageError, r"another configuration.*optim.lr: 0.3 -> 0.1"),
        ({"data": "other"}, InputError, r"another data set \(manifest digest of d, now digest of o\)"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(tiny_run, change, error, message):
    workdir, _ = tiny_run
    before = sorted(p.name for p in workdir.rglob("*"))
    with pytest.raises(error, match=message):
        run(workdir, **change)
    assert sorted(p.name for p in workdir.rglob("*")) == before


def test_logging_more_often_is_the_same_run(tiny_run):
    workdir, _ = tiny_run
    run(workdir, config=override(TINY, ["log.log_every=5"]))


def test_a_foreign_card_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run.json is not a run's card"):
        run(tmp_path)


def test_batch_must_divide_over_devices(tmp_path):
    from training.step import check_divisible

    with pytest.raises(UsageError, match=r"batch_size=8 does not divide over 3 devices.*batch_size=6"):
        check_divisible(TINY, 3)


def test_a_broken_loss_stops_the_run_and_says_where(tmp_path):
    class BrokenBatches(FakeBatches):
        def batch(self, step):
            batch = super().batch(step)
            if step == 6:
                batch["weights1"][3] = np.nan
            return batch

    with pytest.raises(
        DivergedError, match=r"loss nan at step 7, .*gradients are not finite \(encoder.*step 4 is from"
    ):
        run(tmp_path, batches=BrokenBatches)
    assert load_run(str(tmp_path)).step == 4
    assert all(np.isfinite(line["loss"]) for line in log_lines(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(tmp_path, number):
    class SignallingBatches(FakeBatches):
        def batch(self, step):
            if step == 3:
                os.kill(os.getpid(), number)
            return super().batch(step)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"interrupted after step \d, which is saved; the same command goes on"):
        run(tmp_path, batches=SignallingBatches)
    assert signal.getsignal(number) is before
    assert load_run(str(tmp_path)).step == 3


def test_load_run_says_what_is_missing(tiny_run, tmp_path):
    workdir, _ = tiny_run
    with pytest.raises(InputError, match=r"holds no run: there is no run.json"):
        load_run(str(tmp_path))
    with pytest.raises(InputError, match=r"no checkpoint of step 7; there are 12, 16, 20"):
        load_run(str(workdir), step=7)
    assert load_run(str(workdir), step=16).step == 16
    assert load_run(str(workdir)).config == TINY


def test_a_cut_log_line_is_dropped(tmp_path):
    run(tmp_path, until=4)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    run(tmp_path, until=6)
    assert [line["step"] for line in log_lines(tmp_path)] == [2, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ["algorithm=detcon_s", "variant=release", "augment.view2.blur_prob=0"],
        ["algorithm=simclr", "data.global_mask=true", "data.masks_per_view=1", "model.head_out_bn=true"],
        ["algorithm=byol", "data.global_mask=true", "data.masks_per_view=1", "loss.form=regression"],
        ["data.views=1", "loss.negative_groups=2", "model.dtype=bfloat16", "model.target_init=independent"],
    ],
    ids=["detcon_s", "simclr", "byol", "one-view"],
)
def test_every_algorithm_takes_steps(tmp_path, changes):
    last, _ = run(tmp_path, config=dataclasses.replace(override(TINY, changes), log=TINY.log), until=3)
    assert np.isfinite(last["loss"])
    assert ("ema_decay" in last) == (not changes[0].endswith(("_s", "simclr")))
