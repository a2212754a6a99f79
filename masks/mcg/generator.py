"""Generator `mcg`: the first so many object proposals of an MCG-style pipeline."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from maskmill.masks.mcg.contours import CONTOUR_FEATURES
from maskmill.masks.mcg.features import CANDIDATE_FEATURES
from maskmill.masks.mcg.models import Model, load_model
from maskmill.masks.mcg.proposals import STANDARD, OnStage, Proposals, labels_in_frame, propose_image
from maskmill.masks.mcg.selection import select
from maskmill.masks.runs import encode_sets
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

MAX_TOP = 10_000


@dataclasses.dataclass(frozen=True)
class Mcg:
    """Generator `mcg(top=16)`: layer `mcg-TOP`, masks in rank order, overlapping.

    Named after Multiscale Combinatorial Grouping (Pont-Tuset et al., TPAMI 2017), whose stages it follows; code, contour
    and ranking models are this project's, so its masks are MCG-style, not MCG's.

    Attributes:
        top: masks per picture, 1..10000; pictures with fewer candidates have fewer. Several make a layer of each for the
            price of one: `mcg(top=(16, 100, 1000))`; the longer lists begin with the shorter ones.
        contour: `default`, `gradient` (no model, no labels; poorer masks), or the path of a model file.
        ranker: `default`, `none` (no model: ordered by how long a region lasts in its tree, much poorer), or a path.
    """

    # parameters that earlier releases had -> why they are gone
    RETIRED: ClassVar[dict[str, str]] = {"quality": "it was taken out in 0.2: it cost a third more and was no better"}

    top: int | tuple[int, ...] = 16
    contour: str = "default"
    ranker: str = "default"

    bytes_per_pixel: ClassVar[int] = 150  # at most; far fewer where pictures are large

    def __post_init__(self) -> None:
        tops = tuple(self.top) if isinstance(self.top, tuple | list) else (self.top,)
        if not tops or any(isinstance(t, bool) or not isinstance(t, int) or not 1 <= t <= MAX_TOP for t in tops):
            raise ValueError(f"mcg top must be a whole number in 1..{MAX_TOP}, or several, got {self.top!r}")
        if len(set(tops)) != len(tops):
            raise ValueError(f"mcg top must name each length once, got {self.top!r}")
        if isinstance(self.top, list):
            object.__setattr__(self, "top", tops)
        if self.ranker is None:
            object.__setattr__(self, "ranker", "none")
        for name in ("contour", "ranker"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"mcg {name} must be a word or a path, got {getattr(self, name)!r}")
        _ = self.contour_model, self.ranker_model  # a missing or damaged file is known before any worker starts

    @property
    def contour_model(self) -> Model | None:
        return None if self.contour == "gradient" else load_model(self.contour, "contour", CONTOUR_FEATURES)

    @property
    def ranker_model(self) -> Model | None:
        return None if self.ranker == "none" else load_model(self.ranker, "ranker", CANDIDATE_FEATURES)

    @property
    def _tops(self) -> tuple[int, ...]:
        return self.top if isinstance(self.top, tuple) else (self.top,)

    @property
    def layers(self) -> tuple[Layer, ...]:
        contour, ranker = self.contour_model, self.ranker_model
        provenance = {
            "contour": contour.provenance
            if contour
            else {"labels": [], "note": "colour gradients, learnt from no label"},
            "ranker": ranker.provenance
            if ranker
            else {"labels": [], "note": "fallback: heuristic order, learnt from no label"},
        }
        models = {"contour": self.contour, "ranker": self.ranker}
        return tuple(
            Layer(f"mcg-{top}", "mcg", {"top": top, **models}, provenance, disjoint=False) for top in self._tops
        )

    def propose(
        self, image: UInt8[np.ndarray, "h w 3"], on_stage: OnStage = lambda stage: None
    ) -> tuple[Proposals, Float32[np.ndarray, " candidates"]]:
        """All candidates of a picture uint8[h, w, 3], and their scores float32[P]."""
        contour, ranker = self.contour_model, self.ranker_model
        proposals = propose_image(image, contour.trees if contour else None, STANDARD, on_stage)
        score = ranker.trees.predict(proposals.features) if ranker else proposals.candidates.end
        on_stage("ranking")
        return proposals, score

    def __call__(self, record: ImageRecord, on_stage: OnStage = lambda stage: None) -> tuple[MaskSet, ...]:
        proposals, score = self.propose(record.image, on_stage)
        members = proposals.candidates.members
        chosen = select(members, proposals.regions.area, score, max(self._tops))
        on_stage("selection")
        labels = labels_in_frame(proposals.hierarchy.labels, record.height, record.width)
        masks = encode_sets(members[chosen], labels, score[chosen])
        on_stage("encoding")
        return tuple(MaskSet(masks.counts[:top], masks.area[:top], masks.score[:top]) for top in self._tops)


def propose(image: np.ndarray, *, top: int = 16) -> MaskSet:
    """Object proposals of one picture, with the shipped models.

    Args:
        image: uint8[h, w, 3], RGB.
        top: how many at most, 1..10000.

    Returns:
        Masks in rank order, overlapping, as COCO RLE with areas and scores.

    Raises:
        ValueError: `top` out of range, or not such an array.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"propose takes uint8[height, width, 3], got {image.dtype}{list(image.shape)}")
    return Mcg(top=top)(ImageRecord("", image))[0]
