"""The probe: labels as painted, scores against slow loops, features that know more score more."""

import dataclasses

import numpy as np
import pytest

from maskmill.schemas import rle
from maskmill.schemas.errors import InputError
from maskmill.schemas.image import Annotations
from maskmill.training import model
from maskmill.training.config import ModelConfig
from maskmill.training.knn import knn_accuracy
from maskmill.training.probe import (
    IGNORE,
    evaluate,
    extract,
    knn_scores,
    load_labelled,
    mean_iou,
    probe,
    segmentation_scores,
    table,
)

TINY = ModelConfig(arch="tiny", dtype="float32")


@pytest.fixture(scope="module")
def build(scenes, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("labelled"))
    scenes.write_scenes(folder, 60, size=(96, 128), seed=7)
    return folder


@pytest.fixture(scope="module")
def data(build):
    return load_labelled(build, 64)


def test_labels_are_the_annotations(scenes, build, data):
    assert data.images.shape == (60, 64, 64, 3)
    assert data.categories == (1, 2, 3, 4)
    assert 0 < data.held_out.sum() < 30
    from maskmill.schemas.reader import Dataset

    for i, record in enumerate(Dataset.open(build)):
        if i == 5:
            break
        index = int(record.filename[6:11])
        scene = scenes.draw_scene(7 * 1_000_003 + index, 96, 128)
        kinds = np.array([0, *scene.kinds])[scene.labels]
        at = (np.arange(64) * 2 + 1) * 96 // 128, np.arange(64) * 2 + 1
        np.testing.assert_array_equal(data.labels[i], kinds[at[0]][:, at[1]])
        visible = [k for n, k in enumerate(scene.kinds) if (scene.labels == n + 1).any()]
        assert sorted(data.region_category[data.region_image == i] + 1) == sorted(visible)


def test_crowds_are_ignored_and_small_instances_lie_on_top(scenes, tmp_path):
    large, small, crowd = np.zeros((3, 64, 64), bool)
    large[:, :40], small[10:20, 10:20], crowd[:, 30:] = True, True, True
    masks = [small, crowd, large]
    annotations = Annotations(
        tuple(rle.encode_mask(m) for m in masks),
        np.array([m.sum() for m in masks]),
        np.array([90, 1, 3]),
        np.arange(3),
        np.array([False, True, False]),
    )
    examples = [
        dataclasses.replace(scenes.scene_example(i, 0, 64, 64), annotations=annotations, best_iou=np.zeros((3, 3)))
        for i in range(8)
    ]
    scenes.write_build(str(tmp_path), examples)
    data = load_labelled(str(tmp_path), 64)
    expected = np.full((64, 64), IGNORE)
    expected[:, :40] = 1
    expected[10:20, 10:20] = 2
    assert data.categories == (3, 90)
    assert (data.labels == expected).all()
    assert len(data.region_image) == 16


