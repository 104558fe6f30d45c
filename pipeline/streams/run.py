"""A clip through a bundle's streams: measured, compared with the dense program, recorded. It makes the report."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime import load
from ...runtime.bundle import hash_file
from ...runtime.manifest import Manifest, Preprocess
from ...runtime.options import MAX_STATE_BYTES
from ...runtime.policy import StreamPolicy
from ..bench_notes import machine_notes
from ..data import Dataset
from ..dense import Dense, tune
from ..environment import describe, usable_cores
from ..report_budget import read_stream_tradeoff
from ..report_schema import SCHEMA_VERSION, check_report
from ..statistics import bootstrap_ratio, percentiles
from .measure import Measured, measure
from .pace import pace
from .record import Recorder
from .schema import FIELDS

DRIFT_FRAMES = 300  # from which on a clip says whether errors add up
EXACT = 1e-4  # of the output's range: float sums in another order
FPS = 25.0  # where neither the clip nor the user says
_TUNING_ROUNDS = 3


@dataclass(frozen=True)
class Scenario:
    """`options`: fields of StreamPolicy that differ from the bundle's own. All `streams` see the same frames, `fps` of
    them a second (0: as many as the clip says). Every `every`-th frame is compared with the dense program, 0: none.
    Every `cuts` frames the picture is mirrored, which is a scene cut; 0: never. `outputs`: as of Recorder."""

    options: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "layers"
    streams: int = 1
    fps: float = 0.0
    every: int = 1
    cuts: int = 0
    outputs: str = "auto"
    max_state_bytes: int = MAX_STATE_BYTES


def run_clip(
    bundle: Path,
    data: Dataset,
    settings: Preprocess,
    out: Path,
    scenario: Scenario,
    *,
    name: str = "",
    threads: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Runs `data` through the bundle and writes its outputs and overlay into `out`; returns a result in the schema of
    `schema.FIELDS`. `settings`: how the frames were prepared. `name`: of the model (default: the bundle's).
    Raises InputError, BundleError, EngineError."""
    threads, fps = threads or usable_cores(), scenario.fps or data.fps or FPS
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(load(bundle, threads=threads, max_state_bytes=scenario.max_state_bytes))
        streams = [model.stream(mode=scenario.mode, **scenario.options) for _ in range(scenario.streams)]
        policy, by_layers = streams[0].policy, scenario.mode == "layers"
        dense = _dense(bundle, model.manifest, data, threads) if scenario.every else None
        recorder = stack.enter_context(Recorder(out, settings, fps, data.count, scenario.outputs))
        found = measure(
            streams,
            dense,
            _images(data, settings, scenario.cuts),
            every=scenario.every,
            watch=recorder,
            tick=tick,
        )
    saved = model.manifest.stream.share if model.manifest.stream and by_layers else 1.0
    result = {
        **_facts(model.manifest, found, dense, saved),
        "name": name or model.manifest.name,
        "paced": _paced(found, fps),
        "exact": _exact(found) if policy.exact and dense is not None and by_layers else None,
        "policy": _changed_fields(policy),
        "mode": scenario.mode,
        "budget": read_stream_tradeoff(bundle, model.manifest) if by_layers else None,
        "pictures": recorder.pictures,
        "settings": {
            "data": data.spec,
            "shape": list(next(data.samples(1)).image.shape),
            "threads": threads,
            "every": scenario.every,
            "cuts": scenario.cuts,
            "preprocess": dataclasses.asdict(settings),
        },
        "environment": describe(threads, _hashes(model.manifest, data), model.backend),
    }
    result["notes"] = [*data.notes, *recorder.notes, *_notes(result)]
    check_report(result, FIELDS)
    return result


def _dense(bundle: Path, manifest: Manifest, data: Dataset, threads: int) -> Dense:
    first = next(data.samples(1)).image
    return tune(bundle / manifest.program, threads, first, rounds=_TUNING_ROUNDS)


def _images(data: Dataset, settings: Preprocess, cuts: int) -> Iterator[np.ndarray]:
    width = 3 if settings.layout == "nchw" else 2
    for number, sample in enumerate(data.samples()):
        mirrored = cuts and number // cuts % 2
        yield np.ascontiguousarray(np.flip(sample.image, width)) if mirrored else sample.image


