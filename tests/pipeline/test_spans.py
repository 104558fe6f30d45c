"""What the native kernels compute is what onnxruntime computes: any graph of their ops, mask, size, instruction set and
number of threads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from foveate.export.normalize import normalize
from foveate.pipeline.analyze import analyze
from foveate.pipeline.costs import CostModel
from foveate.pipeline.extract import extract
from foveate.pipeline.plan import plan
from foveate.pipeline.spans import lower
from foveate.runtime.manifest import TensorSpec
from foveate.runtime.native.handles import PlanHandle, PoolHandle, StateHandle
from foveate.runtime.native.library import ISAS, native_isa
from foveate.runtime.native.plan import (
    Activate,
    Array,
    Conv,
    ConvInteger,
    Copy,
    Softmax,
    SpanPlan,
    Window,
    encode,
)
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

SLOW = settings(
    max_examples=80,
    deadline=None,
    phases=[Phase.reuse, Phase.generate],  # a program is built for each example: shrinking would take minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
RUNNABLE = [isa for isa in ISAS if native_isa(isa)]


class Region:
    """The local part of a random program: its plan for the kernels, and its session."""

    def __init__(self, model, size: tuple[int, int], fused: bool = True):
        """`fused`: onnxruntime may rewrite the region, which bytes do not survive bit by bit."""
        normalize(model)
        self.fused = fused
        self.analysis = analysis = analyze(model, {"images": (1, 4, *size)})
        stem, *others = (s.step for s in plan(analysis, model=CostModel(call_ms=0.0)).steps)
        self.empty = not others or not others[0].local
        if self.empty:
            return
        self.step = others[0]
        self.stem = self._session(stem, stem.outputs)
        self.inputs = stem.outputs
        nodes = [n.name for n in self.step.nodes]
        self.arrays: list[np.ndarray] = []
        self.plan = lower(analysis, nodes, self.step.inputs, self.step.outputs, self._place)
        self.session = self._session(self.step, self.step.outputs)

    def _session(self, step, outputs):
        nodes = [n.name for n in step.nodes]
        specs = self._specs(step.inputs), self._specs(outputs)
        return open_session(extract(self.analysis.local, nodes, *specs, "part"), self.fused)

    def feeds(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """The region's inputs for an image."""
        values = self.stem.run(list(self.inputs), {"images": image})
        known = {"images": image, **dict(zip(self.inputs, values, strict=True))}
        return {name: known[name] for name in self.step.inputs}

    def _place(self, values: np.ndarray) -> Array:
        self.arrays.append(values)
        return Array(len(self.arrays) - 1, values.shape, values.dtype.name)

    def _specs(self, names):
        shapes = self.analysis.probes.sample.shapes
        return [TensorSpec(n, "float32", ("?",) * len(shapes[n])) for n in names]

    def open(self, threads: int, isa: str) -> StateHandle:
        shapes = self.analysis.probes.sample.shapes
        words, params = encode(self.plan, lambda array: self.arrays[array.offset])
        inputs, outputs = len(self.plan.inputs), len(self.plan.outputs)
        handle = PlanHandle(words, params, inputs=inputs, outputs=outputs, isa=isa)
        sizes = [(shapes[name][2], shapes[name][3]) for name in self.step.inputs]
        return StateHandle(handle, sizes, PoolHandle(threads))


