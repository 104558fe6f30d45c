"""What every tensor's shape really is: the program is run at a few resolutions and asked.

Shape arithmetic is not interpreted. Each probe keeps the shape of every tensor and the value of every small one that
depends on constants and shapes alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ..runtime.backends.ort import spin
from ..runtime.errors import InputError, MissingExtraError, ProgramError
from ..runtime.manifest import Pair
from .graph import DATA, Graph
from .normalize.declared_sizes import DeclaredSizes
from .symbols import BATCH, Sizes, resolve, symbols_of

_KEPT_VALUES = 4096  # elements of a computed constant that are worth keeping
_ALIGN = 64  # sizes that are multiples of it are whole cells for any usual stride


@dataclass(frozen=True)
class Probe:
    """One run. `sizes` are the values of the symbolic input dims."""

    sizes: Sizes
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    values: Mapping[str, np.ndarray]
    whole: bool  # height and width are multiples of 64


@dataclass(frozen=True)
class Probes:
    """The sample's run first. `fixed`: why batch or resolution cannot change, if so."""

    runs: tuple[Probe, ...]
    fixed: tuple[str, ...] = ()
    min_size: Pair = (1, 1)
    multiple: Pair = (1, 1)  # of which height and width must be one

    @property
    def sample(self) -> Probe:
        return self.runs[0]

    @property
    def whole(self) -> tuple[Probe, ...]:
        """Runs at whole cells; of a program of one resolution its only one."""
        return tuple(p for p in self.runs if p.whole) or self.runs[:1]

    def shape(self, name: str) -> tuple[int, ...] | None:
        return self.sample.shapes.get(name)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a tensor that has the same one in every run; None if it has not, or is large."""
        values = [p.values.get(name) for p in self.runs]
        first = values[0]
        if first is None or any(v is None or not np.array_equal(v, first) for v in values[1:]):
            return None
        return first


def probe(
    program: onnx.ModelProto, sample: Mapping[str, Sequence[int]], declared: DeclaredSizes | None = None
) -> Probes:
    """Runs `program` (see normalize.to_program) at the sample's shapes and, where it can, at three others of the sizes
    that it is `declared` for.

    Raises ProgramError if it does not even run at the sample's shapes, InputError for a sample of other sizes.
    """
    declared = declared or DeclaredSizes()
    graph = Graph(program)
    runner = _Runner(program, graph)
    symbols = symbols_of(program, graph.inputs, sample)
    _check_sample(symbols, declared)
    runs = [runner.run(symbols)]
    batch = {k: n + 1 for k, n in symbols.items() if k.endswith(BATCH)}
    failed = [
        _add(runs, runner, sizes | batch) and _add(runs, runner, sizes)
        for sizes in _candidates(symbols, declared.multiple)
    ]
    fixed = []
    if len(runs) == 1 and len(batch) < len(symbols):
        fixed.append(f"the program runs at the sample's resolution only: {failed[0]}")
        _add(runs, runner, symbols | batch)
    if batch and not any(run.sizes | batch == run.sizes for run in runs):
        fixed.append("the batch is fixed in the program")
    one_size = all({**run.sizes, **batch} == {**symbols, **batch} for run in runs)
    least = declared.least or _min_size(runner, symbols, one_size, declared.multiple)
    return Probes(tuple(runs), tuple(fixed), least, declared.multiple)


def _check_sample(symbols: Sizes, declared: DeclaredSizes) -> None:
    for name, size in symbols.items():
        axis = _axis(name)
        if axis is None:
            continue
        least = declared.least[axis] if declared.least else 1
        if size % declared.multiple[axis] or size < least:
            raise InputError(
                f"the sample's {name}",
                got=str(size),
                expected=f"a multiple of {declared.multiple[axis]}, {least} at least, as the program declares",
                fix="Pass another shape with --sample.",
            )


def _axis(symbol: str) -> int | None:
    """0 for a height, 1 for a width, None for other dims."""
    return 0 if "height" in symbol else 1 if "width" in symbol else None


def _add(runs: list[Probe], runner: _Runner, sizes: Sizes) -> str:
    """Adds a run at these sizes; the reason where the program does not run there."""
    try:
        runs.append(runner.run(sizes))
    except ProgramError as error:
        return error.got
    return ""


def _min_size(runner: _Runner, symbols: Sizes, fixed: bool, multiple: Pair) -> Pair:
    """The smallest power of two, times the multiple that is declared, at which the program runs as height and width;
    the sample's if it runs there only."""
    own = symbols.get("height", 1), symbols.get("width", 1)
    size = math.lcm(*multiple)
    while not fixed and size < min(own):
        try:
            runner.run({k: size if "height" in k or "width" in k else n for k, n in symbols.items()})
        except ProgramError:
            size *= 2
        else:
            return size, size
    return own


