"""The gate of a bundle's early exits from data: every image once through every exit, then a gate for any price of
a layer.

Qualities are kept in the bundle (exits.npz) as they come: another budget runs no image again, and a run that was cut
off goes on where it was. A quarter of the images is held out: a gate is judged on what it did not learn from.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.data import Dataset, open_data
from ..pipeline.files import write_text
from ..pipeline.metrics import metric_for, open_metric
from ..runtime import Model, load
from ..runtime.errors import InputError, MissingExtraError
from ..runtime.files import replacing
from ..runtime.manifest import CHAIN, ExitChain, Preprocess
from .choices import Choices
from .exit_data import ExitData
from .gate import Gate, Operating, operating_point, train_gate
from .source import of_bundle, open_source, store

BETAS = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)  # of a quality between 0 and 1
MAX_DROP = 0.005
HELD_OUT = 4  # every so many images
LEAST = 8  # images
KEPT = "exits.npz"
CURVE = "exit_tradeoff"  # .json and .png
_SAVED = 50  # images between two savings


@dataclass(frozen=True)
class Trial:
    """A gate on the images that were held out. `work`: its share of the multiply-adds of all layers, in the mean."""

    point: Operating
    work: float


@dataclass(frozen=True)
class ExitTradeoff:
    """What was tried, and `chosen` of it. `full`: quality of all layers on what was held out; `exits`: that of each
    exit, with its share of the work."""

    data: str
    images: int
    held_out: int
    metric: str
    full: float
    exits: list[tuple[int, float, float]]
    chosen: Trial
    trials: list[Trial]

    @property
    def notes(self) -> list[str]:
        """What the user should know of the choice."""
        point = self.chosen.point
        if point.quality > point.fixed or point.depth in [exit for exit, _, _ in self.exits]:
            return []
        return [
            f"At its mean depth of {point.depth:.2f} the gate has {point.quality:.4f}, and one depth for all images "
            f"{point.fixed:.4f}: it does not pay on these images."
        ]

    def write(self, folder: Path) -> None:
        """exit_tradeoff.json and, with matplotlib, .png."""
        from ..pipeline.report_plots import save_png

        facts = dataclasses.asdict(self)
        write_text(folder / f"{CURVE}.json", json.dumps(facts, indent=1) + "\n")
        with contextlib.suppress(MissingExtraError):
            save_png(draw, facts, folder / f"{CURVE}.png")


def calibrate_exits(
    bundle: str | Path,
    data: str | Path | Dataset,
    *,
    beta: float | None = None,
    max_drop: float = MAX_DROP,
    metric: str | None = None,
    preprocess: Callable[[Preprocess], Preprocess] = lambda default: default,
    limit: int | None = None,
    threads: int | None = None,
    out: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[ExitTradeoff, Choices, Path]:
    """Trains gates on `data` and stores one: that for `beta`, a price of a layer in quality, or else the cheapest whose
    quality on the held-out images is at most `max_drop` below that of all layers. Gives what was tried, the choices and
    their path, choices.json (`out`; default: in the bundle), beside which the curve lies. `metric`: a row of
    docs/data.md, taken image by image; by default what the labels allow. `preprocess` may change how the bundle
    prepares its images.

    Raises InputError for a bundle without exits or with too few images, and what the metric raises."""
    source = open_source(Path(bundle))
    manifest = of_bundle(source.manifest, bundle)
    settings = preprocess(manifest.preprocess)
    opened = data if isinstance(data, Dataset) else open_data(data, settings, limit)
    with load(bundle, threads=threads, layout=CHAIN) as model:
        chain = _chain(model)
        metric = metric or metric_for(next(iter(opened))[1])
        found, left_out = collect(model, chain, opened, metric, Path(bundle) / KEPT, source.sha256, tick)
        work = _work(model, chain)
    gate, tradeoff = choose(found, work, opened.spec, metric, beta, max_drop)
    values: dict[str, Any] = {**gate.choices(chain.gate), f"{chain.gate}.offset": [0.0] * len(chain.exits)}
    said_nothing = f"{left_out} images were left out: {metric} is not defined on them."
    notes = [*opened.notes, *([said_nothing] if left_out else []), *tradeoff.notes]
    active = manifest.active_fraction
    depths = {
        str(exit): int(n)
        for exit, n in zip(*np.unique(gate.depths(found.features), return_counts=True), strict=True)
    }
    choices = Choices(
        source.sha256, opened.spec, len(found.features), values, {}, active, notes, depths=depths
    )
    path = store(source, choices, out)
    tradeoff.write(path.parent)
    return tradeoff, choices, path


def collect(
    model: Model,
    chain: ExitChain,
    data: Dataset,
    metric: str,
    kept: Path,
    program: str,
    tick: Callable[[], None],
) -> tuple[ExitData, int]:
    """Of each image the gate's features, and the quality of every exit. Images that `kept` knows are not run again.
    Those on which the metric says nothing of any exit (NaN: no object to find) are left out; how many, too."""
    others = {k: v for k, v in model.choices.items() if not k.startswith(f"{chain.gate}.")}
    key = f"{program} {metric} {json.dumps(others, sort_keys=True)}"
    known, rows = _Kept(kept, hashlib.sha256(key.encode()).hexdigest()), []
    try:
        for image, label in data:
            digest = _digest(image, label)
            if digest not in known.rows:
                known.rows[digest] = _run_exits(model, chain, image, label, metric)
                known.changed()
            rows.append(known.rows[digest])
            tick()
    finally:
        known.save()
    judged = [(features, quality) for features, quality in rows if not np.isnan(quality).all()]
    if not judged:
        raise InputError(
            f"data {data.spec}",
            got=f"{len(rows)} images on which {metric} is not defined",
            expected="images with something to find",
            fix="Give others, or another --metric.",
        )
    features, quality = (np.stack(column) for column in zip(*judged, strict=True))
    return ExitData(features, quality, chain.exits), len(rows) - len(judged)


def choose(
    data: ExitData, work: Sequence[float], spec: str, metric: str, beta: float | None, max_drop: float
) -> tuple[Gate, ExitTradeoff]:
    """The gate for `beta`, or the cheapest one within `max_drop` of all layers. `work`: of each exit, as a share."""
    if len(data.features) < LEAST:
        raise InputError(
            f"data {spec}", got=f"{len(data.features)} images", expected=f"at least {LEAST}", fix="Give more."
        )
    held = np.arange(len(data.features)) % HELD_OUT == HELD_OUT - 1
    train, test = (ExitData(data.features[w], data.quality[w], data.exits) for w in (~held, held))
    of_each = test.quality.mean(axis=0)
    gates = [train_gate(train, price) for price in (BETAS if beta is None else (beta,))]
    if beta is None:
        gates.append(_all_layers(data))
    share = dict(zip(data.exits, work, strict=True))
    points = [operating_point(gate, test) for gate in gates]
    trials = [Trial(p, sum(n * share[exit] for exit, n in p.shares.items())) for p in points]
    fits = [i for i, t in enumerate(trials) if beta is not None or t.point.quality >= of_each[-1] - max_drop]
    best = min(fits, key=lambda i: (trials[i].work, -trials[i].point.quality))
    exits = [(exit, float(q), share[exit]) for exit, q in zip(data.exits, of_each, strict=True)]
    full, count = float(of_each[-1]), int(held.sum())
    chosen = trials[best]
    return gates[best], ExitTradeoff(spec, len(data.features), count, metric, full, exits, chosen, trials)


def _all_layers(data: ExitData) -> Gate:
    weight, bias = np.zeros((len(data.exits), data.features.shape[1])), np.zeros(len(data.exits))
    bias[-1] = 1.0
    return Gate(None, weight.astype(np.float32), bias.astype(np.float32), data.exits)


def _run_exits(
    model: Model, chain: ExitChain, image: np.ndarray, label: Any, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    from ..export.early_exit_model import forcing

    answers, features = [], np.empty(0)
    for exit in chain.exits:
        model.set_choices({f"{chain.gate}.offset": forcing(chain.exits, exit)})
        result = model(image)
        assert result.features is not None
        features = result.features[0]
        answers.append({name: np.asarray(value) for name, value in result.items()})
    quality = []
    for answer in answers:
        measured = open_metric(metric)
        measured.update(answer, label, answers[-1])
        quality.append(measured.value())
    return features, np.array(quality)


def _digest(*values: Any) -> bytes:
    """Of an image with its label, all of it: the repr of an array leaves out what lies in its middle."""
    total = hashlib.sha256()
    for value in values:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = [getattr(value, field.name) for field in dataclasses.fields(value)]
        if isinstance(value, list | tuple):
            total.update(_digest(*value))
        else:
            total.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return total.digest()


class _Kept:
    """Features and qualities by the image's and label's hash, in a file that is of no use for another `key`."""

    def __init__(self, path: Path, key: str):
        self._path, self._key, self._new = path, key, 0
        self.rows: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError), np.load(path) as found:
            if str(found["key"]) == key:
                columns = (found[name] for name in ("digests", "features", "quality"))
                self.rows = {d.tobytes(): (f, q) for d, f, q in zip(*columns, strict=True)}

    def changed(self) -> None:
        self._new += 1
        if self._new >= _SAVED:
            self.save()

    def save(self) -> None:
        if not self._new:
            return
        digests = np.array([np.frombuffer(d, np.uint8) for d in self.rows])
        features, quality = (np.stack(column) for column in zip(*self.rows.values(), strict=True))
        with replacing(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, key=np.array(self._key), digests=digests, features=features, quality=quality)
        self._new = 0


def _chain(model: Model) -> ExitChain:
    chain = next((step for step in model.manifest.steps if isinstance(step, ExitChain)), None)
    if chain is None or not chain.gate:
        raise InputError(
            f"exits of {model.manifest.name!r}",
            got="none" if chain is None else "exits without a gate",
            expected="a bundle whose program has ExitGate and ExitSelect nodes",
            fix="See docs/early-exit.md, and `foveate inspect` for why exits are not cut.",
        )
    return chain


def _work(model: Model, chain: ExitChain) -> list[float]:
    """Multiply-adds up to each exit, with stem and head, as a share of all."""
    from ..pipeline.inspect import describe

    total = describe(model.manifest, "bundle", model.path, None)["macs"]
    left = [sum(stage.macs for stage in chain.stages if stage.exit > exit) for exit in chain.exits]
    return [1 - macs / max(total, 1.0) for macs in left]


def rows(found: ExitTradeoff) -> Iterator[tuple[str, ...]]:
    """The trials as a table, by work; the chosen one has a mark."""
    for trial in sorted(found.trials, key=lambda t: -t.work):
        point, mark = trial.point, " *" if trial == found.chosen else ""
        price = "all layers" if point.beta is None else f"{point.beta:g}"
        numbers = (f"{n:.4f}" for n in (point.quality, point.fixed, point.random))
        yield f"{price}{mark}", f"{point.depth:.2f}", f"{trial.work:.1%}", *numbers


def draw(axes: Any, result: dict[str, Any]) -> None:
    """Work against quality: gates, and one depth for all images."""
    from ..pipeline.report_plots import PAPER

    trials = sorted(result["trials"], key=lambda t: t["work"])
    points = [(100 * t["work"], t["point"]["quality"]) for t in trials]
    axes.plot(*zip(*points, strict=True), "o-", color=PAPER["adaptive"], ms=5, lw=1.3, label="gate")
    fixed = [(100 * work, quality) for _, quality, work in result["exits"]]
    axes.plot(
        *zip(*fixed, strict=True), "s--", color=PAPER["baseline"], ms=5, lw=1.3, label="one depth for all"
    )
    for (x, y), (exit, _, _) in zip(fixed, result["exits"], strict=True):
        axes.annotate(str(exit), (x, y), textcoords="offset points", xytext=(4, -12), fontsize=9)
    chosen = result["chosen"]
    place = 100 * chosen["work"], chosen["point"]["quality"]
    axes.plot(*place, "o", ms=14, mfc="none", mec=PAPER["ink"], mew=2, label="chosen")
    axes.set(xlabel="work, % of all layers'", ylabel=f"{result['metric']}, held-out images")
    axes.legend(fontsize=9)