def open_session(model, fused: bool = True):
    import onnxruntime as ort

    options = ort.SessionOptions()
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int]) -> np.ndarray:
    kind = draw(st.sampled_from(["boxes", "noise", "empty", "full", "checkerboard", "pixel"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if kind == "noise":
        return rng.random(size) < draw(st.sampled_from([0.02, 0.3, 0.9]))
    mask = np.full(size, kind == "full")
    if kind == "checkerboard":
        mask[::2, ::2] = mask[1::2, 1::2] = True
    if kind == "pixel":
        mask[rng.integers(size[0]), rng.integers(size[1])] = True
    for _ in range(3 if kind == "boxes" else 0):
        y, x, h, w = rng.integers(1, max(size) // 2, 4)
        mask[y : y + h, x : x + w] = True
    return mask


@SLOW
@given(data=st.data(), isa=st.sampled_from(RUNNABLE), threads=st.integers(1, 4))
def test_any_graph_and_mask(random_program, masked_image, data, isa, threads):
    size = data.draw(st.tuples(st.integers(11, 40), st.integers(11, 40)))
    region = Region(random_program(data.draw, data.draw(st.integers(2, 9)), native=True), size)
    event("no region" if region.empty else "a region")
    if region.empty:
        return
    images = [masked_image(data.draw(masks(size)), seed) for seed in range(3)]
    for name, found, wanted in answers(region, images, isa, threads):
        assert found.shape == wanted.shape
        error = np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1e-30)
        assert error <= 1e-5 or np.abs(found - wanted).max() < 1e-6, (name, error)


@SLOW
@given(data=st.data(), isa=st.sampled_from(RUNNABLE), threads=st.integers(1, 4))
def test_any_quantized_graph_and_mask(random_program, masked_image, data, isa, threads):
    """Bit by bit: with scales that are powers of two, the reference's floats are exact, and so are all roundings."""
    size = data.draw(st.tuples(st.integers(11, 40), st.integers(11, 40)))
    model = random_program(data.draw, data.draw(st.integers(2, 9)), native=True, quantized=True)
    region = Region(model, size, fused=False)
    event("no region" if region.empty else "a region")
    if region.empty:
        return
    event(f"{sum(isinstance(op, ConvInteger) for op in region.plan.ops)} convolutions of bytes")
    images = [masked_image(data.draw(masks(size)), seed) for seed in range(3)]
    for name, found, wanted in answers(region, images, isa, threads):
        np.testing.assert_array_equal(found, wanted, err_msg=name)


def answers(region: Region, images, isa: str, threads: int):
    """Name, what the kernels computed and what onnxruntime did, of each output for each image. One state for all:
    nothing of one may show in the next."""
    state = region.open(threads, isa)
    for image in images:
        feeds = region.feeds(image)
        masked = region.analysis.masks
        state.prepare([feeds[name][0, 0] != 0 if name in masked else None for name in feeds])
        state.run(list(feeds.values()))
        expected = map(np.asarray, region.session.run(list(region.step.outputs), feeds))
        yield from zip(region.step.outputs, state.outputs, expected, strict=True)
        state.restore()


@SLOW
@given(data=st.data())
def test_a_plan_survives_its_bundle(random_program, data):
    region = Region(random_program(data.draw, 5, native=True), (16, 20))
    if not region.empty:
        assert SpanPlan.from_json(region.plan.to_json()) == region.plan


def test_a_residual_block_is_three_ops(build_tiny_bundle):
    """Bias, residual sum, activation and mask are done where the convolution's result is."""
    from foveate.runtime.manifest import Region as ManifestRegion

    import foveate

    with foveate.load(build_tiny_bundle(), threads=1) as model:
        (region,) = (s for s in model.manifest.steps if isinstance(s, ManifestRegion))
        text = (model.path / region.spans).read_text()
    ops = SpanPlan.from_json(text).ops
    assert [type(op) for op in ops] == [Copy] + 5 * [Conv]
    assert [[s.kind for s in op.steps] for op in ops][-1] == ["combine", "activate", "combine"]


ALONE = {
    "Pad": ([np.array([0, 0, 1, 0, 0, 0, 2, 3]), np.float32(0)], {}),
    "Pad that crops": ([np.array([0, 0, -1, 2, 0, 0, 0, -3])], {}),
    "Slice": ([np.array([1, 0]), np.array([2**31, -2]), np.array([2, 3]), np.array([2, 3])], {}),
    "DepthToSpace": ([], {"blocksize": 2, "mode": "CRD"}),
    "DepthToSpace by columns": ([], {"blocksize": 2, "mode": "DCR"}),
    "Gelu": ([], {}),
    "Celu": ([], {"alpha": 0.4}),
    "Selu": ([], {}),
    "Mish": ([], {}),
    "Pow": ([np.float32(3)], {}),
    "Clip": ([np.float32(0), np.float32(6)], {}),
}


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("op", ALONE)
def test_an_op_alone(op: str, isa: str):
    constants, attributes = ALONE[op]
    weights = [onnx.numpy_helper.from_array(value, f"c{i}") for i, value in enumerate(constants)]
    names = ["x", *(w.name for w in weights)]
    node = onnx.helper.make_node(op.split()[0], names, ["y"], name="node", **attributes)
    shapes = [("x", ["batch", 8, "height", "width"]), ("y", None)]
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes]
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    analysis = analyze(model, {"x": (1, 8, 17, 22)})
    arrays: list[np.ndarray] = []

    def place(value: np.ndarray) -> Array:
        arrays.append(value)
        return Array(len(arrays) - 1, value.shape)

    words, params = encode(lower(analysis, ["node"], ["x"], ["y"], place), lambda a: arrays[a.offset])
    state = StateHandle(PlanHandle(words, params, inputs=1, outputs=1, isa=isa), [(17, 22)], PoolHandle(1))
    image = 4 * np.random.default_rng(0).standard_normal((1, 8, 17, 22)).astype(np.float32)
    state.prepare([None])
    state.run([image])
    (expected,) = open_session(model).run(None, {"x": image})
    np.testing.assert_allclose(state.outputs[0], np.asarray(expected), rtol=1e-5, atol=2e-6)


def test_a_pad_is_part_of_the_convolution(random_program):
    model = random_program(lambda _: 2, 0)
    pads = onnx.numpy_helper.from_array(np.array([0, 0, 1, 2, 0, 0, 3, 0]), "pads")
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    model.graph.node.insert(2, onnx.helper.make_node("Pad", [conv.input[0], "pads"], ["padded"], name="pad"))
    model.graph.initializer.append(pads)
    conv.input[0] = "padded"
    region = Region(model, (16, 16))
    (padded,) = (op for op in region.plan.ops if isinstance(op, Conv))
    assert (padded.window.low, padded.window.high) == ((2, 3), (4, 1))


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("channels", [1, 2, 21, 100])
def test_softmax_over_channels_of_several_blocks(isa: str, channels: int):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((channels, 8, 1, 1)).astype(np.float32)
    conv = Conv(0, 1, Window((1, 1)), 1, Array(0, weights.shape), None, (Softmax(),))
    words, params = encode(SpanPlan(("x", "y"), (8, channels), (0,), (), (1,), (conv,)), lambda _: weights)
    image = 20 * rng.standard_normal((1, 8, 8, 12)).astype(np.float32)
    state = StateHandle(PlanHandle(words, params, inputs=1, outputs=1, isa=isa), [(8, 12)], PoolHandle(2))
    state.prepare([None])
    state.run([image])
    logits = np.einsum("oi,iyx->oyx", weights[..., 0, 0].astype(np.float64), image[0])
    powers = np.exp(logits - logits.max(0))
    np.testing.assert_allclose(state.outputs[0][0], powers / powers.sum(0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("isa", RUNNABLE)
@pytest.mark.parametrize("channels", [(1, 1), (3, 5), (7, 31), (17, 33), (32, 48), (64, 100)])
def test_channels_that_no_vector_divides(isa: str, channels: tuple[int, int]):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((channels[1], channels[0], 3, 3)).astype(np.float32)
    bias = rng.standard_normal(channels[1]).astype(np.float32)
    window = Window((3, 3), low=(1, 1), high=(1, 1))
    conv = Conv(0, 1, window, 1, Array(0, weights.shape), Array(1, bias.shape), (Activate("relu"),))
    span_plan = SpanPlan(("x", "y"), channels, (0,), (), (1,), (conv,))
    words, params = encode(span_plan, lambda array: (weights, bias)[array.offset])
    image = rng.standard_normal((1, channels[0], 9, 13)).astype(np.float32)
    state = StateHandle(PlanHandle(words, params, inputs=1, outputs=1, isa=isa), [(9, 13)], PoolHandle(1))
    state.prepare([None])
    state.run([image])
    padded = np.pad(image[0], ((0, 0), (1, 1), (1, 1))).astype(np.float64)
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    expected = np.maximum(np.einsum("oikl,iyxkl->oyx", weights, patches) + bias[:, None, None], 0)
    np.testing.assert_allclose(state.outputs[0][0], expected, rtol=1e-4, atol=1e-4)
