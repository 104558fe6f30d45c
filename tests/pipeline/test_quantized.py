"""Q/DQ programs as onnxruntime.quantization writes them: lowered to convolutions of bytes, run masked and as streams.

The reference is what the graph says: onnxruntime without its rewriting computes it in floats. What onnxruntime makes of
it otherwise sums up bytes with saturation on processors that have AVX2 alone. The kernels and the reference add floats
in different order, so that a value on the edge between two bytes may fall to either side: rarely, and by one byte.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.pipeline.analyze import MASK, analyze
from foveate.pipeline.build import build
from foveate.pipeline.costs import CostModel
from foveate.pipeline.spans import Unsupported, lower, lower_from_inputs
from foveate.pipeline.tolerances import TOLERANCES, tolerance_of_engine
from foveate.pipeline.verify import verify
from foveate.runtime import load
from foveate.runtime.engine import TorchConfig
from foveate.runtime.manifest import ONNX, EngineFile, Region
from foveate.runtime.native.plan import Array, ConvInteger, Copy, SpanPlan
from onnx import helper, numpy_helper

SHAPE = (1, 3, 64, 96)
SYMMETRIC = {
    "activation_type": "QInt8",
    "op_types_to_quantize": ["Conv"],
    "extra_options": {
        "ActivationSymmetric": True,
        "QuantizeBias": False,
        "OpTypesToExcludeOutputQuantization": ["Conv"],
    },
}
DEFAULTS = {"activation_type": "QInt8"}  # everything that it can, zero points anywhere, biases in 32 bits
UNSIGNED = {"activation_type": "QUInt8"}


def quantized(program: Path, options: dict) -> Path:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Noise(CalibrationDataReader):
        def __init__(self):
            rng = np.random.default_rng(0)
            self.left = [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(2)]

        def get_next(self) -> dict:  # at the end None, whatever the base class says
            return {"images": self.left.pop()} if self.left else None  # pyright: ignore[reportReturnType]

    kinds = {
        "weight_type": QuantType.QInt8,
        **options,
        "activation_type": QuantType[options["activation_type"]],
    }
    made = program.with_name("quantized.onnx")
    quantize_static(program, made, Noise(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)
    return made


def reference(program: Path) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(program, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return lambda image: dict(zip(names, map(np.asarray, session.run(names, {"images": image})), strict=True))


def assert_same_but_for_edges(found: np.ndarray, wanted: np.ndarray) -> None:
    change = np.abs(found - wanted) / np.abs(wanted).max()
    assert (change > 1e-5).mean() < 0.02 and change.max() < 0.05, (change.max(), (change > 1e-5).mean())


def plan_of(bundle: Path, file: str) -> SpanPlan:
    return SpanPlan.from_json((bundle / file).read_text())


@pytest.fixture(scope="module")
def masked(tiny_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quantized")
    copy = folder / "tiny.onnx"
    copy.write_bytes(tiny_program.read_bytes())
    program = quantized(copy, SYMMETRIC)
    return build(program, folder / "bundle", sample=SHAPE, model=CostModel(call_ms=0.0))


def test_a_masked_program_runs_on_bytes(masked: Path):
    """A convolution of bytes does all that stands between it and the next one's bytes."""
    wanted_of = reference(masked.parent / "quantized.onnx")
    with load(masked, threads=2, strategy="spans") as model:
        (region,) = (s for s in model.manifest.steps if isinstance(s, Region))
        plan = plan_of(masked, region.spans)
        assert [type(op) for op in plan.ops] == [Copy, *[ConvInteger] * 5]
        steps = [[s.kind for s in op.steps] for op in plan.ops]
        assert steps[2] == ["combine", "activate", "combine"] and len(plan.formats) == len(plan.channels)
        for seed in range(4):
            image = np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)
            result, wanted = model(image), wanted_of(image)
            assert result.strategies["region0"][0] == "spans"
            assert_same_but_for_edges(result["features"], wanted["features"])


def test_in_float16_it_runs_by_torch_and_is_verified_as_quantized(masked: Path, tmp_path: Path):
    """Rounded to float16, a value on the edge of two bytes falls to either."""
    program = masked.parent / "quantized.onnx"
    bundle = build(program, tmp_path / "bundle", sample=SHAPE, target="torch:fp16")
    report = verify(bundle, limit=2, threads=1, strategies=("rects",))
    report.require()
    assert report.engines and {engine.tolerance for engine in report.engines} == {TOLERANCES["int8"]}
    image = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    wanted = reference(program)(image)["features"]
    with load(bundle, backend=TorchConfig(device="cpu")) as model:
        assert model.backend == "torch"
        off = np.abs(np.asarray(model(image)["features"]) - wanted) / np.abs(wanted).max()
    assert off.max() < TOLERANCES["int8"] and off.mean() < 5e-3


