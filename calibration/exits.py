"""The gate of a bundle's early exits alone, from data: every image once through every exit, then a gate for any price
of a layer, judged beside one depth for all images and random depths.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..pipeline.data import Dataset, open_data
from ..pipeline.metrics import metric_for
from ..pipeline.progress import ticking
from ..runtime import Model, load
from ..runtime.errors import InputError
from ..runtime.manifest import CHAIN, ExitChain, Manifest, Preprocess
from . import latency
from .answers import KEPT, Answers
from .budget import Budget
from .choices import Choices
from .exit_answers import collect, forced
from .exit_times import ExitTimes
from .exit_tradeoff import Cost, ExitTradeoff, choose
from .source import of_bundle, open_source, store

DEFAULT = Budget(max_drop=0.005)


def calibrate_exits(
    bundle: str | Path,
    data: str | Path | Dataset,
    *,
    budget: Budget | None = None,
    beta: float | None = None,
    metric: str | None = None,
    preprocess: Callable[[Preprocess], Preprocess] = lambda default: default,
    limit: int | None = None,
    threads: int | None = None,
    out: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> tuple[ExitTradeoff, Choices, Path]:
    """Trains gates on `data` and stores the one that the budget says (default: at most .005 below all layers), or that
    for the price `beta` of a layer. Gives what was tried, the choices and their path, choices.json (`out`; default: in
    the bundle), beside which the curve lies. `metric`: a row of docs/data.md, taken image by image; by default what the
    labels allow. `preprocess` may change how the bundle prepares its images. What exits cost is measured anew, in a few
    seconds.

    Raises InputError for a bundle without exits, too few images and a budget that nothing fits, and what the metric
    raises."""
    source = open_source(Path(bundle))
    manifest = of_bundle(source.manifest, bundle)
    settings = preprocess(manifest.preprocess)
    opened = data if isinstance(data, Dataset) else open_data(data, settings, limit, manifest.labels)
    with load(bundle, threads=threads, layout=CHAIN) as model:
        chain = _gated(model)
        metric = metric or metric_for(next(iter(opened))[1])
        choices = {choice.name: choice.value for choice in manifest.choices}
        all_layers = forced(chain, choices)[-1]
        with Answers(model, metric, all_layers, Path(bundle) / KEPT, source.sha256) as answers:
            found, _, judged = collect(chain, choices, ticking(opened.samples(), tick), answers)
        left_out = int((~judged).sum())
        work = _work(model, chain)
    images = [image for image, _ in itertools.islice(opened, latency.IMAGES)]
    with ExitTimes(Path(bundle), chain, images, threads) as times:
        costs = [Cost(*each) for each in zip(chain.exits, work, times.of_exits(tick), strict=True)]
        gate, tradeoff = choose(found, costs, opened.spec, metric, times.layout, budget or DEFAULT, beta)
        tradeoff = dataclasses.replace(tradeoff, gate=times.of_gate(gate, tick))
    values: dict[str, Any] = {**gate.choices(chain.gate), f"{chain.gate}.offset": [0.0] * len(chain.exits)}
    said_nothing = f"{left_out} images were left out: {metric} is not defined on them."
    notes = [*opened.notes, *([said_nothing] if left_out else []), *tradeoff.notes]
    active = manifest.active_fraction
    depths = {
        str(exit): int(n)
        for exit, n in zip(*np.unique(gate.depths(found.features), return_counts=True), strict=True)
    }
    stored = Choices(
        source.sha256, opened.spec, len(found.features), values, {}, active, notes, depths=depths
    )
    path = store(source, stored, out)
    tradeoff.write(path.parent)
    return tradeoff, stored, path


def chain_of(manifest: Manifest) -> ExitChain | None:
    """The encoder with exits, of a manifest in layout "chain"."""
    return next((step for step in manifest.steps if isinstance(step, ExitChain)), None)


def _gated(model: Model) -> ExitChain:
    chain = chain_of(model.manifest)
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
