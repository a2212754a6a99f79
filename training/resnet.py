"""ResNet-50/101/152/200 feature extractors (section 3.1, A.2), and ResNet-18 for small trials, as Flax NNX modules.

Blocks are the original post-activation ones, bottlenecks with the stride on the 3 x 3 ("v1.5", as torchvision and the
release). Attribute names are torchvision's, so that a parameter's path is its exported name. Initial values are not
set here: see `training.model.initialize`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


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


def _conv(
    rngs: nnx.Rngs,
    channels_in: int,
    channels_out: int,
    kernel: int,
    stride: int,
    padding: str,
    dtype: jax.typing.DTypeLike,
) -> nnx.Conv:
    # torchvision pads kernel // 2 on both sides; "SAME" pads by what the input's size needs, more at the end.
    pad = "SAME" if padding == "same" else [(kernel // 2, kernel // 2)] * 2
    return nnx.Conv(
        channels_in, channels_out, (kernel, kernel), stride, padding=pad, use_bias=False, dtype=dtype, rngs=rngs
    )


def _projection(
    rngs: nnx.Rngs,
    channels_in: int,
    out: int,
    stride: int,
    padding: str,
    dtype: jax.typing.DTypeLike,
    norm: dict[str, Any],
) -> nnx.List | None:
    if stride == 1 and channels_in == out:
        return None
    return nnx.List([_conv(rngs, channels_in, out, 1, stride, padding, dtype), BatchNorm(out, **norm)])


class Bottleneck(nnx.Module):
    """1 x 1, 3 x 3 (strided), 1 x 1, each with batch norm, added to the input or to its strided projection."""

    expansion = 4  # output channels per channel of the 3 x 3

    def __init__(
        self,
        rngs: nnx.Rngs,
        channels_in: int,
        width: int,
        stride: int,
        padding: str,
        dtype: jax.typing.DTypeLike,
        norm: dict[str, Any],
    ) -> None:
        out = width * self.expansion
        self.conv1 = _conv(rngs, channels_in, width, 1, 1, padding, dtype)
        self.bn1 = BatchNorm(width, **norm)
        self.conv2 = _conv(rngs, width, width, 3, stride, padding, dtype)
        self.bn2 = BatchNorm(width, **norm)
        self.conv3 = _conv(rngs, width, out, 1, 1, padding, dtype)
        self.bn3 = BatchNorm(out, **norm)
        self.downsample = _projection(rngs, channels_in, out, stride, padding, dtype, norm)

    def __call__(self, x: jax.Array, views: int) -> jax.Array:
        y = jax.nn.relu(self.bn1(self.conv1(x), views=views))
        y = jax.nn.relu(self.bn2(self.conv2(y), views=views))
        y = self.bn3(self.conv3(y), views=views)
        if self.downsample is not None:
            x = self.downsample[1](self.downsample[0](x), views=views)
        return jax.nn.relu(x + y)


class BasicBlock(nnx.Module):
    """Two 3 x 3, the first strided, each with batch norm, added to the input or to its strided projection."""

    expansion = 1

    def __init__(
        self,
        rngs: nnx.Rngs,
        channels_in: int,
        width: int,
        stride: int,
        padding: str,
        dtype: jax.typing.DTypeLike,
        norm: dict[str, Any],
    ) -> None:
        self.conv1 = _conv(rngs, channels_in, width, 3, stride, padding, dtype)
        self.bn1 = BatchNorm(width, **norm)
        self.conv2 = _conv(rngs, width, width, 3, 1, padding, dtype)
        self.bn2 = BatchNorm(width, **norm)
        self.downsample = _projection(rngs, channels_in, width, stride, padding, dtype, norm)

    def __call__(self, x: jax.Array, views: int) -> jax.Array:
        y = jax.nn.relu(self.bn1(self.conv1(x), views=views))
        y = self.bn2(self.conv2(y), views=views)
        if self.downsample is not None:
            x = self.downsample[1](self.downsample[0](x), views=views)
        return jax.nn.relu(x + y)


# Kind of block, blocks per stage, and width of the first stage's.
ARCHS: dict[str, tuple[type[Bottleneck] | type[BasicBlock], tuple[int, ...], int]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 64),
    "resnet200": (Bottleneck, (3, 24, 36, 3), 64),
    "tiny": (Bottleneck, (1, 1, 1, 1), 8),
}


class ResNet(nnx.Module):
    """The encoder f: images to a grid of hidden vectors (section 3.1), no mean pooling, no classifier.

    Attributes:
        channels: D, of the output.
    """

    def __init__(
        self,
        arch: str,
        *,
        width: int = 1,
        stride: int = 32,
        padding: str = "torch",
        dtype: jax.typing.DTypeLike = jnp.float32,
        norm: dict[str, Any] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        rngs = rngs or nnx.Rngs(0)
        norm = norm or {}
        block_type, stages, base = ARCHS[arch]
        base *= width
        self.padding = padding
        self.conv1 = _conv(rngs, 3, base, 7, 2, padding, dtype)
        self.bn1 = BatchNorm(base, **norm)
        channels = base
        for index, depth in enumerate(stages):
            blocks = []
            for block in range(depth):
                step = 2 if index and not block and 4 << index <= stride else 1
                blocks.append(block_type(rngs, channels, base << index, step, padding, dtype, norm))
                channels = (base << index) * block_type.expansion
            setattr(self, f"layer{index + 1}", nnx.List(blocks))
        self.channels = channels

    def __call__(self, images: jax.Array, views: int = 0) -> jax.Array:
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
