"""A request that has run, as what its caller gets."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import Any

from .decisions import read_decisions
from .inputs import Batch, to_torch
from .manifest import Manifest
from .request import Request
from .result import Result


def answer_of(request: Request, batch: Batch, manifest: Manifest, start: float) -> Result:
    """`start` of the call, on the clock of perf_counter: its time ends here."""
    tensors = request.tensors
    outputs: dict[str, Any] = batch.unpad({spec.name: tensors[spec.name] for spec in manifest.outputs})
    known = all(d.keep in tensors for d in manifest.decisions)
    decisions = read_decisions(manifest, tensors, request.active) if known else {}
    if batch.torch:
        outputs = {name: to_torch(value) for name, value in outputs.items()}
        decisions = {
            name: replace(d, keep=to_torch(d.keep), logits=to_torch(d.logits), energy=to_torch(d.energy))
            for name, d in decisions.items()
        }
    request.timing["total"] = (perf_counter() - start) * 1e3
    return Result(
        outputs,
        decisions,
        request.timing,
        request.strategies,
        request.segments,
        request.depth,
        request.features,
    )
