"""A small bundle made by hand: a mask that tests control through the image, and local segments of every kind.

images [batch, 4, height, width]; channel 3 carries the mask. stem -> region of four local segments -> pooled tail:

    a  residual block, masked after every conv                     halo 2, same resolution
    b  residual block with stride 2, masked by the pooled mask     halo 2 and 1, input of 2 positions a cell
    c  3×3 conv without a mask: dirtiness spreads, the reference is not zero; scaled by the choice `gain`
    d  nearest upsampling of c: output of 2 positions a cell
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.runtime.manifest import (
    Choice,
    Decision,
    DenseSegment,
    FileEntry,
    GridTensor,
    LocalSegment,
    Manifest,
    Preprocess,
    Region,
    TensorSpec,
    Term,
)
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 8
SHAPES = {
    "images": ("batch", 4, "height", "width"),
    "x": ("batch", CHANNELS, "height/2", "width/2"),
    "mask0.keep": ("batch", 1, "height/2", "width/2"),
    "mask0.logits": ("batch", 1, "height/2", "width/2"),
    "mask0.energy": ("batch", 1, "height/2", "width/2"),
    "keep2": ("batch", 1, "height/4", "width/4"),
    "a": ("batch", CHANNELS, "height/2", "width/2"),
    "b": ("batch", CHANNELS, "height/4", "width/4"),
    "c": ("batch", CHANNELS, "height/4", "width/4"),
    "d": ("batch", CHANNELS, "height/2", "width/2"),
    "y": ("batch", CHANNELS, 1, 1),
}
CHOICES = {"mask0.threshold": 0.5, "gain": 1.0}
DECISION = ("mask0.keep", "mask0.logits", "mask0.energy")
REGION = ("x", "mask0.keep", "keep2")


class _Weights:
    """Initializers by name, random but the same each time."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(7)
        self.tensors: dict[str, np.ndarray] = {
            name: np.array(value, np.float32) for name, value in CHOICES.items()
        }

    def conv(
        self, name: str, source: str, out: str, *, kernel: int = 3, stride: int = 1, channels: int = CHANNELS
    ):
        shape = (CHANNELS, channels, kernel, kernel)
        self.tensors[f"{name}.w"] = self.random.normal(0, 0.25, shape).astype(np.float32)
        self.tensors[f"{name}.b"] = self.random.normal(0, 0.25, CHANNELS).astype(np.float32)
        pads = [kernel // 2] * 4
        inputs = [source, f"{name}.w", f"{name}.b"]
        return helper.make_node(
            "Conv", inputs, [out], strides=[stride] * 2, pads=pads, kernel_shape=[kernel] * 2
        )

    def constant(self, name: str, value: Sequence[float] | np.ndarray) -> str:
        self.tensors[name] = np.asarray(value)
        return name


def _nodes() -> tuple[_Weights, dict[str, list[onnx.NodeProto]]]:
    """The nodes of each segment."""
    w, node = _Weights(), helper.make_node
    pool = {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}
    ends = [
        w.constant(f"slice.{n}", np.array(v)) for n, v in (("0", [0]), ("3", [3]), ("4", [4]), ("axis", [1]))
    ]
    w.constant("scales", np.array([1, 1, 2, 2], np.float32))
    stem = [
        node("Slice", ["images", ends[0], ends[1], ends[3]], ["rgb"]),
        node("Slice", ["images", ends[1], ends[2], ends[3]], ["drawn"]),
        w.conv("stem", "rgb", "stem.conv", stride=2, channels=3),
        node("Relu", ["stem.conv"], ["x"]),
        node("MaxPool", ["drawn"], ["score"], **pool),
        node("Mul", ["score", "score"], ["mask0.logits"]),
        node("Sigmoid", ["mask0.logits"], ["mask0.energy"]),
        node("Greater", ["mask0.logits", "mask0.threshold"], ["active"]),
        node("Cast", ["active"], ["mask0.keep"], to=TensorProto.FLOAT),
        node("MaxPool", ["mask0.keep"], ["keep2"], **pool),
    ]
    a = [
        node("Mul", ["x", "mask0.keep"], ["x.masked"]),
        w.conv("a1", "x.masked", "a1.conv"),
        node("Relu", ["a1.conv"], ["a1.relu"]),
        node("Mul", ["a1.relu", "mask0.keep"], ["a1.out"]),
        w.conv("a2", "a1.out", "a2.conv"),
        node("Add", ["a2.conv", "x.masked"], ["a2.sum"]),
        node("Relu", ["a2.sum"], ["a2.relu"]),
        node("Mul", ["a2.relu", "mask0.keep"], ["a"]),
    ]
    b = [
        w.conv("b1", "a", "b1.conv", stride=2),
        node("Relu", ["b1.conv"], ["b1.relu"]),
        node("Mul", ["b1.relu", "keep2"], ["b1.out"]),
        w.conv("b2", "b1.out", "b2.conv"),
        w.conv("b3", "a", "b3.conv", kernel=1, stride=2),
        node("Add", ["b2.conv", "b3.conv"], ["b.sum"]),
        node("Relu", ["b.sum"], ["b.relu"]),
        node("Mul", ["b.relu", "keep2"], ["b"]),
    ]
    c = [
        w.conv("c1", "b", "c.conv"),
        node("Mul", ["c.conv", "gain"], ["c.scaled"]),
        node("Relu", ["c.scaled"], ["c"]),
    ]
    up = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    d = [node("Resize", ["c", "", "scales"], ["d"], **up)]
    tail = [node("GlobalAveragePool", ["c"], ["y"])]
    return w, {"stem": stem, "a": a, "b": b, "c": c, "d": d, "tail": tail}


def _cut(
    weights: _Weights, nodes: list[onnx.NodeProto], inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    used = {name for n in nodes for name in n.input}
    graph = helper.make_graph(
        nodes,
        "cut",
        [_value(name) for name in inputs]
        + [helper.make_tensor_value_info(n, TensorProto.FLOAT, []) for n in CHOICES if n in used],
        [_value(name) for name in outputs],
        [numpy_helper.from_array(v, name) for name, v in weights.tensors.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _value(name: str) -> onnx.ValueInfoProto:
    dims = [d if isinstance(d, int) else f"{name}.{i}" for i, d in enumerate(SHAPES[name])]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


def _spec(name: str) -> TensorSpec:
    return TensorSpec(name, "float32", SHAPES[name])


def _region() -> Region:
    two, keep, keep2 = (2, 2), Term("mask0.keep"), Term("keep2")

    def segment(
        name: str, inputs: Sequence[GridTensor], output: GridTensor, low: int, high: int, macs: float
    ):
        file = f"programs/{name}.onnx"
        halo = (low, low), (high, high)
        return LocalSegment(name, file, tuple(inputs), (output,), *halo, macs_per_cell=macs)

    block = CHANNELS**2 * 9
    t = GridTensor
    segments = (
        segment("a", [t("x"), t("mask0.keep")], t("a", dirty=(keep,)), 2, 2, 2 * block),
        segment("b", [t("a", two), t("keep2")], t("b", dirty=(keep2,)), 2, 1, 2 * block),
        segment("c", [t("b")], t("c", dirty=(Term("b", low=(-1, -1), high=(1, 1)),)), 1, 1, block),
        segment("d", [t("c")], t("d", two, dirty=(Term("c", den=two),)), 0, 0, 1.0),
    )
    return Region("region0", segments, REGION, ("c", "d"), REGION[1:], "programs/region0.onnx")


def write_bundle(
    folder: Path, *, program_decisions: bool = True, preprocess: Preprocess | None = None
) -> Path:
    """Writes the bundle of this module into `folder`."""
    weights, nodes = _nodes()
    region = _region()
    inside = [n for s in region.segments for n in nodes[s.name]]
    everything = [*nodes["stem"], *inside, *nodes["tail"]]
    program_outputs = ["y", "d", *(DECISION if program_decisions else ())]
    programs = {
        "program": _cut(weights, everything, ["images"], program_outputs),
        "stem": _cut(weights, nodes["stem"], ["images"], ["x", *DECISION, "keep2"]),
        "region0": _cut(weights, inside, REGION, ["c", "d"]),
        "tail": _cut(weights, nodes["tail"], ["c"], ["y"]),
    }
    for s in region.segments:
        programs[s.name] = _cut(
            weights, nodes[s.name], [t.name for t in s.inputs], [t.name for t in s.outputs]
        )
    (folder / "programs").mkdir(parents=True)
    files = {}
    for name, model in programs.items():
        data = model.SerializeToString()
        (folder / f"programs/{name}.onnx").write_bytes(data)
        files[f"programs/{name}.onnx"] = FileEntry(hashlib.sha256(data).hexdigest(), len(data))
    manifest = Manifest(
        name="handmade",
        inputs=(_spec("images"),),
        outputs=(_spec("y"), _spec("d")),
        tensors=tuple(_spec(n) for n in SHAPES if n not in ("images", "y")),
        steps=(
            DenseSegment("stem", "programs/stem.onnx", ("images",), ("x", *DECISION, "keep2")),
            region,
            DenseSegment("tail", "programs/tail.onnx", ("c",), ("y",)),
        ),
        decisions=(Decision("mask0", "energy_mask", *DECISION),),
        choices=tuple(Choice(name, value) for name, value in CHOICES.items()),
        preprocess=preprocess or Preprocess(),
        sample={"images": [1, 4, 64, 64]},
        min_size=(8, 8),
        files=files,
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def draw(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """float32 images [1, 4, H, W]: noise, and a bool [H, W] mask in the last channel."""
    image = np.random.default_rng(seed).normal(size=(1, 4, *mask.shape)).astype(np.float32)
    image[0, 3] = mask
    return image


@pytest.fixture(scope="session")
def handmade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, shared: only for tests that do not change it."""
    return write_bundle(tmp_path_factory.mktemp("shared") / "handmade")


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle of the test's own."""
    return lambda **options: write_bundle(tmp_path / "bundle", **options)


@pytest.fixture(scope="session")
def make_image() -> Callable[..., np.ndarray]:
    return draw
