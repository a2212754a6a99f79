"""Masks made elsewhere, as generators: a layer of published proposals or of any segmenter's results, like any other layer.

They read one file per picture or one file for all, so they live with the pipelines, not in `masks`. Nothing read here is
trusted: sizes, indices and every RLE are checked before use.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections import defaultdict

import numpy as np

from maskmill.masks.runs import encode_sets
from maskmill.schemas import rle, storage
from maskmill.schemas.errors import ImageError, InputError
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

MAX_MAT_BYTES = 256 << 20
MAX_RESULTS_BYTES = 2 << 30
MAX_CANDIDATES = 100_000
MAX_TOP = 10_000
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")


def _check_fields(kind: str, path: str, name: str, top: int) -> None:
    if not isinstance(path, str) or not path:
        raise ValueError(f"{kind} needs path=..., where the masks are")
    if not isinstance(name, str) or not _NAME.match(name):
        raise ValueError(f"{kind} name must be letters, digits, '.', '_' and '-', at most 64, got {name!r}")
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= MAX_TOP:
        raise ValueError(f"{kind} top must be a whole number in 1..{MAX_TOP}, got {top!r}")


def _stem(key: str) -> str:
    return key.rsplit("/", 1)[-1].rsplit(".", 1)[0]


@functools.lru_cache(maxsize=2)
def _listing(path: str) -> tuple[int, str]:
    """How many .mat files a folder has, and the digest of their names and sizes: reading all would be another build."""
    sizes = storage.sizes(path)
    lines = [f"{size} {name}\n" for name, size in sorted(sizes.items()) if name.endswith(".mat")]
    if not lines:
        raise InputError(f"there are no .mat files in {path}; mcg_mat takes a folder with STEM.mat per picture")
    return len(lines), hashlib.sha256("".join(lines).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class MatProposals:
    """Generator `mcg_mat(path=FOLDER, name=..., top=16)`: proposals as MCG publishes them, `FOLDER/STEM.mat` per picture.

    A file holds `superpixels` (h x w, from 1), `labels` (n x 1 cell, the superpixels of each proposal, in rank order)
    and `scores` (n). The order is kept: published lists are in order of maximum marginal relevance, not of raw score.

    Attributes:
        path: folder of .mat files (before version 7.3), local or gs://.
        name: of the layer.
        top: masks per picture.
    """

    path: str
    name: str = "mcg-mat"
    top: int = 16

    def __post_init__(self):
        _check_fields("mcg_mat", self.path, self.name, self.top)

    @property
    def layers(self) -> tuple[Layer, ...]:
        params = {"path": self.path, "name": self.name, "top": self.top}
        files, digest = _listing(self.path)
        provenance = {
            "labels": "unknown: masks made elsewhere",
            "format": "MCG .mat",
            "files": files,
            "names_and_sizes_sha256": digest,
        }
        return (Layer(self.name, "mcg_mat", params, provenance, disjoint=False),)

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        file = storage.join(self.path, f"{_stem(record.key)}.mat")
        try:
            data = storage.read_bytes(file)
        except FileNotFoundError:
            raise ImageError("not_found", "mcg_mat", f"there is no {_stem(record.key)}.mat in {self.path}") from None
        try:
            return (read_mat(data, record.height, record.width, self.top),)
        except ValueError as error:
            raise ImageError("bad_rle", "mcg_mat", f"{_stem(record.key)}.mat: {error}") from error


def read_mat(data: bytes, height: int, width: int, top: int) -> MaskSet:
    """The first proposals of one .mat file.

    Args:
        data: the file's bytes.
        height, width: of the picture, pixels.
        top: how many masks.

    Raises:
        ValueError: of version 7.3, damaged, too large, or not proposals of a picture of this size.
    """
    import io

    from scipy.io import loadmat, whosmat

    if len(data) > MAX_MAT_BYTES:
        raise ValueError(f"has {len(data)} bytes, the limit is {MAX_MAT_BYTES}")
    if data[:8] == b"\x89HDF\r\n\x1a\n" or data[:10] == b"MATLAB 7.3":
        raise ValueError("is of MATLAB version 7.3 (HDF5); save it again with -v7")
    wanted = ("superpixels", "labels", "scores")
    try:
        shapes = {name: shape for name, shape, _ in whosmat(io.BytesIO(data))}
        missing = [name for name in wanted[:2] if name not in shapes]
        if missing:
            raise ValueError(f"holds no {' and no '.join(missing)}; proposals have superpixels, labels and scores")
        if tuple(shapes["superpixels"]) != (height, width):
            raise ValueError(f"superpixels are {list(shapes['superpixels'])}, the picture is [{height}, {width}]")
        if math.prod(shapes["labels"]) > MAX_CANDIDATES:
            raise ValueError(f"holds {math.prod(shapes['labels'])} proposals, the limit is {MAX_CANDIDATES}")
        content = loadmat(
            io.BytesIO(data), variable_names=wanted, struct_as_record=True, verify_compressed_data_integrity=True
        )
    except ValueError:
        raise
    except Exception as error:  # scipy's reader raises almost anything on damaged files
        raise ValueError(f"is not a readable .mat file ({type(error).__name__})") from error
    labels = _numbers(content["superpixels"], "superpixels").astype(np.int64)
    names, flat = np.unique(labels, return_inverse=True)
    leaves = len(names)
    lists = np.asarray(content["labels"], object).reshape(-1)
    count = min(top, len(lists))
    rows = np.zeros((count, -(-leaves // 64)), np.uint64)
    for row, members in zip(rows, lists[:count], strict=True):
        members = _numbers(members, "labels").astype(np.int64).reshape(-1)
        place = np.searchsorted(names, members)
        if not len(members) or (place >= leaves).any() or (names[place] != members).any():
            raise ValueError("a proposal is empty or names a superpixel that the picture does not have")
        for leaf in np.unique(place).tolist():
            row[leaf // 64] |= np.uint64(1) << np.uint64(leaf % 64)
    score = np.ones(count, np.float32)
    if "scores" in content:
        given = _numbers(content["scores"], "scores").reshape(-1)
        if len(given) < count:
            raise ValueError(f"has {len(lists)} proposals but {len(given)} scores")
        score = given[:count].astype(np.float32)
    return encode_sets(rows, flat.reshape(height, width).astype(np.int32), score)


def _numbers(array, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "iufb" or not np.isfinite(array).all():
        raise ValueError(f"{name} holds something other than finite numbers")
    return array


@functools.lru_cache(maxsize=2)
def _results(path: str) -> tuple[dict[str, list[dict]], str]:
    """COCO results by image id (as text), and the file's digest."""
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"{path} not found; coco_json takes a file of COCO results") from None
    if len(data) > MAX_RESULTS_BYTES:
        raise InputError(f"{path} has {len(data)} bytes, the limit is {MAX_RESULTS_BYTES}")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]  # CutLER and others write the instances format
    if not isinstance(content, list):
        raise InputError(f"{path} is not a list of COCO results, nor an object with a list `annotations`")
    by_image: dict[str, list[dict]] = defaultdict(list)
    for result in content:
        if isinstance(result, dict) and isinstance(result.get("image_id"), int | str):
            by_image[str(result["image_id"])].append(result)
    return dict(by_image), hashlib.sha256(data).hexdigest()


