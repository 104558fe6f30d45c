"""Deformable attention by the native kernel, against the same engines by GridSample.

    python benchmarks/deformable.py                 # Mask2Former R50 at full width, 512 × 512; minutes on two cores
    python benchmarks/deformable.py --rounds 25 --model mask2former-swin-t

Random weights. `grid` is what runs where the native library is missing, in sessions that are the same otherwise; they
take turns. The op alone is measured at the shapes of one layer of the model, and of a tiny one, on one thread.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import onnxruntime
from exit_models import SUBJECTS, prepare
from foveate.export.domain import DOMAIN, STOCK_OPSET, VERSION, domain_op
from foveate.export.early_exit_model import forcing
from foveate.pipeline.build import build
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.interleave import interleave
from foveate.runtime import Model
from foveate.runtime.backends import ort
from foveate.runtime.engine import OrtConfig
from foveate.runtime.manifest import CHAIN, DenseSegment, ExitChain
from foveate.runtime.native.library import native_isa
from onnx import TensorProto, helper

import foveate

FORMS = ("grid", "kernel")
SHAPES = {  # heads, channels of each, points, and the sides of the levels' square maps
    "op of a layer at 512 × 512": (8, 32, 4, (16, 32, 64)),
    "op of a tiny layer at 64 × 64": (4, 8, 4, (2, 4, 8)),
}
Run = Callable[[np.ndarray], object]


def measure(out: Path, name: str, threads: int, rounds: int) -> dict:
    subject = SUBJECTS[name]
    program = prepare(out / "program.onnx", subject)
    bundle = build(program, out / "bundle", layout=CHAIN)
    image = np.random.default_rng(0).standard_normal((1, 3, subject.size, subject.size), np.float32)
    rows = [
        _row(what, {form: _op(form, *shape) for form in FORMS}, image, rounds)
        for what, shape in SHAPES.items()
    ]
    with ExitStack() as stack:
        models = {form: stack.enter_context(_load(bundle, form, threads, image)) for form in FORMS}
        for what, run in {"one layer": _layer, "first exit": _first_exit, "whole, dense": _dense}.items():
            rows.append(
                _row(what, {form: run(model, image) for form, model in models.items()}, image, rounds)
            )
    facts = {"model": name, "size": subject.size, "isa": native_isa(), "rows": rows}
    return {**facts, "environment": describe(threads, {}, "ort")}


def _load(bundle: Path, form: str, threads: int, image: np.ndarray) -> Model:
    """With all its engines open."""
    with patch.object(ort, "library", (lambda: None) if form == "grid" else ort.library):
        model = foveate.load(bundle, threads=threads, layout=CHAIN)
        model.dense(image)
    return model


def _op(form: str, heads: int, channels: int, points: int, sides: tuple[int, ...]) -> Run:
    """The node alone in a session of one thread. Queries stand at all positions and look around."""
    sizes = np.array([(n, n) for n in sides])
    tokens, each = int(sizes.prod(1).sum()), (heads, len(sides), points)
    rng = np.random.default_rng(0)
    middles = [(np.stack(np.meshgrid(range(n), range(n)), -1).reshape(-1, 2) + 0.5) / n for n in sides]
    places = np.concatenate(middles)[None, :, None, None, None]
    feeds = {
        "value": rng.standard_normal((1, tokens, heads, channels), np.float32),
        "sizes": sizes,
        "locations": (places + 0.05 * rng.standard_normal((1, tokens, *each, 2))).astype(np.float32),
        "weights": rng.random((1, tokens, *each), np.float32),
    }
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    inputs = [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in feeds.items()]
    output = helper.make_tensor_value_info("read", TensorProto.FLOAT, [1, tokens, heads * channels])
    node = helper.make_node("DeformableSample", list(feeds), ["read"], domain=DOMAIN, levels=len(sides))
    graph = helper.make_graph([node], "op", inputs, [output])
    opsets = [helper.make_opsetid("", STOCK_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    body = domain_op("DeformableSample").function([node])
    model = helper.make_model(graph, opset_imports=opsets, functions=[body], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    ort.spin(options, OrtConfig().spin_us)
    if form == "kernel":
        ort.use_kernels(options)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return lambda _: session.run(None, feeds)


def _layer(model: Model, image: np.ndarray) -> Run:
    """The chain's first stage, on what the stem gives."""
    engines = model.executor.engines
    stem, chain = model.manifest.steps[:2]
    assert isinstance(stem, DenseSegment) and isinstance(chain, ExitChain)
    name = model.manifest.inputs[0].name
    made = dict(zip(engines[stem.file].outputs, engines[stem.file].run({name: image}), strict=True))
    stage = chain.stages[0]
    feeds = {key: value for key, value in {**made, name: image}.items() if key in stage.inputs}
    return lambda _: engines[stage.file].run(feeds)


def _first_exit(model: Model, image: np.ndarray) -> Run:
    exits = next(step.exits for step in model.manifest.steps if isinstance(step, ExitChain))
    model.set_choices({"gate.offset": forcing(exits, exits[0])})
    return model


def _dense(model: Model, image: np.ndarray) -> Run:
    return model.dense


def _row(what: str, runs: dict[str, Run], image: np.ndarray, rounds: int) -> dict:
    times = interleave(runs, [image], rounds)
    ratio = times.ratio("grid", "kernel")
    found = {f"{form}_ms": times.ms(form) for form in FORMS}
    least = {f"{form}_least_ms": float(times.wall[form].min()) for form in FORMS}
    return {"what": what, **found, **least, "ratio": ratio.value, "interval": [ratio.low, ratio.high]}


def table(facts: dict) -> str:
    lines = [f"{'':32} {'grid':>8} {'kernel':>8}  grid ÷ kernel   (ms)"]
    for row in facts["rows"]:
        low, high = row["interval"]
        times = f"{row['grid_ms']:8.2f} {row['kernel_ms']:8.2f}"
        lines.append(f"{row['what']:32} {times}  {row['ratio']:5.2f} [{low:.2f}, {high:.2f}]")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--model", default="mask2former-r50", choices=[n for n, s in SUBJECTS.items() if s.kernel]
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("build/exits"))
    args = parser.parse_args()
    if not native_isa():
        print("error: the native library is missing; see `foveate doctor`")
        return 3
    out = args.out / args.model
    out.mkdir(parents=True, exist_ok=True)
    facts = measure(out, args.model, args.threads, args.rounds)
    print(table(facts))
    write_text(out / "deformable.json", json.dumps(facts, indent=1))
    slower = [row["what"] for row in facts["rows"] if row["interval"][1] < 1]
    print(f"✗ slower by the kernel: {', '.join(slower)}" if slower else "✓ nowhere slower by the kernel")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
