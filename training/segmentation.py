"""Pictures with a label for every pixel, from PASCAL VOC's and Cityscapes' folders as they are published.

PASCAL VOC: `VOCdevkit/VOC2012` with JPEGImages, ImageSets/Segmentation/SPLIT.txt and SegmentationClass, palette PNGs
whose indices are labels. Where a SegmentationClassAug lies beside it, its labels are taken for names that
SegmentationClass lacks (train_aug: the annotations of Hariharan et al. 2011). Cityscapes: leftImg8bit/SPLIT and
gtFine/SPLIT, `*_labelTrainIds.png`, or `*_labelIds.png` mapped to the 19 classes of its benchmark.
"""

import collections
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from maskmill.schemas.errors import DamageError, InputError, UsageError
from maskmill.training.augment import MEAN
from maskmill.training.config import DataConfig
from maskmill.training.order import fold
from maskmill.training.record import decode_image
from maskmill.training.supervised import UNKNOWN

_FILL = np.round(255 * np.array(MEAN)).astype(np.uint8)  # colour of what lies outside of a picture
_ORDER, _CROPS = range(2)  # what is drawn
_VOC_CLASSES, _CITY_CLASSES = 21, 19
# Cityscapes' label ids of the benchmark's classes, in the order of their train ids.
_CITY_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


