"""Generator `onnx`: a segmenter that was exported to ONNX, run by onnxruntime in every worker.

The model file is read once, when a build is planned: its digest becomes part of the layer's parameters, and its bytes are
left in the build's folder, so that every worker runs the same model wherever it is. One thread, CPU, operators one after
the other: the same machine gives the same bytes.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, TypeGuard

import numpy as np

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
from maskmill.pipelines.foreign.onnx_output import TASKS, instance_masks, semantic_masks
from maskmill.schemas import storage
from maskmill.schemas.errors import ImageError, InputError, UsageError
from maskmill.schemas.image import ImageRecord
from maskmill.schemas.mask import Layer, MaskSet

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MAX_TOP = 10_000
MAX_SIDE = 4096  # pixels of the model's input
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,58}$")
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


@dataclasses.dataclass(frozen=True)
class Onnx(Prepared):
    """Generator `onnx(path=...)`: layer `onnx-NAME`, the masks of an exported segmenter.

    Attributes:
        path: the model, one .onnx file, local or gs://.
        name: of the layer, after `onnx-`; "" is the file's name without its ending.
        task: `instance` (masks and scores), `semantic` (class logits, or labels); "" finds out: scores mean `instance`.
        size: height and width of the model's input, pixels; 0: what the model says, or else the picture's own size.
        mean: per channel, taken from values in 0..1; a model that takes uint8 gets the pixels as they are.
        std: per channel, divides what is left.
        channels: order of the colours, `RGB` or `BGR`.
        masks: name of the output with masks, logits or labels; "" finds out.
        scores: name of the output with scores; "" finds out.
        mask_threshold: a pixel belongs to a mask above it; 0.5 for probabilities, 0.0 for logits.
        score_threshold: masks whose score is below it are left out.
        top: masks per picture, 1..10000: those of the best score, or the largest of a semantic model.
        void: class of a semantic model that is no mask, such as its background; -1: none.
        sha256: of the model file; "" before it was read. Another file there is refused.
    """

    path: str = ""
    name: str = ""
    task: str = ""
    size: int | tuple[int, int] = 0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    channels: str = "RGB"
    masks: str = ""
    scores: str = ""
    mask_threshold: float = 0.5
    score_threshold: float = 0.0
    top: int = 100
    void: int = -1
    sha256: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise ValueError("onnx needs path=..., the exported model (.onnx)")
        if not isinstance(self.name, str) or not _NAME.match(self._short_name):
            raise ValueError(
                f"onnx name must be letters, digits, '.', '_' and '-', at most 59, got {self._short_name!r}; give name=..."
            )
        if self.task not in ("", *TASKS):
            raise ValueError(f"onnx task is one of {', '.join(TASKS)}, got {self.task!r}")
        size = self.size if isinstance(self.size, tuple | list) else (self.size,) * 2
        if len(size) != 2 or any(isinstance(s, bool) or not isinstance(s, int) for s in size):
            raise ValueError(f"onnx size is a whole number of pixels or (height, width), got {self.size!r}")
        if self.size != 0 and not all(1 <= s <= MAX_SIDE for s in size):
            raise ValueError(f"onnx size must be in 1..{MAX_SIDE} pixels, or 0, got {self.size!r}")
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))
        for name in ("mean", "std"):
            value = getattr(self, name)
            if not isinstance(value, tuple | list) or len(value) != 3 or not all(map(_is_number, value)):
                raise ValueError(f"onnx {name} must be three finite numbers, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        if min(self.std) <= 0:
            raise ValueError(f"onnx std must be above 0, got {self.std!r}")
        if self.channels not in ("RGB", "BGR"):
            raise ValueError(f"onnx channels are RGB or BGR, got {self.channels!r}")
        for name in ("masks", "scores"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"onnx {name} is the name of an output, got {getattr(self, name)!r}")
        for name in ("mask_threshold", "score_threshold"):
            if not _is_number(getattr(self, name)):
                raise ValueError(f"onnx {name} must be a finite number, got {getattr(self, name)!r}")
        if isinstance(self.top, bool) or not isinstance(self.top, int) or not 1 <= self.top <= MAX_TOP:
            raise ValueError(f"onnx top must be a whole number in 1..{MAX_TOP}, got {self.top!r}")
        if isinstance(self.void, bool) or not isinstance(self.void, int) or not -1 <= self.void < 2**31:
            raise ValueError(f"onnx void must be a class, a whole number from 0, or -1, got {self.void!r}")
        if not isinstance(self.sha256, str) or (self.sha256 and not SHA256.match(self.sha256)):
            raise ValueError(f"onnx sha256 must be 64 hexadecimal digits, got {self.sha256!r}")

    @property
    def _file(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def _short_name(self) -> str:
        return self.name or self._file.removesuffix(".onnx")

    @property
    def layers(self) -> tuple[Layer, ...]:
        params = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("path", "name")}
        params = {"file": self._file, **{k: list(v) if isinstance(v, tuple) else v for k, v in params.items()}}
        provenance = {"labels": "unknown: a model trained elsewhere", "model_sha256": self.sha256}
        return (Layer(f"onnx-{self._short_name}", "onnx", params, provenance, disjoint=self.task == "semantic"),)

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        raise UsageError("the model of an onnx layer is read when a build is planned; use `maskmill build`")

    def prepare(self, pictures: Sequence[tuple[str, str]], wanted: Set[str], folder: str) -> Preparation:
        data, sha256 = read_model(self.path, self.sha256)
        session = _open(data, self.path)
        task, masks, scores = _outputs(session, self)
        ready = dataclasses.replace(self, sha256=sha256, task=task, masks=masks, scores=scores)
        runner = Opened(ready, "")
        runner.__dict__["session"] = session
        y, x = np.mgrid[:48, :64]
        try:  # one drawn picture: a model that cannot work is known before any worker starts
            runner(ImageRecord("drawn", np.stack([x * 4, y * 5, x + y], -1).astype(np.uint8)))
        except ImageError as error:
            raise InputError(f"{self.path} does not work as a segmenter: {error}") from error
        storage.write_bytes(kept_path(folder, sha256), data)
        return Preparation(ready, {}, f"{self.path}: {ready.task} segmenter, sha256 {sha256[:16]}...")

    def verify(self, folder: str) -> None:
        verify_model(self.path, self.sha256, folder)

    def opened(self, folder: str) -> "Opened":
        return Opened(self, kept_path(folder, self.sha256))

    @property
    def joins_pictures(self) -> bool:
        return False


class Opened:
    """`onnx` with its model at hand; what a worker calls."""

    def __init__(self, wanted: Onnx, path: str):
        self.wanted, self.path = wanted, path

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.wanted.layers

    def __getstate__(self) -> dict:
        return {"wanted": self.wanted, "path": self.path}  # a session stays in its process

    @functools.cached_property
    def session(self) -> "InferenceSession":
        return _open(read_kept(self.path, self.wanted.sha256), self.wanted.path)

    def __call__(self, record: ImageRecord) -> tuple[MaskSet, ...]:
        wanted = self.wanted
        names = [wanted.masks, *([wanted.scores] if wanted.scores else [])]
        given = _input_of(self.session, wanted, record.image)
        try:
            results = self.session.run(names, given)
        except Exception as error:  # onnxruntime's errors share no base
            raise ImageError("generator_error", "onnx", f"the model failed: {in_a_line(error)}") from error
        if wanted.task == "semantic":
            kept = (wanted.mask_threshold, wanted.top, wanted.void)
            return (semantic_masks(results[0], record.height, record.width, *kept),)
        scores = results[1] if wanted.scores else None
        limits = (wanted.mask_threshold, wanted.score_threshold, wanted.top)
        return (instance_masks(results[0], scores, record.height, record.width, *limits),)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _open(data: bytes, path: str) -> "InferenceSession":
    session = open_session(data, path, "onnx")
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise InputError(
            f"{path} takes {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); one picture is given"
        )
    shape, kind = inputs[0].shape, inputs[0].type
    if len(shape) != 4 or (shape[1] != 3 and shape[3] != 3 and isinstance(shape[1], int)) or kind not in _TYPES:
        raise InputError(
            f"{path} takes {kind} {shape}; a picture is [1, 3, height, width] or [1, height, width, 3], "
            f"one of {', '.join(_TYPES)}"
        )
    return session


def _outputs(session: "InferenceSession", wanted: Onnx) -> tuple[str, str, str]:
    """Task and names of the outputs with masks and scores, completed by what the model says of itself."""
    declared = {output.name: output for output in session.get_outputs()}
    for name in filter(None, (wanted.masks, wanted.scores)):
        if name not in declared:
            raise InputError(f"{wanted.path} has no output {name!r}; it has {', '.join(declared)}")
    scores = wanted.scores
    if not scores and wanted.task != "semantic":
        scores = next((n for n in declared if "score" in n.lower() and n != wanted.masks), "")
    task = wanted.task or ("instance" if scores else "semantic")
    masks = wanted.masks
    if not masks:
        rest = [
            n for n, o in declared.items() if n != scores and len(o.shape or ()) >= (2 if task == "semantic" else 3)
        ]
        named = [n for n in rest if "mask" in n.lower()]
        found = named if len(named) == 1 else rest
        if len(found) != 1:
            raise InputError(
                f"{wanted.path} has {'no' if not found else 'more than one'} output that could be masks among "
                f"{', '.join(f'{n} {o.shape}' for n, o in declared.items())}; name it with masks=..."
            )
        masks = found[0]
    return task, masks, scores


def _input_of(session: "InferenceSession", wanted: Onnx, image: np.ndarray) -> dict[str, np.ndarray]:
    """The picture (uint8[height, width, 3]) as the model's input."""
    import cv2

    (entry,) = session.get_inputs()
    last = entry.shape[3] == 3 and entry.shape[1] != 3
    says = entry.shape[1:3] if last else entry.shape[2:4]
    if wanted.size:
        size = wanted.size if isinstance(wanted.size, tuple) else (wanted.size, wanted.size)
    else:
        height, width = (s if isinstance(s, int) else own for s, own in zip(says, image.shape[:2], strict=True))
        size = (height, width)
    if max(size) > MAX_SIDE:
        raise ImageError("too_large", "onnx", f"{size[1]} x {size[0]} pixels are too many for a model; give size=...")
    if size != image.shape[:2]:
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    if wanted.channels == "BGR":
        image = image[..., ::-1]
    dtype = _TYPES[entry.type]
    if dtype != np.uint8:
        mean, std = np.array(wanted.mean, np.float32), np.array(wanted.std, np.float32)
        image = (image.astype(np.float32) / 255 - mean) / std
    picture = image if last else image.transpose(2, 0, 1)
    return {entry.name: np.ascontiguousarray(picture[None], dtype)}
