"""Masks as other tools write them, drawn by code: small pictures, one known mask or more each, and their files."""

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from maskmill.pipelines.parts.generators import canonical_spec, parse_spec
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.rle import decode_mask

HEIGHT, WIDTH = 24, 32
A, B, C = "n01/a.JPEG", "n01/b.JPEG", "n02/c.JPEG"
BLANK = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


def drawn(number: int, count: int = 1) -> list[np.ndarray]:
    """Masks that belong to picture `number` and to no other: bool[HEIGHT, WIDTH], `count` of them."""
    rng = np.random.default_rng(number)
    masks = []
    for _ in range(count):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        top, left = rng.integers(0, HEIGHT - 8), rng.integers(0, WIDTH - 8)
        mask[top : top + rng.integers(3, 8), left : left + rng.integers(3, 8)] = True
        mask[0, number % WIDTH] = mask[1, number // WIDTH] = True
        masks.append(mask)
    return masks


def encoded(mask: np.ndarray) -> dict:
    """COCO's compressed RLE as it stands in JSON; by pycocotools, as everybody makes it."""
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def write_pictures(folder: Path, names: list[str]) -> str:
    """Pictures of one size under these names; noise, so that no two are equal."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        path.write_bytes(cv2.imencode(Path(name).suffix, pixels)[1].tobytes())
    return str(folder)


def maskcut(entries: list[tuple[int, str, list[np.ndarray]]]) -> dict:
    """CutLER's maskcut.py: `images` with names, ids counted from 1, a line per mask without a score."""
    images, annotations = [], []
    for image_id, name, masks in entries:
        size = {"width": WIDTH, "height": HEIGHT}
        images.append({"id": image_id, "file_name": name, **size, "date_captured": "", "license": 1, "coco_url": ""})
        for mask in masks:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                    "bbox": coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))).tolist(),
                    "segmentation": encoded(mask),
                    **size,
                }
            )
    categories = [{"id": 1, "name": "fg", "supercategory": "fg"}]
    return {
        "info": {"year": 2022},
        "licenses": [],
        "categories": categories,
        "images": images,
        "annotations": annotations,
    }


def results(entries: list[tuple[int | str, list[np.ndarray]]]) -> list[dict]:
    """Detectron2's coco_instances_results.json, and ultralytics' predictions.json: a line per mask, scores falling."""
    return [
        {
            "image_id": image_id,
            "category_id": 0,
            "bbox": [0.0, 0.0, 1.0, 1.0],
            "score": round(0.9 - 0.1 * k, 5),
            "segmentation": encoded(mask),
        }
        for image_id, masks in entries
        for k, mask in enumerate(masks)
    ]


def sam(masks: list[np.ndarray]) -> list[dict]:
    """What SAM's and SAM 2's automatic generators return with output_mode="coco_rle"; the order is not that of quality."""
    return [
        {
            "segmentation": encoded(mask),
            "area": int(mask.sum()),
            "bbox": [0, 0, 1, 1],
            "predicted_iou": 0.8 + 0.01 * k,
            "point_coords": [[1.0, 2.0]],
            "stability_score": 0.99 - 0.01 * k,
            "crop_box": [0, 0, WIDTH, HEIGHT],
        }
        for k, mask in enumerate(masks)
    ]


def write_json(path: Path, content) -> str:
    """A JSON file, as `json.dump` leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def opened(path, folder, pictures, **params):
    """The generator as workers have it: prepared with these pictures, completed, parsed again."""
    written = ", ".join(f"{k}={v!r}" for k, v in {"path": str(path), **params}.items())
    pairs = [p if isinstance(p, tuple) else (p, "") for p in pictures]
    done = parse_spec(f"imported({written})").prepare(pairs, {key for key, _ in pairs}, str(folder / "prepared"))
    generator = parse_spec(canonical_spec(done.generator))
    assert generator == done.generator
    return generator.opened(str(folder / "prepared")), done


def made(generator, key, image=BLANK):
    (masks,) = generator(ImageRecord(key, image))
    return [decode_mask(c, *image.shape[:2]) for c in masks.counts], masks.score.tolist()


def same(found, expected):
    return len(found) == len(expected) and all(np.array_equal(f, e) for f, e in zip(found, expected, strict=True))
