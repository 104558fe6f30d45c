"""A small masked residual network and its bundle, for tests of every folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

TINY_SAMPLE = (1, 3, 64, 96)


def make_tiny_program(path: Path, *, seed: int = 0, width: int = 8, patch: int = 2) -> Path:
    """A program as somebody else might write it: stem at stride 2, mask0, a block, a block at stride 2, a head.

    Input images [batch, 3, height, width]; outputs logits [batch, 10] and features, the last map. The mask
    multiplies the output of every conv behind it. About a third of a noise image is active."""
    onnx = pytest.importorskip("onnx")
    from foveate.export.domain import DOMAIN, VERSION, domain_op

    helper, rng = onnx.helper, np.random.default_rng(seed)
    nodes, weights = [], []

    def weight(name: str, *shape: int) -> str:
        value = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        weights.append(onnx.numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def add(op: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def conv(x: str, name: str, cin: int, cout: int, kernel: int = 3, stride: int = 1) -> str:
        inputs = [x, weight(f"{name}.weight", cout, cin, kernel, kernel), weight(f"{name}.bias", cout)]
        pad = kernel // 2
        return add("Conv", inputs, name, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def masked(x: str, keep: str, name: str) -> str:
        return add("Mul", [add("Relu", [x], f"{name}.relu"), keep], f"{name}.masked")

    stem = add("Relu", [conv("images", "stem", 3, width, stride=2)], "stem.relu")
    gate = [weight("mask0.weight", 1, width * patch * patch, 1, 1), "mask0.bias"]
    choices = {"threshold": 0.5, "temperature": 1.0, "lambda": 1e-3, "gamma": 1e-3}
    scalars = {f"mask0.{k}": np.float32(v) for k, v in choices.items()}
    weights += [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in scalars.items()]
    weights.append(onnx.numpy_helper.from_array(np.full(1, 0.2, np.float32), "mask0.bias"))
    outputs = ["mask0.keep", "mask0.logits", "mask0.energy"]
    inputs = [stem, *gate, *scalars]
    nodes.append(helper.make_node("EnergyMask", inputs, outputs, name="mask0", domain=DOMAIN, patch=patch))
    keep = "mask0.keep"
    x = add("Mul", [stem, keep], "stem.masked")
    y = masked(conv(x, "block0.conv0", width, width), keep, "block0.conv0")
    y = add("Add", [conv(y, "block0.conv1", width, width), x], "block0.add")
    x = masked(y, keep, "block0")
    half = add("MaxPool", [keep], "mask0.half", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    y = masked(conv(x, "block1.conv0", width, 2 * width, stride=2), half, "block1.conv0")
    skip = conv(x, "block1.skip", width, 2 * width, kernel=1, stride=2)
    y = add("Add", [conv(y, "block1.conv1", 2 * width, 2 * width), skip], "block1.add")
    add("Mul", [add("Relu", [y], "block1.relu"), half], "features")
    pooled = add("Flatten", [add("GlobalAveragePool", ["features"], "pooled")], "flat")
    add("Gemm", [pooled, weight("head.weight", 2 * width, 10), weight("head.bias", 10)], "logits")

    def value(name: str, *shape):
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    images = value("images", "batch", 3, "height", "width")
    graph = helper.make_graph(
        nodes,
        "tiny",
        [images, *(value(name) for name in scalars)],
        [value("logits", "batch", 10), value("features", "batch", 2 * width, None, None)],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, VERSION)]
    body = domain_op("EnergyMask").function()
    model = helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def build_tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Builds the tiny network's bundle in a new folder: `build_tiny_bundle(seed=…, **options of build)`.

    The program lies beside the bundle as tiny.onnx."""

    def make(*, seed: int = 0, width: int = 8, patch: int = 2, **options) -> Path:
        from foveate.pipeline.build import build
        from foveate.pipeline.costs import CostModel

        folder = tmp_path_factory.mktemp("tiny")
        program = make_tiny_program(folder / "tiny.onnx", seed=seed, width=width, patch=patch)
        model = CostModel(call_ms=0.0)  # calls cost nothing: one segment per block, however small the maps
        return build(program, folder / "bundle", **{"sample": TINY_SAMPLE, "model": model, **options})

    return make


@pytest.fixture(scope="session")
def tiny_bundle(build_tiny_bundle: Callable[..., Path]) -> Path:
    """One bundle shared by all tests of a run: read it, do not change it."""
    return build_tiny_bundle()


@pytest.fixture(scope="session")
def tiny_program(tiny_bundle: Path) -> Path:
    return tiny_bundle.parent / "tiny.onnx"
