"""The policy of a bundle's streams from sample video: the cheapest of a small grid whose error is within a budget.

Every policy runs over the clip by itself, without the dense engine's help, and its outputs are compared with the dense
program's. Cost is the share of the multiply-adds, not time: the same clip gives the same choice on every machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.data import Dataset
from ..pipeline.dense import Dense
from ..pipeline.environment import usable_cores
from ..pipeline.metrics import open_metric
from ..pipeline.streams.errors import Comparison
from ..pipeline.streams.prepare import fit_clip, open_model
from ..runtime import Model, load
from ..runtime.errors import InputError
from ..runtime.manifest import Preprocess
from ..runtime.policy import StreamPolicy
from .choices import Choices
from .curve import write_curve
from .source import of_bundle, open_source, store

FRAMES = 48
MAX_DRIFT = 0.01
LEVELS = (4, 8, 12)  # thresholds, of 255
LAYERS = (0.0, 0.02, 0.05, 0.1)  # layer thresholds
VOTE = {"block": 8, "vote": 4, "patience": 16}
ERRORS = (
    "mean",
    "max",
)  # of the outputs' range; any other metric is a task's, of which the error is what is lost
CURVE = "stream_tradeoff"  # .json and .png

Frames = Sequence[tuple[np.ndarray, Any]]  # image and label


@dataclass(frozen=True)
class Trial:
    """A policy on the clip, from the second frame on. `policy`: its fields that are not the default. work, changed:
    shares, means over frames. error: in the metric; mean, max: |difference| ÷ range of the worst output; of_hold: its
    mean ÷ that of holding the dense output of the frame before (None: nothing moved)."""

    policy: dict[str, Any]
    work: float
    changed: float
    error: float
    mean: float
    max: float
    of_hold: float | None


@dataclass(frozen=True)
class Tradeoff:
    """What was tried, and `chosen` of it."""

    data: str
    frames: int
    metric: str
    budget: float
    chosen: Trial
    trials: list[Trial]

    @property
    def notes(self) -> list[str]:
        """What the user should know of the choice."""
        if (self.chosen.of_hold or 0.0) < 1:
            return []
        return [
            "The chosen policy errs no less than holding the previous output does: ask for a smaller --max-drift."
        ]

    def write(self, folder: Path) -> None:
        """stream_tradeoff.json and, with matplotlib, .png."""
        write_curve(folder, CURVE, dataclasses.asdict(self), draw)


def grid(settings: Preprocess) -> list[dict[str, Any]]:
    """Policies to try; thresholds in units of the input that `settings` make."""
    unit = settings.scale / float(np.mean(settings.std))
    votes: tuple[dict[str, Any], ...] = ({}, VOTE)
    tried = [
        {"threshold": level * unit, **vote, "layer_threshold": layer}
        for vote in votes
        for level in LEVELS
        for layer in (LAYERS if vote else LAYERS[::2])
    ]
    return [{}, *({k: v for k, v in policy.items() if v} for policy in tried)]


def calibrate_stream(
    bundle: str | Path,
    video: str,
    *,
    max_drift: float = MAX_DRIFT,
    metric: str = "mean",
    preprocess: Callable[[Preprocess], Preprocess] = lambda default: default,
    frames: int | None = None,
    threads: int | None = None,
    out: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Tradeoff, Choices, Path]:
    """Chooses the policy of `bundle` on the first `frames` (default 48) of a clip, and stores it: what was tried, the
    choices and their path, choices.json (`out`; default: in the bundle), beside which the curve lies. `preprocess` may
    change how the bundle prepares its frames. Raises InputError, BundleError, MissingExtraError."""
    threads = threads or usable_cores()
    opened = open_model(Path(bundle), threads)
    manifest = of_bundle(opened.manifest, bundle)
    data, settings = fit_clip(opened, video, preprocess(opened.preprocess), frames or FRAMES)
    with load(bundle, threads=threads) as model:
        found = try_policies(model, opened.dense, data, settings, budget=max_drift, metric=metric, tick=tick)
    source = open_source(Path(bundle))
    active, notes = manifest.active_fraction, [*data.notes, *found.notes]
    choices = Choices(source.sha256, data.spec, found.frames, {}, {}, active, notes, found.chosen.policy)
    path = store(source, choices, out)
    found.write(path.parent)
    return found, choices, path


def try_policies(
    model: Model,
    dense: Dense,
    data: Dataset,
    settings: Preprocess,
    *,
    budget: float = MAX_DRIFT,
    metric: str = "mean",
    tick: Callable[[], None] = lambda: None,
) -> Tradeoff:
    """Runs the grid over `data`, whose frames and dense outputs are held in memory. `metric`: "mean" or "max", error as
    a share of the output's range, or a metric of docs/data.md, error as what is lost of it.

    Raises InputError where the program has no streams, or the clip has fewer than 2 frames."""
    frames = list(data)
    if len(frames) < 2:
        raise InputError(
            f"video {data.spec}", got="one frame", expected="at least 2", fix="Give a longer one."
        )
    wanted = [dense(image) for image, _ in frames]
    trials = []
    for policy in grid(settings):
        trials.append(_try(model, policy, frames, wanted, metric))
        tick()
    good = [trial for trial in trials if trial.error <= budget]
    if not good:
        raise InputError(
            "max drift",
            got=f"{budget:g}, below the {trials[0].error:.1e} of exact streams",
            expected="more than rounding",
            fix="Raise --max-drift.",
        )
    chosen = min(good, key=lambda trial: (trial.work, trial.error))
    return Tradeoff(data.spec, len(frames), metric, budget, chosen, trials)


def _try(
    model: Model, policy: Mapping[str, Any], frames: Frames, wanted: Sequence[Mapping[str, Any]], metric: str
) -> Trial:
    stream = model.stream(StreamPolicy(**policy, fallback=False))
    plan = model.manifest.stream
    saved = plan.share if plan is not None else 0.0
    found, work, changed, answers = Comparison(), [], [], []
    for number, (image, _) in enumerate(frames):
        result = stream(image)
        found.add(number, result, wanted[number])
        answers.append(
            {name: np.asarray(value) for name, value in result.items()} if metric not in ERRORS else {}
        )
        work.append(1 - saved + saved * stream.work / stream.full_work)
        changed.append(1.0 if stream.changed is None else float(stream.changed.mean()))
    errors = found.facts()
    worst = max(errors, key=lambda e: e["relative_mean"] or 0.0)
    mean, largest = worst["relative_mean"] or 0.0, max(e["relative_max"] or 0.0 for e in errors)
    error = {"mean": mean, "max": largest}.get(metric)
    if error is None:
        error = _lost(metric, frames, answers, wanted)
    elif any(None in e["means"] for e in errors):
        raise InputError(
            f"metric {metric}",
            got="outputs whose shape changes from frame to frame, such as lists of detections",
            expected="a metric for them",
            fix="Pass --metric module:function.",
        )
    policy = dict(policy)
    return Trial(
        policy, float(np.mean(work[1:])), float(np.mean(changed[1:])), error, mean, largest, worst["of_hold"]
    )


def _lost(
    metric: str, frames: Frames, answers: Sequence[Mapping[str, Any]], wanted: Sequence[Mapping[str, Any]]
) -> float:
    """What the stream's answers lose of the dense program's value of a task metric."""
    ours, theirs = open_metric(metric), open_metric(metric)
    for (_, label), answer, dense in zip(frames, answers, wanted, strict=True):
        ours.update(answer, label, dense)
        theirs.update(dense, label, dense)
    return theirs.value() - ours.value()


def rows(found: Tradeoff) -> Iterator[tuple[str, ...]]:
    """The curve as a table: policy, work, error and error ÷ hold, by work; the chosen one has a mark."""
    for trial in sorted(found.trials, key=lambda t: -t.work):
        mark = " *" if trial == found.chosen else ""
        hold = "n/a" if trial.of_hold is None else f"{trial.of_hold:.2f}"
        yield f"{words(trial.policy)}{mark}", f"{trial.work:.1%}", f"{trial.error:.2e}", hold


def words(policy: Mapping[str, Any]) -> str:
    if not policy:
        return "exact"
    return ", ".join(f"{name} {value:.4g}" for name, value in policy.items())


def draw(axes: Any, result: dict[str, Any]) -> None:
    """Work against error; a line joins policies that differ in the layer threshold alone."""
    from ..pipeline.report_plots import PAPER

    families: dict[str, list[dict[str, Any]]] = {}
    for trial in result["trials"]:
        policy = {k: v for k, v in trial["policy"].items() if k not in ("layer_threshold", "patience")}
        families.setdefault(words(policy), []).append(trial)
    styles = [(colour, line) for line in ("o-", "s--") for colour in ("adaptive", "ideal", "masked")]
    exact = families.pop("exact")[0]
    axes.plot(exact["error"], 100 * exact["work"], "D", color=PAPER["ink"], label="exact")
    for (name, trials), (colour, line) in zip(families.items(), styles, strict=True):
        points = [(t["error"], 100 * t["work"]) for t in trials]
        axes.plot(*zip(*points, strict=True), line, color=PAPER[colour], ms=5, lw=1.3, label=name)
    chosen = result["chosen"]
    axes.plot(
        chosen["error"],
        100 * chosen["work"],
        "o",
        ms=14,
        mfc="none",
        mec=PAPER["baseline"],
        mew=2,
        label="chosen",
    )
    axes.axvline(result["budget"], color=PAPER["baseline"], lw=1.2, ls=":", label="budget")
    held = [t["mean"] / t["of_hold"] for t in result["trials"] if t["of_hold"]]
    if held and result["metric"] == "mean":
        axes.axvline(held[-1], color=PAPER["muted"], lw=1.2, ls="-.", label="hold the previous output")
    axes.set(xlabel=f"error ({result['metric']})", ylabel="work, % of a whole frame's")
    axes.set_xlim(right=max(1.2 * max(t["error"] for t in result["trials"]), 1.2 * result["budget"]))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=9)
