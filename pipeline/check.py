"""What a plan promises, tried out: segments on windows equal segments on whole maps, and steps equal the program."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from ..runtime.backends.ort import cpu_session, spin
from ..runtime.bundle import dense_files
from ..runtime.errors import InternalError, MissingExtraError
from ..runtime.exits import RunStage, check_depths, run_exits, run_paths
from ..runtime.manifest import CHAIN, ExitChain, ExitPaths, ExitStage, Manifest, Pair, Step, TensorSpec
from .analyze import Analysis
from .as_written import compute_as_written
from .extract import extract
from .plan import Plan, PlannedSegment

# Relative to the largest magnitude, by the coarsest type in the program; the runtime's own parity check is finer.
TOLERANCES = {"float32": 1e-4, "float16": 1e-2}

Arrays = dict[str, np.ndarray]


def failing_segments(plan: Plan) -> dict[str, str]:
    """Nodes of the segments that windows do not compute as the whole map does, with the reason."""
    reasons: dict[str, str] = {}
    for step in plan.steps:
        for segment in step.segments:
            why = _why_not(segment, plan.analysis)
            if why:
                reasons |= {n.name: why for n in segment.nodes}
    return reasons


def tolerance(analysis: Analysis) -> float:
    """What its answers may differ by when they are computed in another order."""
    kinds = set(analysis.probes.sample.dtypes.values())
    return max(allowed for kind, allowed in TOLERANCES.items() if kind in kinds or kind == "float32")


def _why_not(segment: PlannedSegment, analysis: Analysis) -> str:
    specs = [[_spec(t, analysis) for t in names] for names in (segment.inputs, segment.outputs)]
    model = extract(analysis.local, [n.name for n in segment.nodes], specs[0], specs[1], "check")
    run = open_session(model)
    names = list(segment.outputs)
    rng = np.random.default_rng(0)
    feeds = {t: _random(t, segment, analysis, rng) for t in segment.inputs}
    try:
        whole = run(names, feeds)
        sizes = {t: _size(a, t, analysis) for t, a in (feeds | whole).items()}
        for window in _windows(segment, sizes):
            cut = {t: _crop(a, t, _outer(window, segment), segment, analysis) for t, a in feeds.items()}
            got = run(names, cut)
            for name in names:
                error = _window_error(got[name], whole[name], name, window, segment, analysis)
                if error > tolerance(analysis):
                    return f"on a window its output {name} differs from the whole map's by {error:.1e}"
    except Exception as error:  # onnxruntime's exceptions have no common root of their own
        return f"does not run on a window: {str(error).strip().splitlines()[0][:200]}"
    return ""


def _spec(name: str, analysis: Analysis) -> TensorSpec:
    sample = analysis.probes.sample
    return TensorSpec(name, sample.dtypes[name], tuple("?" for _ in sample.shapes[name]))


def _random(name: str, segment: PlannedSegment, analysis: Analysis, rng: np.random.Generator) -> np.ndarray:
    """One image at a probed resolution, an odd one where the segment allows it; no zeros, which hide errors."""
    probes = analysis.probes
    run = probes.whole[0] if segment.geometry.whole_cells else probes.runs[-1]
    shape = (1, *run.shapes[name][1:]) if len(run.shapes[name]) > 1 else run.shapes[name]
    return rng.uniform(0.25, 1.0, shape).astype(run.dtypes[name])


Window = tuple[Pair, Pair]  # cells [first, end) along height and width


def _windows(segment: PlannedSegment, sizes: Mapping[str, Pair]) -> Iterator[Window]:
    """The four corners and the middle, one to three cells wide."""
    cells = []
    for axis in (0, 1):
        per = segment.geometry.positions
        cells.append(max(-(-sizes[name][axis] // per[name][axis]) for name in segment.outputs))
    spans = []
    for n in cells:
        middle = n // 2
        spans.append(sorted({(0, min(1, n)), (middle, min(middle + 3, n)), (max(n - 2, 0), n)}))
    yield from itertools.product(*spans)


def _outer(window: Window, segment: PlannedSegment) -> Window:
    low, high = segment.geometry.halo_low, segment.geometry.halo_high
    (y0, y1), (x0, x1) = window
    return (max(y0 - low[0], 0), y1 + high[0]), (max(x0 - low[1], 0), x1 + high[1])


def _crop(
    array: np.ndarray,
    name: str,
    window: Window,
    segment: PlannedSegment,
    analysis: Analysis,
    origin: Pair = (0, 0),
) -> np.ndarray:
    """The window's part of a map of which the array begins at cell `origin`."""
    slices = [slice(None)] * array.ndim
    for axis, (first, end), start, per in zip(
        analysis.axes[name], window, origin, segment.geometry.positions[name], strict=True
    ):
        slices[axis] = slice((first - start) * per, (end - start) * per)
    return array[tuple(slices)]


