"""The loop: resume bit for bit, refuse other runs, stop where the loss breaks, leave a readable log."""

import io
import json
import os
import re
import signal

import jax
import numpy as np
import pytest
import safetensors.numpy

from maskmill.schemas.errors import InputError, UsageError
from maskmill.training import chips, profiler, runlog
from maskmill.training.checkpoint import load_run
from maskmill.training.config_io import override
from maskmill.training.model import initialize, online_network
from maskmill.training.step import abstract_state, check_divisible, make_mesh, make_step
from maskmill.training.train import DivergedError, Interrupted, train


@pytest.fixture
def run(tiny_config, fake_batches):
    """Trains the tiny network; returns the result and what was shown."""

    def run(workdir, config=tiny_config, batches=fake_batches, data="data", **kwargs):
        stream = io.StringIO()
        return train(data, config, str(workdir), batches=batches, stream=stream, **kwargs), stream.getvalue()

    return run


def everything(workdir):
    """All arrays of the last checkpoint, optimizer included."""
    return safetensors.numpy.load_file(workdir / "checkpoints" / f"{load_run(str(workdir)).step}.safetensors")


def log_lines(workdir):
    return [json.loads(line) for line in (workdir / "log.jsonl").read_text().splitlines()]


def test_a_run_killed_twice_equals_one_that_was_not(run, tiny_run, tmp_path, fake_batches):
    """Every array of the state and every logged loss, bit for bit; the second stop is between two checkpoints."""
    workdir, last = tiny_run

    class Killed(Exception):
        pass

    class DyingBatches(fake_batches):
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
        speeds = ("steps_per_second", "images_per_second", "input_wait")
        return [{k: v for k, v in x.items() if k not in speeds} for x in log_lines(folder)]

    assert lines(tmp_path) == lines(workdir)


def test_log_has_the_diagnostics(tiny_run):
    workdir, last = tiny_run
    lines = log_lines(workdir)
    assert [line["step"] for line in lines] == list(range(2, 21, 2))
    assert lines[-1].items() <= last.items()
    expected = {
        "step", "epoch", "loss", "learning_rate", "ema_decay", "gradient_norm", "positive_similarity",
        "negative_similarity", "matched", "distinct_masks", "projection_std", "steps_per_second", "images_per_second",
        "input_wait",
    }  # fmt: skip
    assert set(lines[-1]) == expected
    assert all(np.isfinite(value) for line in lines for value in line.values())
    assert lines[0]["epoch"] == 0.5
    assert 0 < lines[-1]["matched"] <= 1
    assert 1 <= lines[-1]["distinct_masks"] <= 3


def test_speed_is_shown_with_its_share_of_the_peak(run, tmp_path, monkeypatch):
    """A peak for this CPU makes the share visible: of twice the peak, half the share."""
    monkeypatch.setattr(runlog, "PROGRESS_S", 0)
    shares = []
    for peak in (1e12, 2e12):
        monkeypatch.setattr(chips, "PEAKS", ((jax.devices()[0].device_kind, peak),))
        last, told = run(tmp_path / f"{peak:g}", until=4)
        shares.append(last["mfu"] * peak / last["steps_per_second"] / len(jax.devices()))
        assert re.search(r"loss \d+\.\d+  [\d.]+ steps/s  \d+ images/s  MFU \d+ %  waiting for input \d+ %", told)
    assert shares[0] == pytest.approx(shares[1])  # operations of a step
    assert 1e8 < shares[0] < 1e11


@pytest.mark.parametrize(
    ("kind", "peak"),
    [("TPU v5 lite", 197e12), ("TPU v5p", 459e12), ("TPU v5", 459e12), ("NVIDIA H200", 989e12), ("cpu", None)],
)
def test_peaks_are_found_by_the_devices_names(kind, peak):
    assert chips.peak_flops(kind) == peak


