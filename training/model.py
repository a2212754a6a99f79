"""DetCon's networks as pure functions of named arrays: encoder, mask pooling, heads (section 3.1, A.2).

A network's arrays are two flat dicts, `params` (learned) and `stats` (batch norm's running averages), keyed by dotted
path: `encoder.layer1.0.conv1.kernel`, `projector.bn.scale`. The target network has no predictor.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from maskmill.training.config import Config, ModelConfig
from maskmill.training.heads import FCN, Classifier
from maskmill.training.resnet import Layers, ResNet

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32

Arrays = dict[str, jax.Array]


class Head(nnx.Module):
    """Two-layer MLP, the g and q of section 3.1: linear with bias, batch norm, ReLU, linear without bias."""

    def __init__(self, layers: Layers, channels: int) -> None:
        config = layers.config
        self.linear1 = layers.linear(channels, config.hidden, use_bias=True)
        self.bn = layers.norm(config.hidden)
        self.linear2 = layers.linear(config.hidden, config.out, use_bias=False)
        self.out_bn = layers.norm(config.out) if config.head_out_bn else None

    def __call__(self, x: jax.Array, *, views: int, valid: jax.Array) -> jax.Array:
        """[images * views, masks, channels] to float32[images * views, masks, out]."""
        x = jax.nn.relu(self.bn(self.linear1(x), views=views, valid=valid))
        x = self.linear2(x)
        if self.out_bn is not None:
            x = self.out_bn(x, views=views, valid=valid)
        return x.astype(jnp.float32)


class Network(nnx.Module):
    """Encoder, projection head and, where the algorithm predicts, prediction head."""

    def __init__(self, model: ModelConfig, *, predictor: bool):
        layers = Layers(model)
        self.encoder = ResNet(layers)
        self.projector = Head(layers, self.encoder.channels)
        self.predictor = Head(layers, model.out) if predictor else None


@dataclasses.dataclass(frozen=True)
class Pure:
    """An NNX module taken apart: how to rebuild it from named arrays.

    Attributes:
        graph: the module's structure.
        params, stats: `ShapeDtypeStruct` of every learned array and running average, by dotted path.
    """

    graph: nnx.GraphDef
    params: dict[str, jax.ShapeDtypeStruct]
    stats: dict[str, jax.ShapeDtypeStruct]
    _trees: tuple

    @classmethod
    def of(cls, make: Callable[[], nnx.Module]) -> Pure:
        """Takes apart the module that `make()` builds, without computing its initial values."""
        graph, *states = nnx.split(nnx.eval_shape(make), nnx.Param, nnx.BatchStat)
        params, stats = (_named(state) for state in states)
        return cls(graph, params, stats, tuple(jax.tree.structure(state) for state in states))

    def module(self, params: Arrays, stats: Arrays) -> Any:
        """The module with these arrays; extra names are ignored, so that a checkpoint serves a part of its network."""
        pairs = ((self.params, params), (self.stats, stats))
        leaves = [[jnp.asarray(given[name]) for name in names] for names, given in pairs]
        states = [jax.tree.unflatten(tree, part) for tree, part in zip(self._trees, leaves)]
        # A copy: inside grad, the running averages belong to an outer trace and may not be written in place.
        return nnx.merge(self.graph, *states, copy=True)


def _named(state: nnx.State) -> dict:
    def name(path: tuple[Any, ...]) -> str:
        return ".".join(str(entry.key) for entry in path if hasattr(entry, "key"))

    return {name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]}


def stats_of(module: nnx.Module) -> Arrays:
    """The module's running averages, by dotted path."""
    return _named(nnx.state(module, nnx.BatchStat))


def online_network(config: Config) -> Pure:
    """The network that is trained."""
    if config.has_labels:
        return labelling_network(config.model, dense=config.algorithm == "fcn")
    return Pure.of(lambda: Network(config.model, predictor=config.has_target))


def labelling_network(model: ModelConfig, *, dense: bool) -> Pure:
    """Encoder and a head that tells `model.classes` labels apart: of pixels where `dense`, else of the picture."""
    return Pure.of(lambda: (FCN if dense else Classifier)(Layers(model)))