def _candidates(symbols: Sizes, multiple: Pair) -> list[Sizes]:
    """Two sizes of whole cells in which height and width grow differently, and one that is odd at every halving, or as
    odd as the program is declared for."""
    found = []
    align = math.lcm(_ALIGN, *multiple)
    for high, wide in ((0, align), (align, 0), multiple):
        grown = dict(symbols)
        for name, size in symbols.items():
            if not name.endswith(BATCH):
                grown[name] = -(-size // align) * align + (high if "height" in name else wide)
        found.append(grown)
    return found


class _Runner:
    """The program with every tensor as an output, in one session."""

    def __init__(self, program: onnx.ModelProto, graph: Graph):
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingExtraError("onnxruntime", "cpu", "analysing a program") from error
        self._program, self._graph = program, graph
        model = onnx.ModelProto()
        model.CopyFrom(program)
        named = {o.name for o in model.graph.output}
        self._outputs = [n for node in graph.nodes for n in node.output if n]
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in self._outputs if n not in named)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        spin(options, 0)
        try:
            self._session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common root of their own
            raise _refused(f"the program does not load: {error}") from error

    def is_whole(self, sizes: Sizes) -> bool:
        return all(n % _ALIGN == 0 for name, n in sizes.items() if "height" in name or "width" in name)

    def run(self, sizes: Sizes) -> Probe:
        feeds = {}
        rng = np.random.default_rng(0)
        for value in self._session.get_inputs():
            spec = next(i for i in self._program.graph.input if i.name == value.name)
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(spec.type.tensor_type.elem_type))
            noise = rng.standard_normal(resolve(spec, sizes))
            feeds[value.name] = noise.astype(dtype)
        try:
            arrays = self._session.run(self._outputs, feeds)
        except Exception as error:  # as above
            raise _refused(_first_line(error)) from error
        found = dict(zip(self._outputs, arrays, strict=True)) | feeds
        found = {k: v for k, v in found.items() if isinstance(v, np.ndarray)}  # sequences have no shape
        shapes = {k: v.shape for k, v in found.items()}
        shapes |= {k: tuple(i.dims) for k, i in self._graph.initializers.items()}
        depends = self._graph.depends
        kept = {k: v for k, v in found.items() if depends[k] != DATA and v.size <= _KEPT_VALUES}
        return Probe(sizes, shapes, {k: v.dtype.name for k, v in found.items()}, kept, self.is_whole(sizes))


def _first_line(error: Exception) -> str:
    """onnxruntime's message without its source locations."""
    text = str(error).strip() or type(error).__name__
    found = re.search(
        r"running (\w+) node\. Name:'([^']*)' Status Message: (?:/\S+ .*?\) )?(.*)", text, re.DOTALL
    )
    text = f"{found[2]} ({found[1]}): {found[3]}" if found else text
    return text.splitlines()[0][:200]


def _refused(reason: str) -> ProgramError:
    return ProgramError(
        "running the program to learn its shapes",
        got=reason,
        expected="a program that stock onnxruntime runs at the sample's shape",
        fix="Pass the shape it was exported for with --sample, or export it with dynamic height and width.",
    )
