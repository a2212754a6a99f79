"""Augmentation on the device against one image at a time in NumPy, pixel by pixel."""

import colorsys
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from maskmill.training.augment import LUMA, MEAN, STD, apply, augment_views, draw
from maskmill.training.config import AugmentConfig, ViewAugment
from maskmill.training.presets import AUGMENT_B, AUGMENT_S

SIGMA = (0.1, 2.0)
apply = jax.jit(apply, static_argnums=(2, 3))


def slow_apply(image, drawn, taps):
    """A.1's list, literally: every operation on one float64 image."""

    def hsv(image, change):
        return np.array([[colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*p))) for p in row] for row in image])

    def jitter(image, which):
        if which == 0:
            return image + drawn["brightness"]
        if which == 1:
            mean = image.mean((0, 1))
            return drawn["contrast"] * (image - mean) + mean
        if which == 2:
            return hsv(image, lambda h, s, v: (h, min(s * drawn["saturation"], 1), v))
        return hsv(image, lambda h, s, v: ((h + drawn["hue"]) % 1, s, v))

    if drawn["jitter"]:
        for which in drawn["order"]:
            image = np.clip(jitter(image, which), 0, 1)
    if drawn["gray"]:
        image = np.repeat((image @ np.array(LUMA))[..., None], 3, -1)
    if drawn["blur"]:
        reach = taps // 2
        kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / drawn["sigma"]) ** 2)
        kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
        padded = np.pad(image, [(reach, reach), (reach, reach), (0, 0)])
        out = np.zeros_like(image)
        for y, x in np.ndindex(image.shape[:2]):
            out[y, x] = np.tensordot(kernel, padded[y : y + taps, x : x + taps], 2)
        image = out
    if drawn["solarize"]:
        image = np.where(image < 0.5, image, 1 - image)
    return np.clip(image, 0, 1)


ALWAYS = ViewAugment(1.0, 0.0, 0.8, 0.8, 0.8, 0.2, 0.0, 0.0)


@pytest.mark.parametrize(
    "view",
    [
        ALWAYS,
        dataclasses.replace(ALWAYS, jitter_prob=0.0, blur_prob=1.0),
        dataclasses.replace(ALWAYS, jitter_prob=0.0, solarize_prob=1.0),
        dataclasses.replace(ALWAYS, gray_prob=0.5, jitter_prob=0.5, blur_prob=0.5, solarize_prob=0.5),
        AUGMENT_S.view1,
        AUGMENT_B.view2,
    ],
    ids=["jitter", "blur", "solarize", "half", "s-view1", "b-view2"],
)
def test_device_equals_one_pixel_at_a_time(view):
    random = np.random.default_rng(0)
    images = random.random((8, 24, 24, 3)).astype(np.float32)
    images[0] = np.round(images[0])  # saturated colours: hues at the corners
    images[1] = images[1, :, :, :1]  # grey: no hue at all
    images[2] = 0
    drawn = draw(jnp.arange(16, dtype=jnp.uint32).reshape(8, 2), 0, view, SIGMA)
    found = apply(images, drawn, view, 23)
    for i in range(8):
        one = {
            name: np.array(value[i], np.float64 if value.dtype == np.float32 else None) for name, value in drawn.items()
        }
        np.testing.assert_allclose(
            found[i], slow_apply(images[i].astype(np.float64), one, 23), atol=3e-6, err_msg=str(i)
        )


@pytest.mark.parametrize("config", [AUGMENT_S, AUGMENT_B], ids=["s", "b"])
@pytest.mark.parametrize("index", [0, 1])
def test_draws_follow_the_table(config, index):
    """Probabilities within four deviations of 20 000 draws, offsets uniform to their ends, all 24 orders."""
    n = 20_000
    view = (config.view1, config.view2)[index]
    keys = np.random.default_rng(1).integers(0, 2**32, (n, 2), dtype=np.uint32)
    drawn = {
        name: np.array(value)
        for name, value in jax.jit(draw, static_argnums=(1, 2, 3))(keys, index, view, SIGMA).items()
    }
    for name in ("jitter", "gray", "blur", "solarize"):
        p = getattr(view, f"{name}_prob")
        assert abs(drawn[name].mean() - p) <= 4 * np.sqrt(p * (1 - p) / n), name
    ends = {
        "brightness": (-view.brightness, view.brightness),
        "contrast": (1 - view.contrast, 1 + view.contrast),
        "saturation": (1 - view.saturation, 1 + view.saturation),
        "hue": (-view.hue, view.hue),
        "sigma": SIGMA,
    }
    for name, (low, high) in ends.items():
        place = (drawn[name] - low) / (high - low)
        assert -1e-6 <= place.min() < 1e-3, name
        assert 1 - 1e-3 < place.max() <= 1 + 1e-6, name
        assert abs(place.mean() - 0.5) < 4 / np.sqrt(12 * n), name
    orders, counts = np.unique(drawn["order"], axis=0, return_counts=True)
    assert orders.shape == (24, 4)
    assert counts.min() > 0.8 * n / 24


def test_the_paper_table():
    assert AUGMENT_S.view1 == ViewAugment(0.8, 0.2, 0.8, 0.8, 0.8, 0.2, 1.0, 0.0)
    assert AUGMENT_S.view2 == ViewAugment(0.8, 0.2, 0.8, 0.8, 0.8, 0.2, 0.0, 0.0)
    assert AUGMENT_B.view1 == ViewAugment(0.8, 0.2, 0.4, 0.4, 0.2, 0.1, 1.0, 0.0)
    assert AUGMENT_B.view2 == ViewAugment(0.8, 0.2, 0.4, 0.4, 0.2, 0.1, 0.1, 0.2)
    assert AUGMENT_S.blur_kernel == AUGMENT_B.blur_kernel == 23
    assert AUGMENT_S.blur_sigma == AUGMENT_B.blur_sigma == SIGMA


def test_views_are_independent_reproducible_and_per_record():
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 16, 16, 3), dtype=np.uint8).repeat(2, axis=1)
    keys = np.arange(8, dtype=np.uint32).reshape(4, 2)
    run = jax.jit(lambda i, k: augment_views(i, k, AUGMENT_S))
    first = np.array(run(images, keys))
    np.testing.assert_array_equal(first, run(images, keys))
    assert not np.allclose(first[:, 0], first[:, 1])
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(run(images[order], keys[order]), first[order], atol=1e-5)


def test_nothing_switched_on_only_normalises():
    off = ViewAugment(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0, solarize_prob=0.0)
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8, 3), dtype=np.uint8)
    found = augment_views(images, np.zeros((2, 2), np.uint32), AugmentConfig(view1=off, view2=off))
    np.testing.assert_allclose(found, (images / 255 - np.array(MEAN)) / np.array(STD), atol=1e-6)
