"""Classifiers and nearest neighbours on a build's classes: trained in seconds, scored beside slow loops."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from maskmill.schemas.errors import InputError, UsageError
from maskmill.training import cli, model
from maskmill.training import evaluate as evaluation
from maskmill.training.backbone import load_backbone
from maskmill.training.checkpoint import load_run
from maskmill.training.config_io import override
from maskmill.training.evaluate import classification_scores, crops, evaluate, pooled_features, table
from maskmill.training.export import export_backbone
from maskmill.training.knn import knn_accuracy
from maskmill.training.presets import PRESETS
from maskmill.training.supervised import check_labels
from maskmill.training.train import train

SMALL = [
    "model.arch=tiny",
    "model.dtype=float32",
    "model.classes=4",
    "data.image_size=64",
    "batch_size=16",
    "optim.warmup_epochs=0",
    "log.tensorboard=false",
    "log.log_every=10",
]


def small(name, *more):
    return override(PRESETS[name].config, [*SMALL, *more])


@pytest.fixture(scope="module")
def builds(scenes, tmp_path_factory):
    """Pictures of one object each, its texture the class; 64 to train on and 33 to evaluate on, one without a class."""
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("train", "val")]
    examples = [scenes.scene_example(i, 3, 72, 80, objects=1) for i in range(97)]
    examples[80] = dataclasses.replace(examples[80], label=-1)
    scenes.write_build(folders[0], examples[:64])
    scenes.write_build(folders[1], examples[64:])
    return folders


@pytest.fixture(scope="module")
def supervised(builds, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs") / "supervised")
    train(builds[0], small("supervised_in1k_100", "steps=60", "optim.lr=0.8"), folder)
    return folder


@pytest.fixture(scope="module")
def exported(supervised, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("exported") / "b.safetensors")
    export_backbone(supervised, path)
    return path


def test_a_supervised_network_learns_the_classes(builds, supervised):
    lines = [json.loads(line) for line in Path(supervised, "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]
    assert lines[-1]["accuracy"] > 0.8
    scores = evaluate(supervised, builds[0])
    assert scores["images"] == 64
    assert scores["top1"] > 0.7
    assert scores["top5"] == 1  # of four classes


def test_scores_are_those_of_a_slow_count(builds, supervised):
    run = load_run(supervised)
    network = model.online_network(run.config)
    answer = jax.jit(lambda x: network.module(run.params, run.stats)(x))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    right, number = 0, 0
    for image, label in crops(builds[1], 64):
        logits = np.asarray(answer(((image / 255 - mean) / deviation)[None].astype(np.float32)))[0]
        right += int(np.argmax(logits)) == int(label)
        number += 1
    assert number == 32
    scores = classification_scores(run, builds[1])
    assert (scores["images"], scores["top1"]) == (32, right / 32)
    blind = dataclasses.replace(run, params=run.params | {"classifier.kernel": np.zeros((256, 4), np.float32)})
    assert classification_scores(blind, builds[1])["top1"] <= 0.5
    broken = dataclasses.replace(run, params=run.params | {"classifier.bias": np.full(4, np.nan, np.float32)})
    assert classification_scores(broken, builds[1])["top1"] == 0


def test_a_linear_classifier_leaves_its_backbone_alone(builds, supervised, exported, tmp_path):
    """Started from an exported file, it is as good on its features as what they were trained with."""
    folder, weights = str(tmp_path / "linear"), tmp_path / "copy.safetensors"
    shutil.copy(exported, weights)
    config = small("linear_in1k", f"init={weights}", "steps=40", "optim.lr=1.6", "optim.weight_decay=0.01")
    train(builds[0], config, folder)
    before, after = load_run(supervised), load_run(folder)
    for name, value in {**before.params, **before.stats}.items():
        if name.startswith("encoder."):
            np.testing.assert_array_equal({**after.params, **after.stats}[name], value, err_msg=name)
    assert (after.params["classifier.kernel"] != before.params["classifier.kernel"]).any()
    scores = evaluate(folder, builds[0])
    assert scores["top1"] > evaluate(supervised, builds[0])["top1"] - 0.1
    weights.unlink()  # only a first step needs it
    assert train(builds[0], config, folder)["step"] == 40


def test_nearest_neighbours_vote_from_another_build(builds, supervised, exported, monkeypatch):
    found = load_backbone(supervised)
    parts = [pooled_features(found.model, found.arrays, folder, 64) for folder in builds]
    scores = evaluate(supervised, builds[1], train_dir=builds[0])
    assert scores["knn"] == knn_accuracy(*parts[0], *parts[1])
    assert {"top1", "top5"} <= scores.keys()
    # A file does not say how large pictures were: it is asked for 224 px, which here take too long.
    sizes = []
    monkeypatch.setattr(evaluation, "crops", lambda folder, size, limit: sizes.append(size) or crops(folder, 64, limit))
    alone = evaluate(exported, builds[1], train_dir=builds[1])
    assert sizes == [224, 224]
    assert alone.keys() == {"step", "images", "knn"}
    assert alone["knn"] > 0.9  # everybody is their own nearest neighbour, and weighs most
    assert "k-NN" in table(alone)


def test_features_are_means_of_the_last_map(builds, supervised):
    found = load_backbone(supervised)
    features, labels = pooled_features(found.model, found.arrays, builds[1], 64, limit=5)
    [image, label], *_ = crops(builds[1], 64)
    x = ((image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225])[None].astype(np.float32)
    maps = np.asarray(jax.jit(lambda x: model.encoder(found.model).module(found.arrays, found.arrays)(x))(x))
    np.testing.assert_allclose(features[0], maps[0].reshape(-1, maps.shape[-1]).mean(0), rtol=1e-4, atol=1e-5)
    assert labels[0] == label


def test_what_cannot_be_evaluated_says_so(builds, supervised, exported, scenes, tmp_path, capsys):
    assert cli.main(["evaluate", exported, "--data", builds[1]]) == 2
    assert "has no classifier; give --train DIR" in capsys.readouterr().err
    assert cli.main(["evaluate", supervised, "--data", builds[1], "--limit", "8"]) == 0
    assert "8 images  top-1 " in capsys.readouterr().out
    bare = [scenes.scene_example(i, 0, 64, 64, objects=0) for i in range(16)]
    scenes.write_build(str(tmp_path / "bare"), bare)
    with pytest.raises(InputError, match="no record with a class"):
        evaluate(supervised, str(tmp_path / "bare"))
    with pytest.raises(InputError, match="records without a class, a whole batch of them"):
        train(str(tmp_path / "bare"), small("supervised_in1k_100", "steps=2"), str(tmp_path / "run"))
    with pytest.raises(UsageError, match="say which: --init RUN"):
        train(builds[0], small("linear_in1k"), str(tmp_path / "run"))
    with pytest.raises(UsageError, match=r"has class 3, the classifier tells 0 to 1 apart; set model.classes"):
        check_labels(np.array([-1, 3]), 2, "DIR")