def _facts(manifest: Manifest, found: Measured, dense: Dense | None, saved: float) -> dict[str, Any]:
    """Times, work and errors. `saved`: share of the work that unchanged positions save."""
    wall, work = np.array(found.wall), 1 - saved + saved * np.array(found.work)
    streams = wall.mean(axis=1)
    against = found.dense_by_frame() if dense is not None else None
    ratio = None if against is None else bootstrap_ratio(against, streams)
    latency = {"stream": _latency(wall, np.array(found.cpu))}
    if dense is not None:
        latency["dense"] = _latency(np.array(found.dense_wall), np.array(found.dense_cpu))
    errors = found.comparison.facts()
    return {
        "schema_version": SCHEMA_VERSION,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "speedup": ratio and ratio.value,
        "speedup_interval": ratio and [ratio.low, ratio.high],
        "cpu_speedup": ratio and latency["dense"]["cpu_ms"] / latency["stream"]["cpu_ms"],
        "dense_settings": dense.settings.words() if dense is not None else None,
        "latency": latency,
        "frames": len(work),
        "work": float(work.mean()),
        "unsaved": 1 - saved,
        "barrier": "; ".join(manifest.stream.ends) if manifest.stream and saved < 1 else "",
        "changed": float(np.mean(found.changed)),
        "whole": dict(found.reasons),
        "strategies": {name: count / len(work) for name, count in found.strategies.items()},
        "errors": errors,
        "drift": _drift(errors),
        "state_bytes": found.state_bytes,
        "series": {
            "ms": streams.tolist(),
            "work": work.tolist(),
            "changed": found.changed,
            "compared": found.comparison.frames,
            "dense_ms": found.dense_wall,
        },
    }


def _latency(wall: np.ndarray, cpu: np.ndarray) -> dict[str, Any]:
    tails = {f"{key}_ms": value for key, value in percentiles(wall).items()}
    return {"mean_ms": float(wall.mean()), "cpu_ms": float(cpu.mean()), **tails, "n": int(wall.size)}


def worst_output(errors: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The output with the largest mean error as a share of its range."""
    known = [e for e in errors if e["relative_mean"] is not None]
    return max(known, key=lambda e: e["relative_mean"], default=None)


def _drift(errors: list[dict[str, Any]]) -> dict[str, float] | None:
    """The worst output's mean error over the first and the last third of the compared frames ÷ its range."""
    worst = worst_output(errors)
    means = [m for m in worst["means"] if m is not None] if worst else []
    if worst is None or len(means) < 3:
        return None
    third = len(means) // 3
    first, last = (float(np.mean(part)) / worst["range"] for part in (means[:third], means[-third:]))
    return {"first": first, "last": last}


def _exact(found: Measured) -> bool:
    """Whether every value of every compared frame is the dense program's, but for the order of float sums."""
    errors = found.comparison.facts()
    return all((e["max"] or 0.0) <= EXACT * max(e["range"], 1e-6) and None not in e["means"] for e in errors)


def _paced(found: Measured, fps: float) -> dict[str, Any]:
    wall = np.array(found.wall)
    dense = None
    if found.dense_wall:
        by_stream = np.repeat(found.dense_by_frame()[:, None], wall.shape[1], axis=1)
        dense = dataclasses.asdict(pace(by_stream, fps))
    stream = dataclasses.asdict(pace(wall, fps))
    return {"fps": fps, "streams": wall.shape[1], "stream": stream, "dense": dense}


def _changed_fields(policy: StreamPolicy) -> dict[str, Any]:
    plain = type(policy)()
    values = {f.name: getattr(policy, f.name) for f in dataclasses.fields(policy)}
    return {name: value for name, value in values.items() if value != getattr(plain, name, None)}


def _hashes(manifest: Manifest, data: Dataset) -> dict[str, str]:
    files = {name: entry.sha256 for name, entry in sorted(manifest.files.items())}
    path = Path(data.spec)
    return files | ({f"data {path.name}": hash_file(path)} if path.is_file() else {})


def _notes(result: dict[str, Any]) -> list[str]:
    """What a reader should know before quoting a figure."""
    notes = []
    if result["frames"] < DRIFT_FRAMES:
        notes.append(
            f"The clip has {result['frames']} frames: whether errors add up shows from {DRIFT_FRAMES} on."
        )
    if result["unsaved"] > 0.01:
        share = f"{result['unsaved']:.1%} of the work cannot be saved"
        notes.append(f"{share}, whatever stays unchanged: {result['barrier']}.")
    if result["strategies"].get("dense", 0.0) > 0.5:
        notes.append(
            "Most frames changed so much that the dense engine computed them: a moving camera saves nothing."
        )
    if result["settings"]["every"] == 0:
        notes.append("Nothing was compared with the dense program: there is no speedup and no error.")
    elif result["settings"]["every"] > 1:
        every = result["settings"]["every"]
        notes.append(f"Every {every}th frame and the one before it were compared with the dense program.")
    if any(None in e["means"] for e in result["errors"]):
        notes.append(
            "An output's shape differed from the dense program's in some frames, which have no error."
        )
    return [*notes, *machine_notes(result["environment"])]
