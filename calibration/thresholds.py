"""Thresholds of energy masks from data: a given one is recorded, or the one that leaves a given active fraction.

The program runs densely in stock onnxruntime. Of each mask only its logits are needed: m = sigmoid(−z/T) says how
much a token counts, and a token is active where m > threshold. With several masks, a later one sees features that an
earlier one has changed, so they are calibrated in order, each with those before it at their new thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from ..pipeline.data import Dataset, Sample, open_data
from ..pipeline.dense import Dense
from ..pipeline.masks import CLOSED, Mask, importance, threshold_for
from ..runtime.errors import DecisionError, InputError
from ..runtime.manifest import Preprocess
from .choices import Activity, Choices
from .source import Source, open_source, store

PerDecision = float | Mapping[str, float] | None  # one value for all decisions, or by decision name

MISSED = 0.02  # an active fraction this far from the wanted one is worth a note


def calibrate(
    source: str | Path,
    data: str | Path | Dataset,
    *,
    threshold: PerDecision = None,
    active: PerDecision = None,
    out: str | Path | None = None,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Path:
    """Choose thresholds for `source` (a program or a bundle) on `data` and write choices.json; returns its path.

    `threshold` sets them; `active` (0 to 1) finds those that leave this fraction of the tokens active, in the mean
    over the images; a decision that neither names keeps its own. A bundle's manifest takes the new choices over:
    its program and engines stay as they are. `out` defaults to choices.json in the bundle or NAME.choices.json
    beside the program. Raises InputError, DecisionError (NaN logits), ProgramError.
    """
    opened = open_source(Path(source))
    found = measure(opened, data, threshold, active, preprocess, limit, threads, tick)
    return store(opened, found, Path(out) if out else None)


def measure(
    source: Source,
    data: str | Path | Dataset,
    threshold: PerDecision = None,
    active: PerDecision = None,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Choices:
    """As `calibrate`, writing nothing."""
    names = [mask.decision.name for mask in source.masks]
    thresholds, fractions = _by_decision(threshold, names, "threshold"), _by_decision(active, names, "active")
    _check_fractions(thresholds, fractions)
    if not isinstance(data, Dataset):
        data = open_data(data, preprocess or source.preprocess, limit)
    choices, activity, images = dict(source.choices), {}, 0
    for mask in source.masks:
        name, temperature = mask.decision.name, float(choices[mask.temperature])
        logits, reachable = logits_of(source, mask, data.samples(limit), choices, threads or 0, tick)
        images = len(logits)
        if name in thresholds:
            choices[mask.threshold] = thresholds[name]
        elif name in fractions:
            choices[mask.threshold] = threshold_at(logits, reachable, temperature, fractions[name])
        activity[name] = Activity.of(
            active_fractions(logits, reachable, temperature, choices[mask.threshold])
        )
    notes = _missed(fractions, activity)
    values = {mask.threshold: float(choices[mask.threshold]) for mask in source.masks}
    first = activity[names[0]].mean if names else None
    return Choices(source.sha256, data.spec, images, values, activity, first, notes)


Maps = list[np.ndarray]  # one flat array of tokens an image


def logits_of(
    source: Source,
    mask: Mask,
    samples: Iterable[Sample],
    choices: Mapping[str, float],
    threads: int,
    tick: Callable[[], None],
) -> tuple[Maps, Maps]:
    """Of each image: logits float32 [tokens], and bool [tokens] where no earlier mask has dropped the token."""
    z, earlier = mask.decision.logits or "", source.earlier.get(mask.decision.name)
    dense = Dense(source.program, threads, tensors=[z, *([earlier] if earlier else [])])
    logits, reachable = [], []
    for sample in samples:
        values = dense(sample.image, choices)
        if not np.isfinite(values[z]).all():
            raise DecisionError(
                f"{mask.decision.name} on {sample.name}",
                got="NaN or infinite logits",
                expected="finite logits",
                fix="Check the image's preprocessing and the checkpoint's weights.",
            )
        logits.append(values[z].ravel())
        kept = (
            _tokens(values[earlier], mask.patch, values[z].shape)
            if earlier
            else np.ones(values[z].shape, bool)
        )
        reachable.append(kept.ravel())
        tick()
    return logits, reachable


def _tokens(keep: np.ndarray, patch: int, shape: tuple[int, ...]) -> np.ndarray:
    """keep [B, 1, H, W] of positions as bool [B, 1, h, w] of tokens: any position of the token is active."""
    grown = np.zeros((*shape[:2], shape[2] * patch, shape[3] * patch), bool)
    grown[:, :, : keep.shape[2], : keep.shape[3]] = keep != 0
    return grown.reshape(*shape[:3], patch, shape[3], patch).max(axis=(3, 5))


def active_fractions(logits: Maps, reachable: Maps, temperature: float, threshold: float) -> np.ndarray:
    """[N]: the share of each image's tokens with m > threshold."""
    limit = np.float32(threshold)
    return np.array(
        [
            ((importance(z, temperature) > limit) & kept).mean()
            for z, kept in zip(logits, reachable, strict=True)
        ]
    )


def threshold_at(logits: Maps, reachable: Maps, temperature: float, fraction: float) -> float:
    """The threshold at which the mean over images of their active fractions is `fraction`, as near as ties allow."""
    if len({z.size for z in logits}) == 1:
        kept, total = np.concatenate(reachable), sum(z.size for z in logits)
        share = min(1.0, fraction * total / max(1, int(kept.sum())))
        return threshold_for(np.concatenate(logits)[kept], temperature, share) if kept.any() else CLOSED
    low, high = -1.0, 1.0  # images of many sizes: each counts the same, so search where the mean crosses
    for _ in range(40):
        middle = (low + high) / 2
        if active_fractions(logits, reachable, temperature, middle).mean() > fraction:
            low = middle
        else:
            high = middle
    return high


def _missed(wanted: Mapping[str, float], reached: Mapping[str, Activity]) -> list[str]:
    """Where tokens of equal m leave no threshold in between, as in a mask that was never trained."""
    return [
        f"{name}: {reached[name].mean:.1%} active instead of {fraction:.1%}; too many tokens score alike to part them"
        for name, fraction in wanted.items()
        if abs(reached[name].mean - fraction) > MISSED
    ]


def _by_decision(values: PerDecision, names: list[str], what: str) -> dict[str, float]:
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        values = {"": float(values)}
    unknown = sorted(set(values) - set(names) - {""})
    if not names or unknown:
        raise InputError(
            what,
            got=f"a value for {unknown[0]!r}" if names else "a value for a program without decisions",
            expected=f"one of the decisions {', '.join(names)}" if names else "an energy mask to choose for",
            fix="`foveate inspect` lists a program's decisions.",
        )
    general = {name: float(values[""]) for name in names if "" in values}
    return {**general, **{name: float(v) for name, v in values.items() if name}}


def _check_fractions(thresholds: Mapping[str, float], fractions: Mapping[str, float]) -> None:
    both = sorted(set(thresholds) & set(fractions))
    if both:
        raise InputError(
            both[0],
            got="a threshold and an active fraction",
            expected="one of the two",
            fix="Leave out --threshold to search it.",
        )
    for name, fraction in fractions.items():
        if not 0 <= fraction <= 1:
            raise InputError(
                f"active fraction of {name}", got=f"{fraction:g}", expected="0 to 1", fix="Use 0.25 for 25 %."
            )
    for name, threshold in thresholds.items():
        if not np.isfinite(threshold):
            raise InputError(
                f"threshold of {name}",
                got=f"{threshold}",
                expected="a finite number",
                fix="m lies in 0 to 1.",
            )
