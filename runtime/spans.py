"""Strategy `spans`: a region run by the native kernels, on the positions that differ from the reference state.

Each op computes exactly those positions of its output that are dirty and that something reads, in buffers that hold the
reference everywhere else. See native/state.h.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import BundleError, EngineError
from .manifest import Manifest, Pair, Region
from .native.handles import PlanHandle, PoolHandle, StateHandle
from .native.library import library
from .native.plan import Array, SpanPlan, encode

WEIGHTS = "programs/weights.bin"


def native_regions(manifest: Manifest) -> list[Region]:
    """The regions that the native kernels run on this machine."""
    if library() is None:
        return []
    return [step for step in manifest.steps if isinstance(step, Region) and step.spans]


class SpanEngine:
    """A plan of a bundle with its packed weights. Safe for concurrent callers, each with a state of its own."""

    def __init__(self, folder: Path, file: str, pool: PoolHandle, isa: str = "best"):
        """Raises BundleError for a plan that cannot be read, EngineError for one that the kernels refuse."""
        self.pool = pool
        plan = read_plan(folder / file)
        self.names = plan.names
        self.inputs = tuple(plan.names[i] for i in plan.inputs)
        self.outputs = tuple(plan.names[i] for i in plan.outputs)
        words, params = encode(plan, _reader(folder / WEIGHTS))
        self._multiples = plan.multiples or ((1, 1),) * len(plan.inputs)
        self._plan = PlanHandle(words, params, inputs=len(plan.inputs), outputs=len(plan.outputs), isa=isa)
        self.ops = self._plan.ops

    def state_bytes(self, sizes: Mapping[str, Pair]) -> int:
        """Of a state for inputs of these heights and widths. Raises EngineError where the plan does not fit them."""
        return self._plan.state_bytes([sizes[name] for name in self.inputs])

    def fits(self, sizes: Mapping[str, Pair]) -> bool:
        """Whether the plan holds for inputs of these heights and widths: padding that depends on the size, as of
        auto_pad, is planned for multiples of the strides."""
        each = zip(self.inputs, self._multiples, strict=True)
        return all(sizes[name][i] % multiple[i] == 0 for name, multiple in each for i in (0, 1))

    def open_state(self, sizes: Mapping[str, Pair], limit: int, *, stream: bool = False) -> StateHandle:
        """Buffers for inputs of these heights and widths. Raises EngineError where the plan does not fit them, or
        needs more than `limit` bytes."""
        if not self.fits(sizes):
            raise EngineError(
                "a span plan",
                got=f"inputs of {', '.join('×'.join(map(str, sizes[name])) for name in self.inputs)}",
                expected=f"multiples of {', '.join('×'.join(map(str, m)) for m in self._multiples)}",
                fix="Other sizes run densely.",
            )
        return StateHandle(self._plan, [sizes[name] for name in self.inputs], self.pool, limit, stream=stream)


@dataclass
class SpanScratch:
    """A state for one image at a time. `arrays` are its outputs: they hold the reference where nothing was computed."""

    state: StateHandle
    arrays: dict[str, np.ndarray]


class SpanReference:
    """The states of one region at one resolution: what `state.Reference` is for windows."""

    def __init__(self, engine: SpanEngine, sizes: Mapping[str, Pair], limit: int):
        self._engine, self._sizes, self._limit = engine, dict(sizes), limit
        first = self.new_scratch()
        self.pool: list[SpanScratch] = [first]
        self.held_bytes, self.scratch_bytes = 0, first.state.nbytes
        self.cached = True

    def new_scratch(self) -> SpanScratch:
        state = self._engine.open_state(self._sizes, self._limit)
        return SpanScratch(state, dict(zip(self._engine.outputs, state.outputs, strict=True)))

    def restore(self, scratch: SpanScratch) -> None:
        scratch.state.restore()

    def prepare(self, scratch: SpanScratch, active: Mapping[str, np.ndarray]) -> float:
        """Multiply-adds for these active positions of the region's masks (bool [height, width] each)."""
        return scratch.state.prepare([active.get(name) for name in self._engine.inputs])

    def run(self, scratch: SpanScratch, tensors: dict[str, np.ndarray]) -> None:
        """Computes what was prepared, for one image whose region inputs are in `tensors`, and adds the outputs."""
        scratch.state.run([tensors[name] for name in self._engine.inputs])
        tensors.update(scratch.arrays)


def read_plan(path: Path) -> SpanPlan:
    """A plan of a bundle. Raises BundleError."""
    try:
        return SpanPlan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            str(path),
            got=f"{type(error).__name__}: {error}",
            expected="a span plan that this runtime reads",
            fix="Build the bundle again with `foveate build`.",
        ) from error


def _reader(path: Path) -> Callable[[Array], np.ndarray]:
    """Reads arrays of the file of weights. Raises EngineError for one that lies outside."""
    file = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)

    def read(array: Array) -> np.ndarray:
        dtype = np.dtype(np.int8 if array.dtype == "int8" else np.float32)
        size = int(np.prod(array.shape, dtype=np.int64)) * dtype.itemsize
        if array.offset < 0 or min(array.shape, default=1) < 0 or array.offset + size > file.size:
            raise EngineError(
                f"a span plan of {path.parent.parent}",
                got=f"weights at byte {array.offset} of shape {list(array.shape)}",
                expected=f"within the {file.size} bytes of {path.name}",
                fix="Build the bundle again with `foveate build`.",
            )
        return file[array.offset : array.offset + size].view(dtype).reshape(array.shape)

    return read