def _window_error(
    got: np.ndarray, whole: np.ndarray, name: str, window: Window, segment: PlannedSegment, analysis: Analysis
) -> float:
    outer = _outer(window, segment)
    expected = _crop(whole, name, window, segment, analysis)
    inner = _crop(got, name, window, segment, analysis, (outer[0][0], outer[1][0]))
    slices = tuple(slice(0, n) for n in expected.shape)
    return max_error(inner[slices], expected)


def _size(array: np.ndarray, name: str, analysis: Analysis) -> Pair:
    h, w = analysis.axes[name]
    return array.shape[h], array.shape[w]


def max_error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest expected magnitude; infinite for another shape."""
    if got.shape != expected.shape:
        return float("inf")
    if expected.size == 0:
        return 0.0
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), 1e-12))


def check_chain(folder: Path, manifest: Manifest, analysis: Analysis) -> None:
    """All steps, dense, one after another against the program, on noise at the sample's shape; in every layout."""
    rng = np.random.default_rng(1)
    feeds: Arrays = {}
    for spec in manifest.inputs:
        feeds[spec.name] = rng.standard_normal(analysis.probes.sample.shapes[spec.name]).astype(spec.dtype)
    names = [spec.name for spec in manifest.outputs]
    expected = open_session(str(folder / manifest.program))(names, dict(feeds))
    for layout in (CHAIN, *manifest.layouts):
        found = _run_steps(folder, manifest.in_layout(layout).steps, feeds)
        for name, value in expected.items():
            error = max_error(found[name], value)
            if not error <= tolerance(analysis):
                raise InternalError(
                    f"output {name} of the steps ({layout}) differs from the program's by {error:.1e}"
                )


def _run_steps(folder: Path, steps: Sequence[Step], feeds: Arrays) -> Arrays:
    known = dict(feeds)
    for step in steps:
        if isinstance(step, ExitChain):
            known[step.chosen] = run_exits(step, check_depths(step, known), known, _open_stage(folder))
        elif isinstance(step, ExitPaths):
            known |= run_paths(step, check_depths(step, known), known, _open_stage(folder))
        else:
            (file,) = dense_files(step)
            known |= open_session(str(folder / file))(step.outputs, {t: known[t] for t in step.inputs})
    return known


def _open_stage(folder: Path) -> RunStage:
    def run(stage: ExitStage, tensors: Arrays) -> Arrays:
        feeds = {name: tensors[name] for name in stage.inputs}
        return open_session(str(folder / stage.file))(stage.outputs, feeds)

    return run


Run = Callable[[Sequence[str], Arrays], Arrays]


def open_session(model: onnx.ModelProto | str) -> Run:
    """Runs a model or a file, Q/DQ as written: names of outputs and the inputs -> the outputs by name."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "cpu", "checking a plan") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    compute_as_written(options)
    spin(options, 0)
    source = model if isinstance(model, str) else model.SerializeToString()
    session = cpu_session(source, options)

    def run(outputs: Sequence[str], feeds: Arrays) -> Arrays:
        arrays = session.run(list(outputs), feeds)
        return {name: np.asarray(value) for name, value in zip(outputs, arrays, strict=True)}

    return run
