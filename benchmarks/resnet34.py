"""A ResNet-34 body with a persistent mask, active fraction 5 … 100 %: the bundle against the dense engines.

    python benchmarks/resnet34.py                  # the layers behind the stem; some 5 minutes on two cores
    python benchmarks/resnet34.py --with-stem      # with the stem, which every contender runs densely

Random weights (nothing here speaks of accuracy), all contenders interleaved in one process. `dense` is the same network
without mask nodes, its session tuned; `masked dense` the masked program run whole; `adaptive` chooses by measured
costs; `spans` (native kernels) and `rects` (windows, stock ONNX Runtime alone) are forced.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from foveate.pipeline.build import build
from foveate.pipeline.dense import tune
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.interleave import interleave
from steered import blobs, ellipse, export_resnet34, hint_of

import foveate

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
SHAPES = {"ellipse": ellipse, "blobs": blobs}
# The least speedup of a strategy at an active fraction, and the most that any input may cost beside masked dense.
# The spans' are for the layers behind the stem.
TARGETS = {
    ("rects", "ellipse"): {0.05: 2.5, 0.1: 1.8, 0.25: 1.2},
    ("spans", "ellipse"): {0.05: 11.0, 0.1: 6.5, 0.25: 3.0, 0.5: 1.6, 1.0: 1.0},
    ("spans", "blobs"): {0.05: 8.0, 0.1: 5.5, 0.25: 2.5, 0.5: 1.4, 1.0: 1.0},
}
WORST = 1.05


def prepare(folder: Path, size: int, stem: bool) -> tuple[Path, Path]:
    """The unmasked program and the bundle, made if they are not there."""
    baseline, masked = folder / "baseline.onnx", folder / "masked.onnx"
    if not (baseline.exists() and masked.exists()):
        baseline, masked = export_resnet34(folder, size, stem=stem)
    bundle = folder / "bundle"
    if not bundle.exists():
        build(masked, bundle)
    return baseline, bundle


def measure(folder: Path, size: int, stem: bool, threads: int, rounds: int) -> list[dict]:
    """One row for each shape of mask and fraction."""
    baseline, bundle = prepare(folder, size, stem)
    shape = (1, 3, size, size) if stem else (1, 64, size // 4, size // 4)
    image = np.random.default_rng(0).standard_normal(shape, np.float32)
    dense = tune(baseline, threads, image)
    rows = []
    with (
        foveate.load(bundle, threads=threads) as auto,
        foveate.load(bundle, threads=threads, strategy="spans") as spans,
        foveate.load(bundle, threads=threads, strategy="rects") as rects,
    ):
        for shape, make in SHAPES.items():
            for fraction in FRACTIONS:
                mask = make(size // 4, fraction)
                rows.append(_row(shape, mask, image, rounds, dense, auto, spans, rects))
                print(_line(rows[-1]), flush=True)
    return rows


def _row(shape, mask, image, rounds, dense, auto, spans, rects) -> dict:
    feeds = {"images": image, "hint": hint_of(mask, image.shape[2] // mask.shape[0])}
    contenders = {
        "dense": lambda _: dense(image),
        "masked_dense": lambda _: auto.dense(feeds),
        "adaptive": lambda _: auto(feeds),
        "spans": lambda _: spans(feeds),
        "rects": lambda _: rects(feeds),
    }
    times = interleave(contenders, [image], rounds)
    ratio = times.ratio("dense", "adaptive")
    expected, answer = auto.dense(feeds)["output"], auto(feeds)
    return {
        "shape": shape,
        "active_fraction": float(mask.mean()),
        **{f"{name}_ms": times.ms(name) for name in contenders},
        "speedup": ratio.value,
        "speedup_interval": [ratio.low, ratio.high],
        **{f"{name}_speedup": times.ratio("dense", name).value for name in ("spans", "rects")},
        "ratio_to_masked_dense": times.ms("adaptive") / times.ms("masked_dense"),
        "strategy": answer.strategies["region0"][0],
        "max_rel_error": float(np.abs(answer["output"] - expected).max() / np.abs(expected).max()),
    }


def _line(row: dict) -> str:
    ms = " ".join(
        f"{row[k]:9.1f}" for k in ("dense_ms", "masked_dense_ms", "adaptive_ms", "spans_ms", "rects_ms")
    )
    low, high = row["speedup_interval"]
    return (
        f"{row['shape']:8} {row['active_fraction']:6.1%} {ms}  {row['speedup']:5.2f}× [{low:.2f}, {high:.2f}]"
        f"  {row['spans_speedup']:5.2f}× {row['rects_speedup']:5.2f}×  {row['strategy']:6} {row['max_rel_error']:.1e}"
    )


def misses(rows: list[dict]) -> list[str]:
    """The targets that this run did not reach."""
    found = []
    for row in rows:
        for (strategy, shape), targets in TARGETS.items():
            target = targets.get(round(row["active_fraction"], 2), 0) if row["shape"] == shape else 0
            reached = row[f"{strategy}_speedup"]
            if reached < target:
                found.append(f"{strategy}, {shape} {row['active_fraction']:.1%}: {reached:.2f}× < {target}×")
        if row["ratio_to_masked_dense"] > WORST:
            found.append(
                f"{row['shape']} {row['active_fraction']:.1%}: {row['ratio_to_masked_dense']:.2f} × masked dense"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--with-stem", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(
        "mask     active     dense    masked  adaptive     spans     rects  dense ÷ adaptive      ÷ spans ÷ rects"
        "  strategy error   (ms)"
    )
    out = args.out or Path("build/resnet34" if args.with_stem else "build/resnet34_body")
    rows = measure(out, args.size, args.with_stem, args.threads, args.rounds)
    missed = misses(rows)
    print("\n".join(f"✗ {miss}" for miss in missed) or "✓ all targets reached")
    facts = {
        "size": args.size,
        "rows": rows,
        "missed": missed,
        "environment": describe(args.threads, {}, "ort"),
    }
    write_text(out / f"{out.name}.json", json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
