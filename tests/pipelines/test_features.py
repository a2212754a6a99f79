"""Generator `features`: backbones that `detcon export` writes and one made by hand, whose cells are known exactly."""

import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.foreign.features import Opened
from maskmill.pipelines.parts.generators import canonical_spec, parse_spec
from maskmill.schemas.errors import DamageError, ImageError, InputError, UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.manifest import load_manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.rle import decode_mask
from maskmill.testing import check_generator

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper  # noqa: E402

CARD = {
    "kind": "maskmill cells",
    "arch": "averages",
    "stride": "8",
    "algorithm": "detcon_s",
    "masks": "fh-1000",
    "step": "7",
    "padding": "torch",
}


def backbone(path, card=CARD, name="image", channels=3, scale=1.0):
    """Features are mean colours around the first pixel of every 8 x 8: cells of an exported backbone in form and place."""
    nodes = [
        helper.make_node("Cast", [name], ["a"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["b"], ["c"], kernel_shape=[9, 9], strides=[8, 8], pads=[4, 4, 3, 3]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["d", "scale"], ["cells"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.UINT8, ("n", "h", "w", channels))],
        [helper.make_tensor_value_info("cells", TensorProto.FLOAT, ("n", "r", "c", channels))],
        [helper.make_tensor("scale", TensorProto.FLOAT, [], [scale])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, card)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def scene(height=64, width=96, seed=0):
    """A red and a blue thing on green, in noise."""
    random = np.random.default_rng(seed)
    image = np.full((height, width, 3), (40, 160, 60), np.uint8)
    image[10:45, 13:40] = (220, 40, 30)
    image[20:58, 55:85] = (30, 50, 230)
    image = (image + random.integers(0, 8, image.shape)).astype(np.uint8)
    image.setflags(write=False)
    return ImageRecord("scene", image)


def opened(spec, folder):
    """The generator as a worker has it."""
    (folder / "prepared").mkdir(exist_ok=True)
    ready = parse_spec(spec).prepare([], set(), str(folder / "prepared")).generator
    assert parse_spec(canonical_spec(ready)) == ready
    assert parse_spec(canonical_spec(ready)).layers == ready.layers
    return pickle.loads(pickle.dumps(ready.opened(str(folder / "prepared"))))


def drawn(masks, record):
    return [decode_mask(c, record.height, record.width) for c in masks.counts]


def best_iou(masks, truth):
    return max((m & truth).sum() / (m | truth).sum() for m in masks)


@pytest.mark.parametrize("method", ["kmeans", "ncut"])
def test_things_are_masks_with_the_pictures_edges(tmp_path, method):
    path, record = backbone(tmp_path / "net.onnx"), scene()
    spec = f"features(model={str(path)!r}, k=(2, 4), side=96, position=0.5, tau=0.3, method={method}"
    snapped, plain = (opened(f"{spec}, snap={snap})", tmp_path)(record) for snap in (50, 0))
    red, blue = np.zeros((2, 64, 96), bool)
    red[10:45, 13:40], blue[20:58, 55:85] = True, True
    for truth in (red, blue):
        assert best_iou(drawn(snapped[1], record), truth) > 0.87
        assert best_iou(drawn(plain[1], record), truth) < 0.8  # the control: cells do not know where a thing ends
    assert (len(snapped[0]), len(snapped[1])) <= (2, 4)
    assert np.sum(drawn(snapped[1], record), axis=0).max() == 1
    if method == "kmeans":
        assert np.sum(drawn(snapped[1], record), axis=0).min() == 1


def test_it_keeps_the_contract(tmp_path):
    path = backbone(tmp_path / "net.onnx")
    for method in ("kmeans", "ncut"):
        check_generator(f"features(model={str(path)!r}, side=80, method={method})")


@pytest.mark.parametrize("method", ["kmeans", "ncut"])
def test_tiny_and_flat_pictures_have_masks_too(tmp_path, method):
    generator = opened(f"features(model={str(backbone(tmp_path / 'net.onnx'))!r}, side=40, method={method})", tmp_path)
    random = np.random.default_rng(0)
    for size in ((1, 1), (1, 90), (60, 1), (3, 5)):
        for image in (random.integers(0, 256, (*size, 3), np.uint8), np.full((*size, 3), 9, np.uint8)):
            for masks in generator(ImageRecord("tiny", image)):
                assert len(masks) >= 1


def test_layers_say_what_the_model_is(tmp_path):
    path = backbone(tmp_path / "net.onnx")
    generator = opened(f"features(model={str(path)!r}, k=(4, 9), name=round1)", tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [layer.name for layer in generator.layers] == ["round1-4", "round1-9"]
    layer = generator.layers[1]
    assert (layer.disjoint, layer.generator) == (True, "features")
    given = {"method": "kmeans", "side": 480, "snap": 50, "position": 3.0}
    assert layer.params == {"k": 9, "file": "net.onnx", "sha256": digest, **given}
    assert layer.provenance == {
        "model": "averages, stride 8, detcon_s, masks: fh-1000, step 7",
        "model_sha256": digest,
        "labels": [],
    }


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"masks": "one per view", "algorithm": "simclr"}, []),
        ({"masks": "grid-5, fh-500"}, []),
        ({"masks": "fh-500, gt"}, ["whatever masks of gt are made of"]),
        ({"masks": "none: labels", "algorithm": "supervised"}, ["those that supervised training had"]),
        ({"masks": "unknown", "algorithm": "unknown"}, ["unknown: weights made elsewhere"]),
    ],
)
def test_labels_that_the_backbone_learnt_from_are_said(tmp_path, changes, labels):
    path = backbone(tmp_path / "net.onnx", CARD | changes)
    assert opened(f"features(model={str(path)!r}, side=64)", tmp_path).layers[0].provenance["labels"] == labels


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("features()", "needs model=..., a backbone that `detcon export --format onnx` wrote"),
        ("features(model='m.onnx', k=0)", r"features k must be a whole number in 1\.\.64, or several, got 0"),
        ("features(model='m.onnx', k=(4, 65))", r"1\.\.64, or several, got \(4, 65\)"),
        ("features(model='m.onnx', k=(4, 4))", "name each number once"),
        ("features(model='m.onnx', k=())", "or several, got"),
        ("features(model='m.onnx', method=dbscan)", "one of kmeans, ncut, got 'dbscan'"),
        ("features(model='m.onnx', side=16)", r"pixels in 32\.\.2048, got 16"),
        ("features(model='m.onnx', snap=-1)", r"snap must be a number in 0\.\.10000, got -1"),
        ("features(model='m.onnx', position=101)", r"position must be a number in 0\.\.100"),
        ("features(model='m.onnx', tau=1.5)", r"tau must be a number in -1\.\.1"),
        ("features(model='m.onnx', name='a b')", "name must be letters"),
        ("features(model='m.onnx', sha256=abc)", "64 hexadecimal digits"),
        ("features(modle='m.onnx')", "did you mean 'model'"),
    ],
)
def test_bad_parameters_are_answered_in_words(spec, message):
    with pytest.raises(UsageError, match=message):
        parse_spec(spec)


