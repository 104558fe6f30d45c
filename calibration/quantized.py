"""A program in Q/DQ: onnxruntime's quantizer, with the settings that native kernels, onnxruntime and TensorRT share.

Bytes are symmetric on both sides, weights have a scale for each output channel, biases stay floats (TensorRT refuses
other zero points and biases of 32 bits). What is quantized is what layers read; their sums stay in floats up to the
next layer's bytes.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import numpy_helper

from ..export.values import rename
from ..pipeline.graph import DOMAIN, node_inputs
from ..runtime.errors import InputError, MissingExtraError
from .layers import OPS, Layer

LARGEST = {"int8": 127.0, "fp8": 448.0}  # numbers of symmetric int8 and of float8 E4M3
KINDS = tuple(LARGEST)
_ZERO = "foveate.zero"
_E4M3_OPSET = 19  # the first whose QuantizeLinear knows it

Ranges = Mapping[str, tuple[float, float]]  # least and most of a tensor, by name
_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "QDQDisableWeightAdjustForInt32Bias": True,  # else weights' scales make room for biases of 32 bits
    "OpTypesToExcludeOutputQuantization": list(OPS),
}


def check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise InputError("precision", got=repr(kind), expected=" or ".join(KINDS), fix="Name one of them.")


def measure_ranges(
    program: onnx.ModelProto,
    layers: Sequence[Layer],
    feeds: Iterable[Mapping[str, np.ndarray]],
    tick: Callable[[], None] = lambda: None,
) -> dict[str, tuple[float, float]]:
    """What each layer reads at least and at most, over all images (onnxruntime's MinMax calibrator).

    Raises InputError where that is not finite, and for no image at all."""
    quantization = _onnxruntime()
    with tempfile.TemporaryDirectory(prefix="foveate-") as folder, _quiet():
        path = Path(folder) / "program.onnx"
        onnx.save(_typed(without_choices(program), {layer.reads for layer in layers}), path)
        calibrator = quantization.create_calibrator(
            path,
            sorted({layer.op for layer in layers}),
            augmented_model_path=str(path.with_name("augmented.onnx")),
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        images = 0
        for images, feed in enumerate(feeds, 1):
            check_finite(feed, images - 1)
            calibrator.collect_data(_one(feed))  # joins its ranges with those before
            tick()
        if not images:
            raise InputError("calibration", got="no image", expected="at least one", fix="Check --data.")
        found = {name: data.range_value for name, data in calibrator.compute_data().items()}
    ends = {layer.reads: found[layer.reads] for layer in layers}
    ranges = {name: (float(np.min(low)), float(np.max(high))) for name, (low, high) in ends.items()}
    bad = next((name for name, ends in ranges.items() if not np.isfinite(ends).all()), None)
    if bad is not None:
        raise InputError(
            f"range of {bad}",
            got=f"{ranges[bad][0]:g} to {ranges[bad][1]:g}",
            expected="finite numbers",
            fix="Check the images, their preprocessing and the checkpoint's weights.",
        )
    return ranges


def quantized(
    program: onnx.ModelProto, ranges: Ranges, layers: Collection[str], kind: str = "int8"
) -> onnx.ModelProto:
    """A copy of the program whose `layers` (names) run in "int8" or "fp8" (E4M3); every other node is as it was. The
    copy keeps names, choices and functions. What decides, and layers that stay in floats, read floats as before."""
    made = onnx.ModelProto()
    made.CopyFrom(program)
    if not layers:
        return made
    quantization = _onnxruntime()
    from onnxruntime.quantization.calibrate import TensorsData

    given: dict[str, Any] = {
        name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()
    }
    with _quiet():
        quantizer = quantization.QDQQuantizer(
            _typed(made, ranges),
            True,  # scales by channel
            False,  # all eight bits
            quantization.QuantType.QInt8,
            quantization.QuantType.QInt8,
            TensorsData(quantization.CalibrationMethod.MinMax, given),
            sorted(layers),
            [],
            list(OPS),
            dict(_OPTIONS),
        )
        made = quantizer.quantize_model()
    made.producer_name, made.producer_version = program.producer_name, program.producer_version
    del made.graph.value_info[:]
    _give_outputs_back(made.graph, program.graph)
    _give_floats_back(made.graph, program.graph, layers)
    _sort(made.graph)
    if kind == "fp8":
        _to_e4m3(made, program)
    return made


def _give_outputs_back(graph: onnx.GraphProto, before: onnx.GraphProto) -> None:
    """Where a layer reads what the program also puts out, the quantizer puts out the rounded one."""
    makers = {name: node for node in graph.node for name in node.output}
    quantizing = {node.output[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    for output in [o.name for o in before.output]:
        maker = makers.get(output)
        if maker is not None and maker.op_type == "DequantizeLinear":
            exact = quantizing[maker.input[0]].input[0]
            rename(graph, {output: f"{output}_DequantizeLinear_Output"})
            rename(graph, {exact: output})
    for value, was in zip(graph.output, before.output, strict=True):
        value.CopyFrom(was)


def _give_floats_back(graph: onnx.GraphProto, before: onnx.GraphProto, layers: Collection[str]) -> None:
    """The quantizer rounds a tensor for all that read it."""
    exact = {node.name: node for node in before.node}
    for node in graph.node:
        was = exact.get(node.name)
        floats = node.domain == DOMAIN or (node.op_type in OPS and node.name not in layers)
        if was is not None and floats:
            node.input[:] = was.input
    names = {name for node in graph.node for name in node.input}
    present = {i.name for i in graph.initializer}
    missing = [i for i in before.initializer if i.name in names and i.name not in present]
    graph.initializer.extend(missing)  # weights that both kinds of layers read


def _sort(graph: onnx.GraphProto) -> None:
    """The quantizer appends its nodes; a program's nodes stand in topological order."""
    waiting, done = list(graph.node), {v.name for v in (*graph.input, *graph.initializer)} | {""}
    del graph.node[:]
    while waiting:
        later = []
        for node in waiting:
            if done.issuperset(node_inputs(node)):
                graph.node.append(node)
                done.update(node.output)
            else:
                later.append(node)
        assert len(later) < len(waiting), "a cycle"
        waiting = later


def _to_e4m3(model: onnx.ModelProto, program: onnx.ModelProto) -> None:
    """The same places in float8: a tensor's largest number becomes 448, as TensorRT and ModelOpt have it, where
    onnxruntime's own float8 scales follow the standard deviation and would saturate."""
    weights = {i.name: numpy_helper.to_array(i) for i in program.graph.initializer}
    tensors = {i.name: i for i in model.graph.initializer}
    e4m3 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)
    converted: set[str] = set()
    for node in [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]:
        scale, zero_point = tensors[node.input[1]], tensors[node.input[2]]
        if scale.name not in converted:
            converted.add(scale.name)
            values = numpy_helper.to_array(scale) * np.float32(LARGEST["int8"] / LARGEST["fp8"])
            scale.CopyFrom(numpy_helper.from_array(values.astype(np.float32), scale.name))
        if zero_point.name not in converted:
            converted.add(zero_point.name)
            zeros = np.zeros(tuple(zero_point.dims), e4m3)
            zero_point.CopyFrom(numpy_helper.from_array(zeros, zero_point.name))
    for node in [n for n in model.graph.node if n.op_type == "DequantizeLinear"]:
        stored = tensors.get(node.input[0])
        if stored is None or stored.name in converted:
            continue
        converted.add(stored.name)
        original = weights[stored.name.removesuffix("_quantized")]
        scale = numpy_helper.to_array(tensors[node.input[1]])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [-1 if i == axis % original.ndim else 1 for i in range(original.ndim)]
        most = LARGEST["fp8"]
        values = np.clip(original / scale.reshape(shape if scale.ndim else ()), -most, most)
        stored.CopyFrom(numpy_helper.from_array(values.astype(e4m3), stored.name))
    _keep_bounds(model.graph)
    _raise_opset(model, _E4M3_OPSET)


