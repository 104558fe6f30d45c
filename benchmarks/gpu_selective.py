"""A ResNet-34 body with a persistent mask at 1024 × 2048 in float16, active fraction 5 … 100 %: the bundle against the
best dense engine of the same network without masks.

    python benchmarks/gpu_selective.py            # some minutes on a data-centre GPU
    python benchmarks/gpu_selective.py --dry      # in little, on a CPU

Random weights (nothing here speaks of accuracy), one ellipse, the layers behind the stem. All contenders run in one
process, interleaved, on inputs that lie on the GPU. Dense engines: Foveate's of the program, with algorithms that cuDNN
expects to be fastest or that were searched for; and torch's own module, channels last, as one CUDA graph, without
anything of Foveate around it. The fastest of them is the baseline, at each batch size. `selective` is forced, `auto`
chooses by measured costs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from foveate.export.models import resnet34_body
from foveate.export.program import load_program
from foveate.pipeline.activity import active_macs
from foveate.pipeline.analyze import Analysis, analyze
from foveate.pipeline.build import build
from foveate.pipeline.costs import CostModel
from foveate.pipeline.ideal import image_work
from foveate.pipeline.partition import partition
from foveate.pipeline.statistics import efficiency, realization
from foveate.runtime import Model
from foveate.runtime.manifest import DenseSegment, Region
from gpu_common import TARGET, Lab, arguments
from steered import ellipse, export_resnet34, hint_of

FRACTIONS = (0.05, 0.1, 0.25, 0.5, 1.0)
SIZE, DRY_SIZE = (1024, 2048), (256, 256)
SPEEDUP, REALIZATION, WORST = 3.1, 0.75, 0.95  # at 10 % of batch 4; there; dense ÷ adaptive on any input
# A call of an engine costs a GPU what billions of multiply-adds do, so segments are long. The plan is made at a quarter
# of the height and width, and costs are scaled to it. Bytes are the program's, of which float16 moves the half.
PLANNED = 64, 128
COSTS = CostModel(active=0.1, objects=1, call_ms=0.02, gmacs=2e5 / 16, gbytes=3e3 / 16)


def measure(lab: Lab, work: Path, rounds: int, keep: Callable[[list], None]) -> list[dict[str, Any]]:
    """`keep` is given the rows so far, again and again: a machine's time may end before the last."""
    height, width = (n // 4 for n in (DRY_SIZE if lab.dry else SIZE))
    baseline, masked = _programs(work)
    sample = {"images": (1, 64, *PLANNED), "hint": (1, 1, *PLANNED)}
    bundle = build(masked, work / "bundle", sample=sample, target=TARGET, model=COSTS)
    plain = build(baseline, work / "plain", sample=sample["images"], target=TARGET)
    selective, auto, whole = (lab.load(bundle, strategy=s) for s in ("rects", "auto", "dense"))
    dense = {
        f"engine, {'searched' if search else 'expected'}": lab.load(
            plain, backend=lab.config(search), strategy="dense"
        )
        for search in (False, True)
    }
    analysis = analyze(load_program(masked), sample)
    balance = _balance(lab)
    rows = []
    for batch in (1,) if lab.dry else (1, 4):
        images = np.random.default_rng(0).standard_normal((batch, 64, height, width), np.float32)
        best = _best(lab, dense, images, rounds)
        for fraction in FRACTIONS[1::3] if lab.dry else FRACTIONS:
            mask = hint_of(ellipse(height, fraction, wide=width), 1).repeat(batch, 0)
            feeds = {"images": selective.device.put(images), "hint": selective.device.put(mask)}  # type: ignore[union-attr]
            share = _share(selective, analysis, feeds, balance)
            contenders = {
                "dense": best[1],
                "masked_dense": lambda _, f=feeds: whole.dense(f),
                "auto": lambda _, f=feeds: auto(f),
                "selective": lambda _, f=feeds: selective(f),
            }
            before = _replays(selective)
            rows.append(_row(lab, contenders, rounds, batch, fraction, share))
            rows[-1]["selective_replayed"] = float(np.divide(*np.subtract(_replays(selective), before)))
            rows[-1] |= {"baseline": best[0], "balance": balance, "error": _error(selective, whole, feeds)}
            print(_line(rows[-1]), flush=True)
            keep(rows)
    return rows


def _programs(work: Path) -> tuple[Path, Path]:
    paths = work / "baseline.onnx", work / "masked.onnx"
    if not all(path.exists() for path in paths):
        export_resnet34(work, 128, stem=False)
    return paths


def _best(
    lab: Lab, dense: dict[str, Model], images: np.ndarray, rounds: int
) -> tuple[str, Callable[[Any], object]]:
    """The fastest dense engine for a batch, and its name."""
    placed = {name: model.device.put(images) for name, model in dense.items()}  # type: ignore[union-attr]
    runs: dict[str, Callable[[Any], object]] = {
        name: lambda _, m=model, x=placed[name]: m.dense(x) for name, model in dense.items()
    }
    runs["torch module"] = _module(lab, images)
    times = lab.time(runs, rounds)
    for name in runs:
        print(f"  dense, batch {len(images)}: {times.ms(name):8.3f} ms  {name}", flush=True)
    best = min(runs, key=times.ms)
    return best, runs[best]


def _module(lab: Lab, images: np.ndarray) -> Callable[[Any], object]:
    """The network by torch alone, as one CUDA graph."""
    net = resnet34_body()
    net.stem = torch.nn.ReLU()
    net = net.eval().to(lab.where, torch.float16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.from_numpy(images).to(lab.where, torch.float16).contiguous(memory_format=torch.channels_last)
    if lab.dry:
        return lambda _: _without_gradients(net, x)
    torch.backends.cudnn.benchmark = True
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            _without_gradients(net, x)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        answer = _without_gradients(net, x)

    def run(_: Any) -> object:
        graph.replay()
        torch.cuda.synchronize()
        return answer

    return run


def _without_gradients(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return net(x)


def _balance(lab: Lab) -> float:
    """MACs that a convolution in float16 does in the time in which a Relu moves what is one byte of the program, half a
    byte in float16: see `ideal`."""
    side = 16 if lab.dry else 256
    x = torch.randn(4, 128, side, side, device=lab.where, dtype=torch.float16).contiguous(
        memory_format=torch.channels_last
    )
    conv = torch.nn.Conv2d(128, 128, 3, 1, 1, bias=False).to(lab.where, torch.float16)
    conv = conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    wait = (lambda: None) if lab.dry else torch.cuda.synchronize

    def run(function: Callable[[torch.Tensor], torch.Tensor], _: Any) -> None:
        with torch.inference_mode():
            for _ in range(10):
                function(x)
        wait()

    times = lab.time({"conv": partial(run, conv), "relu": partial(run, torch.relu)}, 5)
    macs, moved = 9 * 128 * x.numel(), 2 * x.numel() * 4
    return (times.wall["relu"].min() / moved) / (times.wall["conv"].min() / macs)


def _share(model: Model, analysis: Analysis, feeds: dict[str, Any], balance: float) -> float:
    """Of the first image: active work ÷ dense work."""
    executor, manifest = model.executor, model.manifest
    step = next(step for step in manifest.steps if isinstance(step, DenseSegment))
    region = next(step for step in manifest.steps if isinstance(step, Region))
    engine = executor.engines[step.file]
    choices = {name: np.asarray(value, np.float32) for name, value in model.choices.items()}
    given = {**executor.choice_feeds(engine, choices), **{name: feeds[name] for name in step.inputs}}
    made = dict(zip(engine.outputs, engine.run(given), strict=True))
    masks = dict(zip(region.masks, executor.device.get([made[name] for name in region.masks]), strict=True))
    height, width = feeds["images"].shape[2:]
    work = active_macs(
        analysis, {n: m[:1] for n, m in masks.items()}, size=(height, width), steps=partition(analysis)
    )
    return image_work(work, balance).share


def _row(
    lab: Lab,
    contenders: dict[str, Callable[[Any], object]],
    rounds: int,
    batch: int,
    fraction: float,
    share: float,
) -> dict[str, Any]:
    times = lab.time(contenders, rounds)
    ms = {name: times.ms(name) for name in contenders}
    speedup = times.ratio("dense", "selective")
    return {
        "batch": batch,
        "active_fraction": fraction,
        **{f"{name}_ms": value for name, value in ms.items()},
        **{f"{name}_enqueue_ms": times.enqueue_ms(name) for name in contenders},
        "speedup": speedup.value,
        "speedup_interval": [speedup.low, speedup.high],
        "auto_speedup": ms["dense"] / ms["auto"],
        "ideal_speedup": 1 / share,
        "realization": realization(ms["dense"], ms["selective"], share),
        "efficiency": efficiency(ms["dense"], ms["selective"], share),
    }


def _replays(model: Model) -> tuple[int, int]:
    """Runs of regions that were replayed as graphs, and all of them."""
    stats = model.stats()
    return sum(stats["replayed"].values()), stats["requests"] * len(stats["replayed"])


def _error(selective: Model, whole: Model, feeds: dict[str, Any]) -> float:
    """Largest difference, over the largest value of the dense answer."""
    found, expected = (
        model.device.get([answer["output"]])[0].astype(np.float64)  # type: ignore[union-attr]
        for model, answer in ((selective, selective(feeds)), (whole, whole.dense(feeds)))
    )
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _line(row: dict[str, Any]) -> str:
    ms = " ".join(f"{row[f'{name}_ms']:9.3f}" for name in ("dense", "masked_dense", "auto", "selective"))
    realized = "      " if row["realization"] is None else f"{row['realization']:6.2f}"
    return (
        f"{row['batch']:5} {row['active_fraction']:6.1%} {ms}  {row['auto_speedup']:5.2f}× {row['speedup']:5.2f}×"
        f" {row['ideal_speedup']:6.2f}× {realized}  {row['selective_enqueue_ms']:7.3f}"
        f" {row['selective_replayed']:6.0%} {row['error']:.1e}"
    )


def misses(rows: list[dict[str, Any]]) -> list[str]:
    found = []
    for row in rows:
        place = f"batch {row['batch']}, {row['active_fraction']:.0%} active"
        if row["batch"] == 4 and row["active_fraction"] == 0.1:
            if row["speedup"] < SPEEDUP:
                found.append(f"{place}: {row['speedup']:.2f}× < {SPEEDUP}×")
            if (row["realization"] or 0) < REALIZATION:
                found.append(f"{place}: realization {row['realization'] or 0:.2f} < {REALIZATION}")
        if row["auto_speedup"] < WORST:
            found.append(f"{place}: auto at {row['auto_speedup']:.2f}× of dense < {WORST}×")
    return found


def main() -> None:
    args = arguments((__doc__ or "").splitlines()[0], "selective.json").parse_args()
    lab, work = Lab(args.dry), args.work / "resnet34"
    work.mkdir(parents=True, exist_ok=True)
    print(
        "batch active     dense    masked      auto selective    auto  forced   ideal realized enqueue graphs error"
        "   (ms)"
    )

    def keep(rows: list[dict[str, Any]]) -> None:
        facts = {"size": DRY_SIZE if lab.dry else SIZE, "rows": rows}
        lab.write(args.out / "selective.json", facts, misses(rows))

    lab.tell(misses(measure(lab, work, args.rounds, keep)))
    lab.close()


if __name__ == "__main__":
    main()
