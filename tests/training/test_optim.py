"""LARS against NumPy, and schedules at steps worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from maskmill.schemas.errors import UsageError
from maskmill.training.config import Config, OptimConfig
from maskmill.training.model import online_network
from maskmill.training.optim import ema_decay, is_adapted, lars, learning_rate, run_length
from maskmill.training.presets import PRESETS

SHAPES = {"a.kernel": (4, 3), "a.bias": (3,), "bn.scale": (3,), "bn.bias": (3,), "zero.kernel": (2, 2)}


def numpy_lars(params, gradients, rates, decay, momentum, trust):
    buffers = {name: np.zeros_like(p) for name, p in params.items()}
    for step, rate in enumerate(rates):
        for name, p in params.items():
            update = gradients[step][name].copy()
            if name.endswith("kernel"):
                update += decay * p
                p_norm, u_norm = np.sqrt(np.sum(p**2)), np.sqrt(np.sum(update**2))
                if p_norm > 0 and u_norm > 0:
                    update *= trust * p_norm / u_norm
            buffers[name] = momentum * buffers[name] + update
            params[name] = p - rate * buffers[name]
    return params


def run_optax(optimizer, params, gradients):
    params = {name: jnp.float32(p) for name, p in params.items()}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({n: jnp.float32(g) for n, g in gradient.items()}, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.fixture(scope="module")
def problem():
    random = np.random.default_rng(0)
    params = {name: random.normal(size=shape) for name, shape in SHAPES.items()}
    params["zero.kernel"] = np.zeros((2, 2))
    gradients = [{name: random.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(20)]
    return params, gradients


OPTIM = OptimConfig(lr=0.3, weight_decay=1e-2, trust=1e-2)
RATE = learning_rate(OPTIM, batch_size=512, total_steps=20, warmup_steps=5)


def test_lars_equals_numpy_over_warm_up_and_cosine(problem):
    params, gradients = problem
    rates = [0.6 * s / 5 if s < 5 else 0.3 * (1 + np.cos(np.pi * (s - 5) / 15)) for s in range(20)]
    expected = numpy_lars({n: p.copy() for n, p in params.items()}, gradients, rates, 1e-2, 0.9, 1e-2)
    found = run_optax(lars(OPTIM, RATE), params, gradients)
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=2e-6, err_msg=name)


def test_lars_is_not_optax_lars(problem):
    """A control: the same numbers through optax.lars end somewhere clearly different."""
    params, gradients = problem
    mask = {name: name.endswith("kernel") for name in SHAPES}
    other = optax.lars(RATE, OPTIM.weight_decay, mask, OPTIM.trust, 0.0, mask, OPTIM.momentum)
    ours, theirs = (run_optax(o, params, gradients)["a.kernel"] for o in (lars(OPTIM, RATE), other))
    start = params["a.kernel"]
    assert np.linalg.norm(ours - theirs) > 0.05 * np.linalg.norm(ours - start)


def test_momentum_of_updates_is_optax_lars_and_so_simclrs(problem):
    params, gradients = problem
    mask = {name: name.endswith("kernel") for name in SHAPES}
    other = optax.lars(RATE, OPTIM.weight_decay, mask, OPTIM.trust, 0.0, mask, OPTIM.momentum)
    switched = dataclasses.replace(OPTIM, momentum_of="updates")
    found, expected = (run_optax(o, params, gradients) for o in (lars(switched, RATE), other))
    for name in SHAPES:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_trust_it_is_sgd(problem, nesterov):
    """Momentum before the rate, as torch's SGD with weight decay on kernels alone."""
    params, gradients = problem
    optim = OptimConfig(lr=0.1, weight_decay=0.01, trust=0.0, nesterov=nesterov, warmup_epochs=0)
    got = run_optax(lars(optim, lambda step: 0.1), params, gradients)
    for name, p in params.items():
        buffer = np.zeros_like(p)
        for gradient in gradients:
            g = gradient[name] + 0.01 * p * name.endswith("kernel")
            buffer = 0.9 * buffer + g
            p = p - 0.1 * (g + 0.9 * buffer if nesterov else buffer)
        np.testing.assert_allclose(got[name], p, rtol=1e-4, atol=1e-6, err_msg=name)


def test_only_kernels_are_adapted():
    """Every bias and every batch norm parameter of the whole network is excluded, and nothing else."""
    names = set(online_network(Config()).params)
    excluded = {name for name in names if not is_adapted(name)}
    assert excluded == {n for n in names if n.endswith((".bias", ".scale"))}
    norms = {n for n in names if n.rsplit(".", 2)[-2].startswith("bn") or ".downsample.1." in n}
    assert excluded - norms == {"projector.linear1.bias", "predictor.linear1.bias"}
    assert len(names - excluded) == 53 + 4


IN1K, COCO = 1_281_167, 118_287


@pytest.mark.parametrize(
    ("preset", "records", "total", "warmup", "table"),
    [
        # Peak rate = base x 4096 / 256; DetCon-S 0.3, DetCon-B 0.3 at 300 epochs and 0.2 at 1000 (A.3).
        ("detcon_s_in1k_200", IN1K, 62556, 3127, {0: 0, 1563: 2.3993, 3127: 4.8, 32841: 2.4002, 62556: 0}),
        ("detcon_b_in1k_300", IN1K, 93835, 3127, {3127: 4.8, 48481: 2.4, 93834: 0}),
        ("detcon_b_in1k_1000", IN1K, 312784, 3127, {3127: 3.2, 157955: 1.6, 312784: 0}),
        # COCO: a tenth at 96 % and at 98 %.
        ("detcon_s_coco_1296", COCO, 37426, 288, {288: 4.8, 35927: 4.8, 35928: 0.48, 36677: 0.048, 37425: 0.048}),
    ],
)
def test_learning_rates_of_the_paper(preset, records, total, warmup, table):
    config = PRESETS[preset].config
    assert run_length(config, records) == (total, warmup)
    rate = learning_rate(config.optim, config.batch_size, total, warmup)
    for step, value in table.items():
        assert float(rate(step)) == pytest.approx(value, rel=2e-4, abs=1e-6), step


@pytest.mark.parametrize(
    ("base", "table"),
    [(0.996, {0: 0.996, 500: 0.998, 1000: 1.0}), (0.99, {0: 0.99, 250: 0.9914645, 500: 0.995, 1000: 1.0, 1200: 1.0})],
)
def test_target_decay(base, table):
    decay = ema_decay(base, 1000)
    for step, value in table.items():
        assert float(decay(jnp.int32(step))) == pytest.approx(value, abs=1e-6)


def test_run_length_says_what_cannot_be():
    config = Config(batch_size=64, epochs=20.0)
    with pytest.raises(UsageError, match=r"batch_size=64 is more than the 50 records.*batch_size=32"):
        run_length(config, 50)
    with pytest.raises(UsageError, match=r"100 steps with 125 steps of warm-up"):
        run_length(dataclasses.replace(config, steps=100), 800)


def test_schedules_trace_under_jit():
    rate = jax.jit(learning_rate(OptimConfig(schedule="step"), 256, 100, 0))
    assert [round(float(rate(s)), 6) for s in (0, 95, 96, 98)] == [0.3, 0.3, 0.03, 0.003]
