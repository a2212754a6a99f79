"""How strongly each pixel looks like the outline of an object: hand-made features, and a learned tree model over them.

The features are the classic local cues of boundary detection at several scales (brightness, colour and texture
differences, and how the pixel compares with its neighbours across and along the edge); the model is boosted trees
fitted to instance outlines, scored by `masks.mcg.scoring`. Without a model, `gradient_contours` uses no label at all.

Cues after Martin, Fowlkes & Malik, "Learning to detect natural image boundaries", TPAMI 2004; the features
themselves are this project's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from maskmill.masks.mcg import cues
from maskmill.masks.mcg.trees import TreeModel

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8

CONTOUR_FEATURES = (
    *(f"{name}_{sigma}" for sigma in (1, 2, 4, 8) for name in ("grad_l", "grad_ab")),
    *(f"{name}_{sigma}" for sigma in (1, 2, 4) for name in ("tensor_major", "tensor_minor")),
    *(f"ridge_{sigma}" for sigma in (1, 2)),
    *(f"relative_{sigma}" for sigma in (1, 2, 4)),
    *(f"{name}_{distance}" for distance in (3, 6, 12) for name in ("side_l", "side_ab", "side_texture")),
    *(f"peak_{distance}" for distance in (1, 2, 4)),
    *(f"along_{distance}" for distance in (3, 7)),
    *(f"{name}_{distance}" for distance in (5, 10) for name in ("hist_l", "hist_a", "hist_b", "hist_texture")),
    "clutter_8",
    "clutter_24",
    "texture",
    "light",
    "chroma",
)

_REFLECT = cv2.BORDER_REFLECT_101


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing; from sigma 4 on in a pyramid, whose error is far below what the trees resolve."""
    height, width = image.shape[:2]
    shrink = 1
    while sigma / shrink >= 4 and min(height, width) // (2 * shrink) >= 8:
        shrink *= 2
    if shrink == 1:
        return cv2.GaussianBlur(image, (0, 0), sigma, borderType=_REFLECT)
    small = cv2.resize(image, (-(-width // shrink), -(-height // shrink)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma / shrink, borderType=_REFLECT)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _gradients(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kernel = np.array([-0.5, 0, 0.5], np.float32)
    one = np.ones(1, np.float32)
    return (
        cv2.sepFilter2D(image, -1, kernel, one, borderType=_REFLECT),
        cv2.sepFilter2D(image, -1, one, kernel, borderType=_REFLECT),
    )


def shrink(image: UInt8[np.ndarray, "h w 3"], scale: float) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A picture resized by `scale`, each side at least one pixel; uint8[h, w, 3]."""
    if scale == 1:
        return image
    height, width = image.shape[:2]
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method)


def contour_features(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w features"]:
    """Boundary cues of every pixel.

    Args:
        image: uint8[h, w, 3], RGB.

    Returns:
        float32[h, w, len(CONTOUR_FEATURES)].
    """
    return np.ascontiguousarray(np.moveaxis(_cue_planes(image), 0, -1))


def _cue_planes(image: np.ndarray) -> np.ndarray:
    """The cues as planes, float32[len(CONTOUR_FEATURES), h, w]."""
    height, width = image.shape[:2]
    out = np.empty((len(CONTOUR_FEATURES), height, width), np.float32)
    plane = dict(zip(CONTOUR_FEATURES, out, strict=True))
    lab = [np.ascontiguousarray(c, np.float32) for c in cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))]
    smooth, strength = {}, {}
    tensor = np.empty((3, height, width), np.float32)
    for sigma in (1, 2, 4, 8):
        smooth[sigma] = [_blur(channel, sigma) for channel in lab]
        strength[sigma] = np.empty((height, width), np.float32)
        light, a, b = smooth[sigma]
        gradients = plane[f"grad_l_{sigma}"], plane[f"grad_ab_{sigma}"]
        cues.differences(light, a, b, gradients[0], gradients[1], strength[sigma], tensor)
        if sigma == 8:
            continue
        smoothed = np.stack([_blur(part, sigma) for part in tensor])
        cues.tensor_axes(smoothed, plane[f"tensor_major_{sigma}"], plane[f"tensor_minor_{sigma}"])
        if sigma == 2:
            main = smoothed
    for sigma in (1, 2):
        cues.ridges(smooth[sigma][0], plane[f"ridge_{sigma}"])
    plane["clutter_8"][:] = _blur(strength[1], 8)
    plane["clutter_24"][:] = _blur(strength[1], 24)
    for sigma in (1, 2, 4):
        np.divide(strength[sigma], plane["clutter_8"] + 1, out=plane[f"relative_{sigma}"])

    # Unit normal of the edge from the structure tensor; every directional cue below samples along it.
    cosine, sine, normal_x, normal_y = np.empty((4, height, width), np.float32)
    cues.doubled_angles(main, cosine, sine)
    cues.half_angles(cosine, sine, normal_x, normal_y)
    texture = plane["texture"]
    texture[:] = _blur(np.abs(lab[0] - smooth[2][0]), 3)
    for distance, sigma in ((3, 1), (6, 2), (12, 4)):
        light, a, b = smooth[sigma]
        sides = [plane[f"{name}_{distance}"] for name in ("side_l", "side_ab", "side_texture")]
        picture = cv2.merge([light, a, b, texture])
        cues.side_differences(picture, normal_x, normal_y, distance, sides[0], sides[1], sides[2])
    for distance, sigma in ((1, 1), (2, 1), (4, 2)):
        cues.peaks(strength[sigma], normal_x, normal_y, distance, plane[f"peak_{distance}"])
    for distance in (3, 7):
        cues.continuations(strength[2], normal_x, normal_y, distance, plane[f"along_{distance}"])
    _histogram_planes(lab, texture, cosine, sine, plane)
    plane["light"][:] = smooth[2][0]
    plane["chroma"][:] = np.hypot(smooth[2][1] - 128, smooth[2][2] - 128)
    return out


def _histogram_planes(
    lab: Sequence[np.ndarray], texture: np.ndarray, cosine: np.ndarray, sine: np.ndarray, plane: dict[str, np.ndarray]
) -> None:
    """Differences of local histograms on the two sides of the edge, at half resolution: texture edges have no gradient."""
    height, width = cosine.shape
    size = (max(1, width // 2), max(1, height // 2))
    half = [cv2.resize(p, size, interpolation=cv2.INTER_AREA).reshape(size[::-1]) for p in (*lab, texture)]
    doubled = [cv2.resize(p, size, interpolation=cv2.INTER_AREA).reshape(size[::-1]) for p in (cosine, sine)]
    normal_x, normal_y = np.empty((2, *size[::-1]), np.float32)
    cues.half_angles(doubled[0], doubled[1], normal_x, normal_y)
    ranges = np.array([(20, 235), (108, 148), (108, 148), (0, 16)], np.float32)
    bins = cues.soft_histograms(np.dstack(half), ranges)
    for distance, sigma in ((5, 3.9), (10, 7.9)):
        found = cues.histogram_differences(_blur(bins, sigma / 2), normal_x, normal_y, distance / 2)
        for part, name in zip(found, ("hist_l", "hist_a", "hist_b", "hist_texture"), strict=True):
            cv2.resize(part, (width, height), dst=plane[f"{name}_{distance}"], interpolation=cv2.INTER_LINEAR)


# After this many trees a pixel whose log odds are below the floor is settled: most pixels are plainly no contour.
EARLY_TREES, EARLY_FLOOR, STRETCH = 16, -1.5, 1.4


def _steps(contour: np.ndarray) -> np.ndarray:
    """Strength in steps of 1/4096: rounding errors must not make regions out of flat parts of a picture."""
    return (np.round(contour * 4096) / 4096).astype(np.float32)


def learned_contours(image: UInt8[np.ndarray, "h w 3"], model: TreeModel) -> Float32[np.ndarray, "h w"]:
    """Probability of a contour at each pixel, as the model's training samples were mixed; float32[h, w] in 0..1."""
    odds = model.predict_planes(_cue_planes(image), EARLY_TREES, EARLY_FLOOR, STRETCH)
    return _steps(1 / (1 + np.exp(-odds)))


def gradient_contours(image: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    """Contour strength from colour gradients alone, learnt from no label; float32[h, w] in 0..1."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    total = np.zeros(image.shape[:2], np.float32)
    for sigma in (1, 2):
        dx, dy = _gradients(_blur(lab, sigma))
        total += sigma * np.sqrt((dx * dx + dy * dy) @ np.array([1, 4, 4], np.float32))
    return _steps(total / (total + 12))  # 12 grey levels over two scales: the middle of what one sees as an edge
