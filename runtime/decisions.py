"""Decisions as results, after a check that they are decisions at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .errors import DecisionError
from .finite import not_finite
from .manifest import Decision, Manifest
from .result import DecisionResult


def read_decisions(
    manifest: Manifest, tensors: Mapping[str, Any], active: Mapping[str, np.ndarray]
) -> dict[str, DecisionResult]:
    """Every decision of a request. `active`: the active fractions of those that were counted already."""
    return {d.name: _read(d, tensors, active.get(d.name)) for d in manifest.decisions}


def check_decision(decision: Decision, tensors: Mapping[str, np.ndarray]) -> None:
    """A mask compares a score with a threshold, and NaN compares false: it would silently mask the image out."""
    scores = tensors[decision.logits or decision.keep]
    for index, bad in not_finite(scores):
        raise not_finite_decision(decision, index, bad, scores[index].size)


def not_finite_decision(decision: Decision, index: int, bad: int, count: int) -> DecisionError:
    return DecisionError(
        f"decision {decision.name!r} of image {index}",
        got=f"{bad} of {count} logits NaN or infinite",
        expected="finite logits",
        fix="Check the image's preprocessing and the checkpoint's weights.",
    )


def _read(decision: Decision, tensors: Mapping[str, Any], active: np.ndarray | None) -> DecisionResult:
    keep = tensors[decision.keep]
    if active is None:
        active = np.array([np.count_nonzero(image) / max(1, image.size) for image in keep])
    logits, energy = (tensors[name] if name else None for name in (decision.logits, decision.energy))
    return DecisionResult(decision.name, keep, logits, energy, active)
