"""A set of masks of one image: what one layer of one image is."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True)
class MaskSet:
    """n masks of one image, overlap allowed, one RLE each, in the layer's order.

    Order: rank order where the generator ranks (best first), else by first pixel in raster order.

    Attributes:
        counts: n compressed COCO RLEs (see `schemas.rle`).
        area: int64[n], pixels, each at least 1.
        score: float32[n]; 1.0 where the generator ranks nothing.
    """

    counts: tuple[bytes, ...]
    area: np.ndarray
    score: np.ndarray

    @classmethod
    def unranked(cls, counts: Iterable[bytes], area: npt.ArrayLike) -> "MaskSet":
        """Masks without a rank: every score is 1.0."""
        area = np.asarray(area, np.int64)
        return cls(tuple(counts), area, np.ones(len(area), np.float32))

    def __post_init__(self) -> None:
        if not len(self.counts) == len(self.area) == len(self.score):
            raise ValueError(
                f"a mask set needs as many areas and scores as masks, "
                f"got {len(self.counts)} masks, {len(self.area)} areas, {len(self.score)} scores"
            )

    def __len__(self) -> int:
        return len(self.counts)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A named set of masks with fixed parameters, as the manifest lists it.

    Attributes:
        name: public name, `fh-1000`, `grid-5`, `mcg-16`, `gt`.
        generator: registry name of the generator that makes it.
        params: JSON-able parameters, complete: the layer can be made again from them.
        provenance: which labels or models were used to make it, in words or digests; empty for label-free heuristics.
        disjoint: whether the masks of one image never overlap.
    """

    name: str
    generator: str
    params: dict
    provenance: dict = dataclasses.field(default_factory=dict)
    disjoint: bool = True
