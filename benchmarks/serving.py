"""Images that come one by one: what running them in batches gains or costs, by load.

    python benchmarks/exits.py                         # builds build/exits/vit-s/bundle, a ViT-S/16 with exits
    python benchmarks/serving.py build/exits/vit-s/bundle    # any bundle will do; some minutes

Images are noise of the sample's shape and of a contrast between 0.1 and 10, so that depths differ. They come at random
(a Poisson process), at a share of the rate at which the model answers one after the other; at "full" load, as fast as
the queue takes them. `rate` is images answered by second over that rate; `latency` is the mean ms from submission to
answer. Settings take turns in every round; medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from foveate.pipeline.environment import describe
from foveate.pipeline.files import write_text
from foveate.runtime import Batching, Model, load

SETTINGS = {
    "1": Batching(max_batch=1),
    "2": Batching(max_batch=2),
    "4": Batching(max_batch=4),
    "8": Batching(max_batch=8),
    "8, 5 ms": Batching(max_batch=8, max_delay_ms=5.0),
}
LOADS = {"50%": 0.5, "80%": 0.8, "full": np.inf}


def measure(bundle: Path, count: int, rounds: int, threads: int) -> dict:
    rng = np.random.default_rng(0)
    models = {name: load(bundle, threads=threads, batching=batching) for name, batching in SETTINGS.items()}
    first = models["1"]
    shape = next(iter(first.manifest.sample.values()))[1:]
    contrast = 10 ** rng.uniform(-1, 1, (count, 1, 1, 1))
    images = (contrast * rng.standard_normal((count, *shape))).astype(np.float32)
    for model in models.values():
        model(images[:1])
        model(images[:8])
    alone = min(_one_by_one(first, images) for _ in range(3))
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for load_name, share in LOADS.items():
            gaps = rng.exponential(alone / share, count) if np.isfinite(share) else np.zeros(count)
            for name, model in models.items():
                found.setdefault((load_name, name), []).append(_serve(model, images, gaps, alone))
    for model in models.values():
        model.close()
    rows = []
    for (load_name, name), runs in found.items():
        rate, latency = np.median(runs, axis=0).tolist()
        rows.append({"load": load_name, "max_batch": name, "rate": rate, "latency_ms": latency})
    return {
        "bundle": first.manifest.name,
        "shape": list(shape),
        "alone_ms": alone * 1e3,
        "rows": rows,
        "environment": describe(threads, {}, "ort"),
    }


def _one_by_one(model: Model, images: np.ndarray) -> float:
    """Seconds for each image."""
    start = time.perf_counter()
    for i in range(len(images)):
        model(images[i : i + 1])
    return (time.perf_counter() - start) / len(images)


def _serve(model: Model, images: np.ndarray, gaps: np.ndarray, alone: float) -> tuple[float, float]:
    """The rate, over that of one image after the other, and the mean latency in ms."""
    start = time.perf_counter()
    at, futures = start, []
    for i, gap in enumerate(gaps):
        at += gap
        time.sleep(max(0.0, at - time.perf_counter()))
        futures.append(model.submit(images[i : i + 1]))
    answers = [future.result() for future in futures]
    rate = len(images) / (time.perf_counter() - start) * alone
    return rate, float(np.mean([answer.timing["total"] for answer in answers]))


def table(facts: dict) -> str:
    lines = [
        f"{facts['alone_ms']:.2f} ms an image, one after the other",
        "load   max_batch      rate   latency (ms)",
    ]
    for row in facts["rows"]:
        lines.append(f"{row['load']:<6} {row['max_batch']:<9} {row['rate']:8.2f}× {row['latency_ms']:14.2f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/serving.json"))
    args = parser.parse_args()
    facts = measure(args.bundle, args.images, args.rounds, args.threads)
    print(table(facts))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