def _keep_bounds(graph: onnx.GraphProto) -> None:
    """onnxruntime takes a zero point of 0 for the least number of float8 as for that of uint8, and drops a Relu or Clip
    ahead of such a QuantizeLinear. It leaves Max and Min alone."""
    made = {name: node for node in graph.node for name in node.output}
    quantizing = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    before = [made[node.input[0]] for node in quantizing if node.input[0] in made]
    for node in before:
        if node.op_type == "Relu":
            node.op_type = "Max"
            node.input.append(_ZERO)
        elif node.op_type == "Clip":
            _as_min_of_max(graph, node)
    if any(_ZERO in node.input for node in before):
        graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), _ZERO))


def _as_min_of_max(graph: onnx.GraphProto, clip: onnx.NodeProto) -> None:
    value, *bounds = clip.input
    ends = [(op, name) for op, name in zip(("Max", "Min"), bounds, strict=False) if name]
    place, (answer,) = list(graph.node).index(clip), clip.output
    graph.node.remove(clip)
    for number, (op, bound) in enumerate(ends):
        made = answer if number == len(ends) - 1 else f"{answer} {op}"
        graph.node.insert(
            place + number, onnx.helper.make_node(op, [value, bound], [made], name=f"{clip.name} {op}")
        )
        value = made


def _raise_opset(model: onnx.ModelProto, least: int) -> None:
    """Of program and function bodies. What stock operators 18 to 19 changed adds types and attributes alone."""
    for owner in (model, *model.functions):
        for stock in owner.opset_import:
            if stock.domain in ("", "ai.onnx"):
                stock.version = max(stock.version, least)
    model.ir_version = max(model.ir_version, 9)


def _onnxruntime() -> Any:
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu", "quantizing a program") from error
    return quantization


def check_finite(feed: Mapping[str, np.ndarray], number: int) -> None:
    """Calibrators pass over NaN."""
    for name, value in feed.items():
        if not np.isfinite(value).all():
            raise InputError(
                f"image {number}",
                got=f"NaN or infinity in {name}",
                expected="finite numbers",
                fix="Check the image and its preprocessing.",
            )


def _one(feed: Mapping[str, np.ndarray]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        left: ClassVar = [dict(feed)]

        def get_next(self) -> dict:  # at the end None, whatever the base class says
            return self.left.pop() if self.left else None  # pyright: ignore[reportReturnType]

    return Reader()


def _typed(program: onnx.ModelProto, reads: Collection[str]) -> onnx.ModelProto:
    """A copy that says of what types its tensors are: the quantizer leaves out what it knows none of. What layers
    read is float32, as their weights are; onnx does not see that behind nodes of ai.foveate."""
    made = onnx.shape_inference.infer_shapes(program)
    known = {value.name for value in (*made.graph.value_info, *made.graph.input, *made.graph.output)}
    missing = (
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in reads if n not in known
    )
    made.graph.value_info.extend(missing)
    return made


def without_choices(program: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose choices are constants: as inputs, onnxruntime warns of each."""
    made = onnx.ModelProto()
    made.CopyFrom(program)
    initial = {i.name for i in made.graph.initializer}
    inputs = [i for i in made.graph.input if i.name not in initial]
    del made.graph.input[:]
    made.graph.input.extend(inputs)
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer advises on the root logger what does not hold for programs."""
    logger = logging.getLogger()
    was = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of NaN, which is looked for afterwards
            yield
    finally:
        logger.setLevel(was)
