"""Accuracy of both networks, and what the mask keeps: on the shipped scenes and on thousands of generated ones.

python examples/ersm/evaluate.py --count 5000     # about ten minutes on two cores; writes results.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from data import CLASSES, SIZE, Scenes, read_scenes
from foveate.export import load_checkpoint
from scoring import HERE, answer, batches, mean_interval, update_results, wilson
from torch import nn

EVALUATION_SEED = 7  # neither the training's nor the shipped scenes'


def evaluate(networks: dict[str, nn.Module], pairs: Iterable[tuple[np.ndarray, int]]) -> dict:
    """Figures of each network on the same scenes, and of the paired difference masked − baseline."""
    found = {name: ([], []) for name in networks}
    labels = []
    for x, expected in batches(pairs):
        labels.append(expected)
        for name, net in networks.items():
            for values, new in zip(found[name], answer(net, x), strict=True):
                values.append(new)
    expected = np.concatenate(labels)
    correct = {name: np.concatenate(classes) == expected for name, (classes, _) in found.items()}
    active = np.concatenate(found["masked"][1])
    difference = correct["masked"].astype(float) - correct["baseline"]
    return {
        "scenes": len(expected),
        **{name: _accuracy(correct[name], expected) for name in networks},
        "masked_minus_baseline": {
            "mean": round(float(difference.mean()), 4),
            "interval95": mean_interval(difference),
        },
        "active_fraction": {
            "mean": round(float(active.mean()), 4),
            **{f"p{q}": round(float(np.percentile(active, q)), 4) for q in (10, 50, 90)},
            "per_class": _per_class(active, expected),
        },
    }


def _accuracy(correct: np.ndarray, labels: np.ndarray) -> dict:
    return {
        "accuracy": round(float(correct.mean()), 4),
        "interval95": wilson(correct),
        "per_class": _per_class(correct, labels),
    }


def _per_class(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    return {name: round(float(values[labels == i].mean()), 4) for i, name in enumerate(CLASSES)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure both networks; writes results.json.")
    parser.add_argument("--checkpoints", default=HERE, type=Path, help="folder of both .safetensors files")
    parser.add_argument(
        "--count", default=5000, type=int, help="generated test scenes; 0: the shipped ones only"
    )
    parser.add_argument("--threads", default=2, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = ("baseline", "masked")
    networks = {name: load_checkpoint(args.checkpoints / f"{name}.safetensors") for name in names}
    facts = {"shipped": evaluate(networks, read_scenes(HERE / "scenes"))}
    if args.count:
        scenes = Scenes("test", EVALUATION_SEED, SIZE, args.fashion_mnist)
        facts["generated"] = evaluate(networks, (scenes.scene(i) for i in range(args.count)))
    update_results("accuracy", facts, args.checkpoints / "results.json")
    for name, part in facts.items():
        difference, active = part["masked_minus_baseline"], part["active_fraction"]["mean"]
        print(
            f"✓ {name}  {part['scenes']} scenes  baseline {part['baseline']['accuracy']:.4f}  masked"
            f" {part['masked']['accuracy']:.4f}  difference {difference['mean']:+.4f} {difference['interval95']}"
            f"  active {active:.3f}"
        )


if __name__ == "__main__":
    main()
