"""A small folder of photographs as the experiment's data folder has them, drawn."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def drawn_data(tmp_path_factory) -> Path:
    """40 COCO-like pictures with two instances each, 24 backgrounds; one COCO picture lies there twice."""
    root = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(5)
    for folder in ("coco/images", "imagenet/n01", "bsds500/images/val"):
        (root / folder).mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, 41):
        picture = random.integers(0, 255, (60, 80, 3), np.uint8)
        name = f"{number:012d}.jpg"
        cv2.imwrite(str(root / "coco/images" / name), picture)
        images.append({"id": number, "file_name": name, "height": 60, "width": 80})
        for left in (5, 45):
            box = [left, 10, left + 30, 10, left + 30, 50, left, 50]
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": 1 + left % 2, "iscrowd": 0}
            annotations.append({**ids, "area": 1200, "bbox": [left, 10, 30, 40], "segmentation": [box]})
    first = (root / "coco/images/000000000001.jpg").read_bytes()
    (root / "coco/images/000000000002.jpg").write_bytes(first)
    categories = [{"id": i, "name": f"kind {i}", "supercategory": f"super {i}"} for i in (1, 2)]
    listed = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco/instances.json").write_text(json.dumps(listed))
    for number in range(24):
        where = ("imagenet/n01/a", "bsds500/images/val/b")[number % 2]
        picture = random.integers(0, 255, (50, 50 + number, 3), np.uint8)
        cv2.imwrite(str(root / f"{where}{number}.JPEG"), picture)
    return root
