"""What the rectangle planner costs, and how good its covers are: masks of three kinds on maps of 16 to 128 cells.

    python benchmarks/planner.py

`hot` and `cold` are of the native planner, `numpy` of the one that stands in for it, hot. `cold` is the first call
after the processor's caches were filled with other data, as in a request; `hot` follows another call. `cost` is that of
the cover in cells, `fixed` for each call included, beside that of one bounding box. The goal is 0.5 ms.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.runtime.native.library import library, why_missing
from foveate.runtime.probes import ellipse
from foveate.runtime.rectangles import cover, cover_numpy
from steered import blobs

SIDES = (16, 32, 64, 128)  # cells
FRACTIONS = (0.05, 0.25)
GOAL_MS = 0.5
FIXED = 0.01  # of a map: what a call costs beside its cells
HALO = (1, 1, 1, 1)  # cells
CACHES = np.zeros(8 << 20, np.float64)  # 64 MiB


def scattered(side: int, fraction: float) -> np.ndarray:
    """bool [side, side], cells at random, four at a time: the worst there is."""
    tokens = np.random.default_rng(0).random((side // 2, side // 2)) < fraction
    return tokens.repeat(2, 0).repeat(2, 1)


KINDS: dict[str, Callable[[int, float], np.ndarray]] = {
    "ellipse": lambda side, fraction: ellipse((side, side), fraction),
    "blobs": blobs,
    "scattered": scattered,
}


def measure(kind: str, side: int, fraction: float, calls: int) -> dict:
    active, fixed = KINDS[kind](side, fraction), FIXED * side**2
    rects = cover(active, fixed=fixed, halo=HALO)
    cold, hot, plain = [], [], []
    for _ in range(calls):
        CACHES.sum()
        for times in (cold, hot):
            times.append(_time(lambda: cover(active, fixed=fixed, halo=HALO)))
        cover_numpy(active, fixed, HALO)
        plain.append(_time(lambda: cover_numpy(active, fixed, HALO)))
    box = cover(active, fixed=1e9)
    return {
        "kind": kind,
        "side": side,
        "active_fraction": float(active.mean()),
        "hot_ms": float(np.median(hot)),
        "cold_ms": float(np.median(cold)),
        "numpy_ms": float(np.median(plain)),
        "windows": len(rects),
        "cost": _cost(rects, fixed),
        "cost_of_one_box": _cost(box, fixed),
    }


def _time(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1e3


def _cost(rects: np.ndarray, fixed: float) -> float:
    return float(((rects[:, 2:] - rects[:, :2] + 2).prod(1) + fixed).sum())


def table(rows: list[dict]) -> str:
    lines = ["mask       cells  active   hot ms  cold ms numpy ms  windows   cost  of one box"]
    for r in rows:
        times = f"{r['hot_ms']:8.3f} {r['cold_ms']:8.3f} {r['numpy_ms']:8.3f} {r['windows']:8d}"
        costs = f"{r['cost']:6.0f} {r['cost_of_one_box']:11.0f}"
        lines.append(f"{r['kind']:10} {r['side']:5d} {r['active_fraction']:7.1%} {times} {costs}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("build/planner.json"))
    args = parser.parse_args()
    if library() is None:
        raise SystemExit(f"the native planner is missing: {why_missing()}")
    rows = [measure(k, s, f, args.calls) for k in KINDS for s in SIDES for f in FRACTIONS]
    print(table(rows))
    worst = max(rows, key=lambda r: r["hot_ms"])
    name = f"{worst['kind']}, {worst['side']} cells, {worst['active_fraction']:.0%} active"
    mark = "✓" if worst["hot_ms"] <= GOAL_MS else "✗"
    print(f"{mark} at most {worst['hot_ms']:.2f} ms hot ({name}), the goal is {GOAL_MS}")
    write_text(args.out, json.dumps({"rows": rows, "environment": describe(1, {}, "ort")}, indent=1))


if __name__ == "__main__":
    main()
