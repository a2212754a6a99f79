"""LARS as BYOL and the release use it, learning-rate schedules, and the target's moving average (A.2, A.3)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from maskmill.schemas.errors import UsageError
from maskmill.training.config import Config, OptimConfig

Schedule = Callable[[jax.Array], jax.Array]


def run_length(config: Config, num_records: int) -> tuple[int, int]:
    """(total steps, warm-up steps) of a run over `num_records` images per epoch.

    Raises:
        UsageError: fewer images than one batch, or a warm-up that leaves no step after it.
    """
    if config.batch_size > num_records:
        raise UsageError(
            f"batch_size={config.batch_size} is more than the {num_records} records of this data set; "
            f"try --set batch_size={1 << int(math.log2(max(num_records, 1)))}"
        )
    total = config.steps or int(config.epochs * num_records / config.batch_size)
    warmup = int(config.optim.warmup_epochs * num_records / config.batch_size)
    if total < 1 or warmup >= total:
        raise UsageError(
            f"a run of {total} steps with {warmup} steps of warm-up ({config.optim.warmup_epochs:g} epochs) never "
            "learns at its full rate; raise epochs or steps, or lower optim.warmup_epochs"
        )
    return total, warmup


def learning_rate(optim: OptimConfig, batch_size: int, total_steps: int, warmup_steps: int) -> Schedule:
    """Rate at each step: linear from 0 over the warm-up, then cosine to 0, or steps down (A.3).

    The peak is optim.lr x batch_size / 256.
    """
    peak = optim.lr * batch_size / 256

    def rate(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        if optim.schedule == "cosine":
            progress = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0, 1)
            after = peak * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        else:
            # Whole steps, so that a drop does not depend on how a fraction rounds.
            drops = jnp.array([int(fraction * total_steps) for fraction in optim.drop_at])
            after = peak * optim.drop_factor ** jnp.sum(step >= drops)
        return jnp.where(step < warmup_steps, peak * step / max(warmup_steps, 1), after)

    return rate


def ema_decay(base: float, total_steps: int) -> Schedule:
    """Decay of the target at each step: from `base` to 1 along a half cosine (A.2)."""

    def decay(step: jax.typing.ArrayLike) -> jax.Array:
        progress = jnp.clip(jnp.asarray(step, jnp.float32) / total_steps, 0, 1)
        return 1 - (1 - base) * 0.5 * (1 + jnp.cos(jnp.pi * progress))

    return decay


def is_adapted(name: str) -> bool:
    """Whether LARS applies decay and trust ratio to the parameter: all but biases and batch norm's."""
    return name.endswith(".kernel")


def lars(optim: OptimConfig, rate: Schedule) -> optax.GradientTransformation:
    """LARS (You et al. 2017), with momentum before the learning rate, for flat dicts of named parameters.

    In order: add decay x parameter; scale by trust x |parameter| / |update|, 1 where either is 0; momentum; times
    minus the rate. Biases and batch norm skip the first two and move by plain momentum. With `momentum_of` "updates"
    the rate comes before the momentum, as in SimCLR's and optax's: the momentum keeps the rates of earlier steps, and a
    schedule acts late. Without trust (0) it is SGD with momentum.
    """

    def adapted(params: dict[str, jax.Array]) -> dict[str, bool]:
        return {name: is_adapted(name) for name in params}

    last = [
        optax.trace(decay=optim.momentum, nesterov=optim.nesterov),
        optax.scale_by_schedule(lambda step: -rate(step)),
    ]
    return optax.chain(
        optax.add_decayed_weights(optim.weight_decay, mask=adapted),
        *([optax.masked(optax.scale_by_trust_ratio(trust_coefficient=optim.trust), adapted)] if optim.trust else []),
        *(last if optim.momentum_of == "gradients" else reversed(last)),
    )
