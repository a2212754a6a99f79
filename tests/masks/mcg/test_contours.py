import cv2
import numpy as np
import pytest

from maskmill.masks.mcg.contours import CONTOUR_FEATURES, contour_features, gradient_contours, learned_contours
from maskmill.masks.mcg.trees import pack_trees
from maskmill.pipelines.mcg_training.contour_samples import (
    FAR,
    FAR_PX,
    INSIDE,
    INSIDE_PX,
    POSITIVE,
    contour_samples,
    outlines,
)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (17, 23), (64, 48)])
def test_features_of_any_size_are_finite(shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    features = contour_features(picture)
    assert features.shape == (*shape, len(CONTOUR_FEATURES))
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.isfinite(gradient_contours(picture)).all()


def test_the_picture_may_be_read_only_and_is_not_changed(oracle):
    picture = oracle.blobs(30, 30)
    before = picture.copy()
    picture.setflags(write=False)
    contour_features(picture)
    np.testing.assert_array_equal(picture, before)


def test_cues_are_strong_at_a_step_and_silent_elsewhere():
    picture = np.full((60, 80, 3), 60, np.uint8)
    picture[:, 40:] = 200
    features = contour_features(picture)
    for name in ("grad_l_1", "grad_l_4", "tensor_major_1", "side_l_3", "hist_l_5"):
        plane = features[..., CONTOUR_FEATURES.index(name)]
        assert plane[30, 39:41].min() > 10 * abs(plane[30, 5]) + 0.1, name
    strength = gradient_contours(picture)
    assert strength[30, 39] > 0.5
    assert strength[:, :30].max() == strength[:, 50:].max() == 0


def test_a_flat_picture_has_no_contour():
    assert gradient_contours(np.full((50, 60, 3), 77, np.uint8)).max() == 0


def test_learned_contours_are_the_models_odds():
    picture = np.random.default_rng(1).integers(0, 256, (20, 20, 3), np.uint8)
    light = CONTOUR_FEATURES.index("light")
    tree = {"feature": light, "threshold": 128.0, "left": {"value": -1.0}, "right": {"value": 2.0}}
    found = learned_contours(picture, pack_trees([tree]))
    bright = contour_features(picture)[..., light] > 128
    np.testing.assert_allclose(found, np.where(bright, 1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1))), atol=1 / 4096)


def test_outlines_do_not_run_along_the_pictures_border():
    mask = np.zeros((20, 20), bool)
    mask[:8, :8] = True
    found = outlines([mask], 20, 20)
    assert found[7, :8].all()
    assert found[:8, 7].all()
    assert found.sum() == 15


@pytest.mark.parametrize("scale", [1, 0.5])
def test_negatives_keep_their_distance_and_crowds_are_left_out(scale, monkeypatch):
    """Rows carry their position through a stand-in for the features."""
    height, width = 160, 200
    side = (int(height * scale), int(width * scale))
    places = np.dstack(np.mgrid[: side[0], : side[1]]).astype(np.float32)
    monkeypatch.setattr("maskmill.pipelines.mcg_training.contour_samples.contour_features", lambda image: places)
    mask, crowd = np.zeros((2, height, width), bool)
    mask[40:120, 30:110] = True
    crowd[:, 150:] = True
    picture = np.zeros((height, width, 3), np.uint8)
    rows, kinds = contour_samples(picture, [mask], [crowd], scale, 3)
    small = cv2.resize(mask.astype(np.uint8), side[::-1], interpolation=cv2.INTER_AREA) > 0
    edge = outlines([small], *side)
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, 5)
    ys, xs = rows.astype(int).T
    assert set(kinds.tolist()) == {POSITIVE, INSIDE, FAR}
    assert distance[ys, xs][kinds == POSITIVE].max() <= 1.01
    assert distance[ys, xs][kinds == INSIDE].min() > INSIDE_PX
    assert small[ys, xs][kinds == INSIDE].all()
    assert distance[ys, xs][kinds == FAR].min() > FAR_PX
    assert not small[ys, xs][kinds == FAR].any()
    assert xs.max() < 150 * scale
    again, _ = contour_samples(picture, [mask], [crowd], scale, 3)
    np.testing.assert_array_equal(rows, again)


def test_a_picture_without_instances_gives_far_negatives_only():
    rows, kinds = contour_samples(np.zeros((50, 60, 3), np.uint8), [], [], 1, 0)
    assert set(kinds.tolist()) == {FAR}
    assert len(rows) == 350