def target_network(config: Config) -> Pure | None:
    """The moving average of the online network, without its predictor; None where there is none (A.2)."""
    return Pure.of(lambda: Network(config.model, predictor=False)) if config.has_target else None


def encoder(model: ModelConfig) -> Pure:
    """The feature extractor alone, what is kept after training; arrays are named without the `encoder.` prefix."""
    return Pure.of(lambda: ResNet(Layers(dataclasses.replace(model, local_bn_groups=1))))


def initialize(network: Pure, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Initial (params, stats) as float32 NumPy arrays; each depends only on `seed` and its own name.

    Convolutions: He normal by outputs (torchvision). Linear layers: normal of variance 1 / inputs, cut at two
    deviations (the release's library). Batch norm: scale 1, but 0 at the end of each residual branch, so that blocks
    start as the identity (release).
    """

    def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith(".kernel"):
            random = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
            if len(shape) == 4:
                deviation = np.sqrt(2 / (shape[0] * shape[1] * shape[3]))
                return (deviation * random.standard_normal(shape, np.float32)).astype(np.float32)
            return _truncated_normal(random, shape) / np.float32(np.sqrt(shape[0]))
        ends_branch = "layer" in name and (
            name.endswith("bn3.scale")
            or (name.endswith("bn2.scale") and name.replace("bn2", "bn3") not in network.params)
        )
        ones = name.endswith((".scale", ".var")) and not ends_branch
        return np.full(shape, float(ones), np.float32)

    params, stats = ({n: value(n, s.shape) for n, s in group.items()} for group in (network.params, network.stats))
    return params, stats


def _truncated_normal(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal redrawn outside +-2, rescaled to unit variance."""
    x = random.standard_normal(shape, np.float32)
    while (outside := np.abs(x) > 2).any():
        x[outside] = random.standard_normal(int(outside.sum()), np.float32)
    return x / np.float32(0.87962566)


def mask_pool(
    hidden: Float[jax.Array, "*rows cells channels"], weights: Float32[jax.Array, "*rows masks cells"]
) -> Float32[jax.Array, "*rows masks channels"]:
    """Mask-pooled hidden vectors h_m: means of the hidden vectors weighted by each mask (section 3.1).

    Args:
        hidden: [..., cells, channels].
        weights: float32[..., masks, cells], not negative. A row of zeros gives a zero vector.

    Returns:
        float32[..., masks, channels].
    """
    total = weights.sum(-1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1)
    return jnp.einsum("...mp,...pc->...mc", weights, hidden.astype(jnp.float32), precision=jax.lax.Precision.HIGH)


def forward(
    network: Network,
    images: Float[jax.Array, "n views size size 3"],
    weights: Float32[jax.Array, "n 2 masks cells"],
    valid: Bool[jax.Array, "n 2 masks"],
) -> tuple[Float32[jax.Array, "n 2 masks out"], Float32[jax.Array, "n 2 masks out"]]:
    """Latents of both views, with the batch's own statistics; updates the running averages of `network`.

    Args:
        images: float[n, V, size, size, 3]; V is 2, or 1 where both sets of masks lie in one crop.
        weights: float32[n, 2, M, cells].
        valid: bool[n, 2, M], False for padding, which stays out of the heads' statistics.

    Returns:
        (projection, prediction), float32[n, 2, M, out] each; without a predictor the two are the same array.
    """
    n, views = images.shape[:2]
    masks = weights.shape[2]
    hidden = network.encoder(images.reshape(n * views, *images.shape[2:]), views)
    hidden = hidden.reshape(n, views, -1, hidden.shape[-1])
    hidden = jnp.broadcast_to(hidden, (n, 2, *hidden.shape[2:]))
    pooled = mask_pool(hidden, weights).reshape(2 * n, masks, -1)
    rows: dict[str, Any] = {"views": 2, "valid": valid.reshape(2 * n, masks)}
    projection = network.projector(pooled, **rows)
    prediction = network.predictor(projection, **rows) if network.predictor is not None else projection
    return projection.reshape(n, 2, masks, -1), prediction.reshape(n, 2, masks, -1)
