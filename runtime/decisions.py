"""Decisions as results, after a check that they are decisions at all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .errors import DecisionError
from .finite import not_finite
from .manifest import Decision, Manifest
from .result import DecisionResult


def read_decisions(manifest: Manifest, tensors: Mapping[str, np.ndarray]) -> dict[str, DecisionResult]:
    """Every decision of a request. Raises DecisionError naming the decision and the image where one is not finite."""
    return {decision.name: _read(decision, tensors) for decision in manifest.decisions}


def check_decision(decision: Decision, tensors: Mapping[str, np.ndarray]) -> None:
    """A mask compares a score with a threshold, and NaN compares false: it would silently mask the image out."""
    scores = tensors[decision.logits or decision.keep]
    for index, bad in not_finite(scores):
        raise DecisionError(
            f"decision {decision.name!r} of image {index}",
            got=f"{bad} of {scores[index].size} logits NaN or infinite",
            expected="finite logits",
            fix="Check the image's preprocessing and the checkpoint's weights.",
        )


def _read(decision: Decision, tensors: Mapping[str, np.ndarray]) -> DecisionResult:
    keep = tensors[decision.keep]
    active = np.array([np.count_nonzero(image) / max(1, image.size) for image in keep])
    logits, energy = (tensors[name] if name else None for name in (decision.logits, decision.energy))
    return DecisionResult(decision.name, keep, logits, energy, active)
