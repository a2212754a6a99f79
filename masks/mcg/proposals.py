"""A picture to its candidates: the stages in order, and the bounds that keep each of them finite."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import cv2
import numpy as np

from maskmill.masks.mcg.candidates import Candidates, as_candidates, fill, propose
from maskmill.masks.mcg.contours import gradient_contours, learned_contours, shrink
from maskmill.masks.mcg.features import candidate_features
from maskmill.masks.mcg.hierarchy import Hierarchy, build_hierarchy
from maskmill.masks.mcg.regions import Regions, measure_regions
from maskmill.masks.mcg.trees import TreeModel

if TYPE_CHECKING:
    from jaxtyping import Int32, UInt8

OnStage = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much work a picture gets. Every bound is on sizes, never on time: results do not depend on the machine's load.

    Attributes:
        scales: picture scales whose contours are segmented, finest first.
        max_pixels: larger pictures are worked on at a reduced size; the masks are in the picture's own frame.
        max_side: likewise for the longer side, which bounds extreme shapes.
        max_leaves: leaf regions.
        merges: merges undone per tree for groups of two and more.
        quotas: singletons, pairs, triplets and 4-tuples kept of the combined tree, then of each scale's. Twice as many
            singletons as leaves are all of a tree's nodes: small objects are nodes from far down.
    """

    scales: tuple[float, ...]
    max_pixels: int
    max_side: int
    max_leaves: int
    merges: int
    quotas: tuple[tuple[int, int, int, int], ...]


STANDARD = Settings(
    scales=(1, 0.5, 0.25),
    max_pixels=640 * 640,
    max_side=8192,
    max_leaves=2500,
    merges=300,
    quotas=((5000, 5000, 1000, 300), (5000, 500, 0, 0), (5000, 5000, 1000, 300), (5000, 5000, 1000, 300)),
)


@dataclasses.dataclass(frozen=True)
class Proposals:
    """The ranked list's raw material.

    Attributes:
        hierarchy, regions: of the working frame.
        candidates: P sets of leaves, holes filled, no two equal.
        features: float32[P, len(CANDIDATE_FEATURES)].
    """

    hierarchy: Hierarchy
    regions: Regions
    candidates: Candidates
    features: np.ndarray


def working_scale(height: int, width: int, settings: Settings) -> float:
    """Factor at most 1 that brings a picture within the bounds."""
    return min(1.0, (settings.max_pixels / (height * width)) ** 0.5, settings.max_side / max(height, width))


def propose_image(
    image: UInt8[np.ndarray, "h w 3"],
    contour_model: TreeModel | None,
    settings: Settings = STANDARD,
    on_stage: OnStage = lambda stage: None,
) -> Proposals:
    """Candidates of one picture and their features.

    Args:
        image: uint8[h, w, 3], RGB.
        contour_model: a tree model over `CONTOUR_FEATURES`; None for plain gradients.
        settings: scales and bounds.
        on_stage: called with the name of each stage when it is done; for clocks.

    Returns:
        The proposals, in the working frame (see `working_scale`); at least one candidate: a flat picture is one region.
    """
    height, width = image.shape[:2]
    image = shrink(image, working_scale(height, width, settings))
    contours = []
    for scale in settings.scales:
        reduced = shrink(image, scale)
        contours.append(
            gradient_contours(reduced) if contour_model is None else learned_contours(reduced, contour_model)
        )
    on_stage("contours")
    hierarchy = build_hierarchy(contours, settings.max_leaves)
    on_stage("hierarchy")
    regions = measure_regions(image, hierarchy, contours[0])
    on_stage("regions")
    groups = propose(hierarchy, regions, settings.quotas, settings.merges)
    on_stage("grouping")
    groups = fill(groups)
    candidates = as_candidates(groups)
    on_stage("holes")
    features = candidate_features(groups, candidates, regions)
    on_stage("features")
    return Proposals(hierarchy, regions, candidates, features)


def labels_in_frame(labels: Int32[np.ndarray, "h w"], height: int, width: int) -> Int32[np.ndarray, "{height} {width}"]:
    """Leaf labels of the working frame in the picture's own frame, nearest neighbour; int32[height, width]."""
    if labels.shape == (height, width):
        return labels
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).reshape(height, width)
