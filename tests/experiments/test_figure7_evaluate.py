"""Scores of Figure 7: features that know the labels score 1, features that know nothing score chance."""

import json

import cv2
import numpy as np
import pytest
from scenes import KINDS, write_scenes

from experiments.figure7 import evaluate, linear, regions
from maskmill.schemas import rle
from maskmill.schemas.reader import Dataset

CELL, SIZE, VIEW = 8, 96, 64


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    """12 scenes to fit on, 8 others to score on; every kind of shape is a supercategory."""
    folders = []
    for seed, count in ((0, 12), (1, 8)):
        folders.append(str(tmp_path_factory.mktemp("build")))
        write_scenes(folders[-1], count, seed=seed)
    categories = [{"id": i + 1, "name": kind, "supercategory": kind} for i, kind in enumerate(KINDS)]
    instances = tmp_path_factory.mktemp("coco") / "instances.json"
    instances.write_text(json.dumps({"categories": categories}))
    return evaluate.load_probe(*folders, str(instances), size=SIZE, view=VIEW, cell=CELL)


def test_mean_auc_is_the_share_of_pairs_in_order():
    """Against counting pairs; rows with less than half of a class count neither way, rare classes not at all."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(60, 3))
    shares = np.eye(3)[random.integers(0, 2, 60)]
    shares[:7] = [0.4, 0.6, 0]
    shares[7:10] = [0, 0.1, 0.9]  # three rows of the third class: too few
    scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = []
    for index in range(2):
        yes, no = scores[shares[:, index] >= 0.5, index], scores[shares[:, index] == 0, index]
        expected.append(np.mean(yes[:, None] > no[None, :]))
    assert linear.mean_auc(logits, shares) == pytest.approx(np.mean(expected))


def test_linear_fit_separates_and_regresses():
    """Weights of zero do not count; soft labels give their shares back where features are constant."""
    random = np.random.default_rng(1)
    rows = random.normal(size=(200, 4)).astype(np.float32)
    labels = (rows[:, 0] > 0).astype(int)
    targets = np.eye(2, dtype=np.float32)[labels]
    weight = np.ones(200, np.float32)
    rows[:20], weight[:20] = -rows[:20], 0
    kernel, bias = linear.fit_linear(rows, targets, weight)
    assert ((rows @ kernel + bias).argmax(1) == labels)[20:].mean() > 0.97
    assert ((rows @ kernel + bias).argmax(1) == labels)[:20].mean() < 0.2
    same = np.tile(np.float32([0.2, 0.8]), (50, 1))
    kernel, bias = linear.fit_linear(np.zeros((50, 4), np.float32), same, np.ones(50, np.float32))
    np.testing.assert_allclose(np.exp(bias) / np.exp(bias).sum(), [0.2, 0.8], atol=1e-2)


def test_features_that_know_and_features_that_do_not(probe):
    """Labels as features score near 1; noise, the control, scores chance."""
    cells, random = SIZE // CELL, np.random.default_rng(2)
    of_regions = np.repeat(np.eye(4)[probe.region_class][:, None], (VIEW // CELL) ** 2, 1)
    known = evaluate.scores(probe.targets.reshape(-1, cells, cells, 5), of_regions.reshape(-1, 8, 8, 4), probe)
    assert known["auc"] > 0.97
    assert known["miou"] > 0.6
    assert known["region_auc"] == known["knn_region"] == 1
    noise = random.normal(size=(20, cells, cells, 6)), random.normal(size=(len(of_regions), 8, 8, 6))
    blind = evaluate.scores(*noise, probe)
    assert abs(blind["auc"] - 0.5) < 0.08
    assert abs(blind["region_auc"] - 0.5) < 0.3  # of a few regions
    assert blind["miou"] < 0.3


def test_sides_are_apart(probe):
    """What is fitted and what is scored are the two builds, pictures and regions alike."""
    assert probe.held_out.tolist() == [False] * 12 + [True] * 8
    assert len(probe.region_held_out) == len(probe.region_class) == len(probe.regions.images)
    assert 0 < probe.region_held_out.sum() < len(probe.region_held_out)
    np.testing.assert_allclose(probe.targets.sum(-1)[probe.counted], 1, rtol=1e-5)


def test_regions_show_their_instance(tmp_path):
    """Every cut holds the instance in its middle, its cells are where the instance is, in the order of the records."""
    write_scenes(str(tmp_path), 6, size=(120, 150))
    found = regions.cut_regions(str(tmp_path), size=VIEW, cell=CELL)
    areas, categories = [], []
    for record in Dataset.open(str(tmp_path)):
        own = record.annotations
        for counts, area, category in zip(own.counts, own.area.tolist(), own.category_id.tolist()):
            if area >= regions.LEAST_AREA:
                mask = rle.decode_mask(counts, 120, 150)
                areas.append(mask.mean())
                categories.append(category)
    assert found.category.tolist() == categories
    assert found.images.shape == (len(areas), VIEW, VIEW, 3)
    covered = found.cells.mean(1)
    assert (covered > 0.08).all()  # a cut is about the instance, whatever part of its picture that is
    assert np.min(areas) < 0.08
    grid = found.cells.reshape(-1, 8, 8)
    middle = [cv2.moments(g) for g in grid]
    at = np.array([[m["m10"] / m["m00"], m["m01"] / m["m00"]] for m in middle])
    assert np.abs(at - 3.5).mean() < 1
