"""How robust a bundle's masks are, measured on its own engines (ERSM, arXiv 2604.06893, claims it).

*Deletion*: tokens are removed at the first mask, least important first, and the quality of the answers is followed: by
the learned logits (highest z first), by magnitude (smallest L2 norm of the token's features first), and by chance. The
better a ranking, the longer quality lasts. Later masks, which can only narrow, keep all.

*Occlusion*: random blocks of the image are covered by its mean colour, and the bundle is compared with the network
without masks, on the same pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime import Model, load
from ..runtime.bundle import open_bundle
from ..runtime.engine import Config, config_for
from ..runtime.errors import InputError
from ..runtime.manifest import Manifest
from ..runtime.nvidia import able
from ..runtime.spans import native_regions
from .accuracy import active_fraction
from .data import Dataset, Sample
from .dense import Dense, DenseSettings
from .masks import OPEN, Mask, masks_of
from .metrics import metric_for, open_metric
from .statistics import bootstrap
from .steered import Steered, SteeredConfig, steered

RANKINGS = ("learned", "magnitude", "random")
REMOVED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)  # of the tokens
OCCLUDED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)  # of the image
BLOCKS = 8  # blocks along the shorter side
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """A mean over images with its 95 % interval (bootstrap over the images)."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Deletion:
    """quality: mean over images at each of `removed`, by ranking; area: under it, over the fraction removed; ahead: the
    learned ranking's area above the others'. own_removed, own_quality: what the mask itself removes, and leaves."""

    removed: tuple[float, ...]
    quality: dict[str, list[float]]
    area: dict[str, float]
    ahead: dict[str, Difference]
    own_removed: float
    own_quality: float


@dataclass(frozen=True)
class Occlusion:
    """Quality of the bundle and of the network without masks at each of `occluded`; active: what the bundle's masks
    then keep. ahead: the bundle above the other, at each. unmasked: what that is, "baseline" or "open masks"."""

    occluded: tuple[float, ...]
    bundle: list[float]
    without_masks: list[float]
    ahead: list[Difference]
    active: list[float]
    unmasked: str


