"""Small data sets drawn by code, for tests."""

import json
import os
from pathlib import Path

import cv2
import numpy as np


def draw(seed: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, list[dict]]:
    """A picture of rectangles on a slope and their outlines as raw COCO annotations (ids to be set)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 3, y * 4, np.full_like(x, seed * 7 % 256)], -1).astype(np.uint8)
    annotations = []
    for _ in range(1 + seed % 3):
        top, left = rng.integers(0, height - 16), rng.integers(0, width - 16)
        bottom, right = top + rng.integers(6, 16), left + rng.integers(6, 16)
        image[top:bottom, left:right] = rng.integers(0, 256, 3)
        corners = [left, top, right, top, right, bottom, left, bottom]
        annotations.append(
            {"category_id": int(rng.choice([1, 3, 90])), "iscrowd": 0, "segmentation": [[float(v) for v in corners]]}
        )
    return image, annotations


def write_coco(root: Path, count: int, height: int = 48, width: int = 64) -> tuple[str, str]:
    """A COCO data set of `count` drawn pictures; returns (images folder, annotations file)."""
    images = root / "images"
    images.mkdir(parents=True)
    listed, annotations = [], []
    for i in range(count):
        image, found = draw(i, height, width)
        name = f"{i:012d}.{'png' if i % 3 else 'jpg'}"
        cv2.imwrite(str(images / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        listed.append({"id": i + 1, "file_name": name, "height": height, "width": width})
        for annotation in found:
            annotations.append({"id": len(annotations) + 1, "image_id": i + 1, **annotation})
    if annotations:
        crowd = {"size": [height, width], "counts": [5, 20, height * width - 25]}
        annotations.append(
            {"id": 900_100_000_001, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": crowd}
        )
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}]
    path = root / "instances.json"
    path.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": categories}))
    return str(images), str(path)


def write_troubles(folder: Path, kinds: list[int]) -> str:
    """PNGs whose first pixel tells `trouble` what to do; 0 is a peaceful picture."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, kind in enumerate(kinds):
        image = np.full((8, 8, 3), 100 + i, np.uint8)
        image[0, 0] = kind
        cv2.imwrite(str(folder / f"{i:03d}-{kind}.png"), image)
    return str(folder)


def content(folder: Path) -> dict[str, bytes]:
    """The bytes that must not depend on how a build ran."""
    names = [n for n in os.listdir(folder) if ".tfrecord-" in n] + ["manifest.json", "failures.jsonl"]
    return {name: (folder / name).read_bytes() for name in sorted(names)}
