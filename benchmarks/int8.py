"""The ResNet-34 body of resnet34.py in int8: native kernels on bytes against onnxruntime, in fp32 and in int8.

    python benchmarks/int8.py                  # some 6 minutes on two cores

All contenders take turns in one process. `dense` is the network without mask nodes in fp32, its session tuned;
`dense_int8` the same as onnxruntime.quantization writes it for onnxruntime, the faster of its unsigned and its
symmetric form, tuned as well; `spans` the masked program in fp32 by native kernels; `spans_int8` the same in Q/DQ, all
layers, as `foveate calibrate --precision int8` writes it. Random weights: nothing here speaks of accuracy.

`rel_error` compares `spans_int8` with its graph computed in floats, and `off` is the share of outputs that differ. Sums
of bytes are exact, but the reference's floats are not: a value on the edge between two bytes falls to the other side,
and some thirty quantized layers of random weights carry that on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from foveate.calibration.layers import layers_of
from foveate.calibration.quantized import measure_ranges, quantized
from foveate.export.program import load_program, save_program
from foveate.pipeline.build import build
from foveate.pipeline.dense import Dense, tune
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.pipeline.interleave import interleave
from foveate.runtime.native.library import native_isa
from resnet34 import SHAPES
from steered import export_resnet34, hint_of

import foveate

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
TARGETS = {0.1: 12.0, 0.25: 6.0, 1.0: 3.5}  # the least of dense ÷ spans_int8
SYMMETRIC = {"ActivationSymmetric": True}


def quantize(program: Path, made: Path, feeds: list[dict[str, np.ndarray]], kind: str, **options) -> Path:
    """Writes `program` in Q/DQ with activations of `kind`, calibrated on `feeds`, unless `made` exists."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    left = list(feeds)

    class Feeds(CalibrationDataReader):
        def get_next(self) -> dict:  # at the end None, whatever the base class says
            return left.pop() if left else None  # pyright: ignore[reportReturnType]

    if not made.exists():
        kinds = {"activation_type": QuantType[kind], "weight_type": QuantType.QInt8}
        quantize_static(
            program, made, Feeds(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds, **options
        )
    return made


def prepare(folder: Path, size: int) -> None:
    """The programs, their quantized forms, and the bundles of the masked ones."""
    export_resnet34(folder, size, stem=False)
    rng, side = np.random.default_rng(1), size // 4
    images = [rng.standard_normal((1, 64, side, side), np.float32) for _ in range(2)]
    plain = [{"images": image} for image in images]
    hinted = [{**feed, "hint": np.ones((1, 1, side, side), np.float32)} for feed in plain]
    baseline, masked = folder / "baseline.onnx", folder / "masked.onnx"
    quantize(baseline, folder / "unsigned.onnx", plain, "QUInt8")
    quantize(baseline, folder / "symmetric.onnx", plain, "QInt8", extra_options=SYMMETRIC)
    program = load_program(masked)
    layers = layers_of(program)
    in_bytes = quantized(program, measure_ranges(program, layers, hinted), [layer.name for layer in layers])
    build(masked, folder / "bundle")
    build(save_program(in_bytes, folder / "quantized.onnx"), folder / "bundle_int8")
    (folder / "ready").touch()


def measure(folder: Path, size: int, threads: int, rounds: int) -> list[dict]:
    """One row for each shape of mask and fraction."""
    if not (folder / "ready").exists():
        prepare(folder, size)
    image = np.random.default_rng(0).standard_normal((1, 64, size // 4, size // 4), np.float32)
    dense = tune(folder / "baseline.onnx", threads, image)
    dense_int8 = _fastest(
        [tune(folder / f"{n}.onnx", threads, image) for n in ("unsigned", "symmetric")], image
    )
    expected_of = _reference(folder / "quantized.onnx")
    rows = []
    with (
        foveate.load(folder / "bundle", threads=threads, strategy="spans") as spans,
        foveate.load(folder / "bundle_int8", threads=threads, strategy="spans") as spans_int8,
    ):
        for shape, make in SHAPES.items():
            for fraction in FRACTIONS:
                mask = make(size // 4, fraction)
                feeds = {"images": image, "hint": hint_of(mask, 1)}
                contenders = {
                    "dense": lambda _: dense(image),
                    "dense_int8": lambda _: dense_int8(image),
                    "spans": lambda _, feeds=feeds: spans(feeds),
                    "spans_int8": lambda _, feeds=feeds: spans_int8(feeds),
                }
                times = interleave(contenders, [image], rounds)
                found, expected = spans_int8(feeds)["output"], expected_of(feeds)
                rows.append({"shape": shape, **_row(times, contenders, mask, found, expected)})
                print(_line(rows[-1]), flush=True)
    return rows


def _fastest(engines: list[Dense], image: np.ndarray) -> Dense:
    named = {str(i): engine for i, engine in enumerate(engines)}
    return named[min(named, key=interleave(named, [image], rounds=5).ms)]


def _reference(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda feeds: np.asarray(session.run(["output"], feeds)[0])


def _row(times, contenders, mask: np.ndarray, found: np.ndarray, expected: np.ndarray) -> dict:
    ratio = times.ratio("dense", "spans_int8")
    error = np.abs(found - expected) / np.abs(expected).max()
    return {
        "active_fraction": float(mask.mean()),
        **{f"{name}_ms": times.ms(name) for name in contenders},
        **{f"{name}_cpu_ms": times.cpu_ms(name) for name in contenders},
        **{f"{name}_speedup": times.ratio("dense", name).value for name in contenders},
        "spans_int8_interval": [ratio.low, ratio.high],
        "cpu_speedup": times.cpu_ms("dense") / times.cpu_ms("spans_int8"),
        "rel_error": float(error.max()),
        "off": float((error > 1e-5).mean()),
    }


def _line(row: dict) -> str:
    names = ("dense", "dense_int8", "spans", "spans_int8")
    ms = " ".join(f"{row[f'{name}_ms']:10.1f}" for name in names)
    speedups = " ".join(f"{row[f'{name}_speedup']:9.2f}×" for name in names[1:])
    low, high = row["spans_int8_interval"]
    return (
        f"{row['shape']:8} {row['active_fraction']:6.1%} {ms} {speedups} [{low:.2f}, {high:.2f}]"
        f" {row['cpu_speedup']:6.2f}×  {row['rel_error']:.1e} {row['off']:.2%}"
    )


def misses(rows: list[dict]) -> list[str]:
    """The targets that this run did not reach."""
    found = []
    for row in rows:
        target = TARGETS.get(round(row["active_fraction"], 2), 0)
        if row["spans_int8_speedup"] < target:
            reached = f"{row['spans_int8_speedup']:.2f}× < {target}×"
            found.append(f"spans_int8, {row['shape']} {row['active_fraction']:.1%}: {reached}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/int8"))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    print(
        "mask     active      dense dense_int8      spans spans_int8  (ms)   dense ÷ int8   ÷ spans  ÷ spans_int8"
        "                 by CPU time  rel_error, off"
    )
    rows = measure(args.out, args.size, args.threads, args.rounds)
    missed = misses(rows)
    print("\n".join(f"✗ {miss}" for miss in missed) or "✓ all targets reached")
    environment = describe(args.threads, {}, "ort")
    facts = {
        "size": args.size,
        "rows": rows,
        "missed": missed,
        "isa": native_isa(),
        "environment": environment,
    }
    write_text(args.out / f"{args.out.name}.json", json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
