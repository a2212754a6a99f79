"""Felzenszwalb-Huttenlocher segments (paper, section 3.2), to scikit-image's partition."""

import dataclasses
import math

import numpy as np
from skimage.segmentation import felzenszwalb

from masks.label_map import encode_label_map, relabel_dense
from schemas.image import ImageRecord
from schemas.mask import Layer, MaskSet


def segment(image: np.ndarray, scales=(500, 1000, 1500), min_sizes=None, sigma: float = 0.8) -> list[np.ndarray]:
    """Segments one image at several scales.

    Args:
        image: uint8[height, width, 3] or [height, width].
        scales: FH's k, one label map each. Higher means larger segments.
        min_sizes: smallest segment per scale, pixels; the scales themselves where None (paper: c = s).
        sigma: standard deviation of the smoothing before, pixels; 0 means none.

    Returns:
        int32[height, width] per scale, labels dense from 0 in raster order.
    """
    sizes = scales if min_sizes is None else min_sizes
    return [
        relabel_dense(
            felzenszwalb(image, scale=scale, sigma=sigma, min_size=size, channel_axis=-1 if image.ndim == 3 else None)
        )
        for scale, size in zip(scales, sizes, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Felzenszwalb:
    """Generator `fh(scales=(500, 1000, 1500))`: layers `fh-SCALE`.

    Attributes:
        scales: FH's k, each above 0. Higher means larger segments.
        min_sizes: smallest segment per scale, pixels; None means the scale itself (paper: c = s); one number means the
            same for all.
        sigma: standard deviation of the smoothing before, pixels, at least 0.
    """

    scales: tuple[float, ...] = (500, 1000, 1500)
    min_sizes: tuple[int, ...] | int | None = None
    sigma: float = 0.8

    def __post_init__(self):
        scales = tuple(self.scales) if isinstance(self.scales, tuple | list) else (self.scales,)
        sizes = self.min_sizes
        if isinstance(sizes, tuple | list):
            sizes = tuple(sizes)
        elif sizes is not None:
            sizes = (sizes,) * len(scales)
        if not scales or any(isinstance(s, bool) or not isinstance(s, int | float) for s in scales):
            raise ValueError(f"fh scales must be numbers, got {self.scales!r}")
        if any(not math.isfinite(s) or s <= 0 for s in scales) or len(set(scales)) != len(scales):
            raise ValueError(f"fh scales must be above 0 and each given once, got {self.scales!r}")
        if sizes is not None and (
            len(sizes) != len(scales) or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in sizes)
        ):
            raise ValueError(f"fh min_sizes must be one whole number >= 0 per scale, got {self.min_sizes!r}")
        if isinstance(self.sigma, bool) or not isinstance(self.sigma, int | float) or not 0 <= self.sigma < 1000:
            raise ValueError(f"fh sigma must be a number in 0..1000, got {self.sigma!r}")
        object.__setattr__(self, "scales", scales)
        object.__setattr__(self, "min_sizes", sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(round(s) for s in self.scales) if self.min_sizes is None else self.min_sizes

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(
            Layer(f"fh-{scale:g}", "fh", {"scale": scale, "min_size": size, "sigma": self.sigma})
            for scale, size in zip(self.scales, self._sizes, strict=True)
        )

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        return tuple(encode_label_map(labels) for labels in segment(record.image, self.scales, self._sizes, self.sigma))
