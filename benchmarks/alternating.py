"""A clip that alternates between still and moving: which engine computes what, and what choosing costs.

    python benchmarks/alternating.py centerface        # or pnet; less than a minute on two cores
    python benchmarks/alternating.py pnet --phase 5    # changes too quickly to gain much

Phases of `--phase` frames take turns: a held frame over which a small box moves ("still"), people before a static
camera ("crowd", vtest.avi) and a moving camera ("moving", bikes.mp4, mirrored at its edges to the size of vtest). In
one process, in turns on each frame: `dense` is the program in stock ONNX Runtime, its session tuned; `stream` chooses
for each group of layers; `whole frames` for whole frames alone; `kernels` never takes the dense engine. Blocks of 8 × 8
are computed where at least 4 positions moved by more than 8 of 255, without layer thresholds.

Dense and `kernels` are the two fixed choices. Where phases are long, the stream should be faster than either, or, where
one of them is the best in every phase, lose no more to it than learning takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from foveate.pipeline.build import build
from foveate.pipeline.dense import tune
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.interleave import Times
from foveate.runtime import StreamPolicy
from foveate.runtime.bundle import open_bundle
from foveate.runtime.engine import OrtConfig
from foveate.runtime.native.library import native_isa
from foveate.runtime.preprocess import preprocess
from video_models import MODELS, program
from video_run import Run
from video_sources import CLIPS, fetch, frames

import foveate

FOLDER = Path("build/video")
PHASES = ("still", "crowd", "moving")
NEVER_SLOWER = 0.95
LONG = 30  # frames: phases in which changing over pays


def clip(count: int, phase: int, multiple: int) -> list[tuple[str, np.ndarray]]:
    """`count` frames, each with the name of its phase: uint8 [height, width, 3]."""
    crowd, moving = (list(frames(fetch(CLIPS[name]), 50, count, multiple)) for name in ("vtest", "bikes"))
    height, width = crowd[0].shape[:2]

    def still() -> Iterator[np.ndarray]:
        for step in itertools.count():
            frame = crowd[0].copy()
            x = step * 4 % (width - 32)
            frame[height // 2 : height // 2 + 32, x : x + 32] = (200, 60, 60)
            yield frame

    sources = {"still": still(), "crowd": itertools.cycle(crowd), "moving": itertools.cycle(moving)}
    names = [PHASES[i // phase % len(PHASES)] for i in range(count)]
    return [(name, _enlarged(next(sources[name]), height, width)) for name in names]


def _enlarged(image: np.ndarray, height: int, width: int) -> np.ndarray:
    more = [(0, max(0, size - have)) for size, have in zip((height, width), image.shape[:2], strict=True)]
    return np.ascontiguousarray(np.pad(image, (*more, (0, 0)), mode="symmetric")[:height, :width])


def without_tails(bundle: Path, folder: Path) -> Path:
    """The bundle, so that streams choose for whole frames alone."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bundle, folder)
    manifest = open_bundle(bundle).manifest
    assert manifest.stream is not None
    plain = dataclasses.replace(manifest, stream=dataclasses.replace(manifest.stream, tails=()))
    (folder / "manifest.json").write_text(plain.to_json(), encoding="utf-8")
    return folder


