"""Cached views of Figure 7 are the trainer's own, bit for bit; colours to a rounding of bytes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scenes import write_scenes

from experiments.figure7 import sizes, views
from maskmill.training import augment
from maskmill.training.input import Batches

STEPS, SEED = 5, 3


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("build"))
    write_scenes(folder, 24)
    size = dataclasses.replace(sizes.CPU, batch=8, steps=STEPS, masks=4)
    data = sizes.run_config(size, algorithm="detcon_s", rate=0.1, seed=SEED).data
    pictures = views.Pictures.read(folder)
    schedule = views.Schedule.of(pictures.manifest, batch=8, steps=STEPS, seed=SEED)
    return folder, data, pictures, schedule


@pytest.mark.parametrize(("layer", "pool"), [("true", "soft"), ("grid-2", "argmax"), (None, "soft")])
def test_views_are_the_trainers(setting, layer, pool):
    """Five steps over three batches an epoch; and the control, another seed's, differ in every array."""
    folder, data, pictures, schedule = setting
    data = dataclasses.replace(data, pool=pool)
    config = dataclasses.replace(data, global_mask=layer is None, layers=(layer,) if layer else ())
    batches = Batches(folder, config, global_batch=8, seed=SEED).at(0)
    crops = views.draw_crops(pictures, schedule, data)
    weights, ids = views.draw_masks(pictures, layer, schedule, data)
    for step in range(STEPS):
        batch, rows = next(batches), slice(8 * step, 8 * step + 8)
        for view in range(2):
            np.testing.assert_array_equal(crops[rows, view], batch[f"image{view + 1}"])
            np.testing.assert_array_equal(weights[rows, view], batch[f"weights{view + 1}"])
            np.testing.assert_array_equal(ids[rows, view], batch[f"ids{view + 1}"])
        np.testing.assert_array_equal(schedule.keys[rows].view(np.uint32).reshape(-1, 2), batch["key"])
    other = views.Schedule.of(pictures.manifest, batch=8, steps=STEPS, seed=SEED + 1)
    assert (views.draw_crops(pictures, other, data) != crops).mean() > 0.5


def test_crops_do_not_depend_on_masks(setting):
    """What lets arms share them: the same boxes whatever is pooled, and however many masks are sampled."""
    _, data, pictures, schedule = setting
    crops = views.draw_crops(pictures, schedule, data)
    other = dataclasses.replace(data, pool="argmax", masks_per_view=1)
    np.testing.assert_array_equal(views.draw_crops(pictures, schedule, other), crops)


def test_colours_are_the_trainers(setting):
    _, data, pictures, schedule = setting
    schedule = schedule.part(slice(0, 16))
    crops = views.draw_crops(pictures, schedule, data)
    config = sizes.augmentation(sizes.CPU)
    keys = jnp.array(schedule.keys.view(np.uint32).reshape(-1, 2))
    compiled = jax.jit(augment.augment_views, static_argnames="config")
    expected = np.asarray(compiled(jnp.array(crops), keys, config=config))
    found = np.asarray(augment.normalize(jnp.array(views.recolour(crops.copy(), schedule, config)) / 255.0))
    level = 1 / 255 / np.array(augment.STD)
    assert (
        np.abs(found - expected) <= 0.5 * level + 1e-3
    ).mean() > 0.999  # a rounding may tip solarisation, never often
    plain = np.asarray(augment.normalize(jnp.array(crops) / 255.0))
    assert np.abs(plain - expected).mean() > 10 * level.mean()  # the control: colours did change
