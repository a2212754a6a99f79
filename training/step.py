"""One optimisation step on the global batch, compiled once for a mesh of devices.

The step is an ordinary function of the whole batch: under `jit` with the batch split along one mesh axis, means over
the batch (batch norm) and products with all targets (negatives) are global without a collective in the code.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from maskmill.schemas.errors import UsageError
from maskmill.training.augment import augment_views
from maskmill.training.config import Config
from maskmill.training.losses import PADDING, detcon_loss
from maskmill.training.model import forward, initialize, online_network, stats_of, target_network
from maskmill.training.optim import Schedule, ema_decay, lars, learning_rate
from maskmill.training.supervised import label_loss

# step int32[]; params, stats (online); target_params, target_stats (empty dicts without a target); opt (optax's).
State = dict[str, Any]
Batch = dict[str, Any]
Metrics = dict[str, jax.Array]
# (params, state, batch) -> (loss, (new stats, new target_stats, metrics))
Objective = Callable[[dict[str, jax.Array], State, Batch], tuple[jax.Array, tuple[dict, dict, Metrics]]]


def make_mesh(devices: list | None = None) -> Mesh:
    """One axis, `data`, over all devices. Auto axes: explicit ones refuse the contrastive product of sharded arrays."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def check_divisible(config: Config, num_devices: int, num_processes: int = 1) -> None:
    """UsageError unless the global batch splits evenly; says the nearest batch that does."""
    if config.batch_size % num_devices:
        nearest = max(config.batch_size // num_devices, 1) * num_devices
        raise UsageError(
            f"batch_size={config.batch_size} does not divide over {num_devices} devices of {num_processes} "
            f"process(es); try --set batch_size={nearest}"
        )


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """This host's share of a batch as global arrays split along `data`."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def _optimizer(config: Config, total_steps: int, warmup_steps: int) -> tuple[Schedule, optax.GradientTransformation]:
    rate = learning_rate(config.optim, config.batch_size, total_steps, warmup_steps)
    optimizer = lars(config.optim, rate)
    if config.frozen:  # without a gradient its weights would still decay
        held = optax.masked(optax.set_to_zero(), lambda params: {n: n.startswith("encoder.") for n in params})
        optimizer = optax.chain(optimizer, held)
    return rate, optimizer


def _new_state(config: Config, arrays: Callable) -> State:
    """The state's tree with leaves made by `arrays(network, seed)` for each network."""
    params, stats = arrays(online_network(config), config.seed)
    target_params, target_stats = {}, {}
    if config.has_target:
        # The release draws the two networks apart; either way the target ends as an average of the online one.
        seed = config.seed + (config.model.target_init == "independent")
        target_params, target_stats = arrays(target_network(config), seed)
    optimizer = _optimizer(config, 2, 1)[1]  # the state of the chain does not depend on the schedule
    opt = jax.eval_shape(optimizer.init, params)
    state = {"step": jax.ShapeDtypeStruct((), jnp.int32), "opt": opt}
    state |= {"params": params, "stats": stats, "target_params": target_params, "target_stats": target_stats}
    return state


def abstract_state(config: Config, sharding: NamedSharding | None = None) -> State:
    """`ShapeDtypeStruct` of every array of the state, for restoring."""

    def shape(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(shape, _new_state(config, lambda network, seed: (network.params, network.stats)))


def init_state(config: Config, mesh: Mesh) -> State:
    """Step 0, the same on every host and every number of devices, replicated over the mesh."""
    replicated = NamedSharding(mesh, PartitionSpec())

    def concrete(leaf: jax.Array | jax.ShapeDtypeStruct) -> jax.Array:
        host = np.zeros(leaf.shape, leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf
        # Callbacks, so that several processes may each fill their own devices.
        return jax.make_array_from_callback(host.shape, replicated, lambda index: host[index])

    return jax.tree.map(concrete, _new_state(config, initialize))


@functools.lru_cache(maxsize=4)
def make_step(config: Config, mesh: Mesh, *, total_steps: int, warmup_steps: int) -> jax.stages.Wrapped:
    """The compiled step `(state, batch) -> (state, metrics)`; the given state's buffers are reused.

    A batch is what `training.input` yields, on the mesh (see `put_batch`). Metrics are float32 scalars, replicated:
    `loss`, `learning_rate`, `ema_decay`, `gradient_norm`, the diagnostics of `detcon_loss`, `projection_std` (spread
    of the normalised projections, 1 when uniform on the sphere, 0 when collapsed), and `gradient_finite`, bool per
    parameter in the order of the sorted names. Asked again for the same step, a process does not compile it again.
    Where labels are learnt, `accuracy` stands in place of the diagnostics and the spread.
    """
    objective = label_loss(config) if config.has_labels else _contrast(config, mesh)
    rate, optimizer = _optimizer(config, total_steps, warmup_steps)
    decay = ema_decay(config.optim.ema_base, total_steps)
    replicated = NamedSharding(mesh, PartitionSpec())

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        gradient = jax.value_and_grad(objective, has_aux=True)
        (loss, (stats, target_stats, metrics)), grads = gradient(state["params"], state, batch)
        updates, opt = optimizer.update(grads, state["opt"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        keep = decay(state["step"])
        target_params = {name: old + (1 - keep) * (params[name] - old) for name, old in state["target_params"].items()}
        squares = jnp.stack([jnp.sum(grads[name] ** 2) for name in sorted(grads)])
        metrics |= {
            "loss": loss,
            "learning_rate": rate(state["step"]),
            "gradient_norm": jnp.sqrt(squares.sum()),
            "gradient_finite": jnp.isfinite(squares),
        }
        if config.has_target:
            metrics["ema_decay"] = keep
        new = {"step": state["step"] + 1, "params": params, "stats": stats, "opt": opt}
        return new | {"target_params": target_params, "target_stats": target_stats}, metrics

    return jax.jit(step, out_shardings=replicated, donate_argnums=0)


def _contrast(config: Config, mesh: Mesh) -> Objective:
    """DetCon's loss on two views and its target network's; with one global mask SimCLR's and BYOL's."""
    online, target = online_network(config), target_network(config)
    replicated = NamedSharding(mesh, PartitionSpec())

    def loss_of(params: dict[str, jax.Array], state: State, batch: Batch) -> tuple[jax.Array, tuple]:
        both = ("1", "2")
        images = jnp.stack([batch["image" + v] for v in both[: config.data.views]], 1)
        views = augment_views(images, batch["key"], config.augment)
        weights = jnp.stack([batch["weights" + v] for v in both], 1)
        ids = jnp.stack([batch["ids" + v] for v in both], 1)
        network = online.module(params, state["stats"])
        projection, prediction = forward(network, views, weights, ids != PADDING)
        targets, target_stats = projection, {}
        if target is not None:
            follower = target.module(state["target_params"], state["target_stats"])
            targets = jax.lax.stop_gradient(forward(follower, views, weights, ids != PADDING)[0])
            target_stats = stats_of(follower)
        platform = mesh.devices.flat[0].platform
        everywhere = functools.partial(jax.lax.with_sharding_constraint, shardings=replicated)
        loss, diagnostics = detcon_loss(prediction, targets, ids, config.loss, platform=platform, replicate=everywhere)
        diagnostics["projection_std"] = _spread(jax.lax.stop_gradient(projection), ids != PADDING)
        return loss, (stats_of(network), target_stats, diagnostics)

    return loss_of


def lower_step(config: Config, mesh: Mesh) -> jax.stages.Lowered:
    """The step of a run for a mesh of devices that need not exist, ready to be compiled; of schedules only the shape."""
    data = config.data
    cells = (data.image_size // data.cell) ** 2
    sharded = NamedSharding(mesh, PartitionSpec("data"))

    def split(*shape: int, dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=sharded)

    pixels = (data.image_size,) * 2 if config.algorithm == "fcn" else ()
    batch = {"label": split(*pixels, dtype=np.int32), "key": split(2, dtype=np.uint32)}
    for view in "12":
        batch[f"image{view}"] = split(data.image_size, data.image_size, 3, dtype=np.uint8)
        batch[f"weights{view}"] = split(data.masks_per_view, cells, dtype=np.float32)
        batch[f"ids{view}"] = split(data.masks_per_view, dtype=np.int32)
    state = abstract_state(config, NamedSharding(mesh, PartitionSpec()))
    return make_step(config, mesh, total_steps=1000, warmup_steps=10).lower(state, batch)


def _spread(projection: jax.Array, valid: jax.Array) -> jax.Array:
    """Deviation per feature of the valid normalised projections, times sqrt(d)."""
    unit = projection / jnp.maximum(jnp.linalg.norm(projection, axis=-1, keepdims=True), 1e-6)
    weight = valid[..., None] / jnp.maximum(valid.sum(), 1)
    mean = jnp.sum(weight * unit, (0, 1, 2))
    variance = jnp.sum(weight * (unit - mean) ** 2, (0, 1, 2))
    return jnp.sqrt(variance.sum())