def test_a_window_of_steps_is_traced(run, tmp_path):
    _, told = run(tmp_path, until=4, profile=(1, 3))
    assert told.count("profile written for TensorBoard") == 1
    [trace] = (tmp_path / "tensorboard" / "plugins" / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000


@pytest.mark.parametrize("text", ["100", "110:100", "5:5", "a:b", "-1:3"])
def test_a_window_is_two_rising_steps(text):
    with pytest.raises(UsageError, match=r"--profile takes FIRST:LAST, .* got"):
        profiler.parse_window(text)


def test_metrics_go_to_another_writer_too(run, tmp_path, tiny_config):
    """With the methods of clu's writers; made with the run's folder and configuration, closed at the end."""
    seen = []

    class Writer:
        def __init__(self, workdir, config):
            seen.append((workdir, config["optim"]["lr"]))

        def write_scalars(self, step, scalars):
            seen.append((step, scalars["loss"]))

        def flush(self):
            seen.append("flush")

        def close(self):
            seen.append("close")

    run(tmp_path, until=4, writer=Writer)
    losses = [(line["step"], line["loss"]) for line in log_lines(tmp_path)]
    assert seen == [(str(tmp_path), tiny_config.optim.lr), losses[0], "flush", losses[1], "flush", "close"]


def test_a_finished_run_stays_as_it_is(run, tiny_run):
    workdir, last = tiny_run
    before = (workdir / "log.jsonl").read_bytes()
    again, _ = run(workdir)
    assert again["loss"] == last["loss"]
    assert (workdir / "log.jsonl").read_bytes() == before


def test_the_target_follows_the_online_network(run, tmp_path, tiny_config):
    """One step of xi <- lambda xi + (1 - lambda) theta, with the new theta (A.2), from equal starts."""
    _, _ = run(tmp_path, until=1)
    state = everything(tmp_path)
    initial, _ = initialize(online_network(tiny_config), tiny_config.seed)
    moved = 0
    for name, start in initial.items():
        if name.startswith("predictor."):
            assert f"target_params/{name}" not in state
            continue
        new, target = state[f"params/{name}"], state[f"target_params/{name}"]
        np.testing.assert_allclose(target, 0.99 * start + 0.01 * new, rtol=1e-4, atol=1e-7)
        moved += not np.array_equal(new, start)
    assert moved == 0  # the first step of a warm-up from zero moves nothing


@pytest.mark.parametrize(
    ("assignments", "data", "error", "message"),
    [
        (["optim.lr=0.1"], "data", UsageError, r"another configuration.*optim.lr: 0.3 -> 0.1"),
        ([], "other", InputError, r"another data set \(manifest digest of da, now digest of ot\)"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(run, tiny_run, assignments, data, error, message, tiny_config):
    workdir, _ = tiny_run
    before = sorted(p.name for p in workdir.rglob("*"))
    with pytest.raises(error, match=message):
        run(workdir, config=override(tiny_config, assignments), data=data)
    assert sorted(p.name for p in workdir.rglob("*")) == before


def test_logging_more_often_is_the_same_run(run, tiny_run, tiny_config):
    workdir, _ = tiny_run
    run(workdir, config=override(tiny_config, ["log.log_every=5"]))


def test_a_foreign_card_is_named(run, tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"run.json is not a run's card"):
        run(tmp_path)


def test_a_run_of_an_older_version_is_recognised(run, tiny_run, tmp_path):
    """Its card reads as ours does, and without a word the run would begin again in the same folder."""
    (tmp_path / "run.json").write_bytes((tiny_run[0] / "run.json").read_bytes())
    (tmp_path / "checkpoints" / "12" / "default").mkdir(parents=True)
    for read in (run, lambda workdir: load_run(str(workdir))):
        with pytest.raises(InputError, match=r"holds a run of maskmill 0.1, .* or start again with another --workdir"):
            read(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "run.json"]


def test_batch_must_divide_over_devices(tmp_path, tiny_config):
    with pytest.raises(UsageError, match=r"batch_size=8 does not divide over 3 devices.*batch_size=6"):
        check_divisible(tiny_config, 3)


def test_a_broken_loss_stops_the_run_and_says_where(run, tmp_path, fake_batches):
    class BrokenBatches(fake_batches):
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
def test_a_signal_saves_and_says_how_to_go_on(run, tmp_path, number, fake_batches):
    class SignallingBatches(fake_batches):
        def batch(self, step):
            if step == 3:
                os.kill(os.getpid(), number)
            return super().batch(step)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=r"interrupted after step \d, which is saved; the same command goes on"):
        run(tmp_path, batches=SignallingBatches)
    assert signal.getsignal(number) is before
    assert load_run(str(tmp_path)).step == 3


def test_load_run_says_what_is_missing(tiny_run, tmp_path, tiny_config):
    workdir, _ = tiny_run
    with pytest.raises(InputError, match=r"holds no run: there is no run.json"):
        load_run(str(tmp_path))
    with pytest.raises(InputError, match=r"no checkpoint of step 7; there are 12, 16, 20"):
        load_run(str(workdir), step=7)
    assert load_run(str(workdir), step=16).step == 16
    assert load_run(str(workdir)).config == tiny_config


def test_a_cut_log_line_is_dropped(run, tmp_path):
    run(tmp_path, until=4)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 8, "lo')
    run(tmp_path, until=6)
    assert [line["step"] for line in log_lines(tmp_path)] == [2, 4, 6]


ALGORITHMS = {
    "detcon_s": ["algorithm=detcon_s", "variant=release", "augment.view2.blur_prob=0"],
    "simclr": ["algorithm=simclr", "data.global_mask=true", "data.masks_per_view=1", "model.head_out_bn=true"],
    "byol": ["algorithm=byol", "data.global_mask=true", "data.masks_per_view=1", "loss.form=regression"],
    "one view": ["data.views=1", "loss.negative_groups=2", "model.dtype=bfloat16", "model.target_init=independent"],
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_has_a_step(name, tiny_config, fake_batches):
    """Traced, not compiled: shapes and types fit, and the new state is like the old."""
    config = override(tiny_config, ALGORITHMS[name])
    step = make_step(config, make_mesh(), total_steps=9, warmup_steps=1)
    batch = fake_batches("", config.data, global_batch=8, seed=0).batch(0)
    state = abstract_state(config)
    new, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert ("ema_decay" in metrics) == config.has_target == bool(new["target_params"])


@pytest.mark.slow
def test_one_view_in_bfloat16_takes_steps(run, tmp_path, tiny_config):
    last, _ = run(tmp_path, config=override(tiny_config, ALGORITHMS["one view"]), until=3)
    assert np.isfinite(last["loss"])