def test_files_that_are_no_backbones_are_refused(tmp_path):
    def refused(message, path, more="", kind=InputError):
        with pytest.raises(kind, match=message):
            opened(f"features(model={str(path)!r}{more})", tmp_path)

    refused("none.onnx cannot be read: No such file", tmp_path / "none.onnx")
    (tmp_path / "words.onnx").write_bytes(b"no model at all")
    refused("no model that onnxruntime can run", tmp_path / "words.onnx")
    refused("no card of a backbone.*detcon export RUN OUT.onnx --format onnx", backbone(tmp_path / "a.onnx", {}))
    for card, more in (
        ({**CARD, "stride": "0"}, {}),
        ({**CARD, "arch": ""}, {}),
        ({**CARD, "padding": "none"}, {}),
        (CARD, {"name": "picture"}),
        (CARD, {"scale": 0.0, "channels": 4}),
    ):
        path = backbone(tmp_path / "b.onnx", card, **more)
        refused("export the backbone again|does not work as a backbone", path)
    path = backbone(tmp_path / "c.onnx", scale=float("inf"))
    refused("does not work as a backbone: .*no numbers", path)
    refused(r"side=800 makes up to 10000 cells of 8 px, at most 6400.*side=640 or less", backbone(path), ", side=800")


def test_without_onnxruntime_it_says_what_to_install(tmp_path, monkeypatch):
    path = backbone(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"features masks need onnxruntime; .*pip install 'maskmill\[onnx\]'"):
        opened(f"features(model={str(path)!r})", tmp_path)


