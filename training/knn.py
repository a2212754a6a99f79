"""Weighted k-nearest-neighbour classification on cosine similarity (Wu et al. 2018, arXiv:1805.01978)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Integer

_SIMILARITIES = 1 << 26  # in memory at a time


def knn_accuracy(
    train: Float[np.ndarray, "n d"],
    train_labels: Integer[np.ndarray, " n"],
    test: Float[np.ndarray, "m d"],
    test_labels: Integer[np.ndarray, " m"],
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of test vectors whose label wins the vote of their k nearest training vectors.

    A neighbour of cosine similarity s votes with weight exp(s / temperature); of equal sums the smaller label wins.

    Args:
        train: float32[n, d].
        train_labels: int64[n], not negative.
        test: float32[m, d].
        test_labels: int64[m].
        k: neighbours, at most n of them.
        temperature: of the weights.

    Returns:
        Accuracy in 0..1.

    Raises:
        ValueError: there is nothing to train or to test on.
    """
    if not len(train) or not len(test):
        raise ValueError(f"k-NN needs vectors on both sides, got {len(train)} to train and {len(test)} to test on")
    train, test = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train, test))
    k, labels, right = min(k, len(train)), int(train_labels.max()) + 1, 0
    block = max(1, _SIMILARITIES // len(train))
    for start in range(0, len(test), block):
        similarity = test[start : start + block] @ train.T
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        # The largest weight is 1, so that no sum overflows.
        weight = np.exp((np.take_along_axis(similarity, nearest, 1) - 1) / temperature)
        votes = np.zeros((len(similarity), labels))
        np.add.at(votes, (np.arange(len(votes))[:, None], train_labels[nearest]), weight)
        right += int((votes.argmax(1) == test_labels[start : start + block]).sum())
    return right / len(test)
