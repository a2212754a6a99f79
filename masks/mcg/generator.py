"""Generator `mcg`: the first so many object proposals of an MCG-style pipeline."""

import dataclasses
from typing import ClassVar

import numpy as np

from maskmill.masks.mcg.contours import CONTOUR_FEATURES
from maskmill.masks.mcg.features import CANDIDATE_FEATURES
from maskmill.masks.mcg.models import Model, load_model
from maskmill.masks.mcg.proposals import QUALITIES, Lap, Proposals, labels_in_frame, propose_image
from maskmill.masks.mcg.selection import select
from maskmill.masks.runs import encode_sets
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

MAX_TOP = 10_000


@dataclasses.dataclass(frozen=True)
class Mcg:
    """Generator `mcg(top=16)`: layer `mcg-TOP`, masks in rank order, overlapping.

    Named after Multiscale Combinatorial Grouping (Pont-Tuset et al., TPAMI 2017), whose stages it follows; code, contour
    and ranking models are this project's, so its masks are MCG-style, not MCG's.

    Attributes:
        top: masks per picture, 1..10000; pictures with fewer candidates have fewer.
        quality: `standard`, or `high`: more regions, more groups, about twice the time.
        contour: `default`, `gradient` (no model, no labels; poorer masks), or the path of a model file.
        ranker: `default`, `none` (no model: ordered by how long a region lasts in its tree, much poorer), or a path.
    """

    top: int = 16
    quality: str = "standard"
    contour: str = "default"
    ranker: str = "default"

    bytes_per_pixel: ClassVar[int] = 150  # at most; far fewer where pictures are large

    def __post_init__(self):
        if isinstance(self.top, bool) or not isinstance(self.top, int) or not 1 <= self.top <= MAX_TOP:
            raise ValueError(f"mcg top must be a whole number in 1..{MAX_TOP}, got {self.top!r}")
        if self.quality not in QUALITIES:
            raise ValueError(f"mcg quality must be {' or '.join(QUALITIES)}, got {self.quality!r}")
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
        params = {"top": self.top, "quality": self.quality, "contour": self.contour, "ranker": self.ranker}
        return (Layer(f"mcg-{self.top}", "mcg", params, provenance, disjoint=False),)

    def propose(self, image: np.ndarray, lap: Lap = lambda stage: None) -> tuple[Proposals, np.ndarray]:
        """All candidates of a picture uint8[h, w, 3], and their scores float32[P]."""
        contour, ranker = self.contour_model, self.ranker_model
        proposals = propose_image(image, contour.trees if contour else None, QUALITIES[self.quality], lap)
        score = ranker.trees.predict(proposals.features) if ranker else proposals.candidates.end
        lap("ranking")
        return proposals, score

    def __call__(self, record: ImageRecord, lap: Lap = lambda stage: None) -> tuple[MaskSet, ...]:
        proposals, score = self.propose(record.image, lap)
        members = proposals.candidates.members
        chosen = select(members, proposals.regions.area, score, self.top)
        lap("selection")
        labels = labels_in_frame(proposals.hierarchy.labels, record.height, record.width)
        masks = encode_sets(members[chosen], labels, score[chosen])
        lap("encoding")
        return (masks,)


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
