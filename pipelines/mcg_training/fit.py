"""Fits tree models with LightGBM and turns them into our own arrays. Needed to train only: `pip install 'maskmill[ranker]'`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.masks.mcg.trees import TreeModel, pack_trees
from maskmill.schemas.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Float32, Shaped
    from lightgbm import Booster

# One thread and no sampling that depends on it: the same rows give the same model on every machine with one LightGBM.
_COMMON = {
    "seed": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbose": -1,
    "bagging_freq": 1,
    "max_bin": 127,
    "lambda_l2": 5.0,
}
CONTOUR = {
    **_COMMON,
    "objective": "binary",
    "num_leaves": 31,
    "learning_rate": 0.1,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.7,
}
CONTOUR_TREES = 64
RANKER = {
    **_COMMON,
    "objective": "regression",
    "num_leaves": 9,
    "learning_rate": 0.05,
    "min_data_in_leaf": 150,
    "feature_fraction": 0.25,
    "bagging_fraction": 0.6,
}
RANKER_TREES = 400
# The ranker is the mean of boosted trees and a random forest: their errors differ, and the selection of a few among
# thousands is sensitive to errors.
FOREST = {
    **_COMMON,
    "objective": "regression",
    "boosting": "rf",
    "num_leaves": 127,
    "min_data_in_leaf": 30,
    "feature_fraction": 0.33,
    "bagging_fraction": 0.5,
    "lambda_l2": 0.0,
}
FOREST_TREES = 100


def nested_lightgbm(booster: Booster) -> list[dict]:
    """A LightGBM booster as nested dicts (see `pack_trees`).

    Raises:
        ValueError: it compares otherwise than by `<=` (categories), which our arrays cannot say.
    """

    def nest(node: dict[str, Any]) -> dict[str, Any]:
        if "split_feature" not in node:
            return {"value": node["leaf_value"]}
        if node["decision_type"] != "<=":
            raise ValueError(f"a split compares by {node['decision_type']!r}; only <= can be stored")
        return {
            "feature": node["split_feature"],
            "threshold": node["threshold"],
            "left": nest(node["left_child"]),
            "right": nest(node["right_child"]),
        }

    return [nest(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]


def scaled(tree: dict, factor: float) -> dict:
    """A nested tree with its leaf values times `factor`."""
    if "value" in tree:
        return {"value": tree["value"] * factor}
    return {**tree, "left": scaled(tree["left"], factor), "right": scaled(tree["right"], factor)}


def fit_contour(rows: Float32[np.ndarray, "n features"], target: Shaped[np.ndarray, " n"]) -> TreeModel:
    """The contour model: boosted trees whose sum is the log odds of a contour; see `_fit`."""
    return pack_trees(_fit(rows, target, CONTOUR, CONTOUR_TREES))


def fit_ranker(rows: Float32[np.ndarray, "n features"], target: Shaped[np.ndarray, " n"]) -> TreeModel:
    """The ranker: the mean of boosted trees and a random forest, both regressing the overlap; see `_fit`."""
    boosted = _fit(rows, target, RANKER, RANKER_TREES)
    forest = _fit(rows, target, FOREST, FOREST_TREES)  # its prediction is the mean of its trees
    return pack_trees([scaled(t, 0.5) for t in boosted] + [scaled(t, 0.5 / len(forest)) for t in forest])


def _fit(rows: np.ndarray, target: np.ndarray, params: dict, trees: int) -> list[dict]:
    """Trees as nested dicts.

    Args:
        rows: float32[n, features]; target: float[n].
        params: LightGBM parameters; trees: how many.

    Raises:
        UsageError: LightGBM is not installed, or there is nothing to learn from.
    """
    try:
        import lightgbm
    except ImportError:
        raise UsageError("training needs LightGBM; install it with: pip install 'maskmill[ranker]'") from None
    if len(rows) < 2 * params["min_data_in_leaf"]:
        raise UsageError(f"{len(rows)} sampled rows are too few to train on; give more annotated images")
    return nested_lightgbm(lightgbm.train(params, lightgbm.Dataset(rows, target), trees))
