"""ONNX file -> serialized engine, by Torch-TensorRT: through a torch module and torch.export.

What comes out is a plan of TensorRT with the ONNX file's names for its inputs and outputs, in raw bytes. Files of
compiled modules, as Torch-TensorRT saves them, are not taken: they hold pickles.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import onnx
from onnx import TensorProto

from ...runtime.errors import EngineError, FoveateError, told
from .engine_build import Built, Layer, Tensor
from .flavour import Flavour
from .profiles import Profiles, Shape
from .timing_cache import TimingCache


def build_by_torch(
    onnx_file: Path,
    profiles: Profiles,
    compute: str,
    flavour: Flavour,
    timing: TimingCache | None = None,
    name: str = "",
) -> Built:
    """As `engine_build.build_plan`, for the GPU of this machine and one profile. Raises ProgramError that names the op
    that has no function of torch, EngineError with what torch.export or Torch-TensorRT says."""
    from .torch_module import OnnxModule, export

    start, name = perf_counter(), name or onnx_file.name
    (profile,) = profiles
    model = onnx.load(onnx_file)
    try:
        module = OnnxModule(model)
        shapes = {i.name: profile.get(i.name, (_fixed(i),) * 3) for i in model.graph.input}
        program = export(module, shapes, {i.name: _dtype(i) for i in model.graph.input})
        plan = flavour.module.dynamo.convert_exported_program_to_serialized_trt_engine(
            program,
            arg_inputs=tuple(_input(flavour.module, _dtype(i), *shapes[i.name]) for i in model.graph.input),
            arg_input_binding_names=tuple(module.inputs),
            output_binding_names=tuple(module.outputs),
            use_explicit_typing=True,  # types are what the program says
            disable_tf32=True,
        )
    except FoveateError:
        raise
    except Exception as error:  # of torch.export or Torch-TensorRT: no common root
        raise EngineError(
            f"building the engine of {name}",
            got=told(error),
            expected=f"a program that torch.export and Torch-TensorRT {flavour.version} take whole",
            fix="Build for target tensorrt, which reads ONNX itself, or narrow the profile with --profile.",
        ) from error
    layers = tuple(Layer(n.name, str(n.target), ()) for n in program.graph.nodes if n.op == "call_function")
    inputs, outputs = (tuple(map(_tensor, side)) for side in (model.graph.input, model.graph.output))
    return Built(bytes(plan), perf_counter() - start, inputs, outputs, layers, ())


def _dtype(value: onnx.ValueInfoProto) -> Any:
    from ...runtime.onnx_torch.protos import TYPES

    return TYPES[int(value.type.tensor_type.elem_type)]


def _fixed(value: onnx.ValueInfoProto) -> Shape:
    """Of an input without a profile, a choice."""
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def _input(torch_tensorrt: Any, dtype: Any, least: Shape, opt: Shape, most: Shape) -> Any:
    if least == most:
        return torch_tensorrt.Input(shape=opt, dtype=dtype)
    return torch_tensorrt.Input(min_shape=least, opt_shape=opt, max_shape=most, dtype=dtype)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    """By TensorRT's names of types."""
    names: dict[int, str] = {
        TensorProto.FLOAT: "FLOAT",
        TensorProto.INT64: "INT64",
        TensorProto.INT32: "INT32",
        TensorProto.BOOL: "BOOL",
    }
    kind = value.type.tensor_type
    dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return Tensor(value.name, names.get(kind.elem_type, str(kind.elem_type)), dims)
