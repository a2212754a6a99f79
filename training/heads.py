"""What labels are read from: a linear classifier of pictures, and a fully-convolutional head that labels pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from maskmill.training.resnet import Layers, ResNet

if TYPE_CHECKING:
    from jaxtyping import Float

WIDTH, DILATION = 256, 6  # of the head's two convolutions (He et al. 2020, arXiv:1911.05722, appendix)


def _features(encoder: ResNet, images: jax.Array, views: int, frozen: bool) -> jax.Array:
    return jax.lax.stop_gradient(encoder(images)) if frozen else encoder(images, views)


class Classifier(nnx.Module):
    """Mean of the last feature map, and a linear layer."""

    def __init__(self, layers: Layers) -> None:
        self.encoder = ResNet(layers)
        self.classifier = nnx.Linear(self.encoder.channels, layers.config.classes, rngs=layers.rngs)

    def __call__(self, images: jax.Array, views: int = 0, *, frozen: bool = False) -> jax.Array:
        """Logits.

        Args:
            images: float[n, height, width, 3], normalised.
            views: 1 in training, 0 with running averages (see `training.resnet.BatchNorm`).
            frozen: the encoder uses running averages all the same, and has no gradient.

        Returns:
            float32[n, classes].
        """
        return self.classifier(_features(self.encoder, images, views, frozen).astype(jnp.float32).mean((1, 2)))


class FCN(nnx.Module):
    """Two dilated 3 x 3 convolutions with batch norm and ReLU, a linear layer per cell, bilinearly enlarged.

    Appendix A.3 of Henaff et al. refers to He et al. 2020 for it: FCN-16s with a large field of view.
    """

    def __init__(self, layers: Layers) -> None:
        config, rngs = layers.config, layers.rngs
        self.encoder, self.stride = ResNet(layers), config.stride
        reach: dict[str, Any] = {"kernel_dilation": DILATION, "padding": DILATION, "use_bias": False}
        reach["dtype"] = jnp.dtype(config.dtype)
        self.conv1 = nnx.Conv(self.encoder.channels, WIDTH, (3, 3), **reach, rngs=rngs)
        self.bn1 = layers.norm(WIDTH)
        self.conv2 = nnx.Conv(WIDTH, WIDTH, (3, 3), **reach, rngs=rngs)
        self.bn2 = layers.norm(WIDTH)
        self.classifier = nnx.Linear(WIDTH, config.classes, rngs=rngs)

    def __call__(self, images: jax.Array, views: int = 0, *, frozen: bool = False) -> jax.Array:
        """As `Classifier`, but float32[n, height, width, classes]."""
        x = _features(self.encoder, images, views, frozen)
        x = jax.nn.relu(self.bn1(self.conv1(x), views=views))
        x = jax.nn.relu(self.bn2(self.conv2(x), views=views))
        return enlarge(self.classifier(x.astype(jnp.float32)), images.shape[1:3], self.stride)


def enlarge(
    x: Float[jax.Array, "n h w channels"], shape: tuple[int, ...], stride: int
) -> Float[jax.Array, "n height width channels"]:
    """Bilinear interpolation of cells [n, h, w, channels] to pixels, float32[n, *shape, channels].

    Cell i lies on pixel i x stride, where symmetric padding puts the middle of what it sees: with sides that are a
    multiple of the stride and one, corners lie on corners.
    """

    def hats(pixels: int, cells: int) -> jax.Array:
        at = jnp.clip(jnp.arange(pixels) / stride, 0, cells - 1)
        return jnp.maximum(0, 1 - abs(at[:, None] - jnp.arange(cells)))

    x = jnp.einsum("yh,nhwc->nywc", hats(shape[0], x.shape[1]), x)
    return jnp.einsum("xw,nywc->nyxc", hats(shape[1], x.shape[2]), x)
