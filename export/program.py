"""torch module -> program, and any ONNX file -> program.

A program is an ONNX model of opset 18 or newer whose ai.foveate nodes are in the form of `normalize`: stock
onnxruntime runs it, and its choices are inputs with default values.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..runtime.errors import InputError, ProgramError, first_line
from ..runtime.manifest import Preprocess
from .domain import onnx
from .extras import needs
from .normalize import decisions, normalize
from .ops.deformable_sample import with_gathers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .softness import SoftTensor

AXES = ("batch", "height", "width")
SAMPLINGS = ("grid", "gather")


def export_program(
    module: nn.Module,
    sample: Tensor | Sequence[Tensor],
    path: str | Path,
    *,
    dynamic: Sequence[str] = AXES,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    name: str | None = None,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] = (),
    multiple: int | None = None,
    least: int | None = None,
    sampling: str = "grid",
) -> Path:
    """Export `module`, in eval mode, as the program `path`; written whole or not at all. Returns the path.

    `sample` is the module's input or inputs, float32 [B, C, H, W] of the size it usually gets. The axes called in
    `dynamic` stay free. Inputs are called "images" (one) or after forward's arguments, outputs "output", "output1",
    … or after the keys of a dict. Heights and widths must be multiples of `multiple` and at least `least`; None
    asks the module's attributes of these names, else any will do. `preprocess` and `labels`, the names of the classes,
    are written into the program for the commands that read it, as are the bounds of what is softly equivariant
    (`soften`): such weights are folded, in a copy of the module. `sampling`: what stock runtimes run deformable
    attention by, "grid" (GridSample) or "gather", for those that get GridSample wrong. Before the file is written,
    stock onnxruntime's answers are compared with torch's at the sample's size and, if axes are free, at another one.

    Raises ProgramError if torch cannot export the module, if an axis that should be free came out fixed, or if the
    answers differ.
    """
    with needs("export", "exporting a torch module"):
        from .torch_export import to_onnx
    from .numeric_check import check_against_torch
    from .soft_weights import fold, soft_tensors

    samples: tuple[Tensor, ...] = (
        tuple(sample) if isinstance(sample, list | tuple) else (cast("Tensor", sample),)
    )
    unknown = [axis for axis in dynamic if axis not in AXES]
    if unknown:
        raise InputError("dynamic", got=repr(unknown[0]), expected=f"of {', '.join(AXES)}", fix="name these")
    if sampling not in SAMPLINGS:
        raise InputError(
            "sampling", got=repr(sampling), expected=f"of {', '.join(SAMPLINGS)}", fix="name one"
        )
    module = fold(module) if soft_tensors(module) else module
    multiple = multiple or int(getattr(module, "multiple", 1))
    least = least or int(getattr(module, "least", multiple))
    _check_sizes(samples, multiple, least)
    was_training = module.training
    module.eval()
    try:
        model = to_onnx(module, samples, tuple(dynamic), input_names, output_names, multiple, least)
        model.graph.name = name or type(module).__name__
        normalize(model)
        if sampling == "gather":
            with_gathers(model)
        facts = _equivariance(model, soft_tensors(module))
        _describe(model, samples, preprocess, labels, {"multiple": multiple, "least": least}, facts)
        check_model(model, str(path))
        check_against_torch(model, module, samples, tuple(dynamic), multiple)
    finally:
        module.train(was_training)
    return save_program(model, path)


def _check_sizes(samples: Sequence[Tensor], multiple: int, least: int) -> None:
    for shape in (list(s.shape) for s in samples if s.ndim == 4):
        if any(n % multiple or n < least for n in shape[2:]):
            raise InputError(
                "sample",
                got=str(shape),
                expected=f"height and width that are multiples of {multiple}, at least {least}",
                fix=f"For example --size {max(least, 512 // multiple * multiple)}.",
            )


def load_program(path: str | Path) -> onnx.ModelProto:
    """The program in any ONNX file, also one that was not made by Foveate, brought into form by `normalize`.

    Raises ProgramError for a missing, truncated or foreign file, an unknown op of the domain, or a node of the
    domain that lacks an input.
    """
    path = Path(path)
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        raise _unreadable(path, f"no file {error.filename or path}", "check the path") from error
    except Exception as error:  # protobuf's DecodeError, and what onnx raises about external data
        raise _unreadable(path, f"{type(error).__name__}: {first_line(error)}") from error
    if not model.ir_version or not model.opset_import or not model.HasField("graph"):
        raise _unreadable(path, f"{path.stat().st_size} bytes without an ONNX graph")
    normalize(model)
    check_model(model, str(path))
    return model


def save_program(model: onnx.ModelProto, path: str | Path) -> Path:
    """Write the model under a temporary name, then rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        onnx.save(model, temporary, format="protobuf")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def check_model(model: onnx.ModelProto, what: str) -> None:
    """onnx's own checker, with the domain's schemas. Raises ProgramError."""
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ProgramError(
            what,
            got=first_line(error),
            expected="a valid ONNX model",
            fix="mend the file, or export it again",
        ) from error


def _describe(
    model: onnx.ModelProto,
    samples: Sequence[Tensor],
    preprocess: Preprocess | None,
    labels: Sequence[str],
    sizes: dict[str, int],
    equivariance: list[dict[str, Any]],
) -> None:
    """Who made it, for what: metadata that `inspect` and the pipeline read."""
    from foveate import __version__

    model.producer_name, model.producer_version = "foveate", __version__
    names = [i.name for i in model.graph.input]
    facts: dict[str, object] = {
        "foveate.decisions": [
            {"name": node.name, "kind": op.kind} for node, op in decisions(model) if op.kind
        ],
        "foveate.sample": {n: list(s.shape) for n, s in zip(names, samples, strict=False)},
    }
    if sizes["least"] > 1:
        facts["foveate.sizes"] = sizes
    if preprocess is not None:
        facts["foveate.preprocess"] = dataclasses.asdict(preprocess)
    if labels:
        facts["foveate.labels"] = list(labels)
    if equivariance:
        facts["foveate.equivariance"] = equivariance
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in facts.items()})


def _equivariance(model: onnx.ModelProto, tensors: Sequence[SoftTensor]) -> list[dict[str, Any]]:
    """What each was softened to, with the bound of the weights as the program holds them: the exporter multiplies each
    output channel by its BatchNorm's factor."""
    held = {i.name: i for i in model.graph.initializer}
    return [
        (t if t.name not in held else t.with_values(onnx.numpy_helper.to_array(held[t.name]))).facts()
        for t in tensors
    ]


def _unreadable(
    path: Path, got: str, fix: str = "export it again; copies are compared by sha256"
) -> ProgramError:
    return ProgramError(f"program {path}", got=got, expected="an ONNX model", fix=fix)
