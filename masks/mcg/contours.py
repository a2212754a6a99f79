"""How strongly each pixel looks like the outline of an object: hand-made features, and a learned tree model over them.

The features are the classic local cues of boundary detection at several scales (brightness, colour and texture
differences, and how the pixel compares with its neighbours across and along the edge); the model is boosted trees
fitted to instance outlines, scored by `masks.mcg.scoring`. Without a model, `gradient_contours` uses no label at all.

Cues after Martin, Fowlkes & Malik, "Learning to detect natural image boundaries", TPAMI 2004; the features
themselves are this project's.
"""

import cv2
import numpy as np

from maskmill.masks.mcg.trees import TreeModel

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

_HISTOGRAM_BINS = 6
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


def _soft_bins(channel: np.ndarray, low: float, high: float) -> np.ndarray:
    """Triangular membership of each pixel in evenly spaced bins; float32[h, w, bins], rows summing to 1."""
    place = np.clip((channel - low) * ((_HISTOGRAM_BINS - 1) / (high - low)), 0, _HISTOGRAM_BINS - 1)
    bins = np.arange(_HISTOGRAM_BINS, dtype=np.float32)
    return np.maximum(1 - np.abs(place[..., None] - bins), 0).astype(np.float32)


def shrink(image: np.ndarray, scale: float) -> np.ndarray:
    """A picture resized by `scale`, each side at least one pixel; uint8[h, w, 3]."""
    if scale == 1:
        return image
    height, width = image.shape[:2]
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=method)


def contour_features(image: np.ndarray) -> np.ndarray:
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
    count = 0

    def add(plane):
        nonlocal count
        out[count] = plane
        count += 1

    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    strength = {}
    tensors = {}
    lights = {}
    smooth = {}
    for sigma in (1, 2, 4, 8):
        smooth[sigma] = _blur(lab, sigma)
        dx, dy = _gradients(smooth[sigma])
        dx2, dy2 = dx * dx, dy * dy
        light = dx2[..., 0] + dy2[..., 0]
        colour = dx2[..., 1] + dx2[..., 2] + dy2[..., 1] + dy2[..., 2]
        add(np.sqrt(light))
        add(np.sqrt(colour))
        strength[sigma] = np.sqrt(light + 4 * colour)
        lights[sigma] = (dx, dy, dx2, dy2)
    weights = np.array([1, 4, 4], np.float32)  # chroma counts more: Lab differences in a and b are small numbers
    for sigma in (1, 2, 4):
        dx, dy, dx2, dy2 = lights[sigma]
        planes = np.empty((height, width, 3), np.float32)
        planes[..., 0] = dx2 @ weights
        planes[..., 1] = dy2 @ weights
        planes[..., 2] = (dx * dy) @ weights
        planes = _blur(planes, sigma)
        half = 0.5 * (planes[..., 0] + planes[..., 1])
        spread = np.sqrt((0.5 * (planes[..., 0] - planes[..., 1])) ** 2 + planes[..., 2] ** 2)
        add(np.sqrt(half + spread))
        add(np.sqrt(np.maximum(half - spread, 0)))
        tensors[sigma] = planes
    gradients = {sigma: lights[sigma][:2] for sigma in (1, 2)}
    del lights, dx, dy, dx2, dy2  # a fifth of the peak memory
    for sigma in (1, 2):
        dx, dy = gradients.pop(sigma)
        xx, xy = _gradients(np.ascontiguousarray(dx[..., 0]))
        yy = _gradients(np.ascontiguousarray(dy[..., 0]))[1]
        add(np.sqrt((0.5 * (xx - yy)) ** 2 + xy * xy) - np.abs(0.5 * (xx + yy)) * 0.5)
    clutter = _blur(strength[1], 8)
    for sigma in (1, 2, 4):
        add(strength[sigma] / (clutter + 1))

    # Unit normal of the edge from the structure tensor; every directional cue below samples along it.
    tensor = tensors[2]
    angle = 0.5 * np.arctan2(2 * tensor[..., 2], tensor[..., 0] - tensor[..., 1])
    normal_x, normal_y = np.cos(angle), np.sin(angle)
    xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))

    def sample(plane, along_x, along_y, distance):
        return cv2.remap(
            plane, xs + distance * along_x, ys + distance * along_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )

    texture = _blur(np.abs(lab[..., 0] - smooth[2][..., 0]), 3)
    for distance, sigma in ((3, 1), (6, 2), (12, 4)):
        stack = np.dstack([smooth[sigma], texture])
        difference = np.abs(sample(stack, normal_x, normal_y, distance) - sample(stack, normal_x, normal_y, -distance))
        add(difference[..., 0])
        add(np.hypot(difference[..., 1], difference[..., 2]))
        add(difference[..., 3])
    for distance, sigma in ((1, 1), (2, 1), (4, 2)):
        plane = strength[sigma]
        sides = np.maximum(sample(plane, normal_x, normal_y, distance), sample(plane, normal_x, normal_y, -distance))
        add(plane - sides)
    for distance in (3, 7):
        add(
            np.minimum(
                sample(strength[2], -normal_y, normal_x, distance), sample(strength[2], -normal_y, normal_x, -distance)
            )
        )
    _histogram_differences(lab, texture, angle, add)
    add(clutter)
    add(_blur(strength[1], 24))
    add(texture)
    add(smooth[2][..., 0])
    add(np.hypot(smooth[2][..., 1] - 128, smooth[2][..., 2] - 128))
    return out


