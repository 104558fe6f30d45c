"""Thread scaling: the masked ResNet-34 body at 25 % active on native kernels, beside dense ONNX Runtime's own scaling.

    python benchmarks/scaling.py                   # some 3 minutes on two cores; the first time it builds the bundle

The network and the mask are those of resnet34.py. `dense` is the unmasked network, its session tuned for each number of
threads; every number of threads of both takes its turn in one interleaved run. Two virtual cores may be one physical
one: so the goal is relative, .95 of what the same threads bring dense ONNX Runtime. Answers are compared for 1 to 8
threads. Exit code 1 for a wrong one.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from foveate.pipeline.dense import tune
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.interleave import interleave
from resnet34 import prepare
from steered import blobs, hint_of

import foveate

FRACTION = 0.25
GOAL = 0.95  # spans' speedup by threads ÷ dense ONNX Runtime's
ERROR = 1e-4  # of the output's largest value


def measure(folder: Path, size: int, threads: list[int], rounds: int) -> dict:
    """Milliseconds and speedups by number of threads; the first is what the others are compared with."""
    baseline, bundle = prepare(folder, size, stem=False)
    image = np.random.default_rng(0).standard_normal((1, 64, size // 4, size // 4), np.float32)
    feeds = {"images": image, "hint": hint_of(blobs(size // 4, FRACTION), 1)}
    with ExitStack() as stack:
        contenders = {}
        for n in threads:
            dense = tune(baseline, n, image)
            spans = stack.enter_context(foveate.load(bundle, threads=n, strategy="spans"))
            contenders[f"dense {n}"] = lambda _, dense=dense: dense(image)
            contenders[f"spans {n}"] = lambda _, spans=spans: spans(feeds)
        times = interleave(contenders, [image], rounds)
    rows = []
    for n in threads:
        row: dict = {"threads": n}
        for name in ("dense", "spans"):
            ratio = times.ratio(f"{name} {threads[0]}", f"{name} {n}")
            row |= {f"{name}_ms": times.ms(f"{name} {n}"), f"{name}_speedup": ratio.value}
            row[f"{name}_interval"] = [ratio.low, ratio.high]
        row["relative"] = row["spans_speedup"] / row["dense_speedup"]
        rows.append(row)
    return {"size": size, "active_fraction": FRACTION, "rows": rows, "max_rel_error": errors(bundle, feeds)}


def errors(bundle: Path, feeds: dict[str, np.ndarray]) -> dict[int, float]:
    """Of spans with 1 to 8 threads beside the dense program, relative to its largest value."""
    found = {}
    for n in range(1, 9):
        with foveate.load(bundle, threads=n, strategy="spans") as model:
            wanted = model.dense(feeds)["output"]
            found[n] = float(np.abs(model(feeds)["output"] - wanted).max() / np.abs(wanted).max())
    return found


def table(facts: dict) -> str:
    lines = ["threads     dense     spans  dense speedup         spans speedup         spans ÷ dense  (ms)"]
    for row in facts["rows"]:
        cells = [f"{row['threads']:7} {row['dense_ms']:9.1f} {row['spans_ms']:9.1f}"]
        for name in ("dense", "spans"):
            low, high = row[f"{name}_interval"]
            cells.append(f"{row[f'{name}_speedup']:5.2f}× [{low:.2f}, {high:.2f}]")
        lines.append("  ".join([*cells, f"{row['relative']:14.2f}"]))
    worst = max(facts["max_rel_error"].values())
    return "\n".join([*lines, f"largest error with 1 to 8 threads: {worst:.1e}"])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("build/resnet34_body"))
    args = parser.parse_args()
    facts = measure(args.out, args.size, args.threads, args.rounds)
    print(table(facts))
    relative = facts["rows"][-1]["relative"]
    print(
        f"{'✓' if relative >= GOAL else '✗'} {relative:.2f} of dense ONNX Runtime's scaling, the goal is {GOAL}"
    )
    write_text(
        args.out / "scaling.json",
        json.dumps({**facts, "environment": describe(max(args.threads), {}, "ort")}, indent=1),
    )
    return 0 if max(facts["max_rel_error"].values()) <= ERROR else 1


if __name__ == "__main__":
    sys.exit(main())
