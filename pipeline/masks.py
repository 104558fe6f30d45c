"""Energy masks of a program: margins to the threshold, and thresholds that force an active fraction on an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import MissingExtraError
from ..runtime.manifest import Decision, Manifest

OPEN = -1.0  # m ∈ [0, 1] is above it everywhere
CLOSED = 1.0  # m is above it nowhere
_ROUNDINGS = 4  # of exp, the sum, the quotient and the threshold


@dataclass(frozen=True)
class Mask:
    """One decision with what its node says: the choices' names and the patch size."""

    decision: Decision
    threshold: str
    temperature: str
    patch: int


def masks_of(manifest: Manifest, program: Path) -> tuple[Mask, ...]:
    """The energy masks among the manifest's decisions, in its order."""
    if not manifest.decisions:
        return ()
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "export", "reading a program's masks") from error
    graph = onnx.load(program, load_external_data=False).graph
    nodes = [node for node in graph.node if node.domain == "ai.foveate" and node.op_type == "EnergyMask"]
    found = []
    for decision in manifest.decisions:
        for node in nodes:
            if decision.logits in node.output:
                patch = next(a.i for a in node.attribute if a.name == "patch")
                found.append(Mask(decision, node.input[3], node.input[4], int(patch)))
    return tuple(found)


def importance(logits: np.ndarray, temperature: float) -> np.ndarray:
    """m = sigmoid(−z/T), float32, as the node compares it with the threshold."""
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(logits.astype(np.float32) / np.float32(temperature)))).astype(np.float32)


def margins(mask: Mask, logits: np.ndarray, size: tuple[int, ...], choices: Mapping[str, Any]) -> np.ndarray:
    """How far each position's logit z is from being decided otherwise, −T·ln(t/(1 − t)) for threshold t, as a share of
    the range that the image's logits have; less what m = sigmoid(−z/T) is rounded by. [1, 1, H, W] for `size` = (H, W);
    infinite where no logit decides."""
    threshold, temperature = float(choices[mask.threshold]), float(choices[mask.temperature])
    z = logits.astype(np.float64)
    share = np.full_like(z, np.inf)
    if 0 < threshold < 1:
        rounding = _ROUNDINGS * np.finfo(np.float32).eps * temperature / (1 - threshold)  # of m = t, in z
        away = np.abs(z + temperature * np.log(threshold / (1 - threshold))) - rounding
        share = np.maximum(away, 0) / max(float(np.ptp(z)), np.finfo(np.float32).tiny)
    return share.repeat(mask.patch, axis=2).repeat(mask.patch, axis=3)[:, :, : size[0], : size[1]]


def threshold_for(logits: np.ndarray, temperature: float, fraction: float) -> float:
    """The threshold that leaves `fraction` of the tokens active: half-way between the two neighbouring m.

    Tokens of equal m cannot be told apart, so the fraction reached may differ: measure it."""
    ranked = np.sort(importance(logits, temperature), axis=None)[::-1]
    count = round(fraction * ranked.size)
    if count <= 0:
        return CLOSED
    if count >= ranked.size:
        return OPEN
    return float((ranked[count - 1].astype(np.float64) + ranked[count]) / 2)


def force(
    masks: tuple[Mask, ...], logits: Mapping[str, np.ndarray], choices: Mapping[str, Any], fraction: float
) -> dict[str, float]:
    """Choices under which one image has `fraction` of its tokens active.

    The first mask's threshold is a quantile of the image's own logits (`logits`, by tensor name); all later masks,
    which can only narrow, are open.
    """
    if not masks:
        return {}
    first, *later = masks
    z = logits[first.decision.logits or ""]
    forced = {first.threshold: threshold_for(z, float(choices[first.temperature]), fraction)}
    return {**forced, **{mask.threshold: OPEN for mask in later}}
