"""What the scores of arms and seeds say, with the tests that the preregistration names. Plain arrays in, numbers out.

Differences are paired: one seed gives every arm the same initial weights, order, crops and colours. With n seeds the
exact sign-flip test has 2**n equally likely outcomes under the hypothesis of no difference, so its smallest one-sided p is
2**-n: 8 seeds give .0039, which seven comparisons still leave below .05 after Holm.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.stats

MOST_EXACT = 20  # pairs of which all sign patterns are listed


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation, ties by mean rank; nan where either side is constant."""
    if len(set(x)) < 2 or len(set(y)) < 2:
        return float("nan")
    return float(scipy.stats.spearmanr(x, y).statistic)


def spearman_p(x: Sequence[float], y: Sequence[float]) -> float:
    """Exact one-sided p: the part of all orders of `y` that correlate with `x` at least as well. At most 9 arms."""
    if len(x) > 9:
        raise ValueError(f"the exact test lists all orders of at most 9 arms, got {len(x)}")
    if not np.isfinite([*x, *y]).all():
        return 1.0
    rx, ry = scipy.stats.rankdata(x), scipy.stats.rankdata(y)
    # Correlations of equal ranks differ by rounding only.
    return float((ry[_orders(len(x))] @ rx >= ry @ rx - 1e-9).mean())


@functools.lru_cache(maxsize=1)
def _orders(n: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(n))), np.int8)


def interval_of_spearman(
    x: Sequence[float], scores: np.ndarray, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of Spearman's correlation with the means over seeds, seeds drawn with replacement.

    Args:
        x: one number per arm.
        scores: float[arms, seeds].
    """
    random = np.random.default_rng(seed)
    picked = random.integers(0, scores.shape[1], (draws, scores.shape[1]))
    rx = scipy.stats.rankdata(x)
    ranks = scipy.stats.rankdata(scores[:, picked].mean(2).T, axis=1)
    with np.errstate(invalid="ignore"):  # a draw in which all arms are equal has no correlation
        centred = ranks - ranks.mean(1, keepdims=True)
        found = centred @ (rx - rx.mean()) / (np.linalg.norm(centred, axis=1) * np.linalg.norm(rx - rx.mean()))
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Exact one-sided p of a mean above 0: the part of all sign patterns whose mean is at least the one seen."""
    d = np.asarray(differences, float)
    if not 1 <= len(d) <= MOST_EXACT:
        raise ValueError(f"the exact test takes 1 to {MOST_EXACT} pairs, got {len(d)}")
    if not np.isfinite(d).all():
        return 1.0  # a run without a score shows nothing
    signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(d))))
    return float((signs @ d >= d.sum() - 1e-12 * np.abs(d).sum()).mean())


def wilcoxon_p(differences: Sequence[float]) -> float:
    """One-sided p of the signed-rank test; 1 where all differences are 0, or one is not a number."""
    d = np.asarray(differences, float)
    shows = np.isfinite(d).all() and np.any(d)
    return float(scipy.stats.wilcoxon(d, alternative="greater").pvalue) if shows else 1.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values of a family of tests (Holm 1979), by name."""
    adjusted, largest = {}, 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p) - rank) * value))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def interval_of_mean(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's interval of a mean; (nan, nan) of fewer than two values."""
    v = np.asarray(values, float)
    if len(v) < 2:
        return float("nan"), float("nan")
    half = float(scipy.stats.t.ppf((1 + level) / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)))
    return float(v.mean()) - half, float(v.mean()) + half


def steps_to_reach(steps: Sequence[int], curve: Sequence[float], target: float) -> float:
    """Steps at which a curve first reaches a score, linear between checkpoints from step 0's score on; inf if never.

    Args:
        steps: rising; the first is usually 0, the network as it was drawn.
        curve: scores at these steps.
    """
    for index, score in enumerate(curve):
        if score >= target:
            if index == 0:
                return float(steps[0])
            before = curve[index - 1]
            part = (target - before) / (score - before)
            return float(steps[index - 1] + part * (steps[index] - steps[index - 1]))
    return float("inf")


def step_ratio(steps: Sequence[int], better: np.ndarray, base: np.ndarray) -> float:
    """Steps the base takes to its best mean score, over those the other arm takes to the same; 0 if it never gets there.

    Args:
        better, base: float[seeds, checkpoints]; curves are means over seeds, so that one seed's luck is not the target.
    """
    of_base = base.mean(0)
    best = float(of_base.max())
    return steps_to_reach(steps, of_base.tolist(), best) / max(
        steps_to_reach(steps, better.mean(0).tolist(), best), 1e-9
    )
