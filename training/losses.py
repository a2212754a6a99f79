"""The contrastive detection objective (section 3.1, Eq. 1 to 3) and the forms it is compared with.

Everything is float32 over the global batch. Logits against the targets are never held at once: they stream by in
chunks whose log-sum-exp is accumulated, and are computed again in the backward pass, so memory grows with the number
of anchors, not with its square.

One loss serves all algorithms. For an anchor v_m of view 1 the positives are the targets of view 2 with the same mask
identity; the negatives are all other valid targets of view 2 and, if asked, of view 1; and the same from view 2 to
view 1. Targets of view 1 with the anchor's own identity are neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from maskmill.training.config import LossConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int32

PADDING = -1  # mask identity of an unused slot: no anchor, no positive, no negative
_NEVER = -1e30  # logit of what does not count: exp is exactly 0, and unlike -inf it keeps gradients finite


def resolve_precision(precision: str, platform: str) -> str:
    """What `auto` means on a platform ("cpu", "tpu", "gpu"...); any other precision is itself.

    Matrix units multiply bfloat16. float32 products (`highest`) are six of their passes on a TPU, and leave the tensor
    cores of an NVIDIA GPU: at batch 4096 the loss of DetCon-B would cost 61 % of its backbone, of which the paper says
    11.6 % with the heads. The rounding does not show: on 256 images x 16 masks with object-aligned latents of 256
    dimensions, loss equal to 5e-5 and gradients' cosine .99998 or more, which a test of the loss keeps true.
    CPUs have no such unit, and what is compared there, bit for bit, stays float32.
    """
    if precision != "auto":
        return precision
    return "highest" if platform == "cpu" else "bfloat16"


def detcon_loss(
    anchors: Float[jax.Array, "n 2 masks d"],
    targets: Float[jax.Array, "n 2 masks d"],
    ids: Int32[jax.Array, "n 2 masks"],
    config: LossConfig,
    *,
    platform: str = "cpu",
    replicate: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> tuple[Float[jax.Array, ""], dict[str, Float[jax.Array, ""]]]:
    """Loss of one global batch, both directions summed.

    `config.form` is one of:
        paper: -log(e^pos / (e^pos + sum of e^neg)) of every matched pair (Eq. 1), reduced as `reduction` says.
        release: per anchor, cross-entropy of the softmax over positives and negatives together against the uniform
            distribution over its positives, times 1 / copies of its mask in its view; mean over all anchors, those
            without positive counting as 0.
        regression: 2 - 2 cos, mean over matched pairs (BYOL); no negatives.
    With one global mask, paper / 2 = release / 2 = NT-Xent (SimCLR).

    `config.reduction` of the paper's form is `pairs`, the mean over the batch's matched pairs (Eq. 2), or `images`, their sum
    per image (Eq. 3), mean over images. They differ by one factor per batch, which LARS divides out again for all it
    adapts. Biases and batch norm it does not adapt: at the paper's rates the sum moves them some 80 times as far.

    Args:
        anchors: float32[n, 2, M, d], predictions (or projections) of both views; normalised here.
        targets: float32[n, 2, M, d], what they are matched to; the caller stops gradients where there are none.
        ids: int32[n, 2, M], identity of each mask within its image, shared by both views; -1 for padding.
        config: what counts as a negative, the temperature, and the blocks in which logits are computed.
        platform: what it runs on ("cpu", "tpu", "gpu"...), which decides the products' precision `auto`.
        replicate: given the blocks of targets, their ids and images, returns them on every device; states where the
            gathers happen, before the loop over blocks.

    Returns:
        (loss, diagnostics), scalars: `positive_similarity` and `negative_similarity` (mean cosines; negatives of
        other images in the other view), `matched` (fraction of anchors with a positive), `distinct_masks` (per view).
    """
    n, _, masks, _ = anchors.shape
    anchors, targets = _normalize(anchors), _normalize(targets)
    valid = ids != PADDING
    crossed = targets[:, ::-1]  # what view v is matched to: the targets of the other view
    # Pairs are few: their product is exact everywhere.
    cosine = jnp.einsum("nvmd,nvkd->nvmk", anchors, crossed, precision="highest")
    matched = _same(ids, ids[:, ::-1])
    positives = matched.sum(-1)
    copies = jnp.maximum(_same(ids, ids).sum(-1), 1)

    if config.form == "regression":
        loss = 2 * jnp.sum(matched * (2 - 2 * cosine)) / jnp.maximum(matched.sum(), 1)
    else:
        positive = cosine / config.temperature
        negative = _negative_logsumexp(anchors, targets, ids, config, platform, replicate)
        if config.form == "paper":
            pairs = jax.nn.softplus(negative[..., None] - positive)
            count = n if config.reduction == "images" else matched.sum() / 2  # of one direction
            loss = jnp.where(matched, pairs, 0).sum() / jnp.maximum(count, 1)
        else:
            every = jnp.logaddexp(negative, jax.nn.logsumexp(jnp.where(matched, positive, _NEVER), -1))
            pairs = jnp.where(matched, every[..., None] - positive, 0).sum(-1)
            loss = (pairs / jnp.maximum(positives, 1) / copies).sum() / (n * masks)
    return loss, jax.lax.stop_gradient(_diagnostics(anchors, crossed, cosine, matched, copies, valid))


def _normalize(x: jax.Array) -> jax.Array:
    # The floor stands under the root: a latent of zeros then has a finite gradient.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12))


def _same(a: jax.Array, b: jax.Array) -> jax.Array:
    """bool[..., M, M]: slot m of `a` and slot k of `b` hold the same mask, not padding."""
    return (a[..., :, None] == b[..., None, :]) & (a != PADDING)[..., :, None]


def _negative_logsumexp(
    anchors: jax.Array,
    targets: jax.Array,
    ids: jax.Array,
    config: LossConfig,
    platform: str,
    replicate: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """float32[n, 2, M]: log of the sum over the anchor's negatives of exp(cosine / temperature)."""
    n, views, masks, _ = anchors.shape
    groups, same_view = config.negative_groups, config.same_view_negatives
    precision = resolve_precision(config.precision, platform)

    def lanes(x: jax.Array) -> jax.Array:
        """[n, 2, M, ...] to [lanes, rows, ...]; anchors of a lane see its targets and no others.

        With negatives of both views, both views are rows of one lane: one large product instead of two per block. An
        anchor's own mask in its own view is left out by the rule that leaves out its positives. Images stay outermost
        among the rows, so that the batch's division over devices is one of the rows.
        """
        if same_view:
            return x.reshape(groups, -1, *x.shape[3:])
        x = jnp.moveaxis(x.reshape(groups, n // groups, views, masks, *x.shape[3:]), 2, 1)
        return x.reshape(groups * views, -1, *x.shape[4:])

    def in_blocks(x: jax.Array, fill: int) -> jax.Array:
        """[lanes, rows, ...] to [blocks, lanes, block, ...], on every device.

        It is the blocks that are bound, not what they are cut from: the compiler splits them over the devices if it is
        left the choice, and then gathers every block again each time that the loop body runs, forwards and backwards.
        """
        padding = [(0, 0), (0, blocks * block - rows)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding, constant_values=fill).reshape(x.shape[0], blocks, block, *x.shape[2:])
        return replicate(jnp.moveaxis(x, 1, 0))

    # Without the anchor's own view, what view v is matched to stands where v does.
    targets, target_ids = (targets, ids) if same_view else (targets[:, ::-1], ids[:, ::-1])
    image = jnp.broadcast_to(jnp.arange(n)[:, None, None], ids.shape)
    a, a_ids, a_image = lanes(anchors), lanes(ids), lanes(image)
    rows = a.shape[1]
    block = min(config.chunk, rows)
    blocks = -(-rows // block)
    pieces = in_blocks(lanes(targets), 0), in_blocks(lanes(target_ids), PADDING), in_blocks(lanes(image), 0)

    def accumulate(total: jax.Array, piece: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        t, t_ids, t_image = piece
        logits = _product(a, t, precision) / config.temperature
        same_image = a_image[..., :, None] == t_image[..., None, :]
        same_mask = a_ids[..., :, None] == t_ids[..., None, :]
        left_out = same_image & (same_mask if config.local_negatives else True) | (t_ids == PADDING)[..., None, :]
        piece_total = jax.nn.logsumexp(jnp.where(left_out, _NEVER, logits), -1)
        return jnp.logaddexp(total, piece_total), None

    # Recomputed going backwards; the scan already keeps the compiler from merging the two passes.
    accumulate = jax.checkpoint(accumulate, prevent_cse=False)
    total, _ = jax.lax.scan(accumulate, jnp.full(a.shape[:2], _NEVER, a.dtype), pieces)
    if not same_view:
        total = jnp.moveaxis(total.reshape(groups, views, n // groups, masks), 1, 2)
    return total.reshape(n, views, masks)


def _product(a: jax.Array, t: jax.Array, precision: str) -> jax.Array:
    """Cosines [lanes, anchors, targets] of [lanes, anchors, d] and [lanes, targets, d]."""
    if precision == "bfloat16":
        return _bfloat16_product(a, t)
    return jnp.einsum("lad,ltd->lat", a, t, precision=precision)


@jax.custom_vjp
def _bfloat16_product(a: jax.Array, t: jax.Array) -> jax.Array:
    # Written out, with its gradient: one pass of every matrix unit, float32 sums, and the same numbers on every platform.
    return _rounded("lad,ltd->lat", a, t)


def _bfloat16_product_backwards(
    operands: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    a, t = operands
    return _rounded("lat,ltd->lad", gradient, t), _rounded("lat,lad->ltd", gradient, a)


_bfloat16_product.defvjp(lambda a, t: (_bfloat16_product(a, t), (a, t)), _bfloat16_product_backwards)


def _rounded(subscripts: str, *operands: jax.Array) -> jax.Array:
    """einsum of operands rounded to bfloat16, summed and returned in float32."""
    return jnp.einsum(subscripts, *(x.astype(jnp.bfloat16) for x in operands), preferred_element_type=jnp.float32)


def _diagnostics(
    anchors: jax.Array,
    crossed: jax.Array,
    cosine: jax.Array,
    matched: jax.Array,
    copies: jax.Array,
    valid: jax.Array,
) -> dict[str, jax.Array]:
    """Means described in `detcon_loss`; the negatives' from sums of latents, so that no logits are needed."""
    a_sum = jnp.sum(anchors * valid[..., None], 2)
    t_sum = jnp.sum(crossed * valid[:, ::-1, :, None], 2)
    a_count, t_count = valid.sum(2), valid[:, ::-1].sum(2)
    similarity = jnp.einsum("vd,vd->", a_sum.sum(0), t_sum.sum(0)) - jnp.einsum("nvd,nvd->", a_sum, t_sum)
    pairs = jnp.sum(a_count.sum(0) * t_count.sum(0)) - jnp.sum(a_count * t_count)
    return {
        "positive_similarity": jnp.sum(cosine * matched) / jnp.maximum(matched.sum(), 1),
        "negative_similarity": similarity / jnp.maximum(pairs, 1),
        "matched": jnp.sum(matched.any(-1)) / jnp.maximum(valid.sum(), 1),
        "distinct_masks": jnp.sum(valid / copies) / valid[..., 0].size,
    }
