"""Networks: sizes and costs against the paper, pooling and batch norm against loops, views against separate passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskmill.training.config import Config, LossConfig, ModelConfig
from maskmill.training.export import torchvision_state
from maskmill.training.losses import detcon_loss
from maskmill.training.model import encoder, forward, initialize, mask_pool, online_network, stats_of, target_network
from maskmill.training.presets import PRESETS
from maskmill.training.resnet import BatchNorm


def size(arrays, prefix=""):
    return sum(int(np.prod(a.shape)) for name, a in arrays.items() if name.startswith(prefix))


def test_resnet50_has_torchvisions_parameters():
    config = PRESETS["detcon_b_in1k_300"].config
    assert size(encoder(config.model).params) == 23_508_032 == 25_557_032 - (2048 * 1000 + 1000)
    assert size(online_network(config).params) == 23_508_032 + 9_449_472 + 2_109_440
    assert size(target_network(config).params) == 23_508_032 + 9_449_472


def test_resnet18_has_torchvisions_names_and_parameters():
    """Its table: two blocks of two convolutions per stage, a projection where a stage begins narrower."""
    network = encoder(ModelConfig(arch="resnet18"))
    assert size(network.params) == 11_176_512 == 11_689_512 - (512 * 1000 + 1000)
    expected = {"conv1.kernel", "bn1.scale", "bn1.bias"}
    for stage in range(1, 5):
        for block in range(2):
            at = f"layer{stage}.{block}."
            expected |= {f"{at}conv{i}.kernel" for i in (1, 2)}
            expected |= {f"{at}bn{i}.{leaf}" for i in (1, 2) for leaf in ("scale", "bias")}
            if stage > 1 and block == 0:
                expected |= {f"{at}downsample.0.kernel", f"{at}downsample.1.scale", f"{at}downsample.1.bias"}
    assert set(network.params) == expected
    assert network.params["layer4.0.conv1.kernel"].shape == (3, 3, 256, 512)
    params, stats = initialize(network, 0)
    assert not params["layer4.1.bn2.scale"].any()  # a branch ends with it here: blocks start as the identity
    assert (params["layer4.1.bn1.scale"] == 1).all()
    assert len(torchvision_state(params, stats)) == 120  # torchvision's 122 without fc


def flops(function, *shapes):
    """Of the lowered program: 2 per multiply-add."""
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


def head_flops(config, rows):
    network = online_network(config)
    pooled = jax.ShapeDtypeStruct((1, rows, 2048), jnp.float32)

    def heads(params, stats, x):
        module = network.module(params, stats)
        x = module.projector(x, views=0, valid=None)
        return module.predictor(x, views=0, valid=None) if module.predictor is not None else x

    return flops(heads, network.params, network.stats, pooled)


@pytest.mark.parametrize(("preset", "millions"), [("detcon_s_in1k_200", 66.8), ("detcon_b_in1k_300", 173.0)])
def test_sixteen_latents_cost_what_the_paper_says(preset, millions):
    """A.2: 15 more latents through the heads add 67 M multiply-adds for S and 173 M for B."""
    config = PRESETS[preset].config
    assert (head_flops(config, 16) - head_flops(config, 1)) / 2e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize(("d", "millions"), [(128, 134.2), (256, 268.4)])
@pytest.mark.parametrize("same_view", [False, True])
def test_the_loss_costs_what_the_paper_says(d, millions, same_view):
    """A.2 counts the targets of one view; negatives of the anchor's own view double it."""

    def loss_flops(width):
        latents = jax.ShapeDtypeStruct((4096, 2, 16, width), jnp.float32)
        ids = jax.ShapeDtypeStruct((4096, 2, 16), jnp.int32)
        config = LossConfig(chunk=4096 * 32, same_view_negatives=same_view)
        return flops(lambda a, t, i: detcon_loss(a, t, i, config)[0], latents, latents, ids)

    # What grows with the latents' width is the products; per image and view.
    per_view = (loss_flops(2 * d) - loss_flops(d)) / 2 / (4096 * 2)
    assert per_view / 1e6 == pytest.approx(millions * (1 + same_view), rel=0.005)


