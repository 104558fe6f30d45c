"""A small masked residual network and its bundle, for tests of every folder."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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


def make_masked_program(path: Path, *, masks: int = 1, seed: int = 0) -> Path:
    """images [batch, 3, height, width] -> stem, `masks` (0 to 2) masks before persistent convs of stride 1, pooling,
    `output` [batch, 4]. A second mask's keep is multiplied by the first's: "narrowed1". Other weights do not differ."""
    onnx = pytest.importorskip("onnx")
    from foveate.export.program import load_program, save_program

    helper, nodes, weights = onnx.helper, [], []

    def weight(name: str, *shape: int, value: float | None = None) -> str:
        rng = np.random.default_rng([seed, *name.encode()])
        array = rng.standard_normal(shape) * 0.3 if value is None else np.full(shape, value)
        weights.append(onnx.numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def add(op: str, inputs: list[str], output: str, **attributes) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def mask(number: int, x: str, earlier: str | None) -> str:
        name = f"mask{number}"
        inputs = [x, weight(f"{name}.weight", 1, 32, 1, 1), weight(f"{name}.bias", 1, value=0)]
        choices = {"threshold": 0.5, "temperature": 1.0, "lambda": 1e-3, "gamma": 1e-3}
        inputs += [weight(f"{name}.{key}", value=value) for key, value in choices.items()]
        outputs = [f"{name}.{output}" for output in ("keep", "logits", "energy")]
        nodes.append(
            helper.make_node("EnergyMask", inputs, outputs, name=name, domain="ai.foveate", patch=2, soft=0)
        )
        return outputs[0] if earlier is None else add("Mul", [outputs[0], earlier], f"narrowed{number}")

    x = add("Conv", ["images", weight("stem.weight", 8, 3, 3, 3)], "stem", pads=[1] * 4)
    x, keep = add("Relu", [x], "features"), None
    for number in range(2):
        if number < masks:
            keep = mask(number, x, keep)
            x = add("Mul", [x, keep], f"masked{number}")
        conv = add("Conv", [x, weight(f"body{number}.weight", 8, 8, 3, 3)], f"conv{number}", pads=[1] * 4)
        x = add("Relu", [conv], f"relu{number}")
        x = x if keep is None else add("Mul", [x, keep], f"persistent{number}")
    pooled = add("Flatten", [add("GlobalAveragePool", [x], "pooled")], "flat")
    add("Gemm", [pooled, weight("head.weight", 8, 4)], "output")
    image = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, "height", "width"])
    output = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["batch", 4])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.foveate", 1)]
    graph = helper.make_graph(nodes, "masked", [image], [output], weights)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return save_program(load_program(path), path)


@pytest.fixture
def make_program(tmp_path: Path) -> Callable[..., Path]:
    """`make_program(masks=1, seed=0, name="program.onnx")` -> a path in the test's folder."""

    def make(masks: int = 1, seed: int = 0, name: str = "program.onnx") -> Path:
        return make_masked_program(tmp_path / name, masks=masks, seed=seed)

    return make


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """An npz of 6 images uint8 [6, 24, 24, 3], dark noise with one bright blob each, and their labels (0 to 3)."""
    random = np.random.default_rng(7)
    images = np.full((6, 24, 24, 3), 60, np.uint8) + random.integers(0, 20, (6, 24, 24, 3), np.uint8)
    for number, image in enumerate(images):
        top, left = random.integers(0, 16, 2)
        image[top : top + 6 + number, left : left + 8] = random.integers(150, 255, 3)
    path = tmp_path / "scenes.npz"
    np.savez(path, images=images, labels=random.integers(0, 4, 6))
    return path


@pytest.fixture(scope="session")
def emulated_cuda(tmp_path_factory) -> Path:
    """The library of CUDA kernels, built for the CPU by a C++ compiler and emulator.h: the same code, one thread after
    the other, on memory of this process."""
    root = Path(__file__).parents[1]
    compiler = next((c for c in map(shutil.which, ("g++", "c++")) if c), None)
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder, emulator = tmp_path_factory.mktemp("emulated"), root / "tests/runtime/cuda"
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Werror", "-Wno-unknown-pragmas"]

    def build(source: Path) -> str:
        made = folder / f"{source.stem}.o"
        command = [compiler, *flags, f"-I{emulator}", "-x", "c++", "-c", str(source), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return str(made)

    sources = [path for path in (root / "runtime/cuda").iterdir() if path.suffix in (".cu", ".cpp")]
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(build, sources))
    library = folder / "libfoveate_cuda.so.1"
    subprocess.run([compiler, "-shared", "-o", str(library), *objects], check=True)
    return library
