"""What cutting a program costs: a bundle's engines run densely, one after another, against the uncut program.

    python benchmarks/chain.py build/resnet34/bundle --threads 2 --rounds 20

`steps` runs the bundle's dense segments and each region's fallback: what an image costs that is not worth windows.
`segments` runs every local segment by itself on whole maps: as many engines in one process as the bundle has. Both
would suffer if the engines' thread pools fought for the cores. All take turns in one process, A B B A. Exit code 1
where `steps` is slower than 1.05 × the program.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.interleave import interleave
from foveate.runtime.bundle import dense_files
from foveate.runtime.executor import Executor, Tensors
from foveate.runtime.inputs import input_shapes
from foveate.runtime.manifest import Manifest, Region
from foveate.runtime.selective import choice_feeds, run_whole

import foveate

WORST = 1.05  # of steps ÷ program


def run_chain(executor: Executor, feeds: Tensors, *, whole_regions: bool) -> Tensors:
    """All tensors of one dense pass: with each region in one engine, or with each of its segments in its own."""
    tensors = dict(feeds)
    for step in executor.manifest.steps:
        if not isinstance(step, Region) or whole_regions:
            (file,) = dense_files(step)  # a chain of exits has several: its costs are benchmarked elsewhere
            engine = executor.engines[file]
            given = {**choice_feeds(engine, {}), **{name: tensors[name] for name in step.inputs}}
            tensors.update(zip(engine.outputs, engine.run(given), strict=True))
            continue
        for segment in step.segments:
            tensors.update(run_whole(executor.engines[segment.file], segment, tensors, {}))
    return tensors


def measure(bundle: Path, shape: tuple[int, ...] | None, threads: int, rounds: int) -> dict:
    """One row a contender: ms, CPU ms, and the ratio to the program with its interval."""
    with foveate.load(bundle, threads=threads, strategy="dense") as model:
        executor, manifest = model.executor, model.manifest
        random = np.random.default_rng(0)
        shapes = input_shapes(manifest, () if shape is None else (shape,))[0]
        feeds = {name: random.standard_normal(size, np.float32) for name, size in shapes.items()}
        contenders = {
            "program": lambda _: executor.engines.program.run(feeds),
            "steps": lambda _: run_chain(executor, feeds, whole_regions=True),
            "segments": lambda _: run_chain(executor, feeds, whole_regions=False),
        }
        times = interleave(contenders, [next(iter(feeds.values()))], rounds)
        rows = []
        for name in contenders:
            ratio = times.ratio(name, "program")
            row = {"contender": name, "engines": _engines(manifest)[name], "ms": times.ms(name)}
            row |= {"cpu_ms": times.cpu_ms(name), "ratio": ratio.value, "interval": [ratio.low, ratio.high]}
            rows.append(row)
    facts = {"bundle": manifest.name, "shapes": {name: list(size) for name, size in shapes.items()}}
    return {**facts, "rounds": rounds, "rows": rows, "environment": describe(threads, {}, "ort")}


def _engines(manifest: Manifest) -> dict[str, int]:
    segments = sum(len(step.segments) if isinstance(step, Region) else 1 for step in manifest.steps)
    return {"program": 1, "steps": len(manifest.steps), "segments": segments}


def table(facts: dict) -> str:
    lines = ["contender  engines        ms    CPU ms  ratio to the program"]
    for row in facts["rows"]:
        low, high = row["interval"]
        numbers = f"{row['engines']:7} {row['ms']:9.2f} {row['cpu_ms']:9.2f}"
        lines.append(f"{row['contender']:10} {numbers}  {row['ratio']:.3f} [{low:.3f}, {high:.3f}]")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--shape", type=int, nargs="+", help="of the first input; default: the plan's")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("build/chain.json"))
    args = parser.parse_args()
    facts = measure(args.bundle, tuple(args.shape) if args.shape else None, args.threads, args.rounds)
    print(table(facts))
    write_text(args.out, json.dumps(facts, indent=1))
    ratio = next(row["ratio"] for row in facts["rows"] if row["contender"] == "steps")
    print(f"{'✓' if ratio <= WORST else '✗'} steps ÷ program {ratio:.3f}, at most {WORST}")
    return 0 if ratio <= WORST else 1


if __name__ == "__main__":
    sys.exit(main())
