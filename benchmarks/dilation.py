"""Exact change propagation through the stem and the first two stages of ResNet-34 (7 blocks) at 512 × 512.

    python benchmarks/dilation.py                  # some 2 minutes on two cores

Frames alternate between two images that differ in one ellipse. Every frame is the dense answer; `ideal` is dense work ÷
the work that the change reaches, layer by layer. The goal is 0.8 of it at 10 % changed. Random weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from foveate.export import export_program
from foveate.export.models import resnet34_body
from foveate.pipeline.build import build
from foveate.pipeline.dense import tune
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.inspect import inspect
from foveate.pipeline.interleave import interleave
from foveate.runtime.stream import Stream
from steered import ellipse

import foveate

FRACTIONS = (0.02, 0.05, 0.1, 0.25)
GOAL = {0.1: 0.8}  # of the ideal


def export(folder: Path, size: int) -> Path:
    """The program, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    net = resnet34_body()
    net.layers = net.layers[:2]
    return export_program(net, torch.randn(1, 3, size, size), folder / "program.onnx")


def measure(folder: Path, size: int, threads: int, rounds: int) -> list[dict]:
    program = export(folder, size)
    bundle = build(program, folder / "bundle")
    macs = inspect(bundle)["macs"]
    rng = np.random.default_rng(0)
    first = rng.standard_normal((1, 3, size, size), np.float32)
    dense = tune(program, threads, first)
    rows = []
    with foveate.load(bundle, threads=threads) as model:
        for fraction in FRACTIONS:
            changed = ellipse(size, fraction)
            frames = [first, np.where(changed, first + 1, first)]
            rows.append(_row(model.stream(), dense, frames, changed, macs, rounds))
            print(_line(rows[-1]), flush=True)
    return rows


def _row(
    stream: Stream, dense, frames: list[np.ndarray], changed: np.ndarray, macs: float, rounds: int
) -> dict:
    errors = []
    for frame in (*frames, *frames):
        wanted = next(iter(dense(frame).values()))
        errors.append(float(np.abs(next(iter(stream(frame).values())) - wanted).max() / np.abs(wanted).max()))
    times = interleave({"dense": dense, "stream": stream}, frames, rounds)
    ratio = times.ratio("dense", "stream")
    ideal = macs / stream.work
    return {
        "changed": float(changed.mean()),
        **{f"{name}_ms": times.ms(name) for name in ("dense", "stream")},
        "speedup": ratio.value,
        "speedup_interval": [ratio.low, ratio.high],
        "ideal": ideal,
        "share_of_ideal": ratio.value / ideal,
        "max_rel_error": max(errors),
    }


def _line(row: dict) -> str:
    low, high = row["speedup_interval"]
    times = f"{row['changed']:7.1%} {row['dense_ms']:8.1f} {row['stream_ms']:8.1f}"
    speedup = f"{row['speedup']:5.2f}× [{low:.2f}, {high:.2f}]  {row['ideal']:5.2f}×"
    return f"{times}  {speedup} {row['share_of_ideal']:8.2f}  {row['max_rel_error']:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("build/dilation"))
    args = parser.parse_args()
    print("changed    dense   stream  speedup                ideal  share of it  error   (ms)")
    rows = measure(args.out, args.size, args.threads, args.rounds)
    for row in rows:
        goal = GOAL.get(round(row["changed"], 2))
        if goal:
            mark, share = "✓" if row["share_of_ideal"] >= goal else "✗", row["share_of_ideal"]
            print(f"{mark} {share:.2f} of the ideal at {row['changed']:.0%} changed, the goal is {goal}")
    facts = {"size": args.size, "rows": rows, "environment": describe(args.threads, {}, "ort")}
    write_text(args.out / "dilation.json", json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
