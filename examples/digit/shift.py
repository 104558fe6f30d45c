"""The demo of "Addressing a change": a digit goes over a canvas for ten frames; dense engines against a stream.

    python examples/digit/shift.py                    # some seconds; table and build/digit/digit.json

Every contender answers the whole clip, all in turns in one process. `stream` begins anew with each clip, so its first
frame is computed whole and counts; `stream, on` goes on from clip to clip. Answers are compared with dense ONNX
Runtime's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from digits import CHECKPOINT, load_digits, network, shifted
from foveate.export import export_program, load_checkpoint
from foveate.pipeline.build import build
from foveate.pipeline.dense import tune
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.interleave import interleave
from foveate.runtime import Model, Stream

import foveate

Clip = Callable[[np.ndarray], Any]  # answers all frames of a clip


def measure(out: Path, clip: np.ndarray, threads: list[int], rounds: int) -> list[dict]:
    """A row for each engine and number of threads."""
    net = load_checkpoint(CHECKPOINT, network())
    program = export_program(net, torch.from_numpy(clip[0]), out / "program.onnx", dynamic=("batch",))
    bundle = build(program, out / "bundle")
    return [row for n in threads for row in _rows(net, program, bundle, clip, n, rounds)]


def _rows(
    net: torch.nn.Module, program: Path, bundle: Path, clip: np.ndarray, threads: int, rounds: int
) -> list[dict]:
    dense = tune(program, threads, clip[0])
    torch.set_num_threads(threads)
    with foveate.load(bundle, threads=threads) as model:
        stream, on = model.stream(), model.stream()
        contenders: dict[str, Clip] = {
            "torch, eager": torch.inference_mode()(lambda x: [net(torch.from_numpy(f)).numpy() for f in x]),
            "ONNX Runtime, dense": lambda x: [dense(f)["output"] for f in x],
            "stream": lambda x: _from_the_start(stream, x),
            "stream, on": lambda x: [on(frame)["output"] for frame in x],
        }
        first, later = work_shares(model, clip)
        work = {"stream": first, "stream, on": later}
        wanted = np.concatenate(contenders["ONNX Runtime, dense"](clip))
        times = interleave(contenders, [clip], rounds)
        rows = []
        for name, answer in contenders.items():
            error = np.abs(np.concatenate(answer(clip)) - wanted).max() / np.abs(wanted).max()
            ratio = times.ratio("ONNX Runtime, dense", name)
            rows.append({
                "engine": name, "threads": threads, "ms": times.ms(name) / len(clip),
                "speedup": ratio.value, "interval": [ratio.low, ratio.high],
                "work": work.get(name, 1.0), "max_rel_error": float(error),
            })  # fmt: skip
    return rows


def _from_the_start(stream: Stream, clip: np.ndarray) -> list[np.ndarray]:
    stream.reset()
    return [stream(frame)["output"] for frame in clip]


def work_shares(model: Model, clip: np.ndarray) -> tuple[float, float]:
    """Multiply-adds of the clip's frames ÷ those of as many dense ones, for a stream that begins with it and for one
    that has just seen it. The linear layers are computed for each frame."""
    stream, plan, shares = model.stream(fallback=False), model.manifest.stream, []
    assert plan is not None
    for frame in (*clip, *clip):
        stream(frame)
        shares.append(1 - plan.share + plan.share * stream.work / stream.full_work)
    return float(np.mean(shares[: len(clip)])), float(np.mean(shares[len(clip) :]))


def table(rows: list[dict]) -> str:
    lines = ["engine               threads  ms a frame  speedup               multiply-adds  difference"]
    for row in rows:
        low, high = row["interval"]
        numbers = f"{row['threads']:7} {row['ms']:11.3f}  {row['speedup']:5.2f}× [{low:.2f}, {high:.2f}]"
        lines.append(f"{row['engine']:20} {numbers}  {row['work']:13.1%}  {row['max_rel_error']:10.1e}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--digit", type=int, default=2, help="number of the test digit (default: a 4)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("build/digit"))
    args = parser.parse_args()
    clip = shifted(load_digits(train=False)[0][args.digit])
    rows = measure(args.out, clip, args.threads, args.rounds)
    print(table(rows))
    facts = {"rows": rows, "environment": describe(max(args.threads), {}, "ort")}
    write_text(args.out / "digit.json", json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