def _histogram_differences(lab, texture, angle, add) -> None:
    """Differences of local histograms on the two sides of the edge, at half resolution: texture edges have no gradient."""
    height, width = angle.shape
    size = (max(1, width // 2), max(1, height // 2))
    half = cv2.resize(np.dstack([lab, texture]), size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], 4)
    turned = cv2.resize(np.dstack([np.cos(2 * angle), np.sin(2 * angle)]), size, interpolation=cv2.INTER_AREA)
    turned = turned.reshape(size[1], size[0], 2)
    direction = 0.5 * np.arctan2(turned[..., 1], turned[..., 0])
    normal_x, normal_y = np.cos(direction), np.sin(direction)
    xs, ys = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    ranges = ((20, 235), (108, 148), (108, 148), (0, 16))
    bins = np.concatenate([_soft_bins(half[..., c], *ranges[c]) for c in range(4)], axis=2)
    for distance, sigma in ((5, 3.9), (10, 7.9)):
        offset = distance / 2
        smooth = _blur(bins, sigma / 2)
        groups = []
        for c in range(4):
            plane = np.ascontiguousarray(smooth[..., c * _HISTOGRAM_BINS : (c + 1) * _HISTOGRAM_BINS])
            total = np.zeros(size[::-1], np.float32)
            for part in (plane[..., :3], plane[..., 3:]):
                part = np.ascontiguousarray(part)
                one = cv2.remap(
                    part,
                    xs + offset * normal_x,
                    ys + offset * normal_y,
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_REPLICATE,
                )
                two = cv2.remap(
                    part,
                    xs - offset * normal_x,
                    ys - offset * normal_y,
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_REPLICATE,
                )
                total += np.abs(one - two).sum(axis=2).reshape(total.shape)
            groups.append(total)
        full = cv2.resize(np.dstack(groups), (width, height), interpolation=cv2.INTER_LINEAR).reshape(height, width, 4)
        for c in range(4):
            add(full[..., c])


# After this many trees a pixel whose log odds are below the floor is settled: most pixels are plainly no contour.
EARLY_TREES, EARLY_FLOOR, STRETCH = 16, -1.5, 1.4


def _steps(contour: np.ndarray) -> np.ndarray:
    """Strength in steps of 1/4096: rounding errors must not make regions out of flat parts of a picture."""
    return (np.round(contour * 4096) / 4096).astype(np.float32)


def learned_contours(image: np.ndarray, model: TreeModel) -> np.ndarray:
    """Probability of a contour at each pixel, as the model's training samples were mixed; float32[h, w] in 0..1."""
    odds = model.predict_planes(_cue_planes(image), EARLY_TREES, EARLY_FLOOR, STRETCH)
    return _steps(1 / (1 + np.exp(-odds)))


def gradient_contours(image: np.ndarray) -> np.ndarray:
    """Contour strength from colour gradients alone, learnt from no label; float32[h, w] in 0..1."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    total = np.zeros(image.shape[:2], np.float32)
    for sigma in (1, 2):
        dx, dy = _gradients(_blur(lab, sigma))
        total += sigma * np.sqrt((dx * dx + dy * dy) @ np.array([1, 4, 4], np.float32))
    return _steps(total / (total + 12))  # 12 grey levels over two scales: the middle of what one sees as an edge
