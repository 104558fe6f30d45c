"""Encoders with exits: what leaving early saves, against the full-depth program as one dense engine.

    python benchmarks/exits.py                                     # timm's ViT-S/16; some minutes on two cores
    python benchmarks/exits.py --model mask2former-r50 --rounds 7  # full width, at 512 × 512; or mask2former-swin-t

Random weights: nothing here speaks of accuracy. Depths are forced by the gate's offset, or, for the mixed batch, follow
from its scores. `dense` is the program in stock ONNX Runtime, its session tuned: it computes all layers and selects.
`dense, kernel` is the same where native kernels run what they know of it: `realized` and `overhead` are then against
that, which tells exits and kernels apart. (FOVEATE_NATIVE=0 leaves kernels out of everything.)
`skipped` is the time of the stages that did not run, as they take in a run through all layers of the same bundle, and
`realized` how much of it was saved; `overhead` is what a run through all layers takes longer than dense, as a share:
gate, selection and the seams between engines. Images run in the layout `chain`; the others have rows of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
from exit_models import SUBJECTS, prepare
from foveate.export.early_exit_model import forcing
from foveate.pipeline.build import build
from foveate.pipeline.dense import tune
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.interleave import interleave
from foveate.runtime import Model
from foveate.runtime.manifest import CHAIN, IF, PER_DEPTH, ExitChain
from foveate.runtime.native.library import library

import foveate

REALIZED, OVERHEAD = 0.95, 0.01
KERNEL = "dense, kernel"
OFFSET = "gate.offset"


def measure(out: Path, name: str, threads: int, rounds: int, batch: int) -> dict:
    subject = SUBJECTS[name]
    program = prepare(out / "program.onnx", subject)
    bundle = build(program, out / "bundle")
    rng = np.random.default_rng(0)
    contrast = 10 ** rng.uniform(-1, 1, (batch, 1, 1, 1))
    images = (contrast * rng.standard_normal((batch, 3, subject.size, subject.size))).astype(np.float32)
    facts: dict = {"model": name, "size": subject.size, "environment": describe(threads, {}, "ort")}
    kernel = subject.kernel and library() is not None
    with foveate.load(bundle, threads=threads, layout=CHAIN) as model:
        model.warmup(images[:1].shape)  # as the baseline: engines for this shape
        facts["rows"], facts["dense"] = _forced(model, program, images[:1], threads, rounds, kernel)
        if batch > 1:
            facts["mixed"] = _mixed(model, program, images, threads, rounds)
    with ExitStack() as stack:
        models = {
            layout: stack.enter_context(foveate.load(bundle, threads=threads, layout=layout))
            for layout in (CHAIN, PER_DEPTH, IF)
        }
        facts["layouts"] = _layouts(models, images[:1], rounds)
    return facts


def _exits(model: Model) -> tuple[int, ...]:
    return next(step.exits for step in model.manifest.steps if isinstance(step, ExitChain))


def _forced(
    model: Model, program: Path, image: np.ndarray, threads: int, rounds: int, kernel: bool
) -> tuple[list[dict], dict[str, float]]:
    """Batch 1, every exit; and the ms of dense engines, of which the last is what exits are compared with."""
    exits = _exits(model)
    dense = tune(program, threads, image, kernels=False)
    stages: dict[str, list[float]] = {}

    def run(depth: int, x: np.ndarray) -> None:
        model.set_choices({OFFSET: forcing(exits, depth)})
        result = model(x)
        if depth == exits[-1]:
            for stage, ms in result.segments.items():
                stages.setdefault(stage, []).append(ms)

    dense_engines: dict[str, Callable] = {
        "dense": dense,
        **({KERNEL: tune(program, threads, image)} if kernel else {}),
    }
    times = interleave({**dense_engines, **{str(k): partial(run, k) for k in exits}}, [image], rounds)
    ms = {stage: float(np.median(found)) for stage, found in stages.items()}
    full, rows = times.ms(list(dense_engines)[-1]), []
    for depth in exits:
        skipped = sum(ms[f"exits.{k}"] for k in exits[1:] if k > depth)
        ratio = times.ratio("dense", str(depth))
        rows.append(
            {
                "depth": depth,
                "ms": times.ms(str(depth)),
                "dense_ms": times.ms("dense"),
                "speedup": ratio.value,
                "speedup_interval": [ratio.low, ratio.high],
                "skipped_ms": skipped,
                "saved": 1 - times.ms(str(depth)) / full,
                "realized": (full - times.ms(str(depth))) / skipped if skipped else None,
            }
        )
    return rows, {name: times.ms(name) for name in dense_engines}


def _layouts(models: dict[str, Model], image: np.ndarray, rounds: int) -> list[dict]:
    """Batch 1, the first exit and the last: each layout's ms, and the chain's ÷ them."""
    exits = _exits(models[CHAIN])

    def run(layout: str, depth: int, x: np.ndarray) -> None:
        models[layout].set_choices({OFFSET: forcing(exits, depth)})
        models[layout](x)

    ends = exits[0], exits[-1]
    times = interleave({f"{n} {k}": partial(run, n, k) for n in models for k in ends}, [image], rounds)
    return [
        {
            "layout": name,
            "depth": depth,
            "ms": times.ms(f"{name} {depth}"),
            "of_chain": times.ratio(f"{CHAIN} {depth}", f"{name} {depth}").value,
        }
        for name in models
        for depth in ends
    ]


def _mixed(model: Model, program: Path, images: np.ndarray, threads: int, rounds: int) -> dict:
    """A batch whose images leave at all exits in turn: an image at a time the ideal, all together, and dense."""
    exits = _exits(model)
    depths = [exits[i % len(exits)] for i in range(len(images))]
    dense, gate = tune(program, threads, images, kernels=False), model.choices["gate.weight"]
    model.set_choices({OFFSET: [0.0] * len(exits)})
    features = _features(model, images)
    wanted = np.zeros((len(images), len(exits)))
    wanted[np.arange(len(images)), [exits.index(d) for d in depths]] = 100.0
    weight = np.linalg.lstsq(features, wanted, rcond=None)[0].T  # sends each image where it shall go
    model.set_choices({"gate.weight": weight.ravel().tolist()})
    assert model(images)["depth"].tolist() == depths

    def each(x: np.ndarray) -> None:
        for i in range(len(x)):
            model(x[i : i + 1])

    times = interleave({"dense": dense, "batch": model, "each": each}, [images], rounds)
    model.set_choices({"gate.weight": gate})
    return {
        "depths": depths,
        "dense_ms": times.ms("dense"),
        "batch_ms": times.ms("batch"),
        "each_ms": times.ms("each"),
        "speedup": times.ratio("dense", "batch").value,
        "of_each": times.ratio("each", "batch").value,
    }


def _features(model: Model, images: np.ndarray) -> np.ndarray:
    """What the gate reads, [N, D], out of its scores: they are linear in it."""
    exits = _exits(model)
    width = len(model.choices["gate.weight"]) // len(exits)
    found = []
    for first in range(0, width, len(exits)):
        weight = np.zeros((len(exits), width), np.float32)
        for row in range(min(len(exits), width - first)):
            weight[row, first + row] = 1.0
        model.set_choices({"gate.weight": weight.ravel().tolist()})
        found.append(_scores(model, images)[:, : min(len(exits), width - first)])
    return np.concatenate(found, axis=1)


def _scores(model: Model, images: np.ndarray) -> np.ndarray:
    """The gate's, straight from the stem's engine."""
    from foveate.runtime.manifest import DenseSegment
    from foveate.runtime.selective import choice_feeds

    executor = model.executor
    stem, chain = executor.manifest.steps[:2]
    assert isinstance(stem, DenseSegment) and isinstance(chain, ExitChain)
    engine = executor.engines[stem.file]
    choices = {name: np.asarray(value, np.float32) for name, value in model.choices.items()}
    feeds = {**choice_feeds(engine, choices), model.manifest.inputs[0].name: images}
    return dict(zip(engine.outputs, engine.run(feeds), strict=True))[chain.scores]


def table(facts: dict) -> str:
    lines = ["depth       ms    dense  speedup                 skipped  realized   (ms)"]
    for row in facts["rows"]:
        low, high = row["speedup_interval"]
        realized = "" if row["realized"] is None else f"{row['realized']:8.2f}"
        speed = f"{row['speedup']:6.2f}× [{low:4.2f}, {high:4.2f}]"
        lines.append(
            f"{row['depth']:5} {row['ms']:8.1f} {row['dense_ms']:8.1f} {speed:23} {row['skipped_ms']:8.1f} {realized}"
        )
    lines += [f"{name}: {ms:.1f} ms" for name, ms in facts["dense"].items()]
    for row in facts["layouts"]:
        lines.append(
            f"{row['layout']:>10}, depth {row['depth']:2}: {row['ms']:6.1f} ms, chain ÷ it {row['of_chain']:.3f}"
        )
    if mixed := facts.get("mixed"):
        lines.append(
            f"batch of {len(mixed['depths'])}, depths {', '.join(map(str, mixed['depths']))}: "
            f"{mixed['batch_ms']:.1f} ms, dense {mixed['dense_ms']:.1f} ({mixed['speedup']:.2f}×), "
            f"image by image {mixed['each_ms']:.1f} ({mixed['of_each']:.2f}×)"
        )
    return "\n".join(lines)


def verdicts(facts: dict) -> list[tuple[bool, str]]:
    rows, mixed = facts["rows"], facts.get("mixed")
    least = min(row["realized"] for row in rows if row["realized"] is not None)
    overhead = -rows[-1]["saved"]
    found = [
        (least >= REALIZED, f"{least:.2f} of the skipped time realized at the least, the goal is {REALIZED}"),
        (overhead <= OVERHEAD, f"overhead at full depth {overhead:.1%}, at most {OVERHEAD:.0%}"),
    ]
    if mixed:
        words = f"mixed batch: {mixed['of_each']:.2f} of image by image, the goal is {REALIZED}"
        found.append((mixed["of_each"] >= REALIZED, words))
    if (goal := SUBJECTS[facts["model"]].saved) and KERNEL not in facts["dense"]:  # of GridSample in both
        saved = rows[0]["saved"]
        words = f"exit {rows[0]['depth']} saves {saved:.0%} of the dense time, the goal is {goal:.0%}"
        found.append((saved >= goal, words))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="vit-s", choices=SUBJECTS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--batch", type=int, default=8, help="images of the mixed batch; 1 leaves it out")
    parser.add_argument("--out", type=Path, default=Path("build/exits"))
    args = parser.parse_args()
    out = args.out / args.model
    out.mkdir(parents=True, exist_ok=True)
    facts = measure(out, args.model, args.threads, args.rounds, args.batch)
    print(table(facts))
    write_text(out / "exits.json", json.dumps(facts, indent=1))
    found = verdicts(facts)
    for good, words in found:
        print("✓" if good else "✗", words)
    return 0 if all(good for good, _ in found) else 1


if __name__ == "__main__":
    sys.exit(main())
