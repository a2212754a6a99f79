"""Synthetic scenes with true masks, and builds made of them: what training and evaluation are tested on.

A scene is a textured background with a few shapes; every shape's mask is known, every kind of shape has its own
texture, and colours carry no class. Builds are written with the package's own record format and a hand-made manifest,
so tests need no mask generator. Everything is a pure function of its seed.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence

import cv2
import google_crc32c
import numpy as np

from maskmill.schemas import rle
from maskmill.schemas.example import ImageExample, encode_example
from maskmill.schemas.image import Annotations
from maskmill.schemas.manifest import MANIFEST, Manifest, Shard, digest, shard_name
from maskmill.schemas.mask import Layer, MaskSet
from maskmill.schemas.tfrecord import frame

KINDS = ("disc", "square", "triangle", "ring")  # COCO category ids 1..4
LAYERS = ("true", "grid-2", "shuffled")
PATTERNS = 6  # of mosaics, category ids 1..6


@dataclasses.dataclass(frozen=True)
class Scene:
    """One drawn picture.

    Attributes:
        image: uint8[height, width, 3].
        labels: int32[height, width], 0 for background, else 1 + index into `kinds`.
        kinds: category id (1..4) of every object, in drawing order.
    """

    image: np.ndarray
    labels: np.ndarray
    kinds: tuple[int, ...]

    def masks(self) -> list[np.ndarray]:
        """Visible bool[height, width] of the background and of every object that is not hidden."""
        return [m for m in (self.labels == i for i in range(len(self.kinds) + 1)) if m.any()]


def draw_scene(seed: int, height: int, width: int, objects: int = 4) -> Scene:
    """Draws a scene; later objects hide earlier ones."""
    random = np.random.default_rng((seed, 20210319))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image = _texture(random, y, x, 0)
    labels = np.zeros((height, width), np.int32)
    kinds = []
    for index in range(objects):
        kind = int(random.integers(1, len(KINDS) + 1))
        radius = random.uniform(0.14, 0.3) * min(height, width)
        cy, cx = random.uniform(0.15, 0.85) * height, random.uniform(0.15, 0.85) * width
        dy, dx = (y - cy) / radius, (x - cx) / radius
        distance = np.hypot(dy, dx)
        inside = {
            1: distance < 1,
            2: np.maximum(abs(dy), abs(dx)) < 0.85,
            3: (dy < 0.7) & (dy > -0.9 + 1.6 * abs(dx)),
            4: (distance < 1) & (distance > 0.5),
        }[kind]
        image = np.where(inside[..., None], _texture(random, y, x, kind), image)
        labels[inside] = index + 1
        kinds.append(kind)
    noise = random.normal(0, 6, image.shape)
    return Scene(np.clip(image + noise, 0, 255).round().astype(np.uint8), labels, tuple(kinds))


def _texture(random, y, x, kind) -> np.ndarray:
    """Float[height, width, 3] in 0..255: the pattern tells the kind, the two colours nothing."""
    first, second = random.uniform(20, 235, (2, 3))
    wave = {
        0: np.sin(y / 9 + x / 13),
        1: np.sin(y * 1.1),
        2: np.sin(x * 1.1),
        3: np.sin(x * 0.9) * np.sin(y * 0.9),
        4: np.sin((x + y) * 0.45),
    }[kind]
    blend = (wave[..., None] > 0) * 1.0
    return first * blend + second * (1 - blend)


def draw_mosaic(seed: int, height: int, width: int, objects: int) -> Scene:
    """A picture cut into pieces without background, dealt to `objects` objects that are told by their stripes alone.

    Every object has a direction, a period and a share of light of its own, drawn from continuous ranges; its kind is the
    bin of direction and period. So no two objects are the same to a network that tells objects apart, as in photographs.
    Mirroring keeps the kind. The two grey levels are the same everywhere: where colours or brightness told objects apart,
    a network that matches objects would learn those and nothing else. In `labels` objects count from 0; some consist of
    two or three pieces.
    """
    random = np.random.default_rng((seed, 20210320))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pieces = objects + objects // 2
    centres = random.random((pieces, 2)) * (height, width)
    piece = np.argmin((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2, -1)
    owner = np.concatenate([np.arange(objects), random.integers(0, objects, pieces - objects)])
    labels = owner[piece].astype(np.int32)
    kinds = random.permutation(PATTERNS)[:objects]
    image = np.zeros((height, width))
    for index, kind in enumerate(kinds.tolist()):
        angle = np.deg2rad(kind % 3 * 30 + random.uniform(3, 27)) * random.choice([-1, 1])
        period = (random.uniform(4.5, 6.5), random.uniform(11, 16))[kind // 3]
        across = (x * np.cos(angle) + y * np.sin(angle)) / period
        wave = np.sin(2 * np.pi * across + random.uniform(0, 2 * np.pi)) - random.uniform(-0.6, 0.6)
        image = np.where(labels == index, np.where(wave > 0, 190, 60), image)
    image = image[..., None] + random.normal(0, 6, (height, width, 3))
    return Scene(np.clip(image, 0, 255).round().astype(np.uint8), labels, tuple(int(k) + 1 for k in kinds))


def to_masks(masks: Sequence[np.ndarray]) -> MaskSet:
    """Pictures to a layer's masks; empty ones are left out."""
    masks = [m for m in masks if m.any()]
    return MaskSet.unranked([rle.encode_mask(m) for m in masks], [int(m.sum()) for m in masks])


