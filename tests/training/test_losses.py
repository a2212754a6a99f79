"""The loss against loops written from the equations, against published values, and against what it must reduce to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.training import losses
from maskmill.training.config import LossConfig

# Compiled as a whole: op by op the same tests take four times as long.
compiled = jax.jit(losses.detcon_loss, static_argnames="config")


def detcon_loss(anchors, targets, ids, **options):
    return compiled(anchors, targets, ids, LossConfig(**options))


def loop_loss(anchors, targets, ids, form, tau, same_view=True, local=True, groups=1, reduction="images"):
    """The objective one pair at a time, in float64: Eq. 1 and 3, or the authors' cross-entropy."""
    n, _, masks, _ = anchors.shape
    a = anchors / np.linalg.norm(anchors, axis=-1, keepdims=True)
    t = targets / np.linalg.norm(targets, axis=-1, keepdims=True)
    total, matched = 0.0, 0
    for i in range(n):
        for v in range(2):
            for m in range(masks):
                if ids[i, v, m] < 0:
                    continue
                positives, negatives = [], []
                for j in range(n):
                    if j // (n // groups) != i // (n // groups):
                        continue
                    for w in range(2):
                        for k in range(masks):
                            if ids[j, w, k] < 0:
                                continue
                            logit = a[i, v, m] @ t[j, w, k] / tau
                            if j == i and ids[j, w, k] == ids[i, v, m]:
                                if w != v:
                                    positives.append(logit)
                            elif (w != v or same_view) and (j != i or local):
                                negatives.append(logit)
                if form == "paper":
                    rest = np.sum(np.exp(negatives))
                    total += sum(-np.log(np.exp(p) / (np.exp(p) + rest)) for p in positives)
                    matched += len(positives)
                elif positives:
                    everything = np.log(np.sum(np.exp(positives)) + np.sum(np.exp(negatives)))
                    copies = np.sum(ids[i, v] == ids[i, v, m])
                    total += np.mean([everything - p for p in positives]) / copies / (n * masks)
    if form == "paper":
        return total / n if reduction == "images" else 2 * total / max(matched, 1)
    return total


def latents(seed, n=4, masks=5, d=6, regions=4, padding=0.2):
    random = np.random.default_rng(seed)
    anchors, targets = random.normal(size=(2, n, 2, masks, d))
    ids = random.integers(0, regions, (n, 2, masks)).astype(np.int32)
    ids[-1, 0] += 100  # an image whose views share nothing
    ids[random.random(ids.shape) < padding] = -1
    return anchors, targets, ids


@pytest.mark.parametrize("form", ["paper", "release"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reduction": "images"},
        {"same_view_negatives": False},
        {"local_negatives": False},
        {"negative_groups": 2},
        {"chunk": 3},
    ],
    ids=str,
)
def test_loss_equals_the_equations_pair_by_pair(form, options):
    anchors, targets, ids = latents(3)
    with jax.enable_x64(True):
        loss, _ = detcon_loss(anchors, targets, ids, form=form, temperature=0.2, **options)
    expected = loop_loss(
        anchors,
        targets,
        ids,
        form,
        0.2,
        options.get("same_view_negatives", True),
        options.get("local_negatives", True),
        options.get("negative_groups", 1),
        options.get("reduction", "pairs"),
    )
    assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_gradients_equal_finite_differences_of_the_equations(form):
    anchors, targets, ids = latents(4, n=3, masks=3, d=3)
    with jax.enable_x64(True):
        compute = jax.grad(lambda a, t: detcon_loss(a, t, ids, form=form, chunk=2)[0], (0, 1))
        gradients = [np.array(g) for g in compute(anchors, targets)]
    random = np.random.default_rng(0)
    for _ in range(10):
        da, dt = random.normal(size=(2, *anchors.shape))
        h = 1e-5
        up = loop_loss(anchors + h * da, targets + h * dt, ids, form, 0.1, reduction="pairs")
        down = loop_loss(anchors - h * da, targets - h * dt, ids, form, 0.1, reduction="pairs")
        slope = np.sum(gradients[0] * da) + np.sum(gradients[1] * dt)
        assert slope == pytest.approx((up - down) / (2 * h), rel=1e-6)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    regions=st.integers(1, 8),
    padding=st.sampled_from([0.0, 0.5, 1.0]),
    chunk=st.sampled_from([1, 3, 8, 4096]),
    form=st.sampled_from(["paper", "release"]),
)
def test_loss_equals_the_equations_on_any_masks(seed, regions, padding, chunk, form):
    anchors, targets, ids = latents(seed, n=2, masks=3, d=4, regions=regions, padding=padding)
    loss, _ = detcon_loss(np.float32(anchors), np.float32(targets), ids, form=form, temperature=0.5, chunk=chunk)
    assert float(loss) == pytest.approx(
        loop_loss(anchors, targets, ids, form, 0.5, reduction="pairs"), rel=2e-5, abs=1e-6
    )


