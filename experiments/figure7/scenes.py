"""Scenes with true masks from real texture: instances of COCO photographs, cut out and pasted on other photographs.

Pictures are written as PNG with COCO annotations, so that an ordinary build reads them as any data set. Every picture's
record says which photographs it was made of (`sources`). Nothing here is drawn without a seed: scene i of a side is a
function of the seed, the side, i and the photographs, whatever else is drawn.
"""

import dataclasses
import hashlib
import json
import os
import zlib
from collections.abc import Sequence

import cv2
import numpy as np

from experiments.figure7.split import Photograph
from maskmill.schemas import rle

_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION  # BGR, the stored frame, as everywhere here


@dataclasses.dataclass(frozen=True)
class Composition:
    """How scenes are drawn.

    Attributes:
        side: of a picture, in pixels.
        objects: fewest and most that are pasted.
        extent: smallest and largest square root of an object's area, as a part of `side`; drawn uniformly in the logarithm.
        visible: every object keeps at least this part of itself visible, or what hides it is placed elsewhere.
        tries: places drawn for an object before it is left out.
        least_area: pixels in its photograph below which an instance is not cut out.
        compactness: part of its bounding box that a usable instance fills at least.
    """

    side: int = 160
    objects: tuple[int, int] = (9, 13)
    extent: tuple[float, float] = (0.22, 0.5)
    visible: float = 0.35
    tries: int = 25
    least_area: int = 1500
    compactness: float = 0.3


