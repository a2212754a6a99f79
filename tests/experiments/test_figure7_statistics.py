"""The statistics of Figure 7 against slow definitions, other implementations, and data in which nothing is to be found."""

import itertools

import numpy as np
import pytest
import scipy.stats

from experiments.figure7 import statistics


def test_sign_flip_is_exact():
    """Against listing all patterns by hand, and scipy's own permutation test."""
    d = [0.4, -0.1, 0.3, 0.25, 0.05, 0.2]
    sums = [sum(s * x for s, x in zip(signs, d)) for signs in itertools.product((1, -1), repeat=6)]
    expected = sum(s >= sum(d) - 1e-12 for s in sums) / 64
    assert statistics.sign_flip_p(d) == expected
    other = scipy.stats.permutation_test(
        (d,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf
    )
    assert statistics.sign_flip_p(d) == pytest.approx(other.pvalue)
    assert statistics.sign_flip_p([0.1] * 8) == 2**-8  # ties of all patterns but one


def test_sign_flip_finds_nothing_in_noise():
    """The control: in data without a difference, p below .05 comes in about one of twenty."""
    random = np.random.default_rng(0)
    p = np.array([statistics.sign_flip_p(random.normal(size=8)) for _ in range(400)])
    assert 0.02 < (p <= 0.05).mean() < 0.09
    shifted = np.array([statistics.sign_flip_p(random.normal(size=8) + 1.5) for _ in range(100)])
    assert (shifted <= 0.05).mean() > 0.9


@pytest.mark.parametrize("pairs", [0, 21])
def test_sign_flip_says_how_many(pairs):
    with pytest.raises(ValueError, match=f"1 to 20 pairs, got {pairs}"):
        statistics.sign_flip_p([1.0] * pairs)


def test_wilcoxon_of_no_difference():
    assert statistics.wilcoxon_p([0.0] * 8) == 1
    assert statistics.wilcoxon_p([0.1 * i for i in range(1, 9)]) == pytest.approx(2**-8)


def test_a_run_without_a_score_shows_nothing():
    """NaN compares false with everything: p would be 0."""
    broken = [0.5] * 7 + [float("nan")]
    assert statistics.sign_flip_p(broken) == statistics.wilcoxon_p(broken) == 1
    assert statistics.spearman_p([1, 2, 3], [1, 2, float("nan")]) == 1


def test_holm():
    """Holm's own procedure: the k-th smallest of m is times m - k + 1, never below one before it."""
    assert statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert statistics.holm({"a": 0.9, "b": 0.8}) == {"a": 1, "b": 1}


def test_holm_is_needed():
    """The control: of families of seven without a difference, uncorrected tests reject far more than one in twenty."""
    random = np.random.default_rng(1)
    plain = corrected = 0
    for _ in range(300):
        p = {str(i): float(x) for i, x in enumerate(random.random(7))}
        plain += min(p.values()) <= 0.05
        corrected += min(statistics.holm(p).values()) <= 0.05
    assert plain / 300 > 0.2
    assert corrected / 300 < 0.09


def test_spearman_exact_p():
    """A perfect order of five is one of 120; the reverse order is not evidence."""
    x = [0.1, 0.2, 0.3, 0.5, 1.0]
    assert statistics.spearman(x, [1, 2, 3, 4, 5]) == pytest.approx(1)
    assert statistics.spearman_p(x, [1, 2, 3, 4, 5]) == pytest.approx(1 / 120)
    assert statistics.spearman_p(x, [5, 4, 3, 2, 1]) == 1
    assert np.isnan(statistics.spearman(x, [1] * 5))
    with pytest.raises(ValueError, match="at most 9 arms, got 10"):
        statistics.spearman_p(range(10), range(10))


def test_interval_of_spearman_covers_noise():
    """Where arms do not differ the interval is wide, where they do it is not."""
    random, x = np.random.default_rng(2), np.arange(8.0)
    low, high = statistics.interval_of_spearman(x, random.normal(size=(8, 8)), draws=300)
    assert high - low > 0.4
    one = x[:, None] + np.zeros((1, 3))  # draws that cannot differ
    assert statistics.interval_of_spearman(x, one, draws=5) == pytest.approx((1, 1))
    low, high = statistics.interval_of_spearman(x, x[:, None] + 0.1 * random.normal(size=(8, 8)), draws=300)
    assert low > 0.95


def test_steps_to_reach():
    steps = [0, 10, 20, 40]
    assert statistics.steps_to_reach(steps, [0.1, 0.2, 0.4, 0.5], 0.3) == 15
    assert statistics.steps_to_reach(steps, [0.1, 0.2, 0.4, 0.5], 0.1) == 0
    assert statistics.steps_to_reach(steps, [0.1, 0.2, 0.4, 0.5], 0.6) == float("inf")


def test_step_ratio():
    """Twice as fast is 2; the same curve is 1; a worse one never arrives and is 0."""
    steps = [0, 10, 20, 40]
    base = np.array([[0.0, 0.1, 0.2, 0.4]] * 3)
    fast = np.array([[0.0, 0.2, 0.4, 0.5]] * 3)
    assert statistics.step_ratio(steps, fast, base) == pytest.approx(2)
    assert statistics.step_ratio(steps, base, base) == pytest.approx(1)
    assert statistics.step_ratio(steps, base - 0.01, base) == 0


def test_interval_of_mean():
    assert statistics.interval_of_mean([1.0, 2.0, 3.0]) == pytest.approx(scipy.stats.t.interval(0.95, 2, 2, 3**-0.5))
    assert np.isnan(statistics.interval_of_mean([1.0])[0])