def oracle_features(data, noise: float) -> np.ndarray:
    """Features that hold, for each cell, what share of it each label covers, and noise."""
    n, size = data.labels.shape[:2]
    shares = (data.labels[..., None] == np.arange(5)).reshape(n, size // 32, 32, size // 32, 32, 5).mean((2, 4))
    random = np.random.default_rng(0)
    return np.concatenate([shares + noise * random.standard_normal(shares.shape), shares], -1).astype(np.float16)


def test_features_that_know_the_labels_score_more(data):
    good = oracle_features(data, 0.0)
    shuffled = good[np.random.default_rng(1).permutation(len(good))]
    scores = [segmentation_scores(f, data, steps=300) for f in (good, shuffled)]
    # Two cells per side cannot draw outlines: what counts is the gap.
    assert scores[0]["miou"] > scores[1]["miou"] + 0.15
    near = [knn_scores(f, data) for f in (good, shuffled)]
    assert near[0]["knn_region"] > near[1]["knn_region"] + 0.2


def test_one_cell_per_pixelblock_is_learnt_perfectly(data):
    """With labels constant over cells and features that name them, everything but borders is right."""
    cells = np.random.default_rng(3).integers(0, 5, (60, 2, 2))
    constant = dataclasses.replace(data, labels=np.kron(cells, np.ones((32, 32), int)).astype(np.int16))
    features = np.eye(5, dtype=np.float16)[cells]
    scores = segmentation_scores(features, constant, steps=300)
    assert scores["miou"] > 0.85


def test_mean_iou_is_the_slow_count():
    random = np.random.default_rng(0)
    truth, guess = random.integers(0, 3, 500), random.integers(0, 4, 500)  # label 3 is predicted, never true
    confusion = np.zeros((4, 4), np.int64)
    for t, g in zip(truth, guess, strict=True):
        confusion[t, g] += 1
    expected = [((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum() for c in range(3)]
    got = mean_iou(confusion)
    assert got["miou"] == pytest.approx(np.mean(expected))
    assert got["pixel_accuracy"] == pytest.approx((truth == guess).mean())


def test_knn_is_the_slow_vote():
    random = np.random.default_rng(0)
    train, test = random.standard_normal((50, 6)), random.standard_normal((40, 6))
    train_labels, test_labels = random.integers(0, 4, 50), random.integers(0, 4, 40)
    right = 0
    for x, label in zip(test, test_labels, strict=True):
        cosine = [float(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) for y in train]
        votes = [0.0] * 4
        for i in sorted(range(50), key=lambda i: -cosine[i])[:7]:
            votes[train_labels[i]] += np.exp(cosine[i] / 0.07)
        right += votes.index(max(votes)) == label
    assert knn_accuracy(train, train_labels, test, test_labels, k=7) == right / 40
    assert knn_accuracy(train, train_labels, train, train_labels, k=1) == 1
    with pytest.raises(ValueError, match="got 0 to train and 40 to test on"):
        knn_accuracy(train[:0], train_labels[:0], test, test_labels)


def test_features_do_not_depend_on_the_batch(data):
    arrays = model.initialize(model.encoder(TINY), 0)
    whole = extract(TINY, *arrays, data.images[:10], batch=16)
    parts = extract(TINY, *arrays, data.images[:10], batch=3)
    assert whole.shape == (10, 2, 2, 256)
    np.testing.assert_allclose(whole.astype(np.float32), parts.astype(np.float32), atol=2e-3)
    prefixed = [{f"encoder.{name}": x for name, x in group.items()} for group in arrays]
    np.testing.assert_array_equal(extract(TINY, *prefixed, data.images[:10], batch=16), whole)


def test_a_network_is_evaluated(data):
    scores = evaluate(TINY, *model.initialize(model.encoder(TINY), 0), data)
    assert set(scores) == {"miou", "pixel_accuracy", "knn_region", "knn_image"}
    assert all(0 <= score <= 1 for score in scores.values())


def test_a_run_is_probed_beside_a_random_network(tiny_run, build):
    result = probe(str(tiny_run[0]), build, limit=40)
    assert (result["images"], result["categories"]) == (40, 4)
    assert result["trained"].keys() == result["random"].keys()
    lines = table(result).splitlines()
    assert len(lines) == 6
    assert "trained" in lines[1]


def test_builds_without_labels_are_refused(scenes, tmp_path):
    bare = [scenes.scene_example(i, 0, 64, 64, objects=0) for i in range(8)]
    scenes.write_build(str(tmp_path / "bare"), bare)
    with pytest.raises(InputError, match="neither annotations nor classes"):
        load_labelled(str(tmp_path / "bare"), 64)
    scenes.write_build(str(tmp_path / "few"), [scenes.scene_example(0, 0, 64, 64)], shards=1)
    with pytest.raises(InputError, match=r"too few records \(1\)"):
        load_labelled(str(tmp_path / "few"), 64)
    scenes.write_build(str(tmp_path / "masks"), [dataclasses.replace(e, encoded=None) for e in bare])
    with pytest.raises(InputError, match="masks only"):
        load_labelled(str(tmp_path / "masks"), 64)
    with pytest.raises(InputError, match="not a maskmill data set"):
        load_labelled(str(tmp_path), 64)