def grid_masks(height: int, width: int, cells: int) -> list[np.ndarray]:
    """The image cut into cells x cells rectangles."""
    y, x = np.mgrid[:height, :width]
    index = (y * cells // height) * cells + x * cells // width
    return [index == i for i in range(cells * cells)]


def encode_picture(image: np.ndarray, kind: str = "JPEG") -> bytes:
    """Picture uint8[height, width, 3] in RGB to file bytes."""
    extension, options = (".png", []) if kind == "PNG" else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92])
    ok, data = cv2.imencode(extension, image[..., ::-1], options)
    assert ok
    return data.tobytes()


def scene_example(index: int, seed: int, height: int, width: int, kind: str = "JPEG", objects: int = 4) -> ImageExample:
    """Record `index` of a build: layers `true`, `grid-2` and `shuffled` (another scene's masks), and annotations.

    The record's class is the kind (0..3) of the object with most visible pixels.
    """
    numbers = (seed * 1_000_003 + index, seed * 1_000_003 + index + 500_000)
    scene, other = (draw_scene(number, height, width, objects) for number in numbers)
    visible = [(scene.labels == i + 1, k) for i, k in enumerate(scene.kinds)]
    return _example(index, scene, other, visible, kind)


def mosaic_example(index: int, seed: int, side: int, objects: int) -> ImageExample:
    """Record `index` of a build of mosaics, otherwise as `scene_example`."""
    numbers = (seed * 1_000_003 + index, seed * 1_000_003 + index + 500_000)
    scene, other = (draw_mosaic(number, side, side, objects) for number in numbers)
    return _example(index, scene, other, [(scene.labels == i, k) for i, k in enumerate(scene.kinds)], "JPEG")


def _example(index: int, scene: Scene, other: Scene, visible: list[tuple[np.ndarray, int]], kind: str) -> ImageExample:
    height, width = scene.labels.shape
    encoded = encode_picture(scene.image, kind)
    visible = [(m, k) for m, k in visible if m.any()]
    annotations = Annotations(
        tuple(rle.encode_mask(m) for m, _ in visible),
        np.array([m.sum() for m, _ in visible], np.int64),
        np.array([k for _, k in visible], np.int64),
        np.arange(len(visible), dtype=np.int64) + 100 * index,
        np.zeros(len(visible), bool),
    )
    layers = tuple(to_masks(m) for m in (scene.masks(), grid_masks(height, width, 2), other.masks()))
    return ImageExample(
        encoded=encoded,
        format=kind,
        height=height,
        width=width,
        filename=f"scene-{index:05d}.{'png' if kind == 'PNG' else 'jpg'}",
        sha256=hashlib.sha256(encoded).hexdigest(),
        masks=layers,
        annotations=annotations,
        best_iou=np.zeros((len(layers), len(visible)), np.float32),
        label=max(((int(m.sum()), k - 1) for m, k in visible), default=(0, -1))[1],
    )


def write_build(
    folder: str, examples: Sequence[ImageExample], *, layers: Sequence[str] = LAYERS, shards: int = 4
) -> Manifest:
    """Writes records as a finished build, dealt over shards one by one; returns its manifest."""
    os.makedirs(folder, exist_ok=True)
    listed = []
    for index in range(shards):
        records = [frame(encode_example(example)) for example in examples[index::shards]]
        data = b"".join(records)
        name = shard_name("scenes", "train", index, shards)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(data)
        crc = f"{google_crc32c.value(data):08x}"
        listed.append(Shard(name, len(records), len(data), hashlib.sha256(data).hexdigest(), crc))
    config = {"dataset": "scenes"}
    manifest = Manifest(
        dataset="scenes",
        split="train",
        config=config,
        config_digest=digest(config),
        layers=tuple(Layer(name, "drawn", {}) for name in layers),
        shards=tuple(listed),
        counts={"inputs": len(examples), "written": len(examples), "failed": 0, "skipped": 0},
        decoder={"name": "opencv"},
        versions={},
    )
    with open(os.path.join(folder, MANIFEST), "wb") as file:
        file.write(manifest.to_json())
    return manifest


def write_scenes(
    folder: str,
    count: int,
    *,
    seed: int = 0,
    size: tuple[int, int] = (96, 96),
    objects: int = 4,
    shards: int = 4,
    kind: Callable[[int], str] = lambda index: "JPEG",
) -> Manifest:
    """Writes a build of `count` scenes of `size` (height, width); layers `true`, `grid-2`, `shuffled`."""
    examples = [scene_example(i, seed, *size, kind=kind(i), objects=objects) for i in range(count)]
    return write_build(folder, examples, shards=shards)


def write_mosaics(folder: str, count: int, *, seed: int, side: int, objects: int, shards: int = 4) -> Manifest:
    """Writes a build of `count` mosaics; layers as `write_scenes`."""
    return write_build(folder, [mosaic_example(i, seed, side, objects) for i in range(count)], shards=shards)
