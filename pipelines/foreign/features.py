"""Generator `features`: masks of what a trained backbone sees as alike, run by onnxruntime in every worker.

The backbone is what `detcon export --format onnx` writes: from a picture's bytes to the features of its cells. What is done
with them is `masks.features`. As with `onnx`, the file is read once, its digest is among the parameters, and its bytes are
in the build's folder.
"""

import dataclasses
import functools
import re
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np

from maskmill.masks.features.cuts import cut_cells
from maskmill.masks.features.kmeans import cluster_cells
from maskmill.masks.features.snapping import cells_in_frame, masks_of, snap
from maskmill.masks.features.vectors import directions, places
from maskmill.masks.felzenszwalb import segment
from maskmill.masks.registry import Preparation, Prepared
from maskmill.pipelines.foreign.onnx_file import (
    SHA256,
    in_a_line,
    kept_path,
    open_session,
    read_kept,
    read_model,
    verify_model,
)
from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError, InputError, UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

METHODS = ("kmeans", "ncut")
MAX_K = 64
SIDES = (32, 2048)  # pixels
SNAP_SIGMA = 0.4  # pixels of smoothing before FH: with its usual .8, soft edges become thin segments of their own
MAX_CELLS = 6400  # of a picture: every two are compared
SHIFTS = {"torch": 0.5, "same": -0.5}  # see `masks.features.snapping`
KIND = "maskmill cells"  # as `training.onnx_graph` writes it
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,58}$")
_UNSUPERVISED = ("fh-", "grid-")  # layers that no label has a part in


