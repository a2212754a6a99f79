"""Encoders as ONNX against our own forward pass, for every backbone, and models that would not be the same network."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from maskmill.schemas.errors import UsageError
from maskmill.training import model
from maskmill.training.augment import normalize
from maskmill.training.config import ModelConfig
from maskmill.training.export import export_backbone
from maskmill.training.onnx_graph import at_stride, cell_model

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
TOLERANCE = 1e-5  # of the greatest feature


def random_arrays(config):
    """Every array random, running averages included, so that nothing is hidden by a zero or a one."""
    params, stats = model.initialize(model.encoder(config), seed=1)
    random = np.random.default_rng(2)
    arrays = {**params, **stats}
    for name, value in arrays.items():
        if name.endswith((".scale", ".var")):
            arrays[name] = random.uniform(0.5, 1.5, value.shape).astype(np.float32)
        elif not name.endswith(".kernel"):
            arrays[name] = (0.2 * random.standard_normal(value.shape)).astype(np.float32)
    return arrays


def ours(config, arrays, images):
    network = model.encoder(config)
    run = jax.jit(lambda arrays, x: network.module(arrays, arrays)(normalize(x / 255.0)))
    return np.asarray(run(arrays, images.astype(np.float32)))


def theirs(made, images):
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["cells"], {"image": images})[0]


def difference(one, other) -> float:
    assert one.shape == other.shape
    return float(np.abs(one - other).max() / np.abs(other).max())


def pictures(count=1, height=70, width=101):
    return np.random.default_rng(height).integers(0, 256, (count, height, width, 3), np.uint8)


CHEAP = [
    ("tiny", 32, 32, "torch"),
    ("tiny", 8, 8, "torch"),
    ("tiny", 32, 8, "torch"),
    ("tiny", 32, 16, "same"),
    ("resnet18", 32, 32, "torch"),
]
DEEP = [(arch, 32, 16, "torch") for arch in ("resnet50", "resnet101", "resnet152", "resnet200")]


@pytest.mark.parametrize(
    ("arch", "trained", "stride", "padding"), [*CHEAP, *(pytest.param(*d, marks=pytest.mark.slow) for d in DEEP)]
)
def test_cells_are_the_encoders(arch, trained, stride, padding):
    config = ModelConfig(arch=arch, dtype="float32", stride=trained, padding=padding)
    arrays, images = random_arrays(config), pictures(2)
    at = at_stride(config, stride)
    assert (at.stride, at.dilate) == (stride, stride < trained)
    found = theirs(cell_model(at, arrays, {}), images)
    assert found.shape[:3] == (2, -(-70 // stride), -(-101 // stride))
    assert difference(found, ours(at, arrays, images)) < TOLERANCE


def test_the_comparison_sees_another_epsilon_padding_and_stride():
    """The control."""
    config = ModelConfig(arch="tiny", dtype="float32", stride=8)
    arrays, images = random_arrays(config), pictures()
    expected = ours(config, arrays, images)
    for change in ({"bn_eps": 1e-3}, {"padding": "same"}, {"dilate": True}):
        other = ModelConfig(**{"arch": "tiny", "dtype": "float32", "stride": 8, **change})
        assert difference(theirs(cell_model(other, arrays, {}), images), expected) > 10 * TOLERANCE, change


def test_a_stride_that_weights_do_not_fit_is_refused():
    for trained, stride, fits in ((16, 8, "16"), (8, 16, "8"), (32, 5, "8 or 16 or 32")):
        with pytest.raises(
            UsageError, match=f"stride {stride} does not fit .* stride {trained}; give --stride {fits}$"
        ):
            at_stride(ModelConfig(stride=trained), stride)
    assert at_stride(ModelConfig(stride=16, dilate=True), 8).stride == 8


def test_a_run_is_exported_with_its_card_and_twice_to_the_same_bytes(tiny_run, tmp_path):
    workdir, _ = tiny_run
    paths = [tmp_path / name for name in ("a.onnx", "b.onnx")]
    for path in paths:
        result = export_backbone(str(workdir), str(path), format="onnx", stride=8)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert (result["bytes"], result["stride"], result["format"]) == (len(first), 8, "onnx")
    card = {entry.key: entry.value for entry in onnx.load_from_string(first).metadata_props}
    assert (card["kind"], card["arch"], card["stride"]) == ("maskmill cells", "tiny", "8")
    assert card["step"] == str(result["step"])
    assert not {"", "unknown"} & {card["masks"], card["algorithm"], card["manifest_digest"]}
    assert json.dumps(result)


def test_what_cannot_be_written_is_refused(tiny_run, tmp_path):
    workdir, _ = tiny_run
    with pytest.raises(UsageError, match=r"--format onnx writes an onnx file; name it so: .*/a\.onnx$"):
        export_backbone(str(workdir), str(tmp_path / "a.safetensors"), format="onnx")
    with pytest.raises(UsageError, match="--stride is for --format onnx"):
        export_backbone(str(workdir), str(tmp_path / "a.safetensors"), stride=8)
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from maskmill.training.cli import main\n"
        f"sys.exit(main(['export', {str(workdir)!r}, {str(tmp_path / 'a.onnx')!r}, '--format', 'onnx']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, list(tmp_path.glob("a*"))) == (2, [])
    assert done.stderr.strip().endswith("install it with: pip install 'maskmill[train,onnx]'")