@dataclasses.dataclass(frozen=True)
class Cutout:
    """One instance.

    Attributes:
        pixels: uint8[h, w, 3], BGR, its bounding box.
        mask: bool[h, w].
        category: COCO's id.
        annotation: id of the annotation.
        photograph: path of its photograph.
    """

    pixels: np.ndarray
    mask: np.ndarray
    category: int
    annotation: int
    photograph: str


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drawn picture.

    Attributes:
        image: uint8[side, side, 3], BGR.
        owner: int32[side, side], 0 for the background, else 1 + index into `cutouts`.
        cutouts: the objects in the order in which they were pasted; later ones hide earlier ones.
        background: path of the photograph behind them.
    """

    image: np.ndarray
    owner: np.ndarray
    cutouts: tuple[Cutout, ...]
    background: str


def read_photograph(data: str, photograph: Photograph) -> np.ndarray:
    """uint8[height, width, 3], BGR."""
    image = cv2.imread(os.path.join(data, photograph.path), _FLAGS)
    assert image is not None, photograph.path
    return image


def cut_out(data: str, photographs: Sequence[Photograph], composition: Composition) -> list[Cutout]:
    """Usable instances of COCO photographs, by annotation id: no crowds, not too small, not too thin."""
    with open(os.path.join(data, "coco", "instances.json"), encoding="utf-8") as file:
        listed = json.load(file)
    names = {os.path.basename(photograph.path): photograph for photograph in photographs}
    wanted = {image["id"]: image for image in listed["images"] if image["file_name"] in names}
    annotations: dict[int, list[dict]] = {}
    for annotation in listed["annotations"]:
        if annotation["image_id"] in wanted and not annotation["iscrowd"]:
            annotations.setdefault(annotation["image_id"], []).append(annotation)
    found = []
    for image_id, of_image in annotations.items():
        photograph = names[wanted[image_id]["file_name"]]
        image = read_photograph(data, photograph)
        for annotation in of_image:
            mask = draw_polygons(annotation["segmentation"], *image.shape[:2])
            if mask.sum() < composition.least_area:
                continue
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            if mask[box].mean() >= composition.compactness:
                ids = annotation["category_id"], annotation["id"]
                found.append(Cutout(image[box].copy(), mask[box].copy(), *ids, photograph.path))
    return sorted(found, key=lambda cutout: cutout.annotation)


def draw_polygons(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    """bool[height, width] of a COCO segmentation in polygons."""
    mask = np.zeros((height, width), np.uint8)
    for polygon in polygons:
        points = np.round(np.array(polygon).reshape(-1, 2) - 0.5).astype(np.int32)
        cv2.fillPoly(mask, [points], 1)
    return mask.astype(bool)


def draw_scene(
    random: np.random.Generator, cutouts: Sequence[Cutout], background: np.ndarray, name: str, composition: Composition
) -> Scene:
    """Pastes objects drawn from `cutouts` on a crop of `background` uint8[height, width, 3], the photograph `name`."""
    side = composition.side
    image = _square_crop(random, background, side)
    owner = np.zeros((side, side), np.int32)
    pasted: list[Cutout] = []
    whole: list[int] = []  # pixels of each object inside the picture, hidden ones included
    for index in random.permutation(len(cutouts))[: random.integers(*composition.objects, endpoint=True)].tolist():
        cutout = cutouts[index]
        extent = side * np.exp(random.uniform(*np.log(composition.extent)))
        scale = extent / np.sqrt(cutout.mask.sum())
        pixels, alpha = _resize(cutout, scale, flip=random.random() < 0.5)
        for _ in range(composition.tries):
            top, left = (int(random.uniform(0.1, 0.9) * side - n / 2) for n in alpha.shape)
            part, place = _overlap(alpha.shape, top, left, side)
            covered = np.zeros((side, side), bool)
            covered[place] = alpha[part] >= 0.5
            full = int((alpha >= 0.5).sum())
            if covered.sum() < composition.visible * full:
                continue
            left_over = np.bincount(owner[~covered], minlength=len(pasted) + 1)[1:]
            if any(now < composition.visible * before for now, before in zip(left_over, whole, strict=True)):
                continue
            blend = alpha[part][..., None]
            image[place] = np.round(blend * pixels[part] + (1 - blend) * image[place]).astype(np.uint8)
            pasted.append(cutout)
            whole.append(int(covered.sum()))
            owner[covered] = len(pasted)
            break
    return Scene(image, owner, tuple(pasted), name)


def _square_crop(random: np.random.Generator, image: np.ndarray, side: int) -> np.ndarray:
    length = int(min(image.shape[:2]) * random.uniform(0.6, 1))
    top, left = (int(random.integers(0, n - length + 1)) for n in image.shape[:2])
    crop = image[top : top + length, left : left + length]
    method = cv2.INTER_AREA if length > side else cv2.INTER_CUBIC
    return cv2.resize(crop, (side, side), interpolation=method)


def _resize(cutout: Cutout, scale: float, *, flip: bool) -> tuple[np.ndarray, np.ndarray]:
    # Pixels float[h, w, 3] and alpha float[h, w]; averaging gives outlines one soft pixel, as a camera's.
    height, width = (max(round(scale * n), 1) for n in cutout.mask.shape)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    # Colours of outside pixels must not bleed in: averages are over the object's own pixels.
    weight = cutout.mask.astype(np.float32)
    alpha = cv2.resize(weight, (width, height), interpolation=method)
    pixels = cv2.resize(cutout.pixels * weight[..., None], (width, height), interpolation=method)
    pixels = pixels / np.maximum(alpha, 1e-3)[..., None]
    return (pixels[:, ::-1], alpha[:, ::-1]) if flip else (pixels, alpha)


def _overlap(shape: tuple[int, int], top: int, left: int, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    part, place = [], []
    for length, at in zip(shape, (top, left), strict=True):
        begin, end = max(at, 0), min(at + length, side)
        place.append(slice(begin, max(end, begin)))
        part.append(slice(begin - at, max(end, begin) - at))
    return (part[0], part[1]), (place[0], place[1])


def write_scenes(
    folder: str,
    data: str,
    objects: Sequence[Photograph],
    backgrounds: Sequence[Photograph],
    count: int,
    *,
    seed: int,
    composition: Composition,
) -> str:
    """Draws `count` scenes into `folder`: `images/*.png`, `instances.json`, `shuffled.json`.

    `shuffled.json` has each picture's masks from the next picture of a seeded cycle, as COCO results: as many masks of
    the same shapes and sizes over all, on pictures they do not belong to.

    Returns:
        sha256 over both JSON files and all pixels.
    """
    os.makedirs(os.path.join(folder, "images"), exist_ok=True)
    cutouts = cut_out(data, objects, composition)
    digest, images, annotations = hashlib.sha256(), [], []
    masks: list[list[bytes]] = []
    for index in range(count):
        random = np.random.default_rng((seed, index, zlib.crc32(b"scene")))
        photograph = backgrounds[int(random.integers(len(backgrounds)))]
        scene = draw_scene(random, cutouts, read_photograph(data, photograph), photograph.path, composition)
        name = f"{index + 1:012d}.png"
        cv2.imwrite(os.path.join(folder, "images", name), scene.image)
        digest.update(scene.image.tobytes())
        sources = sorted({scene.background, *(cutout.photograph for cutout in scene.cutouts)})
        size = {"height": composition.side, "width": composition.side}
        images.append({"id": index + 1, "file_name": name, **size, "sources": sources})
        masks.append([])
        for number, cutout in enumerate(scene.cutouts, 1):
            mask = scene.owner == number
            masks[-1].append(rle.encode_mask(mask))
            annotations.append(_annotation(len(annotations) + 1, index + 1, cutout, mask, masks[-1][-1]))
    with open(os.path.join(data, "coco", "instances.json"), encoding="utf-8") as file:
        categories = json.load(file)["categories"]
    listed = {"images": images, "annotations": annotations, "categories": categories}
    results = shuffle_masks(masks, composition.side, seed)
    for name, content in (("instances.json", listed), ("shuffled.json", results)):
        text = json.dumps(content)
        digest.update(text.encode())
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)
    return digest.hexdigest()


def _annotation(number: int, image: int, cutout: Cutout, mask: np.ndarray, counts: bytes) -> dict:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    return {
        "id": number,
        "image_id": image,
        "category_id": cutout.category,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [int(x) for x in box],
        "segmentation": {"size": list(mask.shape), "counts": counts.decode()},
        "source": cutout.annotation,
    }


def shuffle_masks(masks: Sequence[Sequence[bytes]], side: int, seed: int) -> list[dict]:
    """COCO results in which picture i + 1 has the masks of another picture, each picture's masks used once."""
    cycle = np.random.default_rng((seed, zlib.crc32(b"shuffle"))).permutation(len(masks))
    results = []
    for taker, giver in zip(cycle.tolist(), np.roll(cycle, 1).tolist(), strict=True):
        for counts in masks[giver]:
            segmentation = {"size": [side, side], "counts": counts.decode()}
            results.append({"image_id": taker + 1, "category_id": 1, "score": 1.0, "segmentation": segmentation})
    return sorted(results, key=lambda result: result["image_id"])