@pytest.mark.parametrize(
    ("flavour", "precision", "quantized", "tolerance"),
    [
        (ONNX, "fp16", True, TOLERANCES["int8"]),
        (ONNX, "bf16", True, TOLERANCES["bf16"]),
        (ONNX, "fp16", False, TOLERANCES["fp16"]),
        ("tensorrt", "fp16", True, TOLERANCES["fp16"]),
    ],
)
def test_what_a_lowered_file_in_bytes_may_be_off(flavour, precision, quantized, tolerance):
    engine = EngineFile("programs/p.onnx", "engines/p.onnx", "", flavour, "", "any", precision)
    assert tolerance_of_engine(engine, quantized) == tolerance


def chain(path: Path) -> Path:
    """images [batch, 3, height, width] -> y: convolutions of odd channels, a residual sum, pooling, channels joined,
    dilation, groups, one of them depthwise."""
    rng, nodes, weights = np.random.default_rng(0), [], []

    def weight(*shape: int) -> str:
        value = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        weights.append(numpy_helper.from_array(value.astype(np.float32), f"w{len(weights)}"))
        return weights[-1].name

    def add(op: str, *inputs: str, output: str = "", **attributes) -> str:
        made = output or f"t{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [made], name=f"n{len(nodes)}", **attributes))
        return made

    c = 9
    x = add("Relu", add("Conv", "images", weight(c, 3, 3, 3), weight(c), pads=[1] * 4))
    y = add("Relu", add("Conv", x, weight(c, c, 3, 3), weight(c), pads=[1] * 4))
    x = add("Relu", add("Add", x, add("Conv", y, weight(c, c, 3, 3), weight(c), pads=[1] * 4)))
    x = add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    d = add("Relu", add("Conv", x, weight(c, 1, 3, 3), weight(c), pads=[1] * 4, group=c))
    g = add("Conv", d, weight(c, c // 3, 3, 3), weight(c), pads=[2] * 4, group=3, dilations=[2, 2])
    add("Conv", add("Concat", x, g, axis=1), weight(5, 2 * c, 1, 1), weight(5), output="y")
    kind = onnx.TensorProto.FLOAT
    given = helper.make_tensor_value_info("images", kind, ["batch", 3, "height", "width"])
    made = helper.make_tensor_value_info("y", kind, ["batch", 5, None, None])
    graph = helper.make_graph(nodes, "chain", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_without_native_kernels_windows_do_it(masked: Path):
    """Bytes cross between windows' engines, too."""
    image = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    with load(masked, threads=2, strategy="rects") as model:
        result = model(image)
        assert result.strategies["region0"][0] == "rects"
        assert_same_but_for_edges(result["features"], model.dense(image)["features"])


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], onnx.ModelProto]:
    path = quantized(chain(tmp_path_factory.mktemp("simple") / "chain.onnx"), SYMMETRIC)
    return lambda: onnx.load(path)


@pytest.mark.parametrize(
    "options", [SYMMETRIC, DEFAULTS, UNSIGNED], ids=["symmetric", "defaults", "unsigned"]
)
def test_a_stream_runs_on_bytes(tmp_path: Path, options: dict):
    program = quantized(chain(tmp_path / "chain.onnx"), options)
    bundle = build(program, tmp_path / "bundle", sample=SHAPE)
    wanted_of = reference(program)
    rng = np.random.default_rng(0)
    frame = rng.standard_normal(SHAPE).astype(np.float32)
    with load(bundle, threads=2) as model:
        assert model.manifest.stream is not None
        ops = plan_of(bundle, model.manifest.stream.spans).ops
        assert sum(isinstance(op, ConvInteger) for op in ops) == 6
        stream = model.stream(fallback=False)
        for step in range(4):
            frame = frame.copy()
            frame[..., 8 * step : 8 * step + 9, 20:31] += rng.standard_normal((1, 3, 9, 11)).astype(
                np.float32
            )
            assert_same_but_for_edges(stream(frame)["y"], wanted_of(frame)["y"])
        assert stream.work < stream.full_work


def test_a_stream_on_bytes_is_limited_saved_and_loaded(simple, tmp_path: Path):
    """Layer thresholds hold back changes of bytes, too, and a state of bytes comes back as it was."""
    onnx.save(simple(), tmp_path / "program.onnx")
    bundle = build(tmp_path / "program.onnx", tmp_path / "bundle", sample=SHAPE)
    frames = [np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)]
    for seed in range(3):
        change = np.random.default_rng(seed).standard_normal((1, 3, 12, 12)).astype(np.float32)
        frames.append(frames[-1].copy())
        frames[-1][..., 20:32, 30:42] += 0.05 * change
    with load(bundle, threads=2) as model:
        exact, limited = model.stream(fallback=False), model.stream(fallback=False, layer_threshold=0.05)
        work = []
        for frame in frames:
            wanted, found = exact(frame)["y"], limited(frame)["y"]
            work.append((exact.work, limited.work))
            assert np.abs(found - wanted).max() < 0.2 * np.abs(wanted).max()
        assert sum(some for _, some in work[1:]) < 0.8 * sum(all_of for all_of, _ in work[1:])
        exact.save(tmp_path / "state")
        other = model.stream(fallback=False)
        other.load(tmp_path / "state")
        frame = frames[-1] + (np.arange(96) > 80).astype(np.float32)
        np.testing.assert_array_equal(other(frame)["y"], exact(frame)["y"])


