"""In which of its layouts a program with exits runs: the one asked for, or the fastest on this device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

from .errors import InputError, did_you_mean
from .manifest import CHAIN, IF, PER_DEPTH, ExitChain, ExitGraph, ExitPaths, ExitStep, Manifest, Step

AUTO = "auto"
MUST_WIN = {CHAIN: 1.0, IF: 0.98, PER_DEPTH: 0.95}
"""At most this share of the chain's time must a layout take to be preferred: `if` runs a batch as deep as its deepest
image, and `per-depth` holds the weights of a layer once for every depth that has it."""
_FORCED = 1e6  # an offset above any score
_ROUNDS = 15


def layouts_for(manifest: Manifest, backend: str) -> tuple[str, ...]:
    """Those that a backend has engines for: TensorRT where they were built, onnxruntime for all."""
    layouts = {CHAIN: manifest.steps, **manifest.layouts}
    if backend not in ("tensorrt", "torch_tensorrt"):
        return tuple(layouts)
    built = {engine.program for engine in manifest.engines}
    return tuple(name for name, steps in layouts.items() if exit_files(steps) <= built)


def exit_files(steps: Sequence[Step]) -> set[str]:
    """What a layout has of its own."""
    files = set()
    for step in steps:
        if isinstance(step, ExitChain):
            files.update(stage.file for stage in step.stages)
        elif isinstance(step, ExitPaths):
            files.update(path.file for path in step.paths)
        elif isinstance(step, ExitGraph):
            files.add(step.file)
    return files


def choose_layout(
    manifest: Manifest, asked: str | None, ms: Mapping[str, float], backend: str = "ort"
) -> str:
    """`asked`, or the manifest's where it is None; of "auto" the fastest by the `ms` measured on this device, and the
    first that the backend has where nothing was. Raises InputError for a layout that it does not have."""
    known, asked = layouts_for(manifest, backend), asked or manifest.layout
    if asked == AUTO:
        return min(known, key=lambda name: ms[name] / MUST_WIN[name] if name in ms else math.inf)
    if asked not in known:
        raise InputError(
            "layout",
            got=repr(asked),
            expected=f"one of {', '.join((AUTO, *known))}",
            fix=did_you_mean(asked, (AUTO, *known), "Leave it out, and see `foveate inspect`."),
        )
    return asked


def shallow_and_deep(manifest: Manifest) -> list[dict[str, list[float]]]:
    """Choices that send every image to the first exit, and to the last one, in any layout; of a program without a gate,
    none."""
    step = manifest.exit_step
    if step is None or not step.gate:
        return [{}]
    return [forced_depth(step, depth) for depth in (step.exits[0], step.exits[-1])]


def forced_depth(step: ExitStep, depth: int) -> dict[str, list[float]]:
    """Choices that send every image to this exit. The step has a gate."""
    return {f"{step.gate}.offset": [_FORCED * (exit == depth) for exit in step.exits]}


def time_layouts(runs: Mapping[str, Sequence[Callable[[], object]]], deadline: float) -> dict[str, float]:
    """The ms of each layout, the mean over its runs of the least time of each, taken in turns until `deadline` on the
    clock of perf_counter; none where it came before all had run twice, for the first time is a cold one."""
    least = {name: [math.inf] * len(each) for name, each in runs.items()}
    for turn in range(_ROUNDS):
        for name, each in runs.items():
            for number, run in enumerate(each):
                start = perf_counter()
                if start >= deadline:
                    return _means(least) if turn > 1 else {}
                run()
                least[name][number] = min(least[name][number], (perf_counter() - start) * 1e3)
    return _means(least)


def _means(least: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: math.fsum(ms) / len(ms) for name, ms in least.items()}