class Pairs:
    """Pictures and their label maps, of one split of a folder.

    Args:
        folder: VOCdevkit/VOC2012 (or what it lies in), or Cityscapes' folder; on a disk.
        split: name of a list (VOC), or of a folder (Cityscapes).
        classes: how many labels the network tells apart.

    Raises:
        InputError: neither data set, no such split (those that there are, are listed), or a file that is not there.
        UsageError: another number of classes.
    """

    def __init__(self, folder: str, split: str, classes: int):
        root = Path(folder)
        inner = root / "VOC2012"
        root = inner if (inner / "ImageSets").is_dir() else root
        if (root / "ImageSets" / "Segmentation").is_dir():
            self._paths, known = _voc(root, split), _VOC_CLASSES
            self._table = None
        elif (root / "leftImg8bit").is_dir() and (root / "gtFine").is_dir():
            self._paths, known = _cityscapes(root, split), _CITY_CLASSES
            self._table = np.full(256, UNKNOWN, np.int32)
            self._table[list(_CITY_IDS)] = np.arange(known)
        else:
            raise InputError(
                f"{folder} is neither VOCdevkit/VOC2012 (with ImageSets/Segmentation) nor Cityscapes (with leftImg8bit and "
                "gtFine)"
            )
        if classes != known:
            raise UsageError(
                f"{folder} has {known} classes, the network tells {classes} apart; set model.classes={known}"
            )
        self.classes = known
        missing = next((path for pair in self._paths for path in pair if not path.is_file()), None)
        if missing is not None:
            raise InputError(f"there is no {missing}, which the list {split!r} of {folder} names")
        self.digest = hashlib.sha256("\n".join(p.name for pair in self._paths for p in pair).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(uint8[height, width, 3], int32[height, width]): a picture and its labels, `UNKNOWN` where they do not count.

        Raises:
            DamageError: a file that does not decode, sizes that differ, or labels that there are not.
        """
        path, label_path = self._paths[index]
        image = decode_image(path.read_bytes())
        try:
            with Image.open(label_path) as file:
                labels = np.asarray(file).astype(np.int32)
        except (OSError, ValueError) as error:
            raise DamageError(f"{label_path} does not decode: {error}") from None
        if image is None or labels.shape != image.shape[:2]:
            size = "does not decode" if image is None else f"is {image.shape[:2]}"
            raise DamageError(f"{path} {size}, its labels in {label_path.name} are {labels.shape}")
        if self._table is not None and label_path.name.endswith("_labelIds.png"):
            labels = self._table[labels]
        labels[labels == 255] = UNKNOWN
        if labels.max() >= self.classes:
            raise DamageError(f"{label_path} has label {labels.max()}; there are 0 to {self.classes - 1}, and 255")
        return image, labels

    def largest(self, number: int) -> tuple[int, int]:
        """Height and width that the first pictures do not exceed, from their headers."""
        sizes = []
        for path, _ in self._paths[:number]:
            with Image.open(path) as file:
                sizes.append(file.size)
        return max(size[1] for size in sizes), max(size[0] for size in sizes)

    def padded(self, index: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """As `read`, with empty margins on the right and below."""
        image, labels = self.read(index)
        return _cut(image, labels, 0, 0, height, width)


def _voc(root: Path, split: str) -> list[tuple[Path, Path]]:
    lists = root / "ImageSets" / "Segmentation"
    path = lists / f"{split}.txt"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in lists.glob("*.txt")))
        raise InputError(f"{root} has no list {split!r} in ImageSets/Segmentation; there are {there}")
    pairs = []
    for words in (line.split() for line in path.read_text().splitlines() if line.strip()):
        if len(words) == 2:  # a list may name both files, from the root
            pairs.append((root / words[0].lstrip("/"), root / words[1].lstrip("/")))
            continue
        own = root / "SegmentationClass" / f"{words[0]}.png"
        more = root / "SegmentationClassAug" / f"{words[0]}.png"
        pairs.append((root / "JPEGImages" / f"{words[0]}.jpg", more if not own.is_file() and more.is_file() else own))
    return pairs


def _cityscapes(root: Path, split: str) -> list[tuple[Path, Path]]:
    pairs = []
    for path in sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
        stem = root / "gtFine" / split / path.parent.name / path.name.removesuffix("leftImg8bit.png")
        ready = Path(f"{stem}gtFine_labelTrainIds.png")
        pairs.append((path, ready if ready.is_file() else Path(f"{stem}gtFine_labelIds.png")))
    if not pairs:
        there = ", ".join(sorted(p.name for p in (root / "leftImg8bit").iterdir() if p.is_dir()))
        raise InputError(f"{root} has no pictures of split {split!r} in leftImg8bit; there are {there}")
    return pairs


def _cut(
    image: np.ndarray, labels: np.ndarray, top: int, left: int, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """A window of both; what lies outside has the mean colour and no label."""
    image, labels = image[top : top + height, left : left + width], labels[top : top + height, left : left + width]
    margins = [(0, length - there) for length, there in zip((height, width), labels.shape, strict=True)]
    whole = np.empty((height, width, 3), np.uint8)
    whole[:] = _FILL
    whole[: image.shape[0], : image.shape[1]] = image
    return whole, np.pad(labels, margins, constant_values=UNKNOWN)


class Crops:
    """Training batches of flipped, scaled and cropped pictures with their labels (A.1); called as `training.input.Batches`.

    Attributes:
        manifest_digest, num_records, steps_per_epoch: see `training.input.Batches`; the digest is of the files' names.
    """

    def __init__(
        self,
        data_dir: str,
        config: DataConfig,
        *,
        classes: int,
        global_batch: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Raises as `Pairs`, and UsageError for a batch that exceeds the pictures."""
        self._pairs, self._config, self._seed = Pairs(data_dir, config.split, classes), config, seed
        self._batch, share = global_batch, global_batch // process_count
        self._share = slice(process_index * share, (process_index + 1) * share)
        self.manifest_digest, self.num_records = self._pairs.digest, len(self._pairs)
        self.steps_per_epoch = self.num_records // global_batch
        if not self.steps_per_epoch:
            raise UsageError(f"batch_size={global_batch} exceeds the {self.num_records} pictures of {config.split!r}")

    def at(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Batches from a step on: image1 uint8[n, size, size, 3], label int32[n, size, size], key uint32[n, 2]."""
        waiting: collections.deque[tuple[np.ndarray, list[Future]]] = collections.deque()
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            try:
                while True:
                    while len(waiting) < 2:
                        records, keys = self._chosen(step)
                        tasks = [threads.submit(self.crop, int(r), int(k)) for r, k in zip(records, keys, strict=True)]
                        waiting.append((keys, tasks))
                        step += 1
                    keys, tasks = waiting.popleft()
                    images, labels = (np.stack(part) for part in zip(*(t.result() for t in tasks), strict=True))
                    yield {"image1": images, "label": labels, "key": keys.view(np.uint32).reshape(-1, 2)}
            finally:
                threads.shutdown(cancel_futures=True)

    def _chosen(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, within = divmod(step, self.steps_per_epoch)
        order = np.argsort(fold(self._seed, epoch, _ORDER, np.arange(self.num_records)), kind="stable")
        records = order[within * self._batch : (within + 1) * self._batch][self._share]
        return records, fold(self._seed, epoch, _CROPS, records)

    def crop(self, index: int, key: int) -> tuple[np.ndarray, np.ndarray]:
        """A crop of one picture, a pure function of its key."""
        image, labels = self._pairs.read(index)
        random, size = np.random.default_rng(key), self._config.image_size
        factor = random.uniform(*self._config.scale)
        shape = [max(1, round(side * factor)) for side in labels.shape]
        image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR)
        labels = cv2.resize(labels, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        top, left = (int(random.integers(0, max(side - size, 0) + 1)) for side in shape)
        image, labels = _cut(image, labels, top, left, size, size)
        if self._config.flip and random.random() < 0.5:
            image, labels = image[:, ::-1], labels[:, ::-1]
        return image, labels
