"""Colour augmentation on the device (A.1, items 3 to 6), one stream of random numbers per record and view.

Crop and flip happen with the input, where the masks are; here only colours change. Every operation works on [0, 1]
and is clipped back to it, as in the release. Each image has its own random order of the four jitters: all four are
computed at each of four turns and one is kept, which costs little beside the network and has no branches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from maskmill.training.config import AugmentConfig, ViewAugment

if TYPE_CHECKING:
    from jaxtyping import Float32, Shaped, UInt8, UInt32

# ImageNet's, in RGB on [0, 1]; torchvision's models expect the same.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
LUMA = (0.2989, 0.5870, 0.1140)


def augment_views(
    images: UInt8[jax.Array, "n views size size 3"], keys: UInt32[jax.Array, "n 2"], config: AugmentConfig
) -> Float32[jax.Array, "n views size size 3"]:
    """Augments and normalises the views of a batch.

    Args:
        images: uint8[n, V, size, size, 3], RGB; V is 1 or 2.
        keys: uint32[n, 2], one seed per record; the views' streams are folded from it.

    Returns:
        float32[n, V, size, size, 3], (x - MEAN) / STD.
    """
    views = []
    for index, view in enumerate((config.view1, config.view2)[: images.shape[1]]):
        x = images[:, index].astype(jnp.float32) / 255
        views.append(apply(x, draw(keys, index, view, config.blur_sigma), view, config.blur_kernel))
    return normalize(jnp.stack(views, 1))


def normalize(images: Float32[jax.Array, "*rows 3"]) -> Float32[jax.Array, "*rows 3"]:
    """float32[..., 3] in [0, 1] to what the encoder expects."""
    return (images - jnp.array(MEAN)) / jnp.array(STD)


def draw(
    keys: UInt32[jax.Array, "n 2"], view_index: int, view: ViewAugment, blur_sigma: tuple[float, float]
) -> dict[str, Shaped[jax.Array, " n *more"]]:
    """All random values of one view, a pure function of the records' seeds.

    Args:
        keys: uint32[n, 2].

    Returns:
        Arrays [n]: `jitter`, `gray`, `blur`, `solarize` bool; `brightness` and `hue` offsets; `contrast` and
        `saturation` factors; `sigma` in pixels; and `order` int32[n, 4], the turn of (brightness, contrast,
        saturation, hue).
    """

    def one(key: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, view_index), (13,))

    u = jax.vmap(one)(jax.random.wrap_key_data(keys, impl="threefry2x32")).T
    signed = 2 * u[4:8] - 1
    return {
        "jitter": u[0] < view.jitter_prob,
        "gray": u[1] < view.gray_prob,
        "blur": u[2] < view.blur_prob,
        "solarize": u[3] < view.solarize_prob,
        "brightness": view.brightness * signed[0],
        "contrast": 1 + view.contrast * signed[1],
        "saturation": 1 + view.saturation * signed[2],
        "hue": view.hue * signed[3],
        "sigma": blur_sigma[0] + (blur_sigma[1] - blur_sigma[0]) * u[8],
        "order": jnp.argsort(u[9:13], axis=0).T.astype(jnp.int32),
    }


def apply(
    x: Float32[jax.Array, "n size size 3"], drawn: dict[str, jax.Array], view: ViewAugment, blur_kernel: int
) -> Float32[jax.Array, "n size size 3"]:
    """Applies drawn values to float32[n, size, size, 3] images in [0, 1]; operations of probability 0 are left out."""

    def per_image(values: jax.Array) -> jax.Array:
        return values[:, None, None, None]

    if view.jitter_prob > 0:
        values = [per_image(drawn[name]) for name in ("brightness", "contrast", "saturation", "hue")]
        for turn in range(4):
            jittered = [f(x, v) for f, v in zip((_brightness, _contrast, _saturation, _hue), values)]
            chosen = per_image(drawn["order"][:, turn])
            chosen = jnp.select([chosen == i for i in range(3)], jittered[:3], jittered[3])
            x = jnp.where(per_image(drawn["jitter"]), jnp.clip(chosen, 0, 1), x)
    if view.gray_prob > 0:
        x = jnp.where(per_image(drawn["gray"]), jnp.sum(x * jnp.array(LUMA), -1, keepdims=True), x)
    if view.blur_prob > 0:
        x = jnp.where(per_image(drawn["blur"]), _blur(x, drawn["sigma"], blur_kernel), x)
    if view.solarize_prob > 0:
        x = jnp.where(per_image(drawn["solarize"]) & (x >= 0.5), 1 - x, x)
    return jnp.clip(x, 0, 1)


def _brightness(x: jax.Array, offset: jax.Array) -> jax.Array:
    return x + offset


def _contrast(x: jax.Array, factor: jax.Array) -> jax.Array:
    """Away from each channel's mean."""
    mean = jnp.mean(x, (1, 2), keepdims=True)
    return factor * (x - mean) + mean


def _saturation(x: jax.Array, factor: jax.Array) -> jax.Array:
    """Multiplies HSV saturation, at most to 1. With hue and value fixed, RGB is linear in the saturation."""
    value = jnp.max(x, -1, keepdims=True)
    chroma = value - jnp.min(x, -1, keepdims=True)
    most = value / jnp.where(chroma > 0, chroma, 1)
    return value - (value - x) * jnp.minimum(factor, jnp.where(chroma > 0, most, factor))


def _hue(x: jax.Array, offset: jax.Array) -> jax.Array:
    """Turns the HSV hue by `offset` of a full circle."""
    r, g, b = x[..., 0:1], x[..., 1:2], x[..., 2:3]
    value = jnp.max(x, -1, keepdims=True)
    chroma = value - jnp.min(x, -1, keepdims=True)
    safe = jnp.where(chroma > 0, chroma, 1)
    sixths = jnp.where(value == r, (g - b) / safe, jnp.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    # Channel n of red, green, blue is value - chroma * clip(min(k, 4 - k), 0, 1), k = (n + hue in sixths) mod 6.
    k = jnp.mod(jnp.array([5.0, 3.0, 1.0]) + sixths + 6 * offset, 6)
    return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def _blur(x: jax.Array, sigma: jax.Array, taps: int) -> jax.Array:
    """Separable Gaussian of `taps` pixels, zeros outside the image, as one banded matrix per image.

    Matrix units do this faster than shifts do, and both directions share the matrix.
    """
    position = jnp.arange(x.shape[1], dtype=jnp.float32)
    distance = position[:, None] - position[None, :]
    radius = jnp.arange(-(taps // 2), taps // 2 + 1, dtype=jnp.float32)
    scale = 2 * sigma[:, None, None] ** 2
    total = jnp.exp(-(radius**2) / scale).sum(-1, keepdims=True)
    band = jnp.where(jnp.abs(distance) <= taps // 2, jnp.exp(-(distance**2) / scale), 0) / total
    x = jnp.einsum("nij,njwc->niwc", band, x, precision=jax.lax.Precision.HIGH)
    return jnp.einsum("nij,nhjc->nhic", band, x, precision=jax.lax.Precision.HIGH)
