"""A trained feature extractor from wherever it lies: a run, an exported file, torchvision's or the paper's own weights.

Three forms are told apart by their names: a run's folder; `.safetensors` in torchvision's names, as `detcon export`
writes them; `.npz` in the names that the authors' code gives its arrays (Haiku's). All are plain arrays.
"""

import dataclasses
import json
import re
import zipfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, UsageError
from maskmill.training import model
from maskmill.training.checkpoint import load_run
from maskmill.training.config import Config, ModelConfig
from maskmill.training.export import ENCODER, LEAVES
from maskmill.training.resnet import ARCHS, bottleneck

_HAIKU = re.compile(
    r"(?:.*?/)?(?:block_group_(?P<group>\d)/(?:~/)?block_(?P<block>\d+)/(?:~/)?)?"
    r"(?:(?P<role>initial|shortcut)_)?(?P<kind>conv|batchnorm)(?:_(?P<number>\d))?"
    r"(?:/(?:~/)?(?P<average>mean|var)_ema)?/(?P<leaf>w|scale|offset|average)"
)
_PICKLED = (
    "is pickled, and loading a pickle runs whatever its author put in it; turn it into named arrays with "
    "examples/released_weights.py, which lets arrays through and nothing else, and give the .npz"
)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """An encoder.

    Attributes:
        model: its architecture; what an encoder does not have is at its default.
        arrays: float32, learned arrays and running averages by dotted path, without the prefix `encoder.`.
        card: what is known of where it comes from: `step`, `algorithm`, `masks` (the layers learnt from), `manifest_digest`.
    """

    model: ModelConfig
    arrays: dict[str, np.ndarray]
    card: dict[str, str]


def load_backbone(path: str, step: int | None = None) -> Backbone:
    """Reads an encoder.

    Args:
        path: a run's folder, a `.safetensors` or `.npz` file; local or gs://.
        step: checkpoint of a run, the latest by default.

    Raises:
        InputError: nothing there, a damaged file, pickled arrays, or arrays that are not a ResNet's of ours.
    """
    if path.endswith(".npy"):
        raise InputError(f"{path} {_PICKLED}")
    if not path.endswith((".safetensors", ".npz")):
        run = load_run(path, step)
        named = {**run.params, **run.stats}
        named = {name.removeprefix(ENCODER): x for name, x in named.items() if name.startswith(ENCODER)}
        learnt = run.config.data
        masks = "one per view" if learnt.global_mask else ", ".join(learnt.layers)
        card = {"algorithm": run.config.algorithm, "step": str(run.step), "manifest_digest": run.manifest_digest}
        card["masks"] = "none: labels" if run.config.has_labels else masks
        return Backbone(run.config.model, named, card)
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; give a run's folder, or weights that are there") from None
    named, card = (_torchvision if path.endswith(".safetensors") else _released)(path, data)
    found = Backbone(_shape(named, path, card), named, card)
    _check(found, found.model, lambda what: InputError(f"{path} is no whole ResNet: {what}"))
    return found


def start_from(path: str, config: Config, state: dict[str, Any]) -> dict[str, Any]:
    """A run's first state with the encoder (and its target's) replaced by that of `path`.

    Raises:
        InputError: see `load_backbone`.
        UsageError: it is the encoder of another network; says what to set.
    """
    found = load_backbone(path)
    if found.model.padding != config.model.padding:
        raise UsageError(
            f"{path} was trained with padding={found.model.padding}; set model.padding={found.model.padding}"
        )
    arch = f"model.arch={found.model.arch}, model.width={found.model.width}"
    _check(found, config.model, lambda what: UsageError(f"{path} is another network ({what}); set {arch}"))

    def fill(name: str, old: jax.Array) -> jax.Array:
        if not name.startswith(ENCODER):
            return old
        new = found.arrays[name.removeprefix(ENCODER)]
        return jax.make_array_from_callback(old.shape, old.sharding, lambda index: new[index])

    parts = ("params", "stats", "target_params", "target_stats")
    return state | {part: {name: fill(name, old) for name, old in state[part].items()} for part in parts}


