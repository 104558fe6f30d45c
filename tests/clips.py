"""A network that nobody prepared, as ONNX, and a clip, for tests that need no torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

av = pytest.importorskip("av")
onnx = pytest.importorskip("onnx")
SIZE, FRAMES = (48, 64), 8


class Net:
    """images [n, channels, h, w] -> `edges` [n, 1, h, w], as somebody else might export it."""

    def __init__(self, channels: int = 3):
        self.rng, self.nodes, self.weights = np.random.default_rng(0), [], []
        self.inputs = [self._value("images", "n", channels, "h", "w")]
        self.outputs = []

    def _value(self, name: str, *shape):
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    def add(self, op: str, inputs: list[str], name: str, **attributes) -> str:
        self.nodes.append(onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def conv(self, x: str, name: str, cin: int, cout: int, stride: int = 1) -> str:
        weight = self.rng.standard_normal((cout, cin, 3, 3)) / np.sqrt(9 * cin)
        inputs = [x, self.constant(f"{name}.weight", weight)]
        made = self.add("Conv", inputs, f"{name}.conv", pads=[1] * 4, strides=[stride] * 2)
        return self.add("Relu", [made], name)

    def save(self, path: Path, x: str, channels: int) -> Path:
        self.add("Sigmoid", [self.conv(x, "last", channels, 1)], "edges")
        outputs = [self._value("edges", "n", 1, None, None), *self.outputs]
        graph = onnx.helper.make_graph(self.nodes, "net", self.inputs, outputs, self.weights)
        opset = [onnx.helper.make_opsetid("", 18)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
        return path


def edges_program(path: Path) -> Path:
    """A conv network with a second output, behind global pooling."""
    net = Net()
    x = net.conv("images", "body", 3, 4)
    pooled = net.add("GlobalAveragePool", [x], "pooled")
    flat = net.add("Flatten", [pooled], "flat")
    net.add("MatMul", [flat, net.constant("head", np.eye(4))], "scores")
    net.outputs.append(net._value("scores", "n", 4))
    return net.save(path, x, 4)


def moving_square(path: Path, size: tuple[int, int] = SIZE, noise: int = 0, frames: int = FRAMES) -> Path:
    """A bright square that moves over a still scene, coded without loss; `noise`: levels by which positions flicker."""
    rng = np.random.default_rng(1)
    scene = rng.integers(0, 150, (*size, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("rawvideo", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "bgr24"
        for number in range(frames):
            frame = scene.copy()
            frame[10:18, 4 + 3 * number : 12 + 3 * number] = 250
            frame += rng.integers(0, noise + 1, frame.shape, np.uint8) * (rng.random(size) < 0.1)[..., None]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path