@dataclasses.dataclass(frozen=True)
class JsonResults:
    """Generator `coco_json(path=FILE, name=..., top=100)`: any segmenter's results in COCO's format (SAM, CutLER, detectron2).

    A result has `image_id` (COCO id, or the picture's file name with or without its ending), `segmentation` (compressed
    or uncompressed RLE) and optionally `score`. Masks come best score first, equal scores in the file's order; empty ones
    are left out.

    Attributes:
        path: the json file, local or gs://.
        name: of the layer.
        top: masks per picture.
    """

    path: str
    name: str = "coco-json"
    top: int = 100

    def __post_init__(self):
        _check_fields("coco_json", self.path, self.name, self.top)

    @property
    def layers(self) -> tuple[Layer, ...]:
        params = {"path": self.path, "name": self.name, "top": self.top}
        _, digest = _results(self.path)
        provenance = {"labels": "unknown: masks made elsewhere", "format": "COCO results", "sha256": digest}
        return (Layer(self.name, "coco_json", params, provenance, disjoint=False),)

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        table, _ = _results(self.path)
        stem = _stem(record.key)
        names = dict.fromkeys((record.key, record.key.rsplit("/", 1)[-1], stem, stem.rsplit("_", 1)[-1].lstrip("0")))
        results = next((table[name] for name in names if name in table), [])
        try:
            return (read_results(results, record.height, record.width, self.top),)
        except ValueError as error:
            raise ImageError("bad_rle", "coco_json", f"{record.key}: {error}") from error


def read_results(results: list[dict], height: int, width: int, top: int) -> MaskSet:
    """The best results of one picture; ValueError names the first that is no mask of this size."""
    rows = []
    for number, result in enumerate(results):
        score = result.get("score", 1.0)
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError(f"result {number} has score {str(score)[:20]!r}")
        rows.append((-float(score), number))
    counts: list[bytes] = []
    area: list[int] = []
    scores: list[float] = []
    for negative, number in sorted(rows):
        if len(counts) == top:
            break
        runs = _runs(results[number].get("segmentation"), height, width, number)
        if rle.area_of_runs(runs):
            counts.append(rle.encode_runs(runs))
            area.append(rle.area_of_runs(runs))
            scores.append(-negative)
    return MaskSet(tuple(counts), np.asarray(area, np.int64), np.asarray(scores, np.float32))


def _runs(segmentation, height: int, width: int, number: int) -> np.ndarray:
    if not isinstance(segmentation, dict):
        raise ValueError(f"result {number} has no RLE; polygons are not results, convert them with pycocotools")
    if segmentation.get("size") != [height, width]:
        raise ValueError(f"result {number} is of size {str(segmentation.get('size'))[:40]}, not [{height}, {width}]")
    counts = segmentation.get("counts")
    try:
        if isinstance(counts, str):
            runs = rle.decode_counts(counts.encode("ascii"), height, width)
        else:
            runs = rle.check_runs(np.asarray(counts), height, width)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"result {number}: {error}") from error
    return rle.mask_to_runs(rle.runs_to_mask(runs, height, width))  # zero-length runs merged: one form per mask
