"""The encoder as an ONNX model that gives the features of a picture's cells: what the generator `features` runs.

The graph takes a picture's bytes as they are decoded, so that nobody can normalise them otherwise than training did, and
batch norm's running averages are folded into the convolutions before it (in float64).
"""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.schemas.errors import UsageError
from maskmill.training.augment import MEAN, STD
from maskmill.training.config import STRIDES, ModelConfig
from maskmill.training.resnet import ARCHS

if TYPE_CHECKING:
    import onnx

KIND = "maskmill cells"  # `kind` of the card, by which readers know such a model
INPUT, OUTPUT = "image", "cells"
_OPSET, _IR = 17, 8  # no newer than needed: older runtimes read it too


def at_stride(model: ModelConfig, stride: int) -> ModelConfig:
    """The same network with smaller cells: later stages keep their resolution and reach as far as they did (dilated).

    Raises:
        UsageError: the weights do not fit a network of that stride.
    """
    if stride == model.stride:
        return model
    if stride not in STRIDES or stride > model.stride or (model.stride < max(STRIDES) and not model.dilate):
        fits = [s for s in STRIDES if s <= model.stride and (model.stride == max(STRIDES) or model.dilate)]
        listed = " or ".join(map(str, fits or [model.stride]))
        raise UsageError(
            f"stride {stride} does not fit weights trained with stride {model.stride}"
            f"{' and dilation' if model.dilate else ''}; give --stride {listed}"
        )
    return dataclasses.replace(model, stride=stride, dilate=True)


def cell_model(model: ModelConfig, arrays: dict[str, np.ndarray], card: dict[str, str]) -> onnx.ModelProto:
    """Builds the graph.

    Args:
        model: of the encoder, with the stride that the cells are to have.
        arrays: float32, learned arrays and running averages by dotted path, without `encoder.` (see `training.backbone`).
        card: what is to be known of the model; goes into its metadata.

    Returns:
        A model from `image`, uint8[n, height, width, 3], RGB, to `cells`, float32[n, ceil(height / stride),
        ceil(width / stride), channels]: what the encoder computes in float32 with its running averages.

    Raises:
        UsageError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError("--format onnx needs onnx; install it with: pip install 'maskmill[train,onnx]'") from None
    helper, numbers = onnx.helper, onnx.TensorProto
    graph = _Graph(onnx, model, arrays)
    x = graph.node("Cast", [INPUT], to=numbers.FLOAT)
    for kind, constant in (("Div", [255.0]), ("Sub", MEAN), ("Div", STD)):
        x = graph.node(kind, [x, graph.constant(np.asarray(constant, np.float32))])
    x = graph.node("Transpose", [x], perm=[0, 3, 1, 2])
    x = graph.relu(graph.convolve(x, "conv1", "bn1", stride=2))
    x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], **graph.padding(3, 2))
    convolutions, stages, base = ARCHS[model.arch]
    channels = base * model.width
    for index, depth in enumerate(stages):  # as `training.resnet.ResNet` builds it
        dilation = max(1, (4 << index) // model.stride) if model.dilate else 1
        for block in range(depth):
            stride = 2 if index and not block and 4 << index <= model.stride else 1
            name, y, shrink = f"layer{index + 1}.{block}", x, 1
            layers = convolutions(base * model.width << index, stride)
            for number, (kernel, step, _) in enumerate(layers, 1):
                spread = dilation if kernel > 1 else 1
                y = graph.convolve(y, f"{name}.conv{number}", f"{name}.bn{number}", stride=step, dilation=spread)
                y = graph.relu(y) if number < len(layers) else y
                shrink *= step
            out = layers[-1][2]
            if shrink != 1 or out != channels:
                x = graph.convolve(x, f"{name}.downsample.0", f"{name}.downsample.1", stride=shrink)
            x, channels = graph.relu(graph.node("Add", [x, y])), out
    graph.node("Transpose", [x], OUTPUT, perm=[0, 2, 3, 1])
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "encoder",
            [helper.make_tensor_value_info(INPUT, numbers.UINT8, ["n", "height", "width", 3])],
            [helper.make_tensor_value_info(OUTPUT, numbers.FLOAT, ["n", "rows", "columns", channels])],
            graph.constants,
        ),
        producer_name="maskmill",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
    )
    helper.set_model_props(made, {"kind": KIND, **card, "stride": str(model.stride), "dilate": str(model.dilate)})
    onnx.checker.check_model(made)
    return made


class _Graph:
    """Nodes and constants in the order in which they are made, which names them."""

    def __init__(self, onnx: ModuleType, model: ModelConfig, arrays: dict[str, np.ndarray]) -> None:
        self._onnx, self._model, self._arrays = onnx, model, arrays
        self.nodes: list = []
        self.constants: list = []

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"x{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def padding(self, kernel: int, stride: int, dilation: int = 1) -> dict:
        # torchvision pads half a kernel on both sides; "same" what the size needs, more at the end. The two differ where
        # there is a stride only, and what is dilated has none.
        if self._model.padding == "same" and stride > 1:
            return {"auto_pad": "SAME_UPPER"}
        return {"pads": [dilation * (kernel // 2)] * 4}

    def convolve(self, x: str, conv: str, norm: str, *, stride: int, dilation: int = 1) -> str:
        kernel = self._arrays[f"{conv}.kernel"].astype(np.float64)  # [height, width, in, out]
        scale, bias, mean, var = (
            self._arrays[f"{norm}.{leaf}"].astype(np.float64) for leaf in ("scale", "bias", "mean", "var")
        )
        factor = scale / np.sqrt(var + self._model.bn_eps)
        weight = (kernel * factor).transpose(3, 2, 0, 1).astype(np.float32)
        names = [x, self.constant(weight), self.constant((bias - mean * factor).astype(np.float32))]
        more: dict[str, Any] = {
            "kernel_shape": list(kernel.shape[:2]),
            "strides": [stride] * 2,
            "dilations": [dilation] * 2,
        }
        return self.node("Conv", names, **more, **self.padding(kernel.shape[0], stride, dilation))
