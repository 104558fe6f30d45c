"""Which layout of a program with exits gets engines, where none is asked for: the one that is predicted to be fastest.

Engines of every layout would take many times as long to build and as much memory (those of `per-depth` hold a layer
once for each depth that has it), and a GPU runs one of them. All layouts compute the same layers; they differ in how
often an engine is called, and in what a batch of mixed depths costs.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...runtime.engine import parts
from ...runtime.layouts import MUST_WIN
from ...runtime.manifest import CHAIN, IF, PER_DEPTH, ExitChain, Manifest

CALL_MS = 0.03
"""Of one call of an engine, from the end of the one before: bindings, launches, and the host that waits for a depth. An
`If` takes as much, for TensorRT waits for its condition."""
MACS_PER_MS = {"fp32": 5e9, "fp16": 2e10, "bf16": 2e10, "int8": 4e10, "fp8": 4e10}
"""A third of what the data sheet of an L4 promises. Both are guesses, no measurements: --exit-layout overrules them."""


def choose_engines(manifest: Manifest, precision: str, batch: int, but: str = "") -> tuple[str, str]:
    """The layout, and why in words, for batches of that many images. `but`: one that cannot be built."""
    ms = {name: value for name, value in predict(manifest, precision, batch).items() if name != but}
    best = min(ms, key=lambda name: ms[name] / MUST_WIN[name])
    told = ", ".join(f"{name} {value:.2f}" for name, value in ms.items())
    why = (
        f"engines are built for layout {best}: ms behind the stem that are predicted for a batch of {batch}: {told}, "
        "by guesses for a GPU; `foveate build --exit-layout` takes another"
    )
    return best, why


def predict(manifest: Manifest, precision: str, batch: int) -> dict[str, float]:
    """Ms of a batch by layout, of what lies behind the stem, but for the head's work, which is everywhere the same."""
    chain = next(step for step in manifest.steps if isinstance(step, ExitChain))
    share = _shares(chain, {int(depth): count for depth, count in manifest.depths.items()})
    left = [sum(share[exit] for exit in chain.exits if exit >= stage.exit) for stage in chain.stages]
    kind, floats = parts(precision)
    macs = [stage.macs / MACS_PER_MS[kind or floats] for stage in chain.stages]
    any_left = [1 - (1 - still) ** batch for still in left]
    work = batch * sum(ms * still for ms, still in zip(macs, left, strict=True))
    found = {CHAIN: CALL_MS * (sum(any_left) + 1) + work}
    if PER_DEPTH in manifest.layouts:
        found[PER_DEPTH] = CALL_MS * sum(1 - (1 - part) ** batch for part in share.values()) + work
    if IF in manifest.layouts:
        deepest = batch * sum(ms * some for ms, some in zip(macs, any_left, strict=True))
        found[IF] = CALL_MS * len(chain.stages) + deepest
    return found


def _shares(chain: ExitChain, depths: Mapping[int, int]) -> dict[int, float]:
    """Of images that take each exit: as calibrated, else all alike."""
    counts = {exit: depths.get(exit, 0) for exit in chain.exits}
    total = sum(counts.values())
    return {exit: count / total if total else 1 / len(counts) for exit, count in counts.items()}
