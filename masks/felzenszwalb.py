"""Felzenszwalb-Huttenlocher segments (paper, section 3.2): scikit-image's partition, several scales for the price of
one.

The algorithm joins pixels along the edges of the 8-neighbour graph, lightest first, while the edge is lighter than what
both sides tolerate: the heaviest edge inside plus scale / size. Afterwards segments below `min_size` are joined to the
neighbour across their lightest edge. `masks._fh` holds the compiled stages and says why they give the same segments;
docs/fh.md draws the whole.

Source: Felzenszwalb and Huttenlocher, Efficient graph-based image segmentation, IJCV 2004. The reference is
`skimage.segmentation.felzenszwalb`, with edges of equal weight in their stable order (right, down, falling, rising,
each in raster order). scikit-image sorts with an unstable sort, so among exact ties its own order is undefined and may
differ: on drawn pictures full of ties, and on photographs that are not smoothed, whose bytes differ by few values (at
sigma 0 on 14 of 25, in half a per cent of the pixels). On smoothed photographs it hardly ever does: once in 175
comparisons, with floats of 0 .. 255.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeGuard

import numpy as np

from maskmill.masks._fh.stages import (
    SharedComponents,
    encode_segments,
    join_scale,
    list_runs,
    paint_segments,
    share_components,
)
from maskmill.masks._fh.tiles import round_down
from maskmill.masks._fh.workspace import Workspace, thread_workspace
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

if TYPE_CHECKING:
    from jaxtyping import Int32, Int64

_log = logging.getLogger(__name__)

MAX_PIXELS = 2**30 - 1  # an edge is named by 30 bits of pixel and 2 of direction
MAX_MAGNITUDE = 1e150  # of float values, so that squared distances stay finite
MAX_SIGMA = 1000.0

Scales = Sequence[float]
MinSizes = Sequence[int] | int | None


def segment(
    image: np.ndarray, scales: Scales = (500, 1000, 1500), min_sizes: MinSizes = None, sigma: float = 0.8
) -> list[Int32[np.ndarray, "height width"]]:
    """Segments one image at several scales.

    Further scales cost a few per cent each. Safe to call from several threads at once; the image is not modified.

    Args:
        image: [height, width], [height, width, 1] or RGB [height, width, 3], any strides. Values count as
            scikit-image reads them (`img_as_float`): integers as parts of their type's largest value, so uint8 as v /
            255, and never below -1; bool as 0 and 1; floats as they are, in any range. Computed with in float64.
        scales: FH's k, any number in any order, each finite and >= 0. Higher means larger segments.
        min_sizes: smallest segment per scale, pixels, >= 0; one number means the same for all; None means the
            scales themselves, rounded (paper: c = s).
        sigma: standard deviation of the Gaussian smoothing before, pixels, 0 .. 1000; 0 means none.

    Returns:
        int32[height, width] per scale, labels dense from 0 in raster order of the segments' first pixels.

    Raises:
        ValueError: an empty image, another shape or dtype, values that are not finite, more than 2**30 - 1 pixels, or
            scales, sizes or a sigma out of range. The message says what was given and what is allowed.
    """
    with _Segmentation(image, scales, min_sizes, sigma) as stages:
        return [paint_segments(stages.shared, segment_of_component) for segment_of_component, _ in stages.scales()]


def segment_to_rle(
    image: np.ndarray, scales: Scales = (500, 1000, 1500), min_sizes: MinSizes = None, sigma: float = 0.8
) -> list[tuple[list[bytes], Int64[np.ndarray, " segments"]]]:
    """Segments one image at several scales, straight to COCO's compressed RLE: no label image is painted.

    Args and Raises: as `segment`.

    Returns:
        Per scale, the counts of every segment, in the order of `segment`'s labels, and their int64 areas in pixels.
    """
    with _Segmentation(image, scales, min_sizes, sigma) as stages:
        runs = list_runs(stages.shared, stages.workspace)
        return [
            encode_segments(stages.shared, runs, segment_of_component, count, stages.workspace)
            for segment_of_component, count in stages.scales()
        ]


def warmup() -> float:
    """Compiles every kernel, or loads it from Numba's cache (`NUMBA_CACHE_DIR`). Returns the seconds it took."""
    start = time.perf_counter()
    for dtype in (np.uint8, np.float32, np.float64):
        picture = np.zeros((3, 3, 3), dtype)
        segment(picture)
        segment_to_rle(picture)
    return time.perf_counter() - start


