"""Panoptic quality (PQ) of every exit on held-out scenes, written into training.json.

    python -m examples.eco_m2f.evaluate --count 400

Scenes, their truth and what the model finds are maps of one form; the image processor of transformers makes the latter.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from foveate.pipeline.files import write_text
from torch import Tensor

from examples.eco_m2f.model import EXITS, PARENT, load_parent, predict
from examples.eco_m2f.scenes import CATEGORIES, INSTANCES, MOST, THINGS, Scenes

from torchmetrics.functional.detection import panoptic_quality  # isort: skip  # behind transformers: see model.py

BETAS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)  # PQ that a layer costs
GARMENTS = ((1, 2), (3, 5), (6, MOST))  # bins of difficulty
NOTHING = len(CATEGORIES)  # stands in for −1
KINDS: dict[str, Any] = {"things": set(range(len(THINGS))), "stuffs": set(range(len(THINGS), NOTHING + 1))}


def quality(found: np.ndarray, truth: np.ndarray) -> float:
    """PQ of int32 maps [N, H, W] as scenes write them, the mean over the categories that occur in any of them.

    Where nothing is found is a category of its own, left out of the mean: torchmetrics would forgive a segment that was
    not found, and the metric's authors do not."""
    by_category = panoptic_quality(_pairs(found), _pairs(truth), return_per_class=True, **KINDS)[0]
    occurs = np.union1d(found, truth) // INSTANCES
    return float(by_category[np.unique(occurs[occurs >= 0])].mean())


def _pairs(maps: np.ndarray) -> Tensor:
    category = np.where(maps < 0, NOTHING, maps // INSTANCES)
    return torch.from_numpy(np.stack([category, maps % INSTANCES], axis=-1))


def predict_all(model: Any, images: np.ndarray, batch: int = 20) -> np.ndarray:
    """uint8 [N, H, W, 3] -> int32 [exits, N, H, W]."""
    starts = range(0, len(images), batch)
    return np.stack(
        [np.concatenate([predict(model, images[i : i + batch], k) for i in starts]) for k in EXITS]
    )


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
    """PQ in points, of the whole set and as the mean of each image's, by exit; and the latter by number of garments."""
    images, truths = scenes.batch(0, count)
    found = predict_all(model, images)
    each = np.array(
        [[quality(a[None], b[None]) for a, b in zip(maps, truths, strict=True)] for maps in found]
    )
    garments = np.array([scenes.difficulty(i).garments for i in range(count)])
    bins = {f"{low}-{high} garments": (low <= garments) & (garments <= high) for low, high in GARMENTS}
    return {
        "scenes": count,
        "pq": {str(k): _points(quality(maps, truths)) for k, maps in zip(EXITS, found, strict=True)},
        "pq_per_image": _by_exit(each),
        **{name: {"scenes": int(chosen.sum()), **_by_exit(each[:, chosen])} for name, chosen in bins.items()},
        "oracle": [oracle(each, beta) for beta in BETAS],
    }


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
