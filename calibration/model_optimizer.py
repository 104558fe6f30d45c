"""Ranges as NVIDIA ModelOpt calibrates them, on the CPU.

For int8 by entropy, so that a few outliers do not cost all other values their steps; for fp8, whose steps grow with the
values, by the least and most. And only of the layers that ModelOpt quantizes: not of those that TensorRT runs no faster
in low precision. The program itself is written as ever (quantized.py), for ModelOpt stores weights in floats and
inlines functions.

ModelOpt changes onnxruntime's quantizer in the process that imports it, and so has one of its own: this file, run.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import numpy_helper

from ..runtime.errors import EngineError, InputError, MissingExtraError
from .layers import OPS, Layer
from .quantized import LARGEST, Ranges, check_finite, without_choices

_NEEDS = ("modelopt", "onnx_graphsurgeon", "onnxslim", "lief", "cppimport")
_LEAVE_OUT = "Leave --quantizer out: onnxruntime's takes every program."
_METHODS = {"int8": "entropy", "fp8": "max"}
# What a tensor's largest number becomes: for fp8 36, though E4M3 goes to 448 (ModelOpt multiplies int8's scale by
# 448 ÷ 127, where division would use the whole type).
_LARGEST = {"int8": LARGEST["int8"], "fp8": LARGEST["int8"] ** 2 / LARGEST["fp8"]}
_PROGRAM, _MADE, _LAYERS = "program.onnx", "made.onnx", "layers.json"


def modelopt_ranges(
    program: onnx.ModelProto,
    layers: Sequence[Layer],
    feeds: Iterable[Mapping[str, np.ndarray]],
    kind: str = "int8",
    tick: Callable[[], None] = lambda: None,
) -> Ranges:
    """Of what the layers read that ModelOpt quantizes to `kind`; `tick` is called after each image.

    Raises MissingExtraError without ModelOpt, EngineError where it fails, InputError for NaN, for no image, where it
    quantizes no layer, and where what it made is not symmetric."""
    ranges = ranges_in(modelopt_program(program, layers, feeds, kind, tick), layers, kind)
    if not ranges:
        raise InputError(
            "quantizer modelopt",
            got=f"a program of which ModelOpt quantizes no layer to {kind}",
            expected="layers that TensorRT runs faster so",
            fix=_LEAVE_OUT,
        )
    return ranges


def modelopt_program(
    program: onnx.ModelProto,
    layers: Sequence[Layer],
    feeds: Iterable[Mapping[str, np.ndarray]],
    kind: str = "int8",
    tick: Callable[[], None] = lambda: None,
) -> onnx.ModelProto:
    """The program with its layers in Q/DQ, as ModelOpt itself makes it. Raises as `modelopt_ranges`."""
    missing = next((name for name in _NEEDS if importlib.util.find_spec(name) is None), None)
    if missing is not None:
        raise MissingExtraError(missing, "modelopt", "quantizer modelopt")
    with tempfile.TemporaryDirectory(prefix="foveate-") as name:
        folder = Path(name)
        onnx.save(onnx.inliner.inline_local_functions(without_choices(program)), folder / _PROGRAM)
        (folder / _LAYERS).write_text(json.dumps([layer.name for layer in layers]))
        images = 0
        for images, feed in enumerate(feeds, 1):
            check_finite(feed, images - 1)
            arrays: Any = dict(feed)
            np.savez(folder / f"{images:06}.npz", **arrays)
            tick()
        if not images:
            raise InputError("calibration", got="no image", expected="at least one", fix="Check --data.")
        command = [sys.executable, "-m", __name__, str(folder), kind]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise EngineError(
                "quantizer modelopt",
                got=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1],
                expected="a calibrated program",
                fix=_LEAVE_OUT,
            )
        return onnx.load(folder / _MADE)


def ranges_in(made: onnx.ModelProto, layers: Sequence[Layer], kind: str) -> Ranges:
    """Of the layers that ModelOpt's program has in Q/DQ: from −M to M, M the largest number that it saw or clips to.

    Raises InputError, by the tensor's name, for zero points other than 0 and scales by channel."""
    values = {i.name: i for i in made.graph.initializer}
    makers = {name: node for node in made.graph.node for name in node.output}
    nodes = {node.name: node for node in made.graph.node}
    found = {}
    for layer in layers:
        read, weights = (makers.get(name) for name in nodes[layer.name].input[:2])
        if any(node is None or node.op_type != "DequantizeLinear" for node in (read, weights)):
            continue
        assert read is not None
        scale, zero = (numpy_helper.to_array(values[name]) for name in read.input[1:3])
        if scale.size != 1 or zero.astype(np.float32).any():
            raise InputError(
                f"quantizer modelopt, tensor {layer.reads}",
                got=f"{scale.size} scales" if scale.size != 1 else "a zero point other than 0",
                expected="one scale, and a zero point of 0",
                fix=f"Keep layer {layer.name} in floats (--keep-float), or leave --quantizer out.",
            )
        largest = float(scale.reshape(())) * _LARGEST[kind]
        found[layer.reads] = (-largest, largest)
    return found


class _Images:
    """The feeds in a folder, as onnxruntime's CalibrationDataReader has them."""

    def __init__(self, folder: Path):
        self._paths = sorted(folder.glob("*.npz"))
        self.rewind()

    def rewind(self) -> None:
        self._left = iter(self._paths)

    def get_first(self) -> dict[str, np.ndarray]:
        return self._read(self._paths[0])

    def get_next(self) -> dict[str, np.ndarray] | None:
        path = next(self._left, None)
        return None if path is None else self._read(path)

    def _read(self, path: Path) -> dict[str, np.ndarray]:
        with np.load(path) as arrays:
            return dict(arrays)


def _quantize(folder: Path, kind: str) -> None:
    from modelopt.onnx.quantization import quantize

    images: Any = _Images(folder)
    names = json.loads((folder / _LAYERS).read_text())
    quantize(
        str(folder / _PROGRAM),
        kind,
        calibration_data_reader=images,
        calibration_method=_METHODS[kind],
        calibration_eps=["cpu"],
        op_types_to_quantize=list(OPS),
        nodes_to_quantize=[f"{re.escape(name)}$" for name in names],
        high_precision_dtype="fp32",
        passes=[],  # else tensors that are concatenated share a scale
        output_path=str(folder / _MADE),
    )


if __name__ == "__main__":
    _quantize(Path(sys.argv[1]), sys.argv[2])