# Values of the authors' JAX function on these inputs, published with lightly's tests (both views and networks equal).
# The second inputs were printed to four decimals only: that function itself gives 3.60861 on them.
PUBLISHED = [
    (
        [[[0.48962486, 0.2522575], [-0.6273904, -0.7026027]], [[0.7157335, -0.5684994], [-1.7461833, -2.7258704]]],
        [[1, 0], [1, 1]],
        3.012971,
        2e-6,
    ),
    (
        [[[-0.6067, -1.6712], [0.5318, -0.1990]], [[0.0800, -0.3512], [-0.3968, -1.0643]]],
        [[0, 0], [0, 0]],
        3.6086373,
        5e-5,
    ),
]


@pytest.mark.parametrize(("view", "ids", "value", "tolerance"), PUBLISHED)
def test_release_form_gives_the_published_values(view, ids, value, tolerance):
    both = jnp.stack([jnp.array(view)] * 2, axis=1)
    loss, _ = detcon_loss(both, both, jnp.stack([jnp.array(ids)] * 2, axis=1), form="release")
    assert float(loss) == pytest.approx(value, abs=tolerance)


def nt_xent(z, tau):
    """SimCLR's loss of n pairs, from its definition. z: [n, 2, d], float64."""
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    flat = z.reshape(-1, z.shape[-1])
    logits = flat @ flat.T / tau
    np.fill_diagonal(logits, -np.inf)
    partner = np.arange(len(flat)) ^ 1
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(flat)), partner])


@pytest.mark.parametrize("form", ["paper", "release"])
def test_one_global_mask_is_nt_xent(form):
    z = np.random.default_rng(0).normal(size=(6, 2, 1, 8))
    ids = np.zeros((6, 2, 1), np.int32)
    with jax.enable_x64(True):
        loss, _ = detcon_loss(z, z, ids, form=form)
    assert float(loss) / 2 == pytest.approx(nt_xent(z[:, :, 0], 0.1), rel=1e-12)


def test_sixteen_copies_of_the_global_mask_give_a_sixteenth_of_the_gradient():
    """Table 4, row a: duplicated identical features change nothing but the scale, in the release form."""
    z = np.random.default_rng(1).normal(size=(6, 2, 1, 8))

    def loss(z, copies):
        repeated = jnp.repeat(z, copies, axis=2)
        return detcon_loss(repeated, repeated, jnp.zeros((6, 2, copies), jnp.int32), form="release", temperature=0.1)[0]

    with jax.enable_x64(True):
        (one, one_slope), (sixteen, sixteen_slope) = (jax.value_and_grad(loss)(z, copies) for copies in (1, 16))
        assert 8 * float(sixteen) == pytest.approx(float(one) / 2 + np.log(16), rel=1e-12)
        np.testing.assert_allclose(16 * np.array(sixteen_slope), np.array(one_slope), rtol=1e-9, atol=1e-12)


def test_regression_is_byols_on_one_mask():
    anchors, targets = np.random.default_rng(2).normal(size=(2, 5, 2, 1, 7)).astype(np.float32)
    loss, _ = detcon_loss(anchors, targets, np.zeros((5, 2, 1), np.int32), form="regression")
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (anchors, targets[:, ::-1])]
    expected = 2 * np.mean(np.sum((unit[0] - unit[1]) ** 2, -1))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("form", ["paper", "release", "regression"])
def test_disjoint_masks_give_zero_loss_and_finite_gradient(form):
    anchors, targets, ids = latents(0, padding=0)
    ids = ids + np.array([0, 1000])[:, None].astype(np.int32)
    loss, gradient = jax.value_and_grad(lambda a: detcon_loss(a, np.float32(targets), ids, form=form)[0])(
        jnp.float32(anchors)
    )
    assert float(loss) == 0
    assert not np.any(gradient)


@pytest.mark.parametrize("form", ["paper", "release"])
def test_no_negatives_at_all_stays_finite(form):
    anchors, targets, _ = latents(0, n=1)
    compute = jax.value_and_grad(
        lambda a: detcon_loss(a, np.float32(targets), np.zeros((1, 2, 5), np.int32), form=form)[0]
    )
    loss, gradient = compute(jnp.float32(anchors))
    assert np.isfinite(loss)
    assert np.all(np.isfinite(gradient))


