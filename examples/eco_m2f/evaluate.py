"""Panoptic quality (PQ) of every exit on held-out scenes, written into training.json.

python -m examples.eco_m2f.evaluate --count 400
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from foveate.pipeline.files import write_text
from foveate.pipeline.metrics import open_metric
from foveate.pipeline.panoptic import Panoptic

from examples.eco_m2f.model import EXITS, PARENT, load_parent, predict
from examples.eco_m2f.scenes import THINGS, Scenes

BETAS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)  # PQ that a layer costs
DUSK = 6.0  # photons of a white pixel: at night there are fewer
Outputs = dict[str, np.ndarray]


def quality(outputs: Outputs, truths: np.ndarray) -> float:
    """PQ of a network's answers for N images against int32 maps [N, H, W] as scenes write them."""
    metric = open_metric("pq")
    for number, truth in enumerate(truths):
        one = _one(outputs, number)
        metric.update(one, Panoptic(truth, frozenset(range(len(THINGS)))), one)
    return metric.value()


def predict_all(model: Any, images: np.ndarray, depth: int, batch: int = 20) -> Outputs:
    """What exit `depth` answers for uint8 [N, H, W, 3]."""
    parts = [predict(model, images[i : i + batch], depth) for i in range(0, len(images), batch)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def oracle(qualities: np.ndarray, beta: float) -> dict:
    """What the best exit of each image would give: `qualities` [exits, N] − β · layers decides."""
    depths = np.array(EXITS)
    best = (qualities - beta * depths[:, None]).argmax(0)
    depth = float(depths[best].mean())
    return {
        "beta": beta,
        "depth": round(depth, 2),
        "pq_per_image": _points(qualities[best, np.arange(len(best))].mean()),
        "fixed_at_that_depth": _points(np.interp(depth, depths, qualities.mean(1))),
    }


def evaluate(model: Any, scenes: Scenes, count: int) -> dict:
    """PQ in points, of the whole set and as the mean of each image's, by exit; and the latter by light."""
    images, truths = scenes.batch(0, count)
    answers = [predict_all(model, images, depth) for depth in EXITS]
    each = np.array([[quality(_one(found, i), truths[i : i + 1]) for i in range(count)] for found in answers])
    photons = np.array([scenes.difficulty(i).photons for i in range(count)])
    bins = {
        "day": np.isinf(photons),
        "dusk": (photons >= DUSK) & np.isfinite(photons),
        "night": photons < DUSK,
    }
    return {
        "scenes": count,
        "pq": {str(k): _points(quality(found, truths)) for k, found in zip(EXITS, answers, strict=True)},
        "pq_per_image": _by_exit(each),
        **{name: {"scenes": int(chosen.sum()), **_by_exit(each[:, chosen])} for name, chosen in bins.items()},
        "oracle": [oracle(each, beta) for beta in BETAS],
    }


def _one(outputs: Outputs, number: int) -> Outputs:
    return {name: value[number : number + 1] for name, value in outputs.items()}


def _by_exit(qualities: np.ndarray) -> dict[str, float]:
    return {str(k): _points(mean) for k, mean in zip(EXITS, qualities.mean(1), strict=True)}


def _points(value: float) -> float:
    return round(100 * float(value), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description="PQ of every exit on held-out scenes.")
    parser.add_argument("parent", nargs="?", default=PARENT, type=Path, help="checkpoint folder")
    parser.add_argument("--count", default=400, type=int)
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts = evaluate(load_parent(args.parent), Scenes("test", args.seed, path=args.fashion_mnist), args.count)
    record = args.parent.parent / "training.json"
    write_text(record, json.dumps({**json.loads(record.read_text()), "evaluation": facts}, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
