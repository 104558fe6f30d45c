"""compile: program -> bundle, verified and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..export.extras import EXPORT, needs
from ..runtime.manifest import Preprocess
from .driver import Driver, Job, PerDecision
from .progress import Progress


def compile(
    program: Any,
    out: str | Path,
    *,
    target: str = "cpu",
    ranges: Mapping[str, tuple[int, int, int]] | None = None,
    data: str | Path | None = None,
    baseline: Any = None,
    sample: Any = None,
    threshold: PerDecision = None,
    active: PerDecision = None,
    max_drop: float | None = None,
    min_metric: float | None = None,
    max_drift: float | None = None,
    latency_budget: float | None = None,
    precision: str | None = None,
    metric: str | None = None,
    seed: int = 0,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] = (),
    limit: int | None = None,
    threads: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Compile `program` into the bundle folder `out`; returns that folder, or `out`-int8 where that won.

    `program` is an ONNX file, a checkpoint that says what it belongs to, or a torch module; what is exported lies
    beside the bundle as `out`.onnx. `baseline`, of any of these kinds, is the same network without masks, which the
    report compares with. `data` (docs/data.md) calibrates the thresholds (`threshold` or `active`, see `calibrate`)
    and measures the bundle: its folder report/ holds report.html, .json and .md. `sample` is the input's shape
    [N, C, H, W] that the plan is made for, or a tensor of it; without, it is what the checkpoint, `preprocess.size`
    or the first image of `data` says. `preprocess` and `labels` default to what the program says. `limit` takes the
    first images of `data` only; `threads` of every engine defaults to all cores. `target` and `ranges`: see
    `build.build`.

    A budget (docs/calibration.md), `max_drop`, `min_metric` or `max_drift` (shares: .005 is half a percent point),
    `latency_budget` (ms), has the choices searched, by `metric`, with images dealt by `seed`. `precision` ("int8",
    "fp8") is then one of them.

    A stage whose inputs have not changed is skipped, unless `force`; `dry_run` says what would run and why, and does
    nothing. A bundle that is there is replaced by a finished one only.

    Raises FoveateError; CheckFailed if the bundle does not answer as its program does.
    """
    with needs("export", "compiling a program", EXPORT):
        from ..calibration.budget import Budget

        budget = Budget(max_drop, min_metric, max_drift, latency_budget)
        job = Job(
            program=program,
            out=Path(out),
            target=target,
            ranges=dict(ranges or {}),
            data=data,
            baseline=baseline,
            sample=sample,
            threshold=threshold,
            active=active,
            budget=budget if budget.given else None,
            precision=precision,
            metric=metric,
            seed=seed,
            preprocess=preprocess,
            labels=tuple(labels),
            limit=limit,
            threads=threads,
            dry_run=dry_run,
            force=force,
        )
        return Driver(job, progress or Progress(quiet=True)).run()
