"""ResNet-50/101/152/200 feature extractors (section 3.1, A.2), and ResNet-18 for small trials, as Flax NNX modules.

Blocks are the original post-activation ones, bottlenecks with the stride on the 3 x 3 ("v1.5", as torchvision and the
release). Attribute names are torchvision's, so that a parameter's path is its exported name. Initial values are not
set here: see `training.model.initialize`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from maskmill.training.config import ModelConfig

if TYPE_CHECKING:
    from jaxtyping import Float


class BatchNorm(nnx.Module):
    """Batch norm over the whole array it is given, hence over the global batch under `jit`, per view.

    Statistics are float32 whatever the input. Each view is normalised by its own, as in two separate passes, and the
    running averages take one step per view. Rows are image-major: row i * views + v is view v of image i.

    Attributes:
        scale, bias: float32[channels], learned.
        mean, var: float32[channels], running averages; `var` is the biased one (torch keeps the unbiased).
        groups: slices of the batch normalised apart; 1 is the global batch.
        per_view: False normalises all views together, as one pass over both does (for ablation only).
    """

    def __init__(self, channels: int, *, decay: float = 0.9, eps: float = 1e-5, groups: int = 1, per_view: bool = True):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.decay, self.eps, self.groups, self.per_view = decay, eps, groups, per_view

    def __call__(self, x: jax.Array, *, views: int, valid: jax.Array | None = None) -> jax.Array:
        """Normalises `x` [images * views, ..., channels], keeping its dtype.

        Args:
            views: views per image in the rows; 0 uses the running averages and changes nothing.
            valid: bool, shape of `x` without channels; rows that count in the statistics. None counts all.
        """
        channels = x.shape[-1]
        if views == 0:
            shift, factor = self.mean[...], self.scale[...] * jax.lax.rsqrt(self.var[...] + self.eps)
            return ((x.astype(jnp.float32) - shift) * factor + self.bias[...]).astype(x.dtype)
        views = views if self.per_view else 1
        rows = x.reshape(self.groups, -1, views, x[0, ..., 0].size, channels).astype(jnp.float32)
        if valid is None:
            mean = rows.mean((1, 3), keepdims=True)
            square = (rows * rows).mean((1, 3), keepdims=True)
        else:
            weight = valid.reshape(*rows.shape[:-1], 1).astype(jnp.float32)
            weight /= jnp.maximum(weight.sum((1, 3), keepdims=True), 1)
            mean = (weight * rows).sum((1, 3), keepdims=True)
            square = (weight * rows * rows).sum((1, 3), keepdims=True)
        # One pass over the activations instead of two; float32 leaves the difference room.
        var = jnp.maximum(square - mean * mean, 0)
        for view in range(views):
            self.mean[...] = self._step(self.mean[...], mean[:, 0, view, 0])
            self.var[...] = self._step(self.var[...], var[:, 0, view, 0])
        out = (rows - mean) * (jax.lax.rsqrt(var + self.eps) * self.scale[...]) + self.bias[...]
        return out.reshape(x.shape).astype(x.dtype)

    def _step(self, running: jax.Array, batch: jax.Array) -> jax.Array:
        return self.decay * running + (1 - self.decay) * jax.lax.stop_gradient(batch.mean(0))


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes the layers of one network, as its configuration says."""

    config: ModelConfig
    rngs: nnx.Rngs = dataclasses.field(default_factory=lambda: nnx.Rngs(0))

    def conv(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nnx.Conv:
        # torchvision pads kernel // 2 on both sides; "SAME" pads by what the input's size needs, more at the end.
        pad = "SAME" if self.config.padding == "same" else [(dilation * (kernel // 2),) * 2] * 2
        more: dict[str, Any] = {"kernel_dilation": dilation, "use_bias": False, "dtype": jnp.dtype(self.config.dtype)}
        return nnx.Conv(channels_in, channels_out, (kernel, kernel), stride, padding=pad, **more, rngs=self.rngs)

    def linear(self, channels_in: int, channels_out: int, *, use_bias: bool) -> nnx.Linear:
        dtype = jnp.dtype(self.config.dtype)
        return nnx.Linear(channels_in, channels_out, use_bias=use_bias, dtype=dtype, rngs=self.rngs)

    def norm(self, channels: int) -> BatchNorm:
        config = self.config
        norm: dict[str, Any] = {"decay": config.bn_decay, "eps": config.bn_eps, "groups": config.local_bn_groups}
        return BatchNorm(channels, **norm, per_view=config.bn_per_view)


# Kernel, stride and output channels of a block's convolutions, by the width and the stride of the block.
Convolutions = Callable[[int, int], tuple[tuple[int, int, int], ...]]


def bottleneck(width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
    return (1, 1, width), (3, stride, width), (1, 1, 4 * width)


def basic(width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
    return (3, stride, width), (3, 1, width)


# Kind of block, blocks per stage, and width of the first stage's.
ARCHS: dict[str, tuple[Convolutions, tuple[int, ...], int]] = {
    "resnet18": (basic, (2, 2, 2, 2), 64),
    "resnet50": (bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (bottleneck, (3, 4, 23, 3), 64),
    "resnet152": (bottleneck, (3, 8, 36, 3), 64),
    "resnet200": (bottleneck, (3, 24, 36, 3), 64),
    "tiny": (bottleneck, (1, 1, 1, 1), 8),
}


class Block(nnx.Module):
    """Convolutions, each with batch norm, added to the input or, where its shape changes, to its projection.

    `dilation` spreads those of 3 x 3, where a stride was dropped to keep more cells.
    """

    def __init__(
        self, layers: Layers, channels_in: int, convolutions: tuple[tuple[int, int, int], ...], dilation: int
    ) -> None:
        channels, shrink = channels_in, 1
        for index, (kernel, stride, out) in enumerate(convolutions, 1):
            setattr(self, f"conv{index}", layers.conv(channels, out, kernel, stride, dilation if kernel > 1 else 1))
            setattr(self, f"bn{index}", layers.norm(out))
            channels, shrink = out, shrink * stride
        self.depth, self.channels = len(convolutions), channels
        changes = shrink != 1 or channels_in != channels
        projection = [layers.conv(channels_in, channels, 1, shrink), layers.norm(channels)] if changes else None
        self.downsample = nnx.List(projection) if projection else None

    def __call__(self, x: jax.Array, views: int) -> jax.Array:
        y = x
        for index in range(1, self.depth + 1):
            y = getattr(self, f"bn{index}")(getattr(self, f"conv{index}")(y), views=views)
            y = jax.nn.relu(y) if index < self.depth else y
        if self.downsample is not None:
            x = self.downsample[1](self.downsample[0](x), views=views)
        return jax.nn.relu(x + y)


class ResNet(nnx.Module):
    """The encoder f: images to a grid of hidden vectors (section 3.1), no mean pooling, no classifier.

    Attributes:
        channels: D, of the output.
    """

    def __init__(self, layers: Layers) -> None:
        config = layers.config
        convolutions, stages, base = ARCHS[config.arch]
        channels = width = base * config.width
        self.padding = config.padding
        self.conv1 = layers.conv(3, channels, 7, 2)
        self.bn1 = layers.norm(channels)
        for index, depth in enumerate(stages):
            blocks = []
            dilation = max(1, (4 << index) // config.stride) if config.dilate else 1
            for block in range(depth):
                stride = 2 if index and not block and 4 << index <= config.stride else 1
                blocks.append(Block(layers, channels, convolutions(width << index, stride), dilation))
                channels = blocks[-1].channels
            setattr(self, f"layer{index + 1}", nnx.List(blocks))
        self.channels = channels

    def __call__(
        self, images: Float[jax.Array, "rows height width 3"], views: int = 0
    ) -> Float[jax.Array, "rows h w channels"]:
        """Hidden vectors h.

        Args:
            images: float[rows, height, width, 3], normalised by ImageNet's mean and deviation.
            views: views per image in the rows, normalised apart; 0 evaluates with the running averages.

        Returns:
            [rows, ceil(height / stride), ceil(width / stride), channels] in the compute dtype.
        """
        x = jax.nn.relu(self.bn1(self.conv1(images), views=views))
        x = nnx.max_pool(x, (3, 3), (2, 2), "SAME" if self.padding == "same" else ((1, 1), (1, 1)))
        for index in range(1, 5):
            for block in getattr(self, f"layer{index}"):
                x = block(x, views)
        return x