@dataclass(frozen=True)
class Robustness:
    """Qualities are the metric of each image alone, between 0 and 1."""

    bundle: str
    data: str
    metric: str
    images: int
    backend: str
    strategy: str
    deletion: Deletion
    occlusion: Occlusion

    def lines(self) -> list[str]:
        areas = ", ".join(f"{name} {area:.4f}" for name, area in self.deletion.area.items())
        last, shown = self.occlusion, len(self.occlusion.occluded) - 1
        return [
            f"deletion, area under {self.metric}: {areas}",
            *(f"learned − {name}: {_signed(difference)}" for name, difference in self.deletion.ahead.items()),
            f"{last.occluded[shown]:.0%} of the image covered: {self.metric} {last.bundle[shown]:.4f}, "
            f"{last.unmasked} {last.without_masks[shown]:.4f}; difference {_signed(last.ahead[shown])}",
        ]

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def robustness(
    bundle: str | Path,
    data: Dataset | None,
    *,
    metric: str | None = None,
    baseline: str | Path | None = None,
    limit: int | None = None,
    threads: int | None = None,
    backend: Config | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Robustness:
    """Both tests on `data` (its first `limit` images). metric: a row of docs/data.md; by default what the labels allow.
    baseline: the program of the network without masks; by default the bundle's own with masks that keep all. backend:
    of `foveate.load`; by default the bundle's, or what takes its place on this machine, with a BackendWarning.

    Everything random depends on the image's number alone. Raises InputError without data, for a program without energy
    masks, and for engines whose masks cannot be given from outside."""
    bundle, manifest = Path(bundle), open_bundle(bundle, verify=False).manifest
    masks = masks_of(manifest, bundle / manifest.program)
    if data is None or not masks:
        raise InputError(
            f"robustness of {bundle}",
            got="no data" if masks else "a program without energy masks",
            expected="images, and a mask whose ranking is tried",
            fix="Add --data." if masks else "See docs/robustness.md.",
        )
    engines = able(config_for(manifest.backend, threads), manifest) if backend is None else backend
    config = steered(engines, [mask.decision.keep for mask in masks], bundle, manifest)
    native = isinstance(config, SteeredConfig) and native_regions(manifest)
    strategy = "spans" if native else "rects"
    with load(bundle, backend=config, strategy=strategy) as model:
        judge = _Judge(
            metric, Dense(bundle / manifest.program, threads or 0, DenseSettings(exact=True)), model
        )
        deletion = _Deletion(model, config, masks, bundle, judge)
        occlusion = _Occlusion(model, masks, bundle, judge, baseline, threads or 0)
        for number, sample in enumerate(data.samples(limit)):
            judge.take(sample)
            deletion.add(sample, number)
            occlusion.add(sample, number)
            tick()
    if not np.isfinite([quality for _, quality in deletion.own]).any():
        raise InputError(
            f"metric {judge.metric}",
            got=f"{len(deletion.own)} images on which it is not defined",
            expected="a metric of single images",
            fix="Give other --data, or another --metric.",
        )
    return Robustness(
        str(bundle),
        data.spec,
        judge.metric,
        len(deletion.own),
        config.backend,
        strategy,
        deletion.result(),
        occlusion.result(),
    )


class _Judge:
    """The metric of single answers; `take` an image first. Without labels answers are compared with the clean one of
    the bundle's program."""

    def __init__(self, metric: str | None, program: Dense, model: Model):
        self._metric, self._program, self._model = metric, program, model
        self._label: Any = None
        self._clean: Arrays = {}

    @property
    def metric(self) -> str:
        return self._metric or ""

    def take(self, sample: Sample) -> None:
        self._metric = self._metric or metric_for(sample.label)
        answer = self._program(sample.image, self._model.choices)
        self._clean = {spec.name: answer[spec.name] for spec in self._model.manifest.outputs}
        self._label = sample.label

    def __call__(self, answer: Mapping[str, Any]) -> float:
        measured = open_metric(self.metric)
        measured.update({name: np.asarray(answer[name]) for name in self._clean}, self._label, self._clean)
        return measured.value()


class _Deletion:
    def __init__(self, model: Model, config: Steered, masks: Sequence[Mask], bundle: Path, judge: _Judge):
        self._model, self._keeps, self._judge = model, config.keeps, judge
        self._first, self._later = masks[0], masks[1:]
        self._features = _features(bundle / model.manifest.program, self._first)
        tensors = [self._features, self._first.decision.logits or "", *(m.decision.keep for m in masks)]
        self._dense = Dense(
            bundle / model.manifest.program, config.threads, DenseSettings(exact=True), tensors
        )
        self._curves: dict[str, list[list[float]]] = {name: [] for name in RANKINGS}
        self.own: list[tuple[float, float]] = []  # fraction removed, quality

    def add(self, sample: Sample, number: int) -> None:
        values = self._dense(sample.image, self._model.choices)
        keep = values[self._first.decision.keep]
        self._keeps.clear()
        self.own.append((1 - float((keep != 0).mean()), self._judge(self._model(sample.image))))
        logits = values[self._first.decision.logits or ""]
        importance = {
            "learned": -logits.ravel(),
            "magnitude": token_norms(values[self._features], self._first.patch).ravel(),
            "random": np.random.default_rng([1, number]).random(logits.size),
        }
        self._keeps.update({m.decision.keep: np.ones_like(values[m.decision.keep]) for m in self._later})
        for name in RANKINGS:
            self._curves[name].append([])
            for removed in REMOVED:
                tokens = kept_tokens(importance[name], removed).reshape(logits.shape)
                self._keeps[self._first.decision.keep] = _positions(tokens, self._first.patch, keep.shape)
                self._curves[name][-1].append(self._judge(self._model(sample.image)))
        self._keeps.clear()

    def result(self) -> Deletion:
        curves = {name: np.array(rows) for name, rows in self._curves.items()}  # [images, fractions]
        areas = {name: _area(rows) for name, rows in curves.items()}
        removed, quality = np.array(self.own).T
        return Deletion(
            REMOVED,
            {name: np.nanmean(rows, axis=0).tolist() for name, rows in curves.items()},
            {name: float(np.nanmean(area)) for name, area in areas.items()},
            {name: difference(areas["learned"], areas[name]) for name in RANKINGS[1:]},
            float(removed.mean()),
            float(np.nanmean(quality)),
        )


class _Occlusion:
    def __init__(
        self,
        model: Model,
        masks: Sequence[Mask],
        bundle: Path,
        judge: _Judge,
        baseline: str | Path | None,
        threads: int,
    ):
        self._model, self._judge, self._baseline = model, judge, baseline is not None
        self._other = Dense(
            Path(baseline or bundle / model.manifest.program), threads, DenseSettings(exact=True)
        )
        self._open = {**model.choices, **{mask.threshold: OPEN for mask in masks}}
        self._rows: list[list[tuple[float, float, float]]] = []  # bundle, without masks, active

    def add(self, sample: Sample, number: int) -> None:
        row = []
        for fraction in OCCLUDED:
            image = occluded(sample.image, fraction, [2, number], self._model.manifest)
            result = self._model(image)
            other = self._judge(self._other(image, self._open))
            row.append((self._judge(result), other, active_fraction(result)))
        self._rows.append(row)

    def result(self) -> Occlusion:
        bundle, other, active = np.array(self._rows).transpose(2, 0, 1)  # [images, fractions] each
        return Occlusion(
            OCCLUDED,
            np.nanmean(bundle, axis=0).tolist(),
            np.nanmean(other, axis=0).tolist(),
            [difference(a, b) for a, b in zip(bundle.T, other.T, strict=True)],
            active.mean(axis=0).tolist(),
            "baseline" if self._baseline else "open masks",
        )


def kept_tokens(importance: np.ndarray, removed: float) -> np.ndarray:
    """float32, 0 for the fraction `removed` of the tokens, of those of least importance; the first of equal ones go."""
    keep = np.ones(importance.size, np.float32)
    keep[np.argsort(importance, kind="stable")[: round(removed * importance.size)]] = 0
    return keep


def token_norms(features: np.ndarray, patch: int) -> np.ndarray:
    """L2 norm of each token of [1, C, H, W]: [1, 1, ⌈H/p⌉, ⌈W/p⌉]."""
    squares = np.square(features.astype(np.float64)).sum(axis=1, keepdims=True)
    height, width = squares.shape[2:]
    padded = np.pad(squares, [(0, 0), (0, 0), (0, -height % patch), (0, -width % patch)])
    split = padded.reshape(1, 1, padded.shape[2] // patch, patch, padded.shape[3] // patch, patch)
    return np.sqrt(split.sum(axis=(3, 5)))


def occluded(image: np.ndarray, fraction: float, seed: Sequence[int], manifest: Manifest) -> np.ndarray:
    """The image [1, C, H, W] ([1, H, W, C] for layout "nhwc") with random blocks of about this fraction of it covered
    by the mean of each channel."""
    axes = (1, 2) if manifest.preprocess.layout == "nhwc" else (2, 3)
    height, width = image.shape[axes[0]], image.shape[axes[1]]
    side = max(1, min(height, width) // BLOCKS)
    cells = -(-height // side), -(-width // side)
    order = np.random.default_rng(seed).permutation(cells[0] * cells[1])
    covered = np.zeros(order.size, bool)
    covered[order[: round(fraction * order.size)]] = True
    pixels = covered.reshape(cells).repeat(side, 0).repeat(side, 1)[:height, :width]
    shape = [1] * 4
    shape[axes[0]], shape[axes[1]] = height, width
    return np.where(pixels.reshape(shape), image.mean(axis=axes, keepdims=True), image).astype(image.dtype)


def difference(ours: np.ndarray, theirs: np.ndarray) -> Difference:
    """Of paired values; images on which one of the two is not defined (NaN) are left out."""
    values = (ours - theirs)[np.isfinite(ours - theirs)]
    low, high = bootstrap(lambda weights: weights @ values, len(values))
    return Difference(float(values.mean()), low, high)


def _area(rows: np.ndarray) -> np.ndarray:
    """Trapezoids under each row of [images, fractions] over REMOVED."""
    return ((rows[:, 1:] + rows[:, :-1]) / 2) @ np.diff(REMOVED)


def _positions(tokens: np.ndarray, patch: int, shape: tuple[int, ...]) -> np.ndarray:
    """keep [1, 1, H, W] of tokens [1, 1, h, w]."""
    return np.ascontiguousarray(tokens.repeat(patch, 2).repeat(patch, 3)[:, :, : shape[2], : shape[3]])


def _features(program: Path, mask: Mask) -> str:
    """The tensor that the mask reads."""
    import onnx

    nodes = onnx.load(program, load_external_data=False).graph.node
    return next(n.input[0] for n in _deciding(nodes) if mask.decision.logits in n.output)


def _deciding(nodes: Any) -> Iterator[Any]:
    return (node for node in nodes if node.op_type == "EnergyMask")


def _signed(found: Difference) -> str:
    return f"{found.mean:+.4f} ({found.low:+.4f} … {found.high:+.4f})"
