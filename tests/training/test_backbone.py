"""Backbones read back: a run, an exported file, and weights in the names of the authors' code, by a slow forward."""

import dataclasses
import importlib.util
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy

from maskmill.schemas.errors import InputError, UsageError
from maskmill.training import model
from maskmill.training.backbone import load_backbone, start_from
from maskmill.training.config import Config, ModelConfig
from maskmill.training.config_io import override
from maskmill.training.export import export_backbone, torchvision_state
from maskmill.training.step import init_state, make_mesh


def haiku_arrays(seed=0, blocks=(1, 1, 1, 1), base=8, prefix="res_net50"):
    """Arrays as the release's ResNet names and shapes them (v1, bottleneck, a projection in every group), and heads."""
    random = np.random.default_rng(seed)
    params, state = {}, {}

    def conv(name, size, inputs, outputs):
        deviation = np.sqrt(2 / (size * size * inputs))
        params[name] = {"w": (deviation * random.standard_normal((size, size, inputs, outputs))).astype(np.float32)}

    def norm(name, channels):
        shape = (1, 1, 1, channels)
        params[name] = {
            "scale": random.uniform(0.5, 1.5, shape).astype(np.float32),
            "offset": 0.2 * random.standard_normal(shape).astype(np.float32),
        }
        for kind, average in (("mean", random.normal(0, 0.1, shape)), ("var", random.uniform(0.5, 2, shape))):
            state[f"{name}/~/{kind}_ema"] = {
                "average": average.astype(np.float32), "hidden": 0 * average.astype(np.float32),
                "counter": np.array(7, np.int32),
            }  # fmt: skip

    conv(f"{prefix}/~/initial_conv", 7, 3, base)
    norm(f"{prefix}/~/initial_batchnorm", base)
    channels = base
    for group, depth in enumerate(blocks):
        width = base << group
        for block in range(depth):
            at = f"{prefix}/~/block_group_{group}/~/block_{block}/~"
            if block == 0:
                conv(f"{at}/shortcut_conv", 1, channels, 4 * width)
                norm(f"{at}/shortcut_batchnorm", 4 * width)
            for i, (size, a, b) in enumerate([(1, channels, width), (3, width, width), (1, width, 4 * width)]):
                conv(f"{at}/conv_{i}", size, a, b)
                norm(f"{at}/batchnorm_{i}", b)
            channels = 4 * width
    params["projector/linear"] = {"w": np.zeros((channels, 4), np.float32), "b": np.zeros(4, np.float32)}
    params["projector/batch_norm"] = {"scale": np.ones(4, np.float32), "offset": np.zeros(4, np.float32)}
    params["classifier"] = {"w": np.zeros((channels, 10), np.float32), "b": np.zeros(10, np.float32)}
    return params, state