@dataclasses.dataclass(frozen=True)
class Features(Prepared):
    """Generator `features(model=PATH, k=(4, 8, 16))`: layers `features-K`, clusters of a backbone's cells, no overlap.

    Attributes:
        model: the backbone, one file that `detcon export --format onnx` wrote, local or gs://.
        k: masks per picture at most, 1..64; several make a layer of each from one pass of the network.
        method: `kmeans` shares out the whole picture; `ncut` finds one object after another and leaves the rest.
        side: longer side, in pixels, of the picture as the network sees it, 32..2048.
        snap: scale of the FH segments whose edges the masks get, 0..10000; 0 keeps the edges of cells.
        position: of `kmeans`, weight of the distance in the picture against likeness, 0..100.
        tau: of `ncut`, cosine above which two cells are alike, -1..1.
        name: of the layers, before `-K`.
        sha256: of the model file; "" before it was read. Another file there is refused.
        card: what the model says of its training; filled in when it is read.
        labels: people's labels it learnt from, "" for none; filled in when it is read.
    """

    model: str = ""
    k: int | tuple[int, ...] = (4, 8, 16)
    method: str = "kmeans"
    side: int = 480
    snap: float = 50
    position: float = 3.0
    tau: float = 0.15
    name: str = "features"
    sha256: str = ""
    card: str = ""
    labels: str = ""

    bytes_per_pixel: ClassVar[int] = 180  # at most: FH's, and the labels before and after

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not self.model:
            raise ValueError("features needs model=..., a backbone that `detcon export --format onnx` wrote")
        ks = tuple(self.k) if isinstance(self.k, tuple | list) else (self.k,)
        if not ks or any(isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MAX_K for k in ks):
            raise ValueError(f"features k must be a whole number in 1..{MAX_K}, or several, got {self.k!r}")
        if len(set(ks)) != len(ks):
            raise ValueError(f"features k must name each number once, got {self.k!r}")
        if isinstance(self.k, list):
            object.__setattr__(self, "k", ks)
        if self.method not in METHODS:
            raise ValueError(f"features method is one of {', '.join(METHODS)}, got {self.method!r}")
        low, high = SIDES
        if isinstance(self.side, bool) or not isinstance(self.side, int) or not low <= self.side <= high:
            raise ValueError(f"features side must be a whole number of pixels in {low}..{high}, got {self.side!r}")
        for name, least, most in (("snap", 0, 10_000), ("position", 0, 100), ("tau", -1, 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                raise ValueError(f"features {name} must be a number in {least}..{most}, got {value!r}")
        if not isinstance(self.name, str) or not _NAME.match(self.name):
            raise ValueError(f"features name must be letters, digits, '.', '_' and '-', at most 59, got {self.name!r}")
        if not isinstance(self.sha256, str) or (self.sha256 and not SHA256.match(self.sha256)):
            raise ValueError(f"features sha256 must be 64 hexadecimal digits, got {self.sha256!r}")
        for name in ("card", "labels"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"features {name} is text that the model fills in, got {getattr(self, name)!r}")

    @property
    def ks(self) -> tuple[int, ...]:
        """Masks at most, of each layer."""
        return self.k if isinstance(self.k, tuple) else (self.k,)

    @property
    def layers(self) -> tuple[Layer, ...]:
        of_method = {"position": self.position} if self.method == "kmeans" else {"tau": self.tau}
        file = self.model.rstrip("/").rsplit("/", 1)[-1]
        params = {"file": file, "sha256": self.sha256, "method": self.method, "side": self.side, "snap": self.snap}
        provenance = {"model": self.card, "model_sha256": self.sha256, "labels": [self.labels] if self.labels else []}
        return tuple(
            Layer(f"{self.name}-{k}", "features", {"k": k, **params, **of_method}, provenance) for k in self.ks
        )

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        raise UsageError("the model of a features layer is read when a build is planned; use `maskmill build`")

    def prepare(self, pictures: Sequence[tuple[str, str]], wanted: Set[str], folder: str) -> Preparation:
        data, sha256 = read_model(self.model, self.sha256)
        session = open_session(data, self.model, "features")
        card = _card(session, self.model)
        stride = int(card["stride"])
        most = (-(-self.side // stride)) ** 2
        if most > MAX_CELLS:
            fits = int(MAX_CELLS**0.5) * stride
            raise InputError(
                f"features side={self.side} makes up to {most} cells of {stride} px, at most {MAX_CELLS} are compared; "
                f"give side={fits} or less, or export the backbone with a larger --stride"
            )
        said = f"{card['arch']}, stride {stride}, {card['algorithm']}, masks: {card['masks']}, step {card['step']}"
        ready = dataclasses.replace(self, sha256=sha256, card=said, labels=_labels(card))
        runner = Opened(ready, "")
        runner.__dict__["session"] = session
        y, x = np.mgrid[:48, :64]
        try:  # one drawn picture: a model that cannot work is known before any worker starts
            runner(ImageRecord("drawn", np.stack([x * 4, y * 5, x + y], -1).astype(np.uint8)))
        except ImageError as error:
            raise InputError(f"{self.model} does not work as a backbone: {error}") from error
        storage.write_bytes(kept_path(folder, sha256), data)
        return Preparation(ready, {}, f"{self.model}: {said}, sha256 {sha256[:16]}...")

    def verify(self, folder: str) -> None:
        verify_model(self.model, self.sha256, folder)

    def opened(self, folder: str) -> "Opened":
        return Opened(self, kept_path(folder, self.sha256))

    @property
    def joins_pictures(self) -> bool:
        return False


class Opened:
    """`features` with its model at hand; what a worker calls."""

    def __init__(self, wanted: Features, path: str):
        self.wanted, self.path = wanted, path

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.wanted.layers

    def __getstate__(self) -> dict:
        return {"wanted": self.wanted, "path": self.path}  # a session stays in its process

    @functools.cached_property
    def session(self) -> "InferenceSession":
        return open_session(read_kept(self.path, self.wanted.sha256), self.wanted.model, "features")

    @functools.cached_property
    def card(self) -> dict[str, str]:
        return _card(self.session, self.wanted.model)

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        wanted, height, width = self.wanted, record.height, record.width
        seen = _as_seen(record.image, wanted.side)
        try:
            (features,) = self.session.run(["cells"], {"image": seen[None]})
        except Exception as error:  # onnxruntime's errors share no base
            raise ImageError("generator_error", "features", f"the model failed: {in_a_line(error)}") from error
        if not np.isfinite(features).all():
            raise ImageError("generator_error", "features", "the model gives features that are no numbers")
        rows, columns = features.shape[1:3]
        unit = directions(features[0])
        stride, shift = int(self.card["stride"]), SHIFTS[self.card["padding"]]
        extent = (stride * height / seen.shape[0], stride * width / seen.shape[1])
        regions = None
        if wanted.snap:
            (regions,) = segment(record.image, (wanted.snap,), sigma=SNAP_SIGMA)
        if wanted.method == "kmeans":
            place = places(rows, columns)
            found = [cluster_cells(unit, place, k, wanted.position).reshape(rows, columns) for k in wanted.ks]
        else:
            objects = cut_cells(unit, (rows, columns), max(wanted.ks), wanted.tau)
            found = [np.where(objects < k, objects, -1).astype(np.int32) for k in wanted.ks]
        layers = []
        for cells in found:
            labels = cells_in_frame(cells, height, width, extent, shift)
            layers.append(masks_of(labels if regions is None else snap(labels + 1, regions) - 1))
        return tuple(layers)


def _as_seen(image: np.ndarray, side: int) -> np.ndarray:
    """uint8[h, w, 3] with the longer side `side`, as many pixels as the network is to see."""
    longer = max(image.shape[:2])
    height, width = (max(1, round(n * side / longer)) for n in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    method = cv2.INTER_AREA if side < longer else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method).reshape(height, width, 3)


def _card(session: "InferenceSession", path: str) -> dict[str, str]:
    """What the model says of itself.

    Raises:
        InputError: it is another kind of model, or says too little.
    """
    card = session.get_modelmeta().custom_metadata_map
    if card.get("kind") != KIND:
        raise InputError(
            f"{path} has no card of a backbone, so the size of its cells is not known; write it with "
            "`detcon export RUN OUT.onnx --format onnx` (a segmenter is for onnx(path=...))"
        )
    missing = [name for name in ("arch", "stride", "algorithm", "masks", "step") if not card.get(name)]
    inputs = [(i.name, i.type, len(i.shape)) for i in session.get_inputs()]
    outputs = [(o.name, o.type, len(o.shape)) for o in session.get_outputs()]
    whole = inputs == [("image", "tensor(uint8)", 4)] and outputs == [("cells", "tensor(float)", 4)]
    if missing or not whole or card["stride"] not in ("8", "16", "32") or card.get("padding") not in SHIFTS:
        raise InputError(f"{path} is not as `detcon export --format onnx` writes it; export the backbone again")
    return card


def _labels(card: dict[str, str]) -> str:
    """Which labels of people's the backbone may have learnt from; "" for none."""
    if card["algorithm"] == "unknown":
        return "unknown: weights made elsewhere"
    if card["masks"] == "none: labels":
        return f"those that {card['algorithm']} training had"
    layers = [name for name in card["masks"].split(", ") if not name.startswith(_UNSUPERVISED)]
    return "" if card["masks"] == "one per view" or not layers else f"whatever masks of {', '.join(layers)} are made of"