def edit(program: onnx.ModelProto, op: str, **values: np.ndarray) -> onnx.ModelProto:
    """Gives the first node of that op other operands, by input number: `i1=…`."""
    node = next(n for n in program.graph.node if n.op_type == op and n.input[0] not in _initializers(program))
    for name, value in values.items():
        made = f"edited_{op}_{name}"
        program.graph.initializer.append(numpy_helper.from_array(value, made))
        node.input[int(name[1:])] = made
    return program


def _initializers(program: onnx.ModelProto) -> set[str]:
    return {i.name for i in program.graph.initializer}


@pytest.mark.parametrize(
    ("op", "operands", "words"),
    [
        ("DequantizeLinear", {"i1": np.float32(0.7)}, "another scale"),
        (
            "QuantizeLinear",
            {"i1": np.full(3, 0.1, np.float32), "i2": np.zeros(3, np.int8)},
            r"QuantizeLinear\).*3 scales",
        ),
    ],
)
def test_what_bytes_cannot_express_is_named(simple, op: str, operands: dict, words: str):
    model = edit(simple(), op, **operands)
    if op == "QuantizeLinear":  # its reader takes the same
        model = edit(model, "DequantizeLinear", **operands)
    analysis = analyze(model, {"images": SHAPE})
    names = [n.name for n in analysis.nodes]
    with pytest.raises(Unsupported, match=words):
        lower(analysis, names, ["images"], ["y"], lambda values: Array(0, values.shape))


def test_weights_with_zero_points_are_convolved_as_floats(simple):
    model = simple()
    weights = next(n for n in model.graph.node if n.op_type == "Conv").input[1]
    maker = next(n for n in model.graph.node if weights in n.output)
    zero = numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == maker.input[2]))
    model.graph.initializer.append(numpy_helper.from_array(zero + np.int8(1), "shifted"))
    maker.input[2] = "shifted"
    analysis = analyze(model, {"images": SHAPE})
    plan = lower(
        analysis,
        [n.name for n in analysis.nodes],
        ["images"],
        ["y"],
        lambda values: Array(0, values.shape, values.dtype.name),
    )
    assert sorted({op.kind for op in plan.ops}) == ["conv", "conv_integer", "copy", "pool"]


def test_bytes_do_not_leave_what_the_kernels_run(simple):
    """A QuantizeLinear whose bytes something else reads is left to that."""
    model = simple()
    bytes_of = next(n for n in model.graph.node if n.op_type == "QuantizeLinear").output[0]
    model.graph.node.append(
        helper.make_node("Cast", [bytes_of], ["wide"], name="wide", to=onnx.TensorProto.INT32)
    )
    model.graph.output.append(helper.make_tensor_value_info("wide", onnx.TensorProto.INT32, None))
    analysis = analyze(model, {"images": SHAPE})
    with pytest.raises(Unsupported, match="bytes that other engines read"):
        lower_from_inputs(analysis)


@pytest.mark.parametrize(("zero", "kinds"), [(0, [MASK, MASK]), (3, ["local", "local"])])
def test_a_mask_stays_one_where_zero_does(tiny_program: Path, zero: int, kinds: list[str]):
    model = onnx.load(tiny_program)
    constants = {"mask_scale": np.float32(1 / 127), "mask_zero": np.int8(zero)}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    place = next(i for i, n in enumerate(model.graph.node) if "mask0.keep" in n.output) + 1
    for i, (op, source, made) in enumerate(
        [("QuantizeLinear", "mask0.keep", "keep_bytes"), ("DequantizeLinear", "keep_bytes", "keep_again")]
    ):
        node = helper.make_node(op, [source, *constants], [made], name=made)
        model.graph.node.insert(place + i, node)
    for node in model.graph.node[place + 2 :]:
        node.input[:] = ["keep_again" if name == "mask0.keep" else name for name in node.input]
    found = analyze(model, {"images": SHAPE}).by_name
    assert [found["keep_bytes"].kind, found["keep_again"].kind] == kinds
