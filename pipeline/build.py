"""Build: program -> bundle. Every segment is checked on windows before it may be run on them."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ..runtime import load
from ..runtime.engine import Config, NullConfig, OrtConfig
from ..runtime.errors import InputError, InternalError
from ..runtime.layouts import AUTO, choose_layout
from ..runtime.manifest import FileEntry, Manifest, Preprocess
from .assemble import PROGRAM, Assembly, assemble
from .bundle_folder import replacing_folder
from .check import check_chain, failing_segments
from .costs import CostModel, usual_model
from .metadata import read_labels, read_sample
from .native_cut import plan_for_kernels
from .plan import Plan, plan
from .targets import Made, Order, build_engines, target_config
from .weights import FILE, WeightFile

if TYPE_CHECKING:
    from .analyze import Analysis

SIZE_LIMIT = 1.1  # weights of the bundle ÷ of the program
_BYTES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.FLOAT8E4M3FN)
_GRAPHS = 1 << 20  # bytes that may come on top, which matters for small programs

Sample = Sequence[int] | Mapping[str, Sequence[int]] | None


def build(
    program_path: str | Path,
    out: str | Path,
    *,
    sample: Sample = None,
    target: str = "cpu",
    preprocess: Preprocess | None = None,
    choices: Mapping[str, float | Sequence[float]] | None = None,
    active_fraction: float | None = None,
    labels: Sequence[str] | None = None,
    stream_policy: Mapping[str, Any] | None = None,
    depths: Mapping[str, int] | None = None,
    model: CostModel | None = None,
    layout: str = AUTO,
    ranges: Mapping[str, tuple[int, int, int]] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Builds the bundle `out` from an ONNX program and gives its path.

    sample: the shape the plan is made at, of the one input or by input name; by default what `preprocess` makes, else
    the one that the program was exported with, else what it fixes, else 224 × 224. choices: new defaults by name.
    active_fraction: mean over calibration images; the plan's cost model takes it for typical. model: costs to plan by;
    by default those that are assumed for devices of the target (`costs.usual_model`). labels: names of the
    classes; None takes what the program says. stream_policy: fields of StreamPolicy that the bundle's streams take by
    default. depths: calibration images by the layers that they took.
    layout: of a program with exits ("chain", "per-depth", "if"), that is loaded by default; "auto" measures them, on
    this device and on those where `Model.measure` is called. ranges: least, opt and most of "batch", "height" and
    "width", for targets whose engines are made for a range of shapes; by default around the sample. tell: is told where
    each such engine comes from.
    Raises ProgramError, InputError, BundleError, EngineError, MissingExtraError.
    """
    config = target_config(target)
    planned = plan_model(
        program_path,
        sample=sample,
        preprocess=preprocess,
        choices=choices,
        active=active_fraction,
        model=model,
        config=config,
    )
    facts = {
        "backend": config.backend,
        "preprocess": preprocess,
        "active_fraction": active_fraction,
        "labels": read_labels(program_path) if labels is None else tuple(labels),
        "stream_policy": dict(stream_policy or {}),
        "depths": dict(depths or {}),
        "layout": layout,
        "created_by": f"foveate {_version()}",
    }
    out = Path(out)
    assembly = assemble(planned, Path(program_path).stem if out.name == "" else out.name, **facts)
    with replacing_folder(out) as folder:
        manifest = _write(assembly, folder)
        check_chain(folder, manifest, planned.analysis)
        _check_size(manifest, planned.analysis)
        choose_layout(manifest, layout, {})  # is there
        order = Order(folder, manifest, tuple(assembly.models), ranges or {}, tell or (lambda _: None))
        manifest = _with_engines(manifest, build_engines(order, config), folder)
        (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
        if layout == AUTO and manifest.layouts and not isinstance(config, NullConfig):
            with load(folder, verify=False, backend="ort") as opened:
                opened.measure()
    return out


def plan_model(
    program_path: str | Path,
    *,
    sample: Sample = None,
    preprocess: Preprocess | None = None,
    choices: Mapping[str, float | Sequence[float]] | None = None,
    active: float | None = None,
    model: CostModel | None = None,
    config: Config | None = None,
) -> Plan:
    """The plan of a program's file, by `model`, or what is usual for engines of `config`: of onnxruntime on the CPU, if
    none is given. A local segment that does not compute the same on windows as on the whole map is made dense, and a
    note says so."""
    from ..export.program import load_program
    from .analyze import analyze

    program = load_program(program_path)
    set_choices(program, choices or {})
    analysis = analyze(program, sample_shapes(program, sample, preprocess, read_sample(program_path)))
    if model is None:
        model = usual_model(config or OrtConfig(), analysis)
        model = model if active is None else dataclasses.replace(model, active=min(max(active, 0.01), 1.0))
    make = plan if model.tiles else plan_for_kernels
    kept_dense: dict[str, str] = {}
    while True:
        planned = make(analysis, model=model, keep_dense=kept_dense)
        failing = failing_segments(planned)
        if not failing:
            return planned
        kept_dense |= failing


def sample_shapes(
    program: onnx.ModelProto,
    sample: Sample,
    preprocess: Preprocess | None,
    exported_with: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The shape of each input. Raises InputError for a sample that names no input or leaves one out."""
    initial = {i.name for i in program.graph.initializer}
    inputs = [i for i in program.graph.input if i.name not in initial]
    if isinstance(sample, Mapping):
        return {name: tuple(shape) for name, shape in sample.items()}
    if sample is not None and len(inputs) != 1:
        raise InputError(
            "sample",
            got=f"one shape, {tuple(sample)}",
            expected=f"one for each of {', '.join(i.name for i in inputs)}",
            fix="Pass a mapping of input name to shape.",
        )
    if sample is not None:
        return {inputs[0].name: tuple(sample)}
    exported = {} if preprocess and preprocess.size else exported_with or {}
    return {i.name: exported.get(i.name) or _default_shape(i, preprocess) for i in inputs}


def _default_shape(value: onnx.ValueInfoProto, preprocess: Preprocess | None) -> tuple[int, ...]:
    dims = value.type.tensor_type.shape.dim
    shape = [d.dim_value if d.HasField("dim_value") else 0 for d in dims]
    nhwc = preprocess is not None and preprocess.layout == "nhwc"
    size = (preprocess.size if preprocess else None) or (224, 224)
    wanted = (1, *size, 3) if nhwc else (1, 3, *size)
    if len(shape) != 4:
        return tuple(n or 1 for n in shape)
    return tuple(n or w for n, w in zip(shape, wanted, strict=True))


def set_choices(program: onnx.ModelProto, choices: Mapping[str, float | Sequence[float]]) -> None:
    tensors = {i.name: i for i in program.graph.initializer}
    known = {i.name for i in program.graph.input} & set(tensors)
    for name, value in choices.items():
        if name not in known:
            raise InputError(
                f"choice {name!r}",
                got="no such input of the program",
                expected=f"one of {', '.join(sorted(known)) or 'none: it has no choices'}",
                fix="Calibrate this program again with `foveate calibrate`.",
            )
        old = numpy_helper.to_array(tensors[name])
        new = np.asarray(value, old.dtype).reshape(old.shape)
        tensors[name].CopyFrom(numpy_helper.from_array(new, name))


def _write(assembly: Assembly, folder: Path) -> Manifest:
    """All models and the weights, and the manifest with their hashes."""
    (folder / "programs").mkdir()
    with WeightFile(folder / "programs") as weights:
        for file, make in assembly.models.items():
            weights.save(make(), Path(file).name)
        for file, plan in assembly.plans.items():
            (folder / file).write_text(plan(weights.place).to_json(), encoding="utf-8")
    names = [*assembly.models, *assembly.plans, f"programs/{FILE}"]
    return dataclasses.replace(assembly.manifest, files={name: _entry(folder / name) for name in names})


def _with_engines(manifest: Manifest, made: Made, folder: Path) -> Manifest:
    names = {name for engine in made.engines for name in (engine.plan, engine.sidecar) if name} | {
        *made.files
    }
    files = manifest.files | {name: _entry(folder / name) for name in sorted(names)}
    notes = (*manifest.notes, *made.notes)
    return dataclasses.replace(manifest, engines=made.engines, lowered=made.lowered, notes=notes, files=files)


def _entry(path: Path) -> FileEntry:
    return FileEntry(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


def _check_size(manifest: Manifest, analysis: Analysis) -> None:
    """Weights stand once, but for those of bytes that native kernels read as floats: in their file, and in no other."""
    sizes = {name: entry.bytes for name, entry in manifest.files.items()}
    weights, graph = sizes.pop(f"programs/{FILE}"), sizes[PROGRAM]
    shapes = [i.dims for i in analysis.program.initializers.values() if i.data_type in _BYTES]
    in_floats = sum(4 * math.prod(shape) for shape in shapes)
    if weights > SIZE_LIMIT * (analysis.weight_bytes + in_floats) + _GRAPHS:
        raise InternalError(f"the weights take {weights} bytes, the program's {analysis.weight_bytes}")
    name, largest = max(sizes.items(), key=lambda item: item[1])
    if largest > 2 * graph + _GRAPHS:
        raise InternalError(f"{name} takes {largest} bytes, the program {graph}: weights are not shared")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("foveate")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