def measure(name: str, count: int, phase: int, config: OrtConfig) -> dict:
    model, path = MODELS[name], program(name, FOLDER)
    shown = clip(count + 1, phase, model.multiple)
    phases, inputs = [p for p, _ in shown[1:]], [preprocess(image, model.preprocess) for _, image in shown]
    bundle = build(path, FOLDER / name, preprocess=model.preprocess)
    dense = tune(path, config.threads, inputs[0])
    unit = model.preprocess.scale / model.preprocess.std[0]
    policy = StreamPolicy(threshold=8 * unit, block=8, vote=4)
    plain = without_tails(bundle, FOLDER / f"{name}_plain")
    with foveate.load(bundle, backend=config) as loaded, foveate.load(plain, backend=config) as other:
        streams = {
            "stream": loaded.stream(policy=policy),
            "whole frames": other.stream(policy=policy),
            "kernels": other.stream(policy=policy, fallback=False),
        }
        run = Run(dense, streams, inputs, model.decide)
        times = run.measure()
        rows = [_row(label, run, times, phases) for label in streams]
    return {
        "model": name,
        "frames": count,
        "phase": phase,
        "input": list(inputs[0].shape),
        "dense": dense.settings.words(),
        "dense_ms": times.ms("dense"),
        "rows": rows,
        "isa": native_isa(config.isa),
        "environment": describe(config.threads, {}, "ort"),
    }


def _row(label: str, run: Run, times: Times, phases: list[str]) -> dict:
    ratio, each = times.ratio("dense", label), np.array(phases)
    dense, ours = times.per_image("dense"), times.per_image(label)
    by_phase = {name: float(dense[each == name].mean() / ours[each == name].mean()) for name in PHASES}
    used = {
        name: dict(Counter(s for s, p in zip(run.strategies[label], phases, strict=True) if p == name))
        for name in PHASES
    }
    return {
        "contender": label,
        "ms": times.ms(label),
        "speedup": ratio.value,
        "speedup_interval": [ratio.low, ratio.high],
        "by_phase": by_phase,
        "strategies": used,
        "reasons": dict(run.reasons[label]),
        "propagated_error": run.propagated_error(label),
    }


def table(facts: dict) -> str:
    head = "".join(f"{name:>9}" for name in PHASES)
    lines = [f"{'':14}      ms  speedup                {head}"]
    lines.append(f"{'dense':14} {facts['dense_ms']:7.1f}")
    for row in facts["rows"]:
        low, high = row["speedup_interval"]
        by_phase = "".join(f"{row['by_phase'][name]:8.2f}×" for name in PHASES)
        speed = f"{row['speedup']:6.2f}× [{low:5.2f}, {high:5.2f}]"
        lines.append(f"{row['contender']:14} {row['ms']:7.1f} {speed} {by_phase}")
    for row in facts["rows"]:
        used = "; ".join(
            f"{name}: {', '.join(f'{n} {s}' for s, n in row['strategies'][name].items())}" for name in PHASES
        )
        lines.append(f"{row['contender']:14} {used}")
    return "\n".join(lines)


def verdicts(facts: dict) -> list[tuple[bool, str]]:
    """Each goal: whether it was reached, and in what words."""
    rows = {row["contender"]: row for row in facts["rows"]}
    ours, fixed = rows["stream"]["speedup"], max(1.0, rows["kernels"]["speedup"])
    found = [(ours >= NEVER_SLOWER, f"{ours:.2f}× of dense, at least {NEVER_SLOWER}")]
    if facts["phase"] >= LONG:
        wins = [speedup > 1 for speedup in rows["kernels"]["by_phase"].values()]
        goal = NEVER_SLOWER * fixed if all(wins) or not any(wins) else fixed
        words = (
            f"{ours:.2f}×, where the better of the two fixed choices has {fixed:.2f}×: at least {goal:.2f}×"
        )
        found.append((ours >= goal, words))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--frames", type=int, default=360)
    parser.add_argument("--phase", type=int, default=LONG)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--isa", default="best", help="of the kernels: how they would do on another processor"
    )
    args = parser.parse_args()
    facts = measure(args.model, args.frames, args.phase, OrtConfig(threads=args.threads, isa=args.isa))
    print(table(facts))
    reached = verdicts(facts)
    print("\n".join(f"{'✓' if good else '✗'} {text}" for good, text in reached))
    write_text(FOLDER / f"alternating_{args.model}.json", json.dumps(facts, indent=1))
    return 0 if all(good for good, _ in reached) else 1


if __name__ == "__main__":
    sys.exit(main())
