"""MCG's proposals: a .mat per picture, as published (three variables) or as `im2mcg` returns them (one struct).

Published for COCO they lie in nested folders, `COCO_val2014_0/COCO_val2014_000000447/COCO_val2014_000000447991.mat`.
"""

import io
import math
import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from maskmill.masks.runs import encode_sets
from maskmill.pipelines.foreign.per_picture import load_one, reading
from maskmill.schemas.errors import ImageError
from maskmill.schemas.mask import MaskSet

if TYPE_CHECKING:
    from maskmill.pipelines.foreign.generator import Imported

MAX_CANDIDATES = 100_000
MAX_INFLATED = 1 << 30
_WANTED = ("superpixels", "labels", "scores")
_STRUCT = "proposals"
_HEADER, _COMPRESSED = 128, 15  # bytes of a version 5 file's header; type of an element that is deflated


digest, index = reading("mcg", ".mat")


def read(block: bytes, key: str, height: int, width: int, wanted: "Imported") -> MaskSet:
    """See `formats.Reader`. The order is kept: published lists are in order of maximum marginal relevance, not of score."""
    name, data = load_one(wanted.path, block)
    try:
        return read_mat(data, height, width, wanted.most)
    except ValueError as error:
        raise ImageError("bad_rle", "imported", f"{name}: {error}") from error


def _check_inflated(data: bytes) -> None:
    """Refuses a file that would fill the memory when inflated; other damage is scipy's to find."""
    at, total = _HEADER, 0
    while at + 8 <= len(data):
        kind, size = (int.from_bytes(data[at + i : at + i + 4], "little") for i in (0, 4))
        if kind == _COMPRESSED:
            inflater = zlib.decompressobj()
            piece = data[at + 8 : at + 8 + size]
            while piece:
                total += len(inflater.decompress(piece, 1 << 20))
                if total > MAX_INFLATED:
                    raise ValueError(f"inflates to more than {MAX_INFLATED} bytes")
                piece = inflater.unconsumed_tail
        at += 8 + size


def read_mat(data: bytes, height: int, width: int, top: int) -> MaskSet:
    """The first proposals of one .mat file.

    Args:
        data: the file's bytes.
        height, width: of the picture, pixels.
        top: how many masks.

    Raises:
        ValueError: of version 7.3, damaged, too large, or not proposals of a picture of this size.
    """
    from scipy.io import loadmat, whosmat

    if data[:8] == b"\x89HDF\r\n\x1a\n" or data[:10] == b"MATLAB 7.3":
        raise ValueError("is of MATLAB version 7.3 (HDF5); save it again with -v7")
    try:
        _check_inflated(data)
        shapes = {name: shape for name, shape, _ in whosmat(io.BytesIO(data))}
        if _STRUCT not in shapes:
            _check_shapes(shapes, height, width)
        content = loadmat(io.BytesIO(data), variable_names=(*_WANTED, _STRUCT), verify_compressed_data_integrity=True)
        if _STRUCT in shapes:
            struct = content[_STRUCT]
            if struct.dtype.names is None or struct.size != 1:
                raise ValueError(f"{_STRUCT} is not im2mcg's struct")
            content = {name: struct[name].reshape(-1)[0] for name in struct.dtype.names if name in _WANTED}
            _check_shapes({name: np.shape(value) for name, value in content.items()}, height, width)
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


def _check_shapes(shapes: dict[str, tuple[int, ...]], height: int, width: int) -> None:
    missing = [name for name in _WANTED[:2] if name not in shapes]
    if missing:
        raise ValueError(f"holds no {' and no '.join(missing)}; proposals have superpixels, labels and scores")
    if tuple(shapes["superpixels"]) != (height, width):
        raise ValueError(f"superpixels are {list(shapes['superpixels'])}, the picture is [{height}, {width}]")
    if math.prod(shapes["labels"]) > MAX_CANDIDATES:
        raise ValueError(f"holds {math.prod(shapes['labels'])} proposals, the limit is {MAX_CANDIDATES}")


def _numbers(array: npt.ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "iufb" or not np.isfinite(array).all():
        raise ValueError(f"{name} holds something other than finite numbers")
    return array
