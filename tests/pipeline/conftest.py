"""Random programs: an energy mask on the image itself, and local nodes of every family behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

CHANNELS = (4, 8)
INEXACT = ("norm", "gate", "constant", "softmax", "shuffle")  # in float32, for numbers of few bits
NOT_NATIVE = ("nhwc", "reflect")
# fmt: off
ACTIVATIONS = (
    "Relu", "Sigmoid", "HardSwish", "Tanh", "LeakyRelu", "PRelu", "Clip", "Elu", "Celu", "Selu", "Softplus", "Mish",
    "Erf", "Abs", "Pow",
)
# fmt: on
FOREIGN: dict[str, dict[str, Any]] = {"Sin": {}, "LRN": {"size": 3}, "Softsign": {}}


class RandomProgram:
    """Draws a graph. Every tensor has a key, the history of its size: tensors of one key have one size at every
    resolution, so they may be added and joined. `s` halves rounding up, `u` doubles, `v` loses two positions."""

    def __init__(self, draw: Callable[..., Any], native=False, foreign: str = "", quantized=False):
        import onnx

        self.native = native or bool(foreign)  # nodes that the native kernels run, alone …
        self.foreign = foreign  # … but this op, in the middle; then masks are persistent
        # Convolutions read bytes, by scales that are powers of two: every result is exact in float32, in any order.
        self.quantized = quantized

        self.draw, self.onnx = draw, onnx
        self.rng = np.random.default_rng(draw(st.integers(0, 1000)))
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.tensors: list[tuple[str, int, str]] = []  # name, channels, key
        self.masks = {"": "mask0.keep"}

    def weight(self, *shape: int) -> str:
        value = self.rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        if self.quantized:
            return self.constant(np.round(value * 64).astype(np.float32) / 64)
        return self.constant(value.astype(np.float32))

    def constant(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(
            self.onnx.helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes)
        )
        return name

    def conv(self, x: str, cin: int, cout: int, kernel: int, **attributes: Any) -> str:
        shape = cout, cin // attributes.get("group", 1), kernel, kernel
        if self.quantized:
            return self.add("Conv", self.bytes(x), self.bytes_weight(*shape), self.weight(cout), **attributes)
        return self.add("Conv", x, self.weight(*shape), self.weight(cout), **attributes)

    def bytes(self, x: str) -> str:
        """x as bytes can hold it."""
        kind, zeros = self.draw(
            st.sampled_from([(np.int8, [0, 0, 3, -128]), (np.uint8, [0, 128, 77])]), label="bytes"
        )
        scale = self.constant(np.array(2.0 ** -self.draw(st.integers(4, 6)), np.float32))
        zero = self.constant(np.array(self.draw(st.sampled_from(zeros)), kind))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, scale, zero), scale, zero)

    def bytes_weight(self, *shape: int) -> str:
        """Weights, by a scale for each output channel or by one for all."""
        values = self.constant(self.rng.integers(-127, 128, shape).astype(np.int8))
        if self.draw(st.booleans()):
            scale = self.constant(np.array(2.0**-8, np.float32))
            return self.add("DequantizeLinear", values, scale)
        scale = self.constant((2.0 ** -self.rng.integers(7, 10, shape[0])).astype(np.float32))
        zero = self.constant(np.zeros(shape[0], np.int8))
        return self.add("DequantizeLinear", values, scale, zero, axis=0)

    def step(self) -> None:
        """One more node or two, on a tensor that is there."""
        name, channels, key = self.draw(st.sampled_from(self.tensors[-3:]))
        options = [
            "same",
            "same",
            "dilated",
            "depthwise",
            "even",
            "pool",
            "act",
            "remask",
            "add",
            "concat",
            "pad",
        ]
        options += ["norm", "gate", "constant", "parts", "nhwc", "valid", "reflect", "softmax"]
        options += ["down", "down", "ceil_pool"] if key.count("s") < 2 else []
        options += ["up", "transposed", "shuffle"] if key.count("u") < 2 else []
        options += ["requantized"] if self.quantized else []
        options = [o for o in options if not (self.native and o in NOT_NATIVE)]
        options = [o for o in options if not (self.quantized and o in INEXACT)]
        made = getattr(self, f"_{self.draw(st.sampled_from(options))}")(name, channels, key)
        if made is not None:
            self.tensors.append(made)
        persistent = self._remask(*self.tensors[-1]) if self.foreign else None
        if persistent is not None:
            self.tensors.append(persistent)

    def _same(self, x, c, key):
        out = self.draw(st.sampled_from(CHANNELS))
        return self.conv(x, c, out, 3, pads=[1] * 4, group=self.draw(st.sampled_from([1, 2]))), out, key

    def _dilated(self, x, c, key):
        return self.conv(x, c, c, 3, pads=[2] * 4, dilations=[2, 2]), c, key

    def _depthwise(self, x, c, key):
        return self.conv(x, c, c, 5, pads=[2] * 4, group=c), c, key

    def _even(self, x, c, key):
        return self.conv(x, c, c, 2, pads=self.draw(st.sampled_from([[0, 0, 1, 1], [1, 0, 0, 1]]))), c, key

    def _requantized(self, x, c, key):
        return self.bytes(x), c, key

    def _pool(self, x, c, key):
        op = self.draw(st.sampled_from(["MaxPool"] if self.quantized else ["MaxPool", "AveragePool"]))
        more = {"count_include_pad": self.draw(st.integers(0, 1))} if op == "AveragePool" else {}
        return self.add(op, x, kernel_shape=[3, 3], pads=[1] * 4, **more), c, key

    def _act(self, x, c, key):
        op = self.draw(st.sampled_from(("Relu", "Clip") if self.quantized else ACTIVATIONS))
        if op == "PRelu":
            return self.add(op, x, self.weight(c, 1, 1)), c, key
        if op == "Clip":
            return self.add(op, x, *(self.constant(np.array(v, np.float32)) for v in (-0.3, 0.4))), c, key
        if op == "Pow":
            return self.add(op, x, self.constant(np.array(2, np.float32))), c, key
        return self.add(op, x), c, key

    def _gate(self, x, c, key):
        """x·sigmoid(x), or x and a map of one channel."""
        alone = self.draw(st.booleans())
        gate = self.add("Sigmoid", x if alone else self.conv(x, c, 1, 1))
        op = self.draw(st.sampled_from(["Mul", "Mul", "Add", "Sub"]))
        return self.add(op, *self.draw(st.permutations([x, gate]))), c, key

    def _constant(self, x, c, key):
        op = self.draw(st.sampled_from(["Add", "Mul", "Sub", "Div"]))
        shape = self.draw(st.sampled_from([(1, c, 1, 1), (c, 1, 1), (1,), ()]))
        value = self.constant(self.rng.uniform(0.5, 2, shape).astype(np.float32))
        order = [value, x] if op != "Div" and self.draw(st.booleans()) else [x, value]
        return self.add(op, *order), c, key

    def _parts(self, x, c, key):
        """Channels taken apart and joined the other way round."""
        bounds = ([0], [c // 2], [1]), ([c // 2], [c], [1])
        halves = [
            self.add("Slice", x, *(self.constant(np.array(b, np.int64)) for b in part)) for part in bounds
        ]
        return self.add("Concat", *halves[::-1], axis=1), c, key

    def _remask(self, x, c, key):
        return (self.add("Mul", x, self.masks[key]), c, key) if key in self.masks else None

    def _partner(self, x, c, key, same: bool):
        fits = [n for n, d, k in self.tensors if k == key and (d == c or not same)]
        return self.draw(st.sampled_from(fits))

    def _add(self, x, c, key):
        return self.add("Add", x, self._partner(x, c, key, True)), c, key

    def _concat(self, x, c, key):
        other = self._partner(x, c, key, True)
        return self.conv(self.add("Concat", x, other, axis=1), 2 * c, c, 1), c, key

    def _pad(self, x, c, key):
        padded = self.add("Pad", x, self.constant(np.array([0, 0, 2, 1, 0, 0, 0, 1], np.int64)))
        return self.conv(padded, c, c, 3, pads=[0, 0, 0, 0]), c, key

    def _reflect(self, x, c, key):
        mode = self.draw(st.sampled_from(["edge", "reflect"]))
        padded = self.add("Pad", x, self.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)), mode=mode)
        return self.conv(padded, c, c, 3), c, key

    def _norm(self, x, c, key):
        ones = [self.constant(np.abs(self.rng.standard_normal(c)).astype(np.float32) + 0.1) for _ in range(4)]
        return self.add("BatchNormalization", x, *ones), c, key

    def _nhwc(self, x, c, key):
        turned = self.add("Transpose", x, perm=[0, 2, 3, 1])
        normed = self.add("LayerNormalization", turned, self.weight(c), self.weight(c), axis=-1)
        mixed = self.add("MatMul", normed, self.weight(c, c))
        return self.add("Transpose", mixed, perm=[0, 3, 1, 2]), c, key

    def _softmax(self, x, c, key):
        return self.add("Softmax", x, axis=1), c, key

    def _valid(self, x, c, key):
        if key.count("v"):
            return None
        if self.draw(st.booleans()):
            return self.conv(x, c, c, 3), c, key + "v"
        bounds = [np.array(v, np.int64) for v in ([1, 1], [-1, -1], [2, 3])]
        return self.add("Slice", x, *(self.constant(b) for b in bounds)), c, key + "v"

    def _down(self, x, c, key):
        kernel = self.draw(st.sampled_from([1, 3, 5]))
        self._mask_of(key, "s")
        return self.conv(x, c, c, kernel, strides=[2, 2], pads=[kernel // 2] * 4), c, key + "s"

    def _ceil_pool(self, x, c, key):
        op = self.draw(st.sampled_from(["MaxPool"] if self.quantized else ["MaxPool", "AveragePool"]))
        self._mask_of(key, "s")
        return self.add(op, x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), c, key + "s"

    def _up(self, x, c, key):
        where, mode = self.draw(st.sampled_from([
            ("asymmetric", "nearest"), ("half_pixel", "nearest"), ("half_pixel", "linear"),
            ("pytorch_half_pixel", "linear"), ("asymmetric", "linear"), ("half_pixel", "cubic"),
        ][: 2 if self.quantized else 5 if self.native else 6]))  # fmt: skip
        more = {"nearest_mode": "floor"} if mode == "nearest" else {}
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        self._mask_of(key, "u")
        attributes = {"coordinate_transformation_mode": where, "mode": mode, **more}
        return self.add("Resize", x, "", scales, **attributes), c, key + "u"

    def _transposed(self, x, c, key):
        kernel, pads, more = self.draw(
            st.sampled_from([(2, 0, {}), (4, 1, {}), (3, 1, {"output_padding": [1, 1]})])
        )
        groups = self.draw(st.sampled_from([1, 2]))
        x = self.bytes(x) if self.quantized else x
        inputs = x, self.weight(c, c // groups, kernel, kernel), self.weight(c)
        name = self.add("ConvTranspose", *inputs, strides=[2, 2], pads=[pads] * 4, group=groups, **more)
        self._mask_of(key, "u")
        return name, c, key + "u"

    def _shuffle(self, x, c, key):
        self._mask_of(key, "u")
        return self.conv(self.add("DepthToSpace", x, blocksize=2), c // 4, c, 1), c, key + "u"

    def _mask_of(self, key: str, more: str) -> None:
        if key not in self.masks or key + more in self.masks:
            return
        if more == "s":
            pooled = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
            self.masks[key + more] = self.add("MaxPool", self.masks[key], **pooled)
        else:
            scales = self.constant(np.array([1, 1, 2, 2], np.float32))
            attributes = {"mode": "nearest", "nearest_mode": "floor"}
            attributes["coordinate_transformation_mode"] = "asymmetric"
            self.masks[key + more] = self.add("Resize", self.masks[key], "", scales, **attributes)

    def model(self, steps: int, masked: bool = True):
        """images [batch, 4, height, width] -> y. A position is active where channel 0 of the image is negative; if not
        `masked`, everywhere."""
        from foveate.export.domain import DOMAIN, VERSION, domain_op

        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        gate = self.constant(np.array([1, 0, 0, 0], np.float32).reshape(1, 4, 1, 1))
        scalars = {"threshold": 0.5, "temperature": 1.0, "lambda": 1e-3, "gamma": 1e-3}
        for name, value in scalars.items():
            tensor = self.onnx.numpy_helper.from_array(np.asarray(value, np.float32), f"mask0.{name}")
            self.weights.append(tensor)
        inputs = ["images", gate, self.constant(np.zeros(1, np.float32)), *(f"mask0.{n}" for n in scalars)]
        outputs = ["mask0.keep", "mask0.logits", "mask0.energy"]
        if masked:
            self.nodes.append(
                helper.make_node("EnergyMask", inputs, outputs, name="mask0", domain=DOMAIN, patch=1)
            )
        else:
            scalars, self.masks, self.weights = {}, {}, []
        self.tensors.append((self.add("Mul", "images", "mask0.keep") if masked else "images", 4, ""))
        self.tensors.append((self.conv(self.tensors[0][0], 4, 4, 3, pads=[1] * 4), 4, ""))
        for i in range(steps):
            if self.foreign and i == steps // 2:
                last, *rest = self.tensors[-1]
                last = self.add(self.foreign, last, **FOREIGN[self.foreign])
                self.tensors += [(last, *rest), self._same(last, *rest)]
            self.step()
        self.nodes.append(helper.make_node("Relu", [self.tensors[-1][0]], ["y"], name="y"))
        images = helper.make_tensor_value_info("images", kind, ["batch", 4, "height", "width"])
        choices = [helper.make_tensor_value_info(f"mask0.{n}", kind, []) for n in scalars]
        result = helper.make_tensor_value_info("y", kind, ["batch", self.tensors[-1][1], None, None])
        graph = helper.make_graph(self.nodes, "random", [images, *choices], [result], self.weights)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
        body = domain_op("EnergyMask").function()
        return helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=9)


@pytest.fixture(scope="session")
def random_program() -> Callable[..., Any]:
    """`random_program(draw, steps, native=False, masked=True, foreign="", quantized=False)` gives an onnx.ModelProto:
    see there."""

    def make(draw, steps, native=False, masked=True, foreign="", quantized=False):
        return RandomProgram(draw, native, foreign, quantized).model(steps, masked)

    return make


def image_of(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """An image [1, 4, H, W] whose active positions are where `mask` [H, W] is true."""
    rng = np.random.default_rng(seed)
    image = rng.uniform(-0.5, 0.5, (1, 4, *mask.shape)).astype(np.float32)
    image[0, 0] = np.where(mask, -1, 1)
    return image


@pytest.fixture(scope="session")
def masked_image() -> Callable[..., np.ndarray]:
    """`masked_image(mask, seed=0)`: see image_of."""
    return image_of
