"""When the whole program runs as one engine, in place of the steps."""

from __future__ import annotations

from .engines import decision_tensors
from .manifest import Exits, Manifest
from .options import SELECTIVE
from .result import Result
from .steps import Steps


def prefers_whole(executor: Steps, manifest: Manifest, strategy: str) -> bool:
    """Where no region would run selectively, one engine is the best there is, if it tells the decisions too."""
    if strategy != "dense" and any(isinstance(step, Exits) for step in manifest.steps):
        return False
    guard = executor.guard
    if strategy in SELECTIVE or (strategy == "auto" and not (guard.all_demoted or guard.resting)):
        return False
    given = set(executor.engines.program.outputs)
    return all(spec.name in given for spec in decision_tensors(manifest))


def tell_guard(executor: Steps, result: Result, whole: bool) -> None:
    """What a request by costs says of those to come. `whole`: it ran as one engine."""
    if not whole:
        executor.guard.saw_choices(all(s == "dense" for ss in result.strategies.values() for s in ss))
        return
    for region in executor.regions:
        executor.guard.pass_by(region.name)
    least = min((float(d.active_fraction.min()) for d in result.decisions.values()), default=1.0)
    executor.guard.rested(promising=least < executor.costs.break_even)
