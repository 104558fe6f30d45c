"""The ideal time: T_dense × active work ÷ dense work, work from MACs and bytes of every layer.

A layer's work is the larger of its MACs and its bytes × `balance`, the MACs that this device does in the time of one
byte: a roofline. Elementwise layers have no MACs, so bytes alone would make them free without it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.backends.ort import spin
from ..runtime.errors import MissingExtraError
from ..runtime.manifest import Manifest, Region
from .activity import Work, active_macs
from .dense import Dense

if TYPE_CHECKING:
    import onnx

    from .analyze import Analysis
    from .partition import PartitionStep


@dataclass(frozen=True)
class ImageWork:
    """One image, all layers, in the units of report.json's `work`; `dense` and `active` are the roofline's MACs."""

    dense_macs: float
    active_macs: float
    dense_bytes: float
    active_bytes: float
    dense: float
    active: float

    @property
    def share(self) -> float:
        return self.active / self.dense if self.dense else 1.0


def image_work(work: Work, balance: float) -> ImageWork:
    """`balance`: MACs a byte, see `measure_balance`."""
    return ImageWork(
        work.dense_macs,
        work.active_macs,
        work.dense_bytes,
        work.active_bytes,
        sum(max(layer.macs, layer.bytes * balance) for layer in work.layers),
        sum(max(layer.active_macs, layer.active_bytes * balance) for layer in work.layers),
    )


def mean_work(works: Iterable[ImageWork]) -> ImageWork:
    found = [dataclasses.astuple(work) for work in works]
    return ImageWork(*np.mean(found, axis=0).tolist())


class WorkMeter:
    """`meter(image, choices, depth) -> ImageWork`: the masks come from the program run densely; the depth, of a program
    with exits, is the one that the image took. `balance`: by default this CPU's."""

    def __init__(self, program: Path, manifest: Manifest, threads: int, balance: float | None = None):
        from ..export.program import load_program
        from .analyze import analyze
        from .partition import partition

        self.balance = measure_balance(threads) if balance is None else balance
        self.nhwc = manifest.preprocess.layout == "nhwc"
        shapes = {name: tuple(shape) for name, shape in manifest.sample.items()}
        self._analysis = analyze(load_program(program), shapes)
        self._steps = partition(self._analysis)
        self._stages = _stages(self._analysis, self._steps)
        masks = {name for step in manifest.steps if isinstance(step, Region) for name in step.masks}
        self._masks = sorted(masks)
        self._dense = Dense(program, threads, tensors=self._masks)

    def __call__(self, image: np.ndarray, choices: Mapping[str, Any], depth: int | None = None) -> ImageWork:
        values = self._dense(image, choices)
        size = image.shape[1:3] if self.nhwc else image.shape[2:4]
        masks = {name: values[name] for name in self._masks}
        left = [n for before, names in self._stages if depth is not None and depth <= before for n in names]
        work = active_macs(self._analysis, masks, size=(size[0], size[1]), steps=self._steps, left=left)
        return image_work(work, self.balance)


def _stages(analysis: Analysis, steps: Sequence[PartitionStep]) -> list[tuple[int, list[str]]]:
    """Of each stage of an encoder with exits: the exit before it, of images that do not run it, and its nodes."""
    from .exits import ExitParts, split_exits
    from .wants import Wants

    wants, found = Wants(analysis), []
    for parts in (split_exits(analysis, wants, step) for step in steps if not step.local):
        if isinstance(parts, ExitParts):
            before = [parts.first.exit, *(stage.exit for stage in parts.stages)]
            found += [(k, [n.name for n in s.nodes]) for k, s in zip(before, parts.stages, strict=False)]
    return found


Fastest = Callable[["onnx.ModelProto", np.ndarray], float]  # seconds of the fastest call of a model


def measure_balance(threads: int) -> float:
    """Of this CPU, in onnxruntime."""
    return balance(partial(_fastest, threads), (1, 64, 64, 64), (1, 64, 256, 256))


def balance(fastest: Fastest, conv: tuple[int, ...], relu: tuple[int, ...]) -> float:
    """MACs that a 3×3 convolution of maps of shape `conv` does in the time in which a Relu moves one byte of maps of
    shape `relu`."""
    image, big = np.ones(conv, np.float32), np.ones(relu, np.float32)
    seconds_mac = fastest(_one_node("Conv", conv), image) / (9 * conv[1] * image.size)
    seconds_byte = fastest(_one_node("Relu", relu), big) / (2 * big.nbytes)  # reads one, writes one
    return seconds_byte / seconds_mac


def _one_node(op: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError(error.name or "onnx", "export", "measuring this device's balance") from error
    helper, kind, channels = onnx.helper, onnx.TensorProto.FLOAT, shape[1]
    weights = [onnx.numpy_helper.from_array(np.ones((channels, channels, 3, 3), np.float32), "weight")]
    weights = weights if op == "Conv" else []
    inputs = ["x", *(weight.name for weight in weights)]
    node = helper.make_node(op, inputs, ["y"], **({"pads": [1] * 4} if weights else {}))
    x, y = (helper.make_tensor_value_info(name, kind, shape) for name in "xy")
    graph = helper.make_graph([node], op, [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def _fastest(threads: int, model: onnx.ModelProto, image: np.ndarray, calls: int = 7) -> float:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu", "measuring this device's balance") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    spin(options, None)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = []
    for _ in range(calls):
        start = time.perf_counter()
        session.run(None, {"x": image})
        found.append(time.perf_counter() - start)
    return min(found)