@pytest.mark.parametrize(
    ("arch", "width", "millions", "giga"),
    [
        ("resnet18", 1, 11.177, 1.686),  # 1.81 with the taps in the padding
        ("resnet50", 1, 23.508, 3.97),
        ("resnet101", 1, 42.500, 7.51),
        ("resnet152", 1, 58.144, 11.08),
        ("resnet200", 1, 62.625, 14.51),
        ("resnet200", 2, 250.13, 57.65),
    ],
)
def test_backbone_sizes_and_costs(arch, width, millions, giga):
    """Parameters without classifier (Table 3: 250 M), and multiply-adds at 224 px, taps in the padding not counted."""
    network = encoder(ModelConfig(arch=arch, width=width, dtype="float32"))
    assert size(network.params) / 1e6 == pytest.approx(millions, abs=0.005)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    found = flops(lambda p, s, x: network.module(p, s)(x), network.params, network.stats, image)
    assert found / 2e9 == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_shift_of_the_picture_by_the_stride_is_one_of_the_features_by_a_cell(stride):
    """And not for half of it. Weights are the same at every stride: only steps between cells differ."""
    network = encoder(ModelConfig(arch="tiny", stride=stride, dtype="float32"))
    assert jax.tree.map(np.shape, network.params) == jax.tree.map(
        np.shape, encoder(ModelConfig(arch="tiny", dtype="float32")).params
    )
    params, stats = initialize(network, 0)
    picture = np.random.default_rng(0).normal(size=(1, 288, 288, 3)).astype(np.float32)
    module = network.module(params, stats)

    def inner(shift):
        found = np.asarray(module(jnp.array(picture[:, shift : shift + 256, shift : shift + 256])))
        assert found.shape[1:3] == (256 // stride, 256 // stride)
        return found

    far = 256 // stride // 2 - 1  # cells from the border, out of the reach of its padding
    still, moved, half = inner(0), inner(stride), inner(stride // 2)
    middle = still[:, far + 1 : -far + 1, far + 1 : -far + 1]
    np.testing.assert_allclose(moved[:, far:-far, far:-far], middle, atol=1e-4)
    assert np.abs(half[:, far:-far, far:-far] - middle).max() > 1e-2


def test_batch_norm_equals_numpy_per_view():
    random = np.random.default_rng(0)
    x = random.normal(3, 2, (6, 4, 5, 7)).astype(np.float32)  # 3 images of 2 views, interleaved
    norm = BatchNorm(7, decay=0.9, eps=1e-5)
    norm.scale[...] = jnp.array(random.normal(size=7), jnp.float32)
    norm.bias[...] = jnp.array(random.normal(size=7), jnp.float32)
    found = norm(jnp.array(x), views=2)
    mean, var = np.zeros(7), np.ones(7)
    for view in range(2):
        rows = x[view::2].astype(np.float64).reshape(-1, 7)
        expected = (x[view::2] - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * norm.scale[...] + norm.bias[...]
        np.testing.assert_allclose(found[view::2], expected, atol=2e-5)
        mean, var = 0.9 * mean + 0.1 * rows.mean(0), 0.9 * var + 0.1 * rows.var(0)
    np.testing.assert_allclose(norm.mean[...], mean, rtol=1e-5)
    np.testing.assert_allclose(norm.var[...], var, rtol=1e-5)
    evaluated = norm(jnp.array(x), views=0)
    np.testing.assert_allclose(
        evaluated, (x - mean) / np.sqrt(var + 1e-5) * norm.scale[...] + norm.bias[...], rtol=1e-4, atol=1e-5
    )


def test_batch_norm_of_views_together():
    """One set of statistics for all rows, one step of the averages; not what statistics per view give."""
    random = np.random.default_rng(0)
    x = random.normal(3, 2, (6, 4, 5, 7)).astype(np.float32)
    x[1::2] += 5
    together = BatchNorm(7, per_view=False)
    rows = x.astype(np.float64).reshape(-1, 7)
    found = together(jnp.array(x), views=2)
    np.testing.assert_allclose(found, (x - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5), atol=2e-5)
    np.testing.assert_allclose(together.mean[...], 0.1 * rows.mean(0), rtol=1e-5)
    assert np.abs(found - BatchNorm(7)(jnp.array(x), views=2)).max() > 0.5


def test_batch_norm_leaves_padding_out():
    random = np.random.default_rng(0)
    x = random.normal(size=(4, 3, 5)).astype(np.float32)
    valid = np.ones((4, 3), bool)
    valid[0, 2] = valid[2, 0] = False  # view 0 of images 0 and 1
    found = BatchNorm(5)(jnp.array(x), views=2, valid=jnp.array(valid))
    rows = x[0::2][valid[0::2]].astype(np.float64)
    np.testing.assert_allclose(found[0::2], (x[0::2] - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5), atol=1e-5)


def test_mask_pooling_is_the_weighted_mean():
    random = np.random.default_rng(0)
    hidden, weights = random.normal(size=(2, 9, 4)), random.random((2, 3, 9))
    weights[1, 2] = 0
    found = mask_pool(jnp.float32(hidden), jnp.float32(weights))
    for i in range(2):
        for m in range(3):
            total = weights[i, m].sum()
            expected = sum(weights[i, m, p] * hidden[i, p] for p in range(9)) / total if total else np.zeros(4)
            np.testing.assert_allclose(found[i, m], expected, atol=1e-6)


@pytest.fixture(scope="module")
def tiny():
    model = ModelConfig(arch="tiny", hidden=16, out=8, dtype="float32")
    network = online_network(Config(model=model))
    params, stats = initialize(network, 0)
    # Blocks start as the identity; wake their branches, so that everything is exercised.
    params |= {name: np.full_like(p, 0.5) for name, p in params.items() if name.endswith("bn3.scale")}
    return model, network, params, stats


def test_both_views_at_once_equal_two_passes(tiny):
    """Interleaving views changes neither values nor running averages."""
    model, _, params, stats = tiny
    net = encoder(model)
    part = [{n.removeprefix("encoder."): a for n, a in g.items() if n.startswith("encoder.")} for g in (params, stats)]
    images = np.random.default_rng(1).normal(size=(3, 2, 64, 64, 3)).astype(np.float32)

    @jax.jit
    def run(images, stats):
        module = net.module(part[0], stats)
        views = images.shape[1]
        hidden = module(images.reshape(-1, 64, 64, 3), views)
        return hidden.reshape(-1, views, *hidden.shape[1:]), stats_of(module)

    both, stats_both = run(images, part[1])
    first, stats_first = run(images[:, :1], part[1])
    second, stats_second = run(images[:, 1:], stats_first)
    np.testing.assert_allclose(both[:, 0], first[:, 0], atol=1e-5)
    np.testing.assert_allclose(both[:, 1], second[:, 0], atol=1e-5)
    for name, value in stats_second.items():
        np.testing.assert_allclose(stats_both[name], value, atol=1e-5, err_msg=name)


def test_one_view_pools_two_draws_from_one_crop(tiny):
    """Table 5, row b: both sets of masks look at the same features."""
    _, network, params, stats = tiny
    random = np.random.default_rng(2)
    images = random.normal(size=(4, 1, 64, 64, 3)).astype(np.float32)
    weights = random.random((4, 1, 3, 4)).astype(np.float32).repeat(2, axis=1)
    valid = np.ones((4, 2, 3), bool)
    projection, prediction = jax.jit(lambda: forward(network.module(params, stats), images, weights, valid))()
    assert projection.shape == prediction.shape == (4, 2, 3, 8)
    np.testing.assert_array_equal(projection[:, 0], projection[:, 1])
    assert not np.allclose(projection, prediction)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (225, 225), (800, 1333)])
def test_grid_is_a_cell_per_32_pixels_rounded_up(height, width):
    for padding in ("torch", "same"):
        net = encoder(ModelConfig(arch="tiny", padding=padding, dtype="float32"))
        image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
        out = jax.eval_shape(lambda p, s, x, net=net: net.module(p, s)(x), net.params, net.stats, image)
        assert out.shape == (1, -(-height // 32), -(-width // 32), 256)


def test_paddings_differ(tiny):
    """With the same weights the release's padding gives other features; a checkpoint belongs to one of them."""
    model, _, params, stats = tiny
    part = [{n.removeprefix("encoder."): a for n, a in g.items() if n.startswith("encoder.")} for g in (params, stats)]
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 3)).astype(np.float32)
    nets = {p: encoder(dataclasses.replace(model, padding=p)) for p in ("torch", "same")}
    out = {p: jax.jit(lambda x, net=net: net.module(*part)(x))(image) for p, net in nets.items()}
    assert np.linalg.norm(out["torch"] - out["same"]) > 0.05 * np.linalg.norm(out["torch"])


def test_compute_is_bfloat16_and_everything_kept_is_float32():
    config = Config(model=ModelConfig(arch="tiny", hidden=16, out=8))
    network = online_network(config)
    assert {s.dtype for s in (*network.params.values(), *network.stats.values())} == {jnp.dtype("float32")}
    images = jax.ShapeDtypeStruct((2, 2, 64, 64, 3), jnp.float32)
    weights, valid = jax.ShapeDtypeStruct((2, 2, 3, 4), jnp.float32), jax.ShapeDtypeStruct((2, 2, 3), jnp.bool)

    def run(params, stats, images, weights, valid):
        module = network.module(params, stats)
        return forward(module, images, weights, valid), stats_of(module)

    args = (network.params, network.stats, images, weights, valid)
    (projection, _), stats = jax.eval_shape(run, *args)
    assert projection.dtype == jnp.float32
    assert {s.dtype for s in stats.values()} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(run)(*args))
    convolutions = [line for line in text.splitlines() if "conv_general_dilated[" in line]
    assert len(convolutions) == 1 + 4 * 4
    assert all(":bf16[" in line for line in convolutions)


def test_initial_values_depend_on_name_and_seed_alone():
    model = ModelConfig(arch="tiny", hidden=16, out=8)
    params, stats = initialize(online_network(Config(model=model)), 3)
    alone, _ = initialize(target_network(Config(model=model)), 3)
    for name, value in alone.items():
        np.testing.assert_array_equal(value, params[name])
    other, _ = initialize(online_network(Config(model=model)), 4)
    assert not np.allclose(other["encoder.conv1.kernel"], params["encoder.conv1.kernel"])
    assert not params["encoder.layer1.0.bn3.scale"].any()
    assert (params["encoder.layer1.0.bn2.scale"] == 1).all()
    assert all((value == name.endswith(".var")).all() for name, value in stats.items())
    wide, _ = initialize(online_network(Config()), 0)
    kernel = wide["encoder.layer3.1.conv2.kernel"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.01)
    kernel = wide["projector.linear1.kernel"]
    assert kernel.std() == pytest.approx(1 / np.sqrt(2048), rel=0.01)
    assert np.abs(kernel).max() <= 2 / 0.8796 / np.sqrt(2048) + 1e-6