class _Segmentation:
    """One picture on its way through the stages; leaving the block gives back unusually large buffers."""

    def __init__(self, image: np.ndarray, scales: Scales, min_sizes: MinSizes, sigma: float) -> None:
        self._scales = _check_scales(scales)
        self._min_sizes = _check_min_sizes(min_sizes, self._scales)
        self._sigma = _check_sigma(sigma)
        self._image = _check_image(image)
        self.workspace: Workspace = thread_workspace()
        self.shared: SharedComponents

    def __enter__(self) -> _Segmentation:
        _announce_compiling()
        self.shared = share_components(self._image, min(self._scales), self._sigma, self.workspace)
        return self

    def __exit__(self, *error: object) -> None:
        self.workspace.trim()

    def scales(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yields segment of component and number of segments, scale by scale; each array is overwritten by the next."""
        for scale, min_size in zip(self._scales, self._min_sizes, strict=True):
            yield join_scale(self.shared, scale, min_size, self.workspace)


def _check_image(image: np.ndarray) -> np.ndarray:
    """Returns the image as contiguous [height, width, channels] of uint8, float32 or float64, a view where it can."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image must be a NumPy array, got {type(image).__name__}")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3)):
        raise ValueError(f"image must be [height, width] grey or [height, width, 3] RGB, got shape {image.shape}")
    if image.size == 0:
        raise ValueError(f"image has no pixels: shape {image.shape}")
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ValueError(f"image has {image.shape[0] * image.shape[1]} pixels, at most {MAX_PIXELS} are supported")
    if image.dtype.kind not in "buif" or image.dtype.itemsize > 8:
        raise ValueError(f"image must be of integers, bool, float16, float32 or float64, got {image.dtype}")
    if image.dtype == bool:
        image = image.astype(np.uint8) * np.uint8(255)
    elif image.dtype.kind in "ui" and image.dtype != np.uint8:
        # By the factor, not divided by the largest value: scikit-image's rounding.
        image = np.multiply(image, 1.0 / np.iinfo(image.dtype).max, dtype=np.float64)
        np.maximum(image, -1.0, out=image)
    elif image.dtype != np.uint8:
        # The kernels know no float16; the others go as they are, since a copy would be a third of all memory.
        image = image.astype(np.float32 if image.dtype == np.float16 else image.dtype, copy=False)
        # A NaN or an infinity anywhere makes one of the two not finite.
        low, high = float(image.min()), float(image.max())
        if not (low >= -MAX_MAGNITUDE and high <= MAX_MAGNITUDE):
            raise ValueError(f"float image values must be finite and within +-{MAX_MAGNITUDE:g}, got {low} .. {high}")
    return np.ascontiguousarray(image).reshape(image.shape[0], image.shape[1], -1)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _check_scales(scales: Scales) -> tuple[float, ...]:
    values = tuple(scales)
    if not values or any(not _is_number(s) or not math.isfinite(s) or s < 0 for s in values):
        raise ValueError(f"scales must be one or more finite numbers >= 0, got {scales!r}")
    return tuple(float(s) for s in values)


def _check_min_sizes(min_sizes: MinSizes, scales: tuple[float, ...]) -> tuple[int, ...]:
    if min_sizes is None:
        sizes: tuple = tuple(round(scale) for scale in scales)
    elif isinstance(min_sizes, Sequence | np.ndarray):
        sizes = tuple(min_sizes)
    else:
        sizes = (min_sizes,) * len(scales)
    whole = all(isinstance(s, int | np.integer) and not isinstance(s, bool) and s >= 0 for s in sizes)
    if not whole or len(sizes) != len(scales):
        raise ValueError(
            f"min_sizes must be one whole number >= 0, or one per scale ({len(scales)}), got {min_sizes!r}"
        )
    return tuple(min(int(size), MAX_PIXELS) for size in sizes)


def _check_sigma(sigma: float) -> float:
    if not _is_number(sigma) or not 0 <= sigma <= MAX_SIGMA:
        raise ValueError(f"sigma must be a number in 0 .. {MAX_SIGMA:g} pixels, got {sigma!r}")
    return float(sigma)


_announcing = threading.Lock()
_announced = False


def _announce_compiling() -> None:
    """Logs once per process, before the first picture, when the kernels are not in Numba's cache yet.

    The smallest kernel tells for all: they are compiled and cached together.
    """
    global _announced
    with _announcing:
        if _announced:
            return
        round_down(1.0)
        if sum(round_down.stats.cache_misses.values()):
            _log.warning(
                "compiling the FH kernels, once per machine and Numba cache directory; this takes half a minute or more"
            )
        _announced = True


@dataclasses.dataclass(frozen=True)
class Felzenszwalb:
    """Generator `fh(scales=(500, 1000, 1500))`: layers `fh-SCALE`.

    Attributes:
        scales: FH's k, each above 0. Higher means larger segments.
        min_sizes: smallest segment per scale, pixels; None means the scale itself (paper: c = s); one number means the
            same for all.
        sigma: standard deviation of the smoothing before, pixels, 0 .. 1000.
    """

    scales: tuple[float, ...] = (500, 1000, 1500)
    min_sizes: tuple[int, ...] | int | None = None
    sigma: float = 0.8

    bytes_per_pixel: ClassVar[int] = 140  # at most, see docs/fh.md; the working arrays are kept for the next picture

    def __post_init__(self) -> None:
        scales = tuple(self.scales) if isinstance(self.scales, tuple | list) else (self.scales,)
        _check_scales(scales)
        if 0 in scales or len(set(scales)) != len(scales):
            raise ValueError(f"scales must be above 0 and each given once, got {self.scales!r}")
        sizes = None if self.min_sizes is None else _check_min_sizes(self.min_sizes, scales)
        _check_sigma(self.sigma)
        object.__setattr__(self, "scales", scales)
        object.__setattr__(self, "min_sizes", sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return _check_min_sizes(self.min_sizes, self.scales)

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(
            Layer(f"fh-{scale:g}", "fh", {"scale": scale, "min_size": size, "sigma": self.sigma})
            for scale, size in zip(self.scales, self._sizes, strict=True)
        )

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        encoded = segment_to_rle(record.image, self.scales, self._sizes, self.sigma)
        return tuple(MaskSet.unranked(counts, areas) for counts, areas in encoded)
