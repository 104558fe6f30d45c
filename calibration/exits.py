"""The gate of a bundle's early exits from data: every image once through every exit, then a gate for any price of
a layer.

Qualities are kept in the bundle (exits.npz) as they come: another budget runs no image again, and a run that was cut
off goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.data import Dataset, open_data
from ..pipeline.metrics import metric_for, open_metric
from ..runtime import Model, load
from ..runtime.errors import InputError
from ..runtime.files import replacing
from ..runtime.manifest import CHAIN, ExitChain, Preprocess
from . import exit_times
from .choices import Choices
from .exit_data import ExitData
from .exit_times import ExitTimes
from .exit_tradeoff import Budget, Cost, ExitTradeoff, choose
from .source import of_bundle, open_source, store

KEPT = "exits.npz"
_SAVED = 50  # images between two savings


def calibrate_exits(
    bundle: str | Path,
    data: str | Path | Dataset,
    *,
    budget: Budget | None = None,
    metric: str | None = None,
    preprocess: Callable[[Preprocess], Preprocess] = lambda default: default,
    limit: int | None = None,
    threads: int | None = None,
    out: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[ExitTradeoff, Choices, Path]:
    """Trains gates on `data` and stores the one that the budget says. Gives what was tried, the choices and their path,
    choices.json (`out`; default: in the bundle), beside which the curve lies. `metric`: a row of docs/data.md, taken
    image by image; by default what the labels allow. `preprocess` may change how the bundle prepares its images. What
    exits cost is measured anew, in a few seconds.

    Raises InputError for a bundle without exits, too few images and a budget that nothing fits, and what the metric
    raises."""
    source = open_source(Path(bundle))
    manifest = of_bundle(source.manifest, bundle)
    settings = preprocess(manifest.preprocess)
    opened = data if isinstance(data, Dataset) else open_data(data, settings, limit, manifest.labels)
    with load(bundle, threads=threads, layout=CHAIN) as model:
        chain = _chain(model)
        metric = metric or metric_for(next(iter(opened))[1])
        found, left_out = collect(model, chain, opened, metric, Path(bundle) / KEPT, source.sha256, tick)
        work = _work(model, chain)
    images = [image for image, _ in itertools.islice(opened, exit_times.IMAGES)]
    with ExitTimes(Path(bundle), chain, images, threads) as times:
        costs = [Cost(*each) for each in zip(chain.exits, work, times.of_exits(tick), strict=True)]
        gate, tradeoff = choose(found, costs, opened.spec, metric, times.layout, budget or Budget())
        tradeoff = dataclasses.replace(tradeoff, gate=times.of_gate(gate, tick))
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
