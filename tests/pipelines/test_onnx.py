"""Generator `onnx`: models whose masks are known exactly, made here, and models that are no segmenters."""

import hashlib
import json
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from maskmill.pipelines.commands.cli import main
from maskmill.pipelines.foreign.onnx_output import instance_masks, semantic_masks
from maskmill.pipelines.parts.generators import canonical_spec, parse_spec
from maskmill.pipelines.parts.part import build_part
from maskmill.schemas import storage
from maskmill.schemas.errors import DamageError, ImageError, InputError, UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.manifest import load_manifest
from maskmill.schemas.reader import Dataset
from maskmill.schemas.rle import decode_mask
from maskmill.testing import check_generator

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RAW = "mean=(0, 0, 0), std=(1, 1, 1)"  # the model sees pixels / 255


def save(path, nodes, outputs, constants=None, shape=(1, 3, "h", "w"), kind=TensorProto.FLOAT, extra=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", kind, shape), *extra],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in outputs],
        [numpy_helper.from_array(np.array(v), k) for k, v in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def channels(path, scores=(0.2, 0.9, 0.5)):
    """Three masks: where a channel is above half; with scores given."""
    return save(
        path,
        [helper.make_node("Identity", ["image"], ["masks"]), helper.make_node("Identity", ["s"], ["scores"])],
        [("masks", TensorProto.FLOAT, (1, 3, "h", "w")), ("scores", TensorProto.FLOAT, (len(scores),))],
        {"s": np.array(scores, np.float32)},
    )


def brightest(path, shape=(1, 3, "h", "w")):
    """Logits of three classes: the channels themselves."""
    node = helper.make_node("Identity", ["image"], ["logits"])
    return save(path, [node], [("logits", TensorProto.FLOAT, shape)], shape=shape)


def picture(height=24, width=31, seed=0):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image.setflags(write=False)
    return ImageRecord("a", image)


def opened(spec, folder):
    """The generator as a worker has it."""
    (folder / "prepared").mkdir(exist_ok=True)
    ready = parse_spec(spec).prepare([], set(), str(folder / "prepared")).generator
    assert parse_spec(canonical_spec(ready)) == ready
    assert parse_spec(canonical_spec(ready)).layers == ready.layers
    return pickle.loads(pickle.dumps(ready.opened(str(folder / "prepared"))))


def drawn(masks, record):
    return [decode_mask(c, record.height, record.width) for c in masks.counts]


def test_instance_masks_are_the_models_best_first(tmp_path):
    path = channels(tmp_path / "seg.onnx")
    record = picture()
    generator = opened(f"onnx(path={str(path)!r}, {RAW}, top=2)", tmp_path)
    (layer,) = generator.layers
    assert (layer.name, layer.disjoint, layer.params["task"]) == ("onnx-seg", False, "instance")
    assert layer.params["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    json.dumps(layer.params)
    (masks,) = generator(record)
    assert masks.score.tolist() == np.float32([0.9, 0.5]).tolist()
    for mask, channel in zip(drawn(masks, record), (1, 2), strict=True):
        assert np.array_equal(mask, record.image[..., channel] >= 128)
    assert masks.area.tolist() == [m.sum() for m in drawn(masks, record)]
    assert generator(record)[0].counts == masks.counts
    (few,) = opened(f"onnx(path={str(path)!r}, {RAW}, score_threshold=0.6, channels=BGR)", tmp_path)(record)
    assert np.array_equal(drawn(few, record), [record.image[..., 1] >= 128])


def test_it_keeps_the_contract(tmp_path):
    for path in (channels(tmp_path / "seg.onnx"), brightest(tmp_path / "sem.onnx")):
        check_generator(f"onnx(path={str(path)!r}, {RAW})")


def test_semantic_masks_are_the_best_class_of_every_pixel(tmp_path):
    path = brightest(tmp_path / "sem.onnx")
    record = picture()
    generator = opened(f"onnx(path={str(path)!r}, {RAW}, name=mine, void=0)", tmp_path)
    (layer,) = generator.layers
    assert (layer.name, layer.disjoint) == ("onnx-mine", True)
    (masks,) = generator(record)
    best = record.image.argmax(-1)
    firsts = {c: np.flatnonzero(best == c)[0] for c in (1, 2)}
    expected = [best == c for c in sorted(firsts, key=firsts.get)]
    assert np.array_equal(drawn(masks, record), expected)


def test_a_picture_is_normalised_resized_and_its_masks_are_resized_back(tmp_path):
    path = brightest(tmp_path / "fixed.onnx", (1, 3, 16, 20))
    record = picture(48, 60)
    (masks,) = opened(f"onnx(path={str(path)!r})", tmp_path)(record)
    small = cv2.resize(record.image, (20, 16)).astype(np.float64) / 255
    logits = (small - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    labels = cv2.resize(logits, (60, 48)).argmax(-1)
    together = np.zeros((48, 60), int)
    for mask in drawn(masks, record):
        together += mask
        values = np.bincount(labels[mask])
        assert values.max() / values.sum() > 0.999  # float32 may break a tie otherwise
    assert (together == 1).all()


def test_shapes_that_exporters_write():
    mask = np.zeros((2, 4, 6), np.float32)
    mask[0, :2], mask[1, 2:] = 1, 1
    for form in (mask, mask[None], mask[:, None], mask.astype(bool), mask.astype(np.uint8)):
        assert instance_masks(form, np.float32([[0.1, 0.8]]), 4, 6, 0.5, 0, 9).area.tolist() == [12, 12]
    assert len(instance_masks(mask[:0], np.zeros(0), 4, 6, 0.5, 0, 9)) == 0
    unranked = instance_masks(mask[::-1], None, 8, 12, 0.5, 0, 9)
    assert np.array_equal(decode_mask(unranked.counts[0], 8, 12)[:4], np.ones((4, 12)))
    labels = np.array([[7, 7, 3], [3, 3, 3]])
    for form in (labels, labels[None], labels[None, None]):
        masks = semantic_masks(form, 4, 6, 0.5, 9, -1)
        assert np.array_equal(decode_mask(masks.counts[0], 4, 6), np.kron(labels == 7, np.ones((2, 2))))
        assert masks.area.tolist() == [8, 16]
    assert semantic_masks(labels, 2, 3, 0.5, 1, -1).area.tolist() == [4]  # the largest
    assert semantic_masks(mask[:1], 4, 6, 0.5, 9, -1).area.tolist() == [12]


@pytest.mark.parametrize(
    ("masks", "scores", "message"),
    [
        (np.zeros((2, 3)), None, r"its masks are \[2, 3\], not \[N, height, width\]"),
        (np.zeros((2, 2, 3, 3)), None, r"its masks are \[2, 2, 3, 3\]"),
        (np.ones((2, 3, 3)), np.ones(3), "gave 2 masks and 3 scores"),
        (np.ones((2, 3, 3)), np.float32([1, np.nan]), "scores are not all finite"),
        (np.full((1, 3, 3), np.nan), np.ones(1), "values that are not finite"),
        (np.zeros((10_001, 1, 1)), np.ones(10_001), "gave 10001 masks; at most 10000"),
    ],
)
def test_answers_that_cannot_be_read(masks, scores, message):
    with pytest.raises(ImageError, match=message):
        instance_masks(masks, scores, 3, 3, 0.5, 0, 9)


def test_models_that_are_no_segmenters_are_one_sentence(tmp_path):
    def refused(path, match, more=""):
        with pytest.raises(InputError, match=match) as caught:
            opened(f"onnx(path={str(path)!r}{more})", tmp_path)
        assert "\n" not in str(caught.value)

    one = helper.make_node("Identity", ["image"], ["out"])
    vector = save(tmp_path / "v.onnx", [one], [("out", TensorProto.FLOAT, (1, 8))], shape=(1, 8))
    refused(vector, r"takes tensor\(float\) \[1, 8\]; a picture is \[1, 3, height, width\]")
    flat = helper.make_node("ReduceMean", ["image"], ["out"], keepdims=0)
    classes = save(tmp_path / "c.onnx", [flat], [("out", TensorProto.FLOAT, ())])
    refused(classes, "no output that could be masks")
    refused(channels(tmp_path / "n.onnx", (np.nan, 1, 1)), "does not work as a segmenter: .*scores are not all finite")
    refused(channels(tmp_path / "n.onnx"), "no output 'segments'; it has masks, scores", ", masks=segments")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    refused(tmp_path / "junk.onnx", "no model that onnxruntime can run")
    refused(tmp_path / "gone.onnx", "gone.onnx cannot be read")
    two = [helper.make_tensor_value_info("other", TensorProto.FLOAT, (1,))]
    refused(
        save(tmp_path / "t.onnx", [one], [("out", TensorProto.FLOAT, (1, 3, "h", "w"))], extra=two), "takes 2 inputs"
    )
    outside = onnx.load(brightest(tmp_path / "e.onnx"))
    outside.graph.initializer.append(numpy_helper.from_array(np.ones(400, np.float32), "weights"))
    onnx.save(outside, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    refused(tmp_path / "e.onnx", "keeps its weights in another file")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("onnx()", "needs path"),
        ("onnx(path='m.onnx', size=0.5)", "onnx size is a whole number"),
        ("onnx(path='m.onnx', size=9999)", r"must be in 1\.\.4096"),
        ("onnx(path='m.onnx', std=(0, 1, 1))", "std must be above 0"),
        ("onnx(path='m.onnx', task=panoptic)", "one of instance, semantic"),
        ("onnx(path='m.onnx', top=0)", r"1\.\.10000, got 0"),
        ("onnx(path='my model.onnx')", "give name="),
        ("onnx(path='m.onnx', treshold=1)", "did you mean 'mask_threshold'|it takes"),
    ],
)
def test_bad_parameters_are_answered_in_words(spec, message):
    with pytest.raises(UsageError, match=message):
        parse_spec(spec)


def test_without_onnxruntime_it_says_what_to_install(tmp_path, monkeypatch):
    path = channels(tmp_path / "seg.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'maskmill\[onnx\]'"):
        opened(f"onnx(path={str(path)!r})", tmp_path)


def test_another_model_on_resume_is_refused(tmp_path):
    path = channels(tmp_path / "seg.onnx")
    ready = opened(f"onnx(path={str(path)!r})", tmp_path).wanted
    ready.verify(str(tmp_path / "prepared"))
    with pytest.raises(DamageError, match=r"the copy of .*seg\.onnx is gone"):
        ready.verify(str(tmp_path))
    channels(path, (0.1, 0.2, 0.3))
    with pytest.raises(InputError, match="not the model this build was begun with"):
        ready.verify(str(tmp_path / "prepared"))


def pictures(folder, count=3):
    folder.mkdir()
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), picture(40, 50, i).image[..., ::-1])
    return folder


def words(images, out, path):
    given = [
        "build",
        "--dataset",
        "folder",
        "--images",
        images,
        "--out",
        out,
        "--masks",
        f"onnx(path={str(path)!r}, {RAW})",
    ]
    return [*map(str, given), "--num-shards", "1", "--part-size", "1", "--workers", "0"]


def test_a_build_that_is_resumed_with_another_model_is_refused(tmp_path, capsys, monkeypatch):
    """Interrupted after the first of three parts; a model of the same name and shape then gives other masks."""
    path, images, out = channels(tmp_path / "seg.onnx"), pictures(tmp_path / "pictures"), tmp_path / "out"
    first = path.read_bytes()
    stopped = []

    def interrupted(*args, **kwargs):
        if stopped:
            raise KeyboardInterrupt
        stopped.append(True)
        return build_part(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("maskmill.pipelines.driver.graph.build_part", interrupted)
        assert main(words(images, out, path)) == 130
    capsys.readouterr()
    path.write_bytes(channels(tmp_path / "other.onnx", (0.9, 0.1, 0.2)).read_bytes())
    assert main(words(images, out, path)) == 4
    said = capsys.readouterr().err
    assert "seg.onnx is not the model this build was begun with" in said
    assert not (out / "manifest.json").exists()
    path.write_bytes(first)
    assert main(words(images, out, path)) == 0
    assert len(Dataset.open(str(out))) == 3
    path.write_bytes(channels(tmp_path / "other.onnx", (0.9, 0.1, 0.2)).read_bytes())
    assert main(words(images, tmp_path / "anew", path)) == 0  # the control: what the refusal kept from mixing
    mixed = [next(tmp_path.glob(f"{name}/*.tfrecord-*")).read_bytes() for name in ("out", "anew")]
    assert mixed[0] != mixed[1]


def test_a_model_in_a_bucket_is_the_local_one(gcs, tmp_path, capsys):
    """Read once, at planning: workers find its bytes in the build's folder, and what is built does not need it any more."""
    path, images = channels(tmp_path / "seg.onnx"), pictures(tmp_path / "pictures")
    storage.write_bytes("gs://mill/models/seg.onnx", path.read_bytes())
    assert main(words(images, tmp_path / "local", path)) == 0
    assert main(words(images, tmp_path / "remote", "gs://mill/models/seg.onnx")) == 0
    local, remote = (next(tmp_path.glob(f"{name}/*.tfrecord-*")).read_bytes() for name in ("local", "remote"))
    assert local == remote
    params = load_manifest(str(tmp_path / "remote")).layers[0].params
    assert params["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert main(words(images, "gs://mill/out", "gs://mill/models/seg.onnx")) == 0
    (shard,) = (name for name in storage.names("gs://mill/out") if ".tfrecord-" in name)
    assert storage.read_bytes(f"gs://mill/out/{shard}") == local
    capsys.readouterr()
    storage.write_bytes("gs://mill/models/seg.onnx", channels(tmp_path / "b.onnx", (0.9, 0.1, 0.2)).read_bytes())
    assert main(words(images, "gs://mill/out", "gs://mill/models/seg.onnx")) == 4
    assert "gs://mill/models/seg.onnx is not the model this build was begun with" in capsys.readouterr().err
    storage.remove("gs://mill/models/seg.onnx")
    assert main(words(images, tmp_path / "third", "gs://mill/models/seg.onnx")) == 4
    assert "gs://mill/models/seg.onnx" in capsys.readouterr().err


def test_a_build_has_its_masks_twice_the_same(tmp_path):
    path, images = channels(tmp_path / "seg.onnx"), pictures(tmp_path / "pictures")
    shards = []
    for out, workers in (("one", 1), ("two", 2)):
        given = [*words(images, tmp_path / out, path)[:-1], str(workers)]
        command = [sys.executable, "-m", "maskmill.pipelines.commands.cli", *given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        shards.append([f.read_bytes() for f in sorted((tmp_path / out).glob("*.tfrecord*"))])
        manifest = json.loads((tmp_path / out / "manifest.json").read_text())
        assert manifest["layers"][0]["params"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert "unmatched" not in manifest["counts"]
    assert shards[0] == shards[1] != []
    examples = {e.filename: e for e in Dataset.open(str(tmp_path / "one"))}
    assert len(examples) == 3
    for i in range(3):
        record, example = picture(40, 50, i), examples[f"{i}.png"]
        for counts, channel in zip(example.masks[0].counts, (1, 2, 0), strict=True):
            assert np.array_equal(decode_mask(counts, 40, 50), record.image[..., channel] >= 128)