def _check(found: Backbone, like: ModelConfig, error: Callable[[str], Exception]) -> None:
    network = model.encoder(like)
    want = {name: x.shape for name, x in {**network.params, **network.stats}.items()}
    have = {name: x.shape for name, x in found.arrays.items()}
    for name in sorted(want.keys() | have.keys()):
        if want.get(name) != have.get(name):
            raise error(f"{name} has shape {have.get(name, 'none')} in place of {want.get(name, 'none')}")


def _torchvision(path: str, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    # Names and layouts as `training.export.torchvision_state` makes them; a classifier `fc` is left out.
    try:
        state = safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None
    card = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    if card.get("names", "torchvision") != "torchvision":
        raise InputError(f"{path} has {card['names']} names; export it with --format torchvision")
    back = {there: here for here, there in LEAVES.items() if here != "scale"}
    named = {}
    for name, x in state.items():
        module, _, leaf = name.rpartition(".")
        if leaf in back and module != "fc":
            leaf = "scale" if leaf == "weight" and x.ndim == 1 else back[leaf]
            named[f"{module}.{leaf}"] = np.asarray(x.transpose(2, 3, 1, 0) if x.ndim == 4 else x, np.float32)
    return named, card


def _released(path: str, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    # Haiku's modules: `res_net50/~/block_group_0/~/block_0/~/conv_0` with `w`, `scale`, `offset`, and of batch norm's
    # moving averages `average` (1, 1, 1, channels); heads, counters and whatever stands before the network are left out.
    named: dict[str, np.ndarray] = {}
    try:
        if data[:2] != b"PK":  # else NumPy takes it for a pickle
            raise zipfile.BadZipFile("it is no zip archive")
        with np.load(storage.as_file(data), allow_pickle=False) as arrays:
            for name in arrays.files:
                if found := _HAIKU.fullmatch(name):
                    x, ours = np.asarray(arrays[name], np.float32), _ours(found)
                    if ours in named:
                        raise InputError(f"{path} holds two networks, {name} is one array too many; keep those of one")
                    named[ours] = x if found["leaf"] == "w" else x.reshape(-1)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} {_PICKLED if 'pickle' in str(error) else f'is not an .npz file: {error}'}") from None
    return named, {"algorithm": "released", "padding": "same"}


def _ours(found: re.Match[str]) -> str:
    inner = f"layer{int(found['group']) + 1}.{found['block']}." if found["group"] else ""
    if found["role"] == "shortcut":
        module = f"downsample.{int(found['kind'] != 'conv')}"
    else:
        module = f"{'conv' if found['kind'] == 'conv' else 'bn'}{int(found['number'] or 0) + 1}"
    leaf = {"w": "kernel", "scale": "scale", "offset": "bias", "average": found["average"]}[found["leaf"]]
    return f"{inner}{module}.{leaf}"


def _shape(arrays: dict[str, np.ndarray], path: str, card: dict[str, str]) -> ModelConfig:
    """The architecture whose blocks these are; the file itself says how it was trained."""
    blocks = {m.groups() for name in arrays if (m := re.match(r"layer(\d)\.(\d+)\.", name))}
    depths = tuple(sum(layer == str(i) for layer, _ in blocks) for i in range(1, 5))
    deep = any(name.endswith("conv3.kernel") for name in arrays)
    for arch, (kind, stages, base) in ARCHS.items():
        if depths == stages and (kind is bottleneck) == deep:
            width = arrays["conv1.kernel"].shape[-1] // base if "conv1.kernel" in arrays else 1
            trained: dict[str, Any] = {"padding": card.get("padding", "torch"), "stride": int(card.get("stride", 32))}
            trained |= {"dilate": card.get("dilate") == "True", "dtype": "float32", "arch": arch}
            return ModelConfig(width=width, **trained)
    raise InputError(f"{path} holds no ResNet of ours (blocks per stage: {depths}); known: {', '.join(ARCHS)}")
