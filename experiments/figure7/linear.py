"""A linear classifier of frozen features, fitted to convergence, and how well it ranks each class.

Multinomial logistic regression by L-BFGS: convex, so that no order of batches and no rate of its own stands between arms.
"""

import numpy as np
import scipy.optimize
import scipy.stats

PENALTY = 1e-3  # on squared weights, per row's mean loss
ITERATIONS = 60
FEWEST = 5  # rows of a class, and rows without it, below which it is not scored


def fit_linear(
    rows: np.ndarray, targets: np.ndarray, weight: np.ndarray, iterations: int = ITERATIONS
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on soft labels: float32 kernel[channels, outputs] and bias[outputs].

    Minimises the weighted mean cross-entropy plus `PENALTY` x the sum of squares of the kernel.
    """
    keep = weight > 0
    rows, targets, weight = rows[keep], targets[keep], weight[keep] / weight[keep].sum()
    channels, outputs = rows.shape[1], targets.shape[1]

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        kernel, bias = x[:-outputs].reshape(channels, outputs).astype(np.float32), x[-outputs:].astype(np.float32)
        logits = rows @ kernel + bias
        logits -= logits.max(1, keepdims=True)
        exp = np.exp(logits)
        total = exp.sum(1, keepdims=True)
        loss = float((weight * (np.log(total[:, 0]) - (targets * logits).sum(1))).sum())
        error = weight[:, None] * (exp / total - targets)
        gradient = np.concatenate([(rows.T @ error + 2 * PENALTY * kernel).ravel(), error.sum(0)])
        return loss + PENALTY * float((kernel**2).sum()), gradient.astype(np.float64)

    start = np.zeros((channels + 1) * outputs)
    best = scipy.optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations}).x
    return best[:-outputs].reshape(channels, outputs).astype(np.float32), best[-outputs:].astype(np.float32)


def mean_auc(logits: np.ndarray, shares: np.ndarray) -> float:
    """Area under the ROC curve, mean over classes: how often a row of a class outranks one without it; .5 is chance.

    Unlike an overlap it needs no threshold and moves with every row, so small differences between features show.

    Args:
        logits: float[n, classes]; a row's score for a class is its log-probability.
        shares: float[n, classes], what part of a row has the class: from a half on it counts as one, and 0 as one without.
    """
    scores = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
    found = []
    for index in range(shares.shape[1]):
        positive, negative = shares[:, index] >= 0.5, shares[:, index] == 0
        count, others = int(positive.sum()), int(negative.sum())
        if min(count, others) >= FEWEST:
            ranks = scipy.stats.rankdata(np.concatenate([scores[positive, index], scores[negative, index]]))
            found.append((ranks[:count].sum() - count * (count + 1) / 2) / (count * others))
    return float(np.mean(found))
