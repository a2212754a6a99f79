"""Exported backbones against torchvision: its own code where it is installed, and a second writing of its padding rules."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from maskmill.schemas.errors import InputError, UsageError
from maskmill.training import model
from maskmill.training.config import ModelConfig
from maskmill.training.export import detectron2_state, export_backbone, torchvision_state

SIZES = [(224, 224), (225, 225), (320, 533)]  # the last one like detection's 800 x 1333: odd at every stride
TOLERANCE = 1e-4  # of the greatest feature


def random_encoder(arch, padding="torch"):
    """A network with every array random, running averages included; (Pure, params, stats)."""
    network = model.encoder(ModelConfig(arch=arch, dtype="float32", padding=padding))
    params, stats = model.initialize(network, seed=1)
    random = np.random.default_rng(2)
    for group in (params, stats):
        for name, value in group.items():
            if name.endswith((".scale", ".var")):
                group[name] = random.uniform(0.5, 1.5, value.shape).astype(np.float32)
            elif not name.endswith(".kernel"):
                group[name] = (0.2 * random.standard_normal(value.shape)).astype(np.float32)
    return network, params, stats


def features(network, params, stats, images):
    """float32[n, height, width, channels] of our own network."""
    return np.asarray(jax.jit(lambda p, s, x: network.module(p, s)(x))(params, stats, images))


def images_of(height, width):
    return np.random.default_rng(height * width).standard_normal((1, height, width, 3), np.float32)


def torch_features(state, images):
    """torchvision's ResNet (version 1.5) written from its description: explicit padding, stride on the 3 x 3."""
    import tensorflow as tf

    def conv(x, name, stride):
        kernel = state[f"{name}.weight"].transpose(2, 3, 1, 0)
        pad = kernel.shape[0] // 2
        return tf.nn.conv2d(tf.pad(x, [[0, 0], [pad, pad], [pad, pad], [0, 0]]), kernel, stride, "VALID")

    def norm(x, name):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return (x - mean) / np.sqrt(var + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]

    x = tf.nn.relu(norm(conv(images, "conv1", 2), "bn1"))
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-np.inf)
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    for stage in range(1, 5):
        block = 0
        while (name := f"layer{stage}.{block}") + ".conv1.weight" in state:
            stride = 2 if stage > 1 and block == 0 else 1
            y = tf.nn.relu(norm(conv(x, f"{name}.conv1", 1), f"{name}.bn1"))
            y = tf.nn.relu(norm(conv(y, f"{name}.conv2", stride), f"{name}.bn2"))
            y = norm(conv(y, f"{name}.conv3", 1), f"{name}.bn3")
            if f"{name}.downsample.0.weight" in state:
                x = norm(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
            x = tf.nn.relu(x + y)
            block += 1
    return x.numpy()


def difference(one, other) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max() / np.abs(other).max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("arch", ["tiny", "resnet50"])
def test_features_agree_with_torchs_padding_rules(arch, size):
    network, params, stats = random_encoder(arch)
    images = images_of(*size)
    expected = torch_features(torchvision_state(params, stats), images)
    assert difference(features(network, params, stats, images), expected) < TOLERANCE


def test_same_padding_fails_that_comparison():
    network, params, stats = random_encoder("tiny", padding="same")
    images = images_of(224, 224)
    expected = torch_features(torchvision_state(params, stats), images)
    assert difference(features(network, params, stats, images), expected) > 100 * TOLERANCE


# Run by a Python that has torchvision; reads the file by hand, so that it needs nothing of ours.
TORCHVISION = """
import json, struct, sys
import numpy as np, torch, torchvision
data = open(sys.argv[1], "rb").read()
(length,) = struct.unpack("<Q", data[:8])
header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
kinds = {"F32": np.float32, "I64": np.int64}
state = {}
for name, entry in header.items():
    if name != "__metadata__":
        begin, end = entry["data_offsets"]
        state[name] = torch.tensor(np.frombuffer(body[begin:end], kinds[entry["dtype"]]).reshape(entry["shape"]))
network = torchvision.models.resnet50().eval()
missing, unexpected = network.load_state_dict(state, strict=False)
assert (sorted(missing), unexpected) == (["fc.bias", "fc.weight"], []), (missing, unexpected)
body = torch.nn.Sequential(*list(network.children())[:-2])
with np.load(sys.argv[2]) as images, torch.no_grad():
    out = {n: body(torch.tensor(images[n]).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy() for n in images.files}
np.savez(sys.argv[3], **out)
"""


@pytest.fixture(scope="session")
def torchvision_python():
    """A Python with torchvision: this one or the system's (Debian's python3-torchvision is a CPU build of 150 MB)."""
    for python in (os.environ.get("MASKMILL_TORCHVISION_PYTHON"), sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run([python, "-c", "import torchvision"], check=True, capture_output=True, timeout=120)
        except (TypeError, OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip("no Python with torchvision found (apt install python3-torchvision, or MASKMILL_TORCHVISION_PYTHON)")


@pytest.mark.slow
def test_torchvision_itself_computes_the_same_features(torchvision_python, tmp_path):
    network, params, stats = random_encoder("resnet50")
    sizes = [*SIZES[:2], (800, 1333)]
    images = {f"{h}x{w}": images_of(h, w) for h, w in sizes}
    (tmp_path / "r50.safetensors").write_bytes(safetensors.numpy.save(torchvision_state(params, stats)))
    np.savez(tmp_path / "images.npz", **images)
    names = ("r50.safetensors", "images.npz", "features.npz")
    # A clean environment: the system's Python must not see this one's packages.
    command = [torchvision_python, "-c", TORCHVISION, *(str(tmp_path / n) for n in names)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "features.npz") as expected:
        for name in images:
            assert difference(features(network, params, stats, images[name]), expected[name]) < TOLERANCE


def known_names(depths) -> set[str]:
    """Keys of torchvision's ResNet state dict without the classifier, by its own rule."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", *(f"bn1.{leaf}" for leaf in norm)}
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            names |= {f"{at}.conv{i}.weight" for i in (1, 2, 3)}
            names |= {f"{at}.bn{i}.{leaf}" for i in (1, 2, 3) for leaf in norm}
            if block == 0:
                names |= {f"{at}.downsample.0.weight", *(f"{at}.downsample.1.{leaf}" for leaf in norm)}
    return names


@pytest.mark.parametrize(("arch", "depths"), [("resnet50", (3, 4, 6, 3)), ("resnet101", (3, 4, 23, 3))])
def test_names_are_torchvisions(arch, depths):
    network = model.encoder(ModelConfig(arch=arch))
    shapes = [
        {n: np.broadcast_to(np.float32(0), s.shape) for n, s in g.items()} for g in (network.params, network.stats)
    ]
    state = torchvision_state(*shapes)
    assert set(state) == known_names(depths)
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    assert state["layer4.0.downsample.0.weight"].shape == (2048, 1024, 1, 1)
    assert state["layer4.2.conv2.weight"].shape == (512, 512, 3, 3)


def test_only_the_encoder_of_a_whole_network_is_exported():
    _, params, stats = random_encoder("tiny")
    whole = [{f"encoder.{n}": x for n, x in group.items()} for group in (params, stats)]
    whole[0]["projector.linear1.kernel"] = np.zeros((2, 2), np.float32)
    whole[1]["projector.bn.mean"] = np.zeros(2, np.float32)
    one, other = torchvision_state(params, stats), torchvision_state(*whole)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_detectron2_names_lead_back_to_torchvisions():
    _, params, stats = random_encoder("tiny")
    state = torchvision_state(params, stats)
    renamed = detectron2_state(state)
    assert {"stem.conv1.weight", "stem.conv1.norm.running_var", "res2.0.conv1.norm.bias"} <= set(renamed)
    assert {"res5.0.shortcut.weight", "res5.0.shortcut.norm.running_mean"} <= set(renamed)
    assert not any("layer" in name or "bn" in name or "downsample" in name for name in renamed)

    def back(name):  # detectron2's own converter, reversed by hand
        name = name.removeprefix("stem.")
        if name.startswith("res"):
            name = f"layer{int(name[3]) - 1}{name[4:]}"
        name = name.replace("shortcut.norm.", "downsample.1.").replace("shortcut.", "downsample.0.")
        for i in "123":
            name = name.replace(f"conv{i}.norm.", f"bn{i}.")
        return name

    kept = {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}
    assert {back(name) for name in renamed} == set(kept)
    assert all(np.array_equal(kept[back(name)], x) for name, x in renamed.items())


@pytest.mark.parametrize("format", ["torchvision", "detectron2"])
def test_a_run_is_exported_to_one_file(tiny_run, tmp_path, format):
    workdir, _ = tiny_run
    out = str(tmp_path / "new" / "backbone.safetensors")
    result = export_backbone(str(workdir), out, format=format)
    with safetensors.safe_open(out, "np") as file:
        card = file.metadata()
        names = set(file.keys())
    assert result["arrays"] == len(names)
    assert result["bytes"] == os.path.getsize(out)
    assert (card["arch"], card["names"], card["step"]) == ("tiny", format, str(result["step"]))
    assert os.listdir(tmp_path / "new") == ["backbone.safetensors"]
    assert json.dumps(result)
    assert not any("projector" in name or "predictor" in name for name in names)


def test_what_cannot_be_exported_is_refused(tiny_run, tmp_path, monkeypatch):
    workdir, _ = tiny_run
    with pytest.raises(UsageError, match="torchvision, detectron2, onnx, got 'timm'"):
        export_backbone(str(workdir), str(tmp_path / "a.safetensors"), format="timm")
    with pytest.raises(UsageError, match=r"name it so: .*a\.safetensors"):
        export_backbone(str(workdir), str(tmp_path / "a.pth"))
    with pytest.raises(InputError, match="no run"):
        export_backbone(str(tmp_path), str(tmp_path / "a.safetensors"))
    with pytest.raises(InputError, match="no checkpoint of step 99"):
        export_backbone(str(workdir), str(tmp_path / "a.safetensors"), step=99)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="no space left; nothing was left there"):
        export_backbone(str(workdir), str(tmp_path / "a.safetensors"))
    assert not list(tmp_path.glob("a*"))