def slow_features(params, state, image, prefix="res_net50", last_dilation=1):
    """The release's forward pass in evaluation, in loops over pixels: SAME padding, strides on the 3 x 3.

    With `last_dilation` 2 the last group keeps its resolution, and its 3 x 3 reach as far as they did.
    """

    def conv(x, name, stride, dilation=1):
        w = params[name]["w"].astype(np.float64)
        size = dilation * (w.shape[0] - 1) + 1
        out = [-(-side // stride) for side in x.shape[:2]]
        need = [max((o - 1) * stride + size - side, 0) for o, side in zip(out, x.shape[:2], strict=True)]
        x = np.pad(x, [(n // 2, n - n // 2) for n in need] + [(0, 0)])
        y = np.empty((*out, w.shape[3]))
        for i in range(out[0]):
            for j in range(out[1]):
                rows, columns = (slice(k * stride, k * stride + size, dilation) for k in (i, j))
                y[i, j] = np.tensordot(x[rows, columns], w, 3)
        return y

    def norm(x, name):
        p, mean, var = params[name], *(state[f"{name}/~/{k}_ema"]["average"] for k in ("mean", "var"))
        return ((x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["offset"])[0]

    x = np.maximum(norm(conv(image, f"{prefix}/~/initial_conv", 2), f"{prefix}/~/initial_batchnorm"), 0)
    side = -(-x.shape[0] // 2)
    need = max((side - 1) * 2 + 3 - x.shape[0], 0)
    x = np.pad(x, [(need // 2, need - need // 2)] * 2 + [(0, 0)], constant_values=-np.inf)
    x = np.array([[x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((0, 1)) for j in range(side)] for i in range(side)])
    for group in range(4):
        block = 0
        while (at := f"{prefix}/~/block_group_{group}/~/block_{block}/~") + "/conv_0" in params:
            dilation = last_dilation if group == 3 else 1
            stride = 2 if group and not block and dilation == 1 else 1
            short = x
            if block == 0:
                short = norm(conv(x, f"{at}/shortcut_conv", stride), f"{at}/shortcut_batchnorm")
            y = np.maximum(norm(conv(x, f"{at}/conv_0", 1), f"{at}/batchnorm_0"), 0)
            y = np.maximum(norm(conv(y, f"{at}/conv_1", stride, dilation), f"{at}/batchnorm_1"), 0)
            x = np.maximum(norm(conv(y, f"{at}/conv_2", 1), f"{at}/batchnorm_2") + short, 0)
            block += 1
    return x


def flat(*groups, prefix=""):
    return {
        f"{prefix}{module}/{name}": x for group in groups for module, rest in group.items() for name, x in rest.items()
    }


@pytest.mark.parametrize("side", [32, 33])  # SAME pads even and odd sides differently
def test_released_names_give_the_features_of_the_releases_network(tmp_path, side):
    params, state = haiku_arrays()
    np.savez(tmp_path / "w.npz", **flat(params, prefix="params/"), **flat(state, prefix="state/"))
    found = load_backbone(str(tmp_path / "w.npz"))
    assert (found.model.arch, found.model.width, found.model.padding) == ("tiny", 1, "same")
    image = np.random.default_rng(1).standard_normal((side, side, 3))
    expected = slow_features(params, state, image)

    def features(config):
        network = model.encoder(config)
        run = jax.jit(lambda x: network.module(found.arrays, found.arrays)(x))
        return np.asarray(run(image[None].astype(np.float32)))[0]

    ours = features(found.model)
    assert abs(ours - expected).max() < 1e-4 * abs(expected).max()
    dilated = dataclasses.replace(found.model, stride=16, dilate=True)
    expected16 = slow_features(params, state, image, last_dilation=2)
    ours = features(dilated)
    assert ours.shape[:2] == (-(-side // 16),) * 2
    assert abs(ours - expected16).max() < 1e-4 * abs(expected16).max()
    torch = dataclasses.replace(found.model, padding="torch")
    other = features(torch)
    assert (abs(other - expected).max() > 0.01 * abs(expected).max()) == (side % 2 == 0)  # where the padding differs


def test_released_weights_are_exported_and_started_from(tmp_path, tiny_config):
    np.savez(tmp_path / "w.npz", **flat(*haiku_arrays()))
    result = export_backbone(str(tmp_path / "w.npz"), str(tmp_path / "w.safetensors"))
    assert "padding=same" in result["warning"]
    again, first = load_backbone(str(tmp_path / "w.safetensors")), load_backbone(str(tmp_path / "w.npz"))
    assert again.model == first.model
    assert again.arrays.keys() == first.arrays.keys()
    for name, x in first.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], x, err_msg=name)
    mesh = make_mesh()
    same = override(tiny_config, ["model.padding=same"])
    state = start_from(str(tmp_path / "w.npz"), same, init_state(same, mesh))
    for part in ("params", "target_params"):
        np.testing.assert_array_equal(np.asarray(state[part]["encoder.conv1.kernel"]), first.arrays["conv1.kernel"])
    np.testing.assert_array_equal(np.asarray(state["stats"]["encoder.bn1.var"]), first.arrays["bn1.var"])
    with pytest.raises(UsageError, match=r"trained with padding=same; set model.padding=same"):
        start_from(str(tmp_path / "w.npz"), tiny_config, state)
    wide = override(same, ["model.width=2"])
    with pytest.raises(UsageError, match=r"is another network \(.* set model.arch=tiny, model.width=1"):
        start_from(str(tmp_path / "w.npz"), wide, init_state(wide, mesh))


@pytest.mark.parametrize("model_config", [
    ModelConfig(arch="tiny", width=2, dtype="float32"), ModelConfig(arch="resnet18", stride=16, dtype="float32"),
], ids=["bottleneck", "basic"])  # fmt: skip
def test_torchvisions_names_are_read_back(tmp_path, model_config):
    params, stats = model.initialize(model.encoder(model_config), 3)
    stats = {name: x + 0.5 for name, x in stats.items()}
    card = {"stride": str(model_config.stride)}
    state = torchvision_state(params, stats) | {"fc.weight": np.zeros((10, 4)), "fc.bias": np.zeros(10)}
    (tmp_path / "w.safetensors").write_bytes(safetensors.numpy.save(state, metadata=card))
    found = load_backbone(str(tmp_path / "w.safetensors"))
    assert found.model == dataclasses.replace(ModelConfig(), **{
        name: getattr(model_config, name) for name in ("arch", "width", "stride", "dtype")})  # fmt: skip
    assert found.arrays.keys() == params.keys() | stats.keys()
    for name, x in {**params, **stats}.items():
        np.testing.assert_array_equal(found.arrays[name], x, err_msg=name)


@pytest.fixture(scope="module")
def released_weights():
    """examples/released_weights.py as a module."""
    path = Path(__file__).parents[2] / "examples" / "released_weights.py"
    spec = importlib.util.spec_from_file_location("released_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("wrap", [lambda p, s: {"params": p, "state": s}, lambda p, s: [p, s], lambda p, s: {**p, **s}],
                         ids=["dictionary", "list", "flat"])  # fmt: skip
def test_pickled_arrays_are_taken_out_of_any_nesting(released_weights, tmp_path, capsys, wrap):
    params, state = haiku_arrays()
    np.save(tmp_path / "w.npy", np.array(wrap(params, state), object), allow_pickle=True)
    assert released_weights.main([str(tmp_path / "w.npy"), str(tmp_path / "w.npz")]) == 0
    assert "arrays, " in capsys.readouterr().out
    found = load_backbone(str(tmp_path / "w.npz"))
    np.testing.assert_array_equal(found.arrays["conv1.kernel"], params["res_net50/~/initial_conv"]["w"])
    assert found.arrays["layer4.0.bn3.mean"].shape == (256,)


def test_a_pickle_that_would_run_something_is_stopped(released_weights, tmp_path, capsys):
    class Enemy:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    np.save(tmp_path / "bad.npy", np.array({"w": Enemy()}, object), allow_pickle=True)
    np.save(tmp_path / "plain.npy", np.zeros(3))
    for name, message in (
        ("bad", "posix.mkdir, which is neither"),
        ("plain", "a plain array"),
        ("none", "No such file"),
    ):
        assert released_weights.main([str(tmp_path / f"{name}.npy"), str(tmp_path / "o.npz")]) == 4
        assert message in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    np.load(tmp_path / "bad.npy", allow_pickle=True)  # the control: it would have
    assert (tmp_path / "ran").exists()


def test_what_is_no_backbone_says_so(tmp_path):
    np.save(tmp_path / "released.npy", {"params": {}})
    with pytest.raises(InputError, match=r"pickle runs whatever its author put in it; .*examples/released_weights.py"):
        load_backbone(str(tmp_path / "released.npy"))
    np.savez(tmp_path / "hidden.npz", **{"a/initial_conv/w": np.array({"a": 1}, object)})
    with pytest.raises(InputError, match="is pickled"):
        load_backbone(str(tmp_path / "hidden.npz"))
    for name in ("bad.npz", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"{" * 64)
        with pytest.raises(InputError, match="is not a"):
            load_backbone(str(tmp_path / name))
    with pytest.raises(InputError, match=r"there is no file .*none.npz"):
        load_backbone(str(tmp_path / "none.npz"))
    params, state = haiku_arrays()
    online, target = flat(params, state, prefix="online/"), flat(params, state, prefix="target/")
    np.savez(tmp_path / "two.npz", **online, **target)
    with pytest.raises(InputError, match="holds two networks, target/res_net50"):
        load_backbone(str(tmp_path / "two.npz"))
    del online["online/res_net50/~/initial_conv/w"]
    np.savez(tmp_path / "part.npz", **online)
    with pytest.raises(InputError, match=r"no whole ResNet: conv1.kernel has shape none in place of \(7, 7, 3, 8\)"):
        load_backbone(str(tmp_path / "part.npz"))
    np.savez(tmp_path / "other.npz", **flat(*haiku_arrays(blocks=(1, 1, 2, 1))))
    with pytest.raises(InputError, match=r"holds no ResNet of ours \(blocks per stage: \(1, 1, 2, 1\)\)"):
        load_backbone(str(tmp_path / "other.npz"))
    text = safetensors.numpy.save({"stem.conv1.weight": np.zeros(1)}, metadata={"names": "detectron2"})
    (tmp_path / "d2.safetensors").write_bytes(text)
    with pytest.raises(InputError, match="has detectron2 names; export it with --format torchvision"):
        load_backbone(str(tmp_path / "d2.safetensors"))
    assert Config().init == ""