def test_another_model_on_resume_is_refused(tmp_path):
    path = backbone(tmp_path / "net.onnx")
    ready = opened(f"features(model={str(path)!r}, side=64)", tmp_path).wanted
    folder = str(tmp_path / "prepared")
    ready.verify(folder)
    with pytest.raises(DamageError, match=r"the copy of .*net\.onnx is gone"):
        ready.verify(str(tmp_path))
    backbone(path, CARD | {"step": "8"})
    with pytest.raises(InputError, match="not the model this build was begun with"):
        ready.verify(folder)
    with pytest.raises(DamageError, match="not the model that was planned with"):
        _ = Opened(dataclasses.replace(ready, sha256="0" * 64), f"{folder}/{ready.sha256}.onnx").session
    with pytest.raises(UsageError, match="use `maskmill build`"):
        ready(scene())


def test_a_picture_on_which_the_model_fails_is_the_ledgers(tmp_path):
    class Broken:
        def run(self, *args):
            raise RuntimeError("no memory\nleft")

    generator = opened(f"features(model={str(backbone(tmp_path / 'net.onnx'))!r}, side=64)", tmp_path)
    generator.__dict__["session"] = Broken()
    with pytest.raises(ImageError, match="the model failed: no memory left"):
        generator(scene())


def test_a_build_has_its_masks_with_any_workers_and_threads(tmp_path, capsys):
    """In this process with as many threads as there are cores, and in a worker's process, which has one."""
    path, images = backbone(tmp_path / "net.onnx"), tmp_path / "pictures"
    images.mkdir()
    for i in range(3):
        cv2.imwrite(str(images / f"{i}.png"), scene(64 + 8 * i, 96, i).image[..., ::-1])
    model = f"model={str(path)!r}, side=320"
    specs = [f"features({model})", f"features({model}, method=ncut, name=ncut, k=3)"]
    words = ["build", "--dataset", "folder", "--images", str(images), "--num-shards", "1"]
    words += [word for spec in specs for word in ("--masks", spec)]
    assert main([*words, "--workers", "0", "--out", str(tmp_path / "one")]) == 0
    command = [sys.executable, "-m", "maskmill.pipelines.commands.cli", *words, "--workers", "1"]
    done = subprocess.run([*command, "--out", str(tmp_path / "two")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (next((tmp_path / name).glob("*.tfrecord-*")).read_bytes() for name in ("one", "two"))
    assert one == two
    manifest = load_manifest(str(tmp_path / "one"))
    assert [layer.name for layer in manifest.layers] == ["features-4", "features-8", "features-16", "ncut-3"]
    assert manifest.layers[0].params["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "unmatched" not in json.loads((tmp_path / "one" / "manifest.json").read_text())["counts"]
    assert all(len(masks.counts) for record in Dataset.open(str(tmp_path / "one")) for masks in record.masks)
    assert main([*words, "--masks", f"features({model}, k=(4, 5))", "--out", str(tmp_path / "three")]) == 2
    assert "layer 'features-4' is asked for twice" in capsys.readouterr().err