def test_padding_changes_nothing():
    anchors, targets, ids = latents(5, padding=0)
    pad = [(0, 0), (0, 0), (0, 3), (0, 0)]
    plain = detcon_loss(np.float32(anchors), np.float32(targets), ids)[0]
    padded_ids = np.pad(ids, pad[:3], constant_values=-1)
    fill = {"constant_values": 7.0}
    padded = detcon_loss(np.pad(np.float32(anchors), pad, **fill), np.pad(np.float32(targets), pad, **fill), padded_ids)
    assert float(padded[0]) == pytest.approx(float(plain), rel=1e-6)


def test_diagnostics_count_pairs_and_masks():
    anchors, targets, ids = latents(6)
    _, found = detcon_loss(np.float32(anchors), np.float32(targets), ids)
    a = anchors / np.linalg.norm(anchors, axis=-1, keepdims=True)
    t = targets / np.linalg.norm(targets, axis=-1, keepdims=True)
    positive, negative, matched, valid, distinct = [], [], 0, 0, 0
    for i in range(4):
        for v in range(2):
            distinct += len(set(ids[i, v]) - {-1})
            for m in range(5):
                if ids[i, v, m] < 0:
                    continue
                valid += 1
                matched += ids[i, v, m] in ids[i, 1 - v]
                for j in range(4):
                    for k in range(5):
                        if ids[j, 1 - v, k] < 0:
                            continue
                        cosine = a[i, v, m] @ t[j, 1 - v, k]
                        if j != i:
                            negative.append(cosine)
                        elif ids[j, 1 - v, k] == ids[i, v, m]:
                            positive.append(cosine)
    assert float(found["positive_similarity"]) == pytest.approx(np.mean(positive), rel=1e-5)
    assert float(found["negative_similarity"]) == pytest.approx(np.mean(negative), abs=1e-6)
    assert float(found["matched"]) == pytest.approx(matched / valid, rel=1e-6)
    assert float(found["distinct_masks"]) == pytest.approx(distinct / 8, rel=1e-6)


def test_logits_are_never_held_at_once():
    """Temporary memory of loss and gradient at a small chunk stays well below one full block of logits."""
    n, masks, d = 64, 16, 8
    x = jax.ShapeDtypeStruct((n, 2, masks, d), jnp.float32)
    ids = jax.ShapeDtypeStruct((n, 2, masks), jnp.int32)

    def temporary(chunk):
        step = jax.jit(jax.grad(lambda a, t, i: detcon_loss(a, t, i, chunk=chunk)[0], (0, 1)))
        return step.lower(x, x, ids).compile().memory_analysis().temp_size_in_bytes

    assert temporary(64) < (n * masks) ** 2 * 4 < temporary(n * masks)


def object_latents(n=128, masks=16, d=256, objects=8):
    """Latents as training makes them: near their object's, and all of them near one direction."""
    random = np.random.default_rng(0)
    ids = random.integers(0, objects, (n, 2, masks)).astype(np.int32)
    centres = random.normal(size=(n, objects, d)) + 0.5 * random.normal(size=d)
    near = centres[np.arange(n)[:, None, None], ids]
    return *(np.float32(near + random.normal(size=near.shape)) for _ in range(2)), ids


def relative_gap(a, b) -> float:
    return float(np.linalg.norm(np.float64(a) - np.float64(b)) / np.linalg.norm(np.float64(b)))


def test_operands_rounded_to_bfloat16_change_neither_loss_nor_gradient_to_speak_of():
    anchors, targets, ids = object_latents()
    slope = jax.jit(
        jax.value_and_grad(lambda a, t, p: detcon_loss(a, t, ids, precision=p, chunk=1024)[0], (0, 1)),
        static_argnums=2,
    )
    (exact, exact_slopes), (rounded, rounded_slopes) = (slope(anchors, targets, p) for p in ("highest", "bfloat16"))
    assert float(rounded) != float(exact)  # the rounding is there: else this compares float32 with itself
    assert float(rounded) == pytest.approx(float(exact), rel=5e-5)
    for found, expected in zip(rounded_slopes, exact_slopes):
        assert found.dtype == np.float32
        cosine = np.vdot(found, expected) / np.linalg.norm(found) / np.linalg.norm(expected)
        assert cosine > 0.99998
        assert 0 < relative_gap(found, expected) < 1e-3
    # The control: operands of eight bits would be seen.
    coarse = [np.float32(jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float8_e4m3fn))
              for x in (anchors, targets)]  # fmt: skip
    assert relative_gap(slope(*coarse, "highest")[1][0], slope(anchors, targets, "highest")[1][0]) > 1e-2


def test_precision_is_the_platforms_unless_it_is_named():
    assert [losses.resolve_precision("auto", p) for p in ("cpu", "tpu", "gpu")] == ["highest", "bfloat16", "bfloat16"]
    assert losses.resolve_precision("high", "cpu") == "high"
