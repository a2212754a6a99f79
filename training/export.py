"""`detcon export`: the trained feature extractor under the names that torchvision or detectron2 expect, as safetensors,
or as an ONNX model of the features of a picture's cells (`training.onnx_graph`).

Only the encoder leaves; heads, moving averages and optimiser state stay in the run. Nothing is pickled. Inputs of the
network in safetensors are RGB in 0..1, normalised by ImageNet's mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225).
"""

import errno
import re

import numpy as np
import safetensors.numpy

from maskmill.schemas import storage
from maskmill.schemas.errors import InputError, UsageError

FORMATS = ("torchvision", "detectron2", "onnx")
ENDINGS = {"onnx": ".onnx"}  # else .safetensors
ENCODER = "encoder."

# Last part of a name here -> there. Convolutions have no bias; only batch norm has the others.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}

# torchvision -> detectron2, applied in order.
_DETECTRON2 = (
    (r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
)


def torchvision_state(params: dict, stats: dict, *, batches: int = 0) -> dict[str, np.ndarray]:
    """The encoder's arrays as torchvision's ResNet names and lays them out.

    Args:
        params, stats: learned arrays and running averages of a network by dotted path (see `training.model`); those
            outside `encoder.` are left out, and where none is inside, all are taken.
        batches: how many the running averages have seen.

    Returns:
        name -> float32 array (convolutions as out, in, height, width), and per batch norm its int64
        `num_batches_tracked`: every key of torchvision's state dict but `fc.weight` and `fc.bias`. Torch would keep
        the unbiased running variance; ours is the biased one, which makes no difference to features.
    """
    named = {**params, **stats}
    inside = {name.removeprefix(ENCODER): x for name, x in named.items() if name.startswith(ENCODER)}
    state = {}
    for name, value in (inside or named).items():
        module, _, leaf = name.rpartition(".")
        array = np.asarray(value, np.float32)
        state[f"{module}.{LEAVES[leaf]}"] = np.ascontiguousarray(
            array.transpose(3, 2, 0, 1) if leaf == "kernel" else array
        )
        if leaf == "mean":
            state[f"{module}.num_batches_tracked"] = np.array(batches, np.int64)
    return state


def detectron2_state(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A torchvision state under detectron2's names, without `num_batches_tracked`.

    Use it with `MODEL.RESNETS.STRIDE_IN_1X1: False`, `INPUT.FORMAT: RGB`, and ImageNet's mean and deviation in 0..255.
    """
    renamed = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _DETECTRON2:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def export_backbone(
    run_dir: str, out: str, *, format: str = "torchvision", step: int | None = None, stride: int | None = None
) -> dict:
    """Writes a run's encoder to one file, whole or not at all.

    Args:
        run_dir: work folder of `detcon train`, or weights that `training.backbone.load_backbone` reads.
        out: path of the file to write, `.safetensors` or `.onnx`, local or gs://; replaced if it exists.
        format: names of arrays, "torchvision" or "detectron2"; or "onnx".
        step: checkpoint, the latest by default.
        stride: pixels per side of a cell, of "onnx" only; that of training by default.

    Returns:
        What was written: {"out", "format", "arch", "step", "arrays", "bytes"}, and "warning" where the features will
        not be the trained ones in torchvision's network.

    Raises:
        UsageError: another format or stride, or a name that promises another kind of file.
        InputError: no such run or checkpoint, or the file cannot be written.
    """
    if format not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    ending = ENDINGS.get(format, ".safetensors")
    if not out.endswith(ending):
        raise UsageError(
            f"--format {format} writes {'an' if format == 'onnx' else 'a'} {ending[1:]} file; "
            f"name it so: {re.sub(r'[.][^./]*$', '', out)}{ending}"
        )
    if stride is not None and format != "onnx":
        raise UsageError(f"--stride is for --format onnx; the arrays of --format {format} have none")
    from maskmill.training.backbone import load_backbone  # JAX takes seconds to import

    found = load_backbone(run_dir, step)
    reached = int(found.card.get("step", 0))
    model = found.model
    arch = model.arch if model.width == 1 else f"{model.arch} x{model.width}"
    card = {
        "arch": arch,
        "padding": model.padding,
        "stride": str(model.stride),
        "dilate": str(model.dilate),
        "step": str(reached),
        **{name: found.card.get(name, "unknown") for name in ("algorithm", "masks", "manifest_digest")},
    }
    if format == "onnx":
        from maskmill.training.onnx_graph import at_stride, cell_model

        model = at_stride(model, stride or model.stride)
        made = cell_model(model, found.arrays, card)
        count, data = len(made.graph.initializer), made.SerializeToString(deterministic=True)
    else:
        state = torchvision_state(found.arrays, {}, batches=reached)
        if format == "detectron2":
            state = detectron2_state(state)
        wanted = "RGB / 255, minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)"
        metadata = {"format": "pt", "names": format, **card, "input": wanted}
        count, data = len(state), safetensors.numpy.save(state, metadata=metadata)
    try:
        storage.write_bytes(out, data)
    except OSError as error:
        words = "no space left" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise InputError(f"cannot write {out} ({len(data)} bytes): {words}; nothing was left there") from error
    result = {"out": out, "format": format, "arch": arch, "step": reached, "arrays": count, "bytes": len(data)}
    if format == "onnx":
        return result | {"stride": model.stride}  # the file holds the network itself: nobody builds another around it
    if model.padding == "same":
        result["warning"] = (
            "trained with padding=same: torchvision and detectron2 pad otherwise, and their features will differ "
            "from those that were trained (by about 30 %)"
        )
    elif model.stride != 32:
        result["warning"] = (
            f"trained with stride={model.stride}: torchvision's and detectron2's later stages shrink to 32, and their "
            "features will differ from those that were trained"
        )
    return result
