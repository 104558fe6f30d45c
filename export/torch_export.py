"""torch.onnx.export with the ai.foveate ops, and a graph that says nothing of the machine that it was made on."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from ..runtime.errors import InputError, ProgramError, told
from .domain import DOMAIN, STOCK_OPSET, translation_table

_SPATIAL = {0: "batch", 2: "height", 3: "width"}
_SCOPES = "pkg.torch.onnx.name_scopes"
_FIXED = re.compile(
    r"static shape of (?P<size>\d+) for dimension inputs\['(?P<input>\w+)'\]\.shape\[(?P<axis>[023])\]"
)


def to_onnx(
    module: nn.Module,
    samples: Sequence[Tensor],
    dynamic: Sequence[str],
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    multiple: int = 1,
    least: int = 1,
) -> onnx.ModelProto:
    """The module as an ONNX model with bare ai.foveate nodes, named after their layers. `multiple`: of which free
    heights and widths must be one; the trace is made at the `least` then.

    Raises ProgramError where torch cannot export it, or where an axis in `dynamic` came out fixed."""
    inputs = list(input_names or _input_names(module, len(samples)))
    outputs = list(output_names or _output_names(module, samples))
    axes = [
        {a: n for a, n in _SPATIAL.items() if n in dynamic and a < s.ndim and (a == 0 or s.ndim == 4)}
        for s in samples
    ]
    traced = [_traceable(s, a, least if multiple > 1 else 0) for s, a in zip(samples, axes, strict=True)]
    model = _export(module, traced, axes, multiple, inputs, outputs)
    _check_free(model, axes, multiple)
    _name_after_layers(model)
    _strip(model)
    return model


def _export(
    module: nn.Module, samples: list[Tensor], axes: list[dict], multiple: int, inputs: list, outputs: list
) -> onnx.ModelProto:
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                module if multiple == 1 else _with_multiples(module, samples, axes, multiple),
                tuple(samples),
                dynamo=True,
                opset_version=STOCK_OPSET,
                dynamic_shapes=tuple(axes) if any(axes) else None,
                input_names=inputs,
                output_names=outputs,
                custom_translation_table=translation_table(),
                verbose=False,
            )
    except Exception as error:  # torch's exporter and the module's own code raise anything
        cause = error.__cause__ or error
        if fixed := _FIXED.search(str(cause)):
            raise _not_free(fixed["input"], int(fixed["axis"]), f"fixed at {fixed['size']}") from error
        raise ProgramError(
            f"torch cannot export {type(module).__name__}",
            got=told(cause),
            expected="a module that torch.export accepts with free " + ", ".join(dict.fromkeys(_flat(axes))),
            fix="fix an axis with dynamic=…, or take the branch on tensor values out of forward",
        ) from error
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
    assert exported is not None
    return exported.model_proto


def _with_multiples(
    module: nn.Module, samples: list[Tensor], axes: list[dict], multiple: int
) -> torch.export.ExportedProgram:
    """Traced with sizes that are whole multiples: what divides them needs no case distinction then."""
    dims = {name: Dim(name, min=2) for name in _SPATIAL.values()}
    shapes = tuple({a: dims[n] if a == 0 else multiple * dims[n] for a, n in axis.items()} for axis in axes)
    return torch.export.export(module, tuple(samples), dynamic_shapes=shapes, strict=False)


def _flat(axes: list[dict]) -> list[str]:
    return [name for a in axes for name in a.values()] or ["no axis"]


def _traceable(sample: Tensor, axes: dict[int, str], size: int) -> Tensor:
    """A free batch is traced with two images: torch takes a size of 1 for a constant. size: of free heights and widths;
    0 keeps the sample's."""
    shape = [size if size and axis > 0 and axis in axes else n for axis, n in enumerate(sample.shape)]
    sample = sample if shape == list(sample.shape) else torch.rand(shape).to(sample)
    return torch.cat([sample, sample]) if 0 in axes and sample.shape[0] == 1 else sample


def _input_names(module: nn.Module, count: int) -> list[str]:
    if count == 1:
        return ["images"]
    return list(inspect.signature(module.forward).parameters)[:count]


def _output_names(module: nn.Module, samples: Sequence[Tensor]) -> list[str]:
    try:
        with torch.no_grad():
            output = module(*samples)
    except RuntimeError as error:
        raise InputError(
            "the sample does not fit the module",
            got=", ".join(f"{s.dtype} {list(s.shape)}" for s in samples),
            expected=f"what forward accepts ({str(error).splitlines()[0]})",
            fix="pass one tensor for each argument, with the right channels",
        ) from error
    if isinstance(output, dict):
        return [str(key) for key in output]
    count = len(pytree.tree_leaves(output))
    return ["output"] if count == 1 else [f"output{i}" for i in range(count)]


def _check_free(model: onnx.ModelProto, axes: list[dict[int, str]], multiple: int) -> None:
    """torch fixes an axis silently when the module's code depends on its size. An axis of multiples is called by
    its own name after this."""
    for value, wanted in zip(model.graph.input, axes, strict=False):
        dims = value.type.tensor_type.shape.dim
        for axis, name in wanted.items():
            if multiple > 1 and dims[axis].dim_param == f"{multiple}*{name}":
                dims[axis].dim_param = name
            if dims[axis].dim_param != name:
                size = dims[axis].dim_value
                raise _not_free(
                    value.name, axis, f"fixed at {size}" if size else f"tied to {dims[axis].dim_param}"
                )


def _not_free(value: str, axis: int, got: str) -> ProgramError:
    return ProgramError(
        f"axis {axis} ({_SPATIAL[axis]}) of input {value!r}",
        got=got,
        expected="free: the module's code must not depend on this size",
        fix=f"leave {_SPATIAL[axis]!r} out of dynamic=…, or take the size out of forward",
    )


def _name_after_layers(model: onnx.ModelProto) -> None:
    """Decisions are called as their layer is in the module: mask0. normalize() names what they give after that."""
    for node in model.graph.node:
        if node.domain == DOMAIN:
            scopes = next((p.value for p in node.metadata_props if p.key == _SCOPES), "[]")
            layers = [s for s in ast.literal_eval(scopes)[:-1] if s]
            node.name = layers[-1] if layers else ""


def _strip(model: onnx.ModelProto) -> None:
    """Stack traces name files of this machine, and double the size of the graph."""
    graph = model.graph
    for item in (
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
        graph,
        model,
    ):
        del item.metadata_props[:]
        item.ClearField("doc_string")
