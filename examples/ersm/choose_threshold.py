"""Sets the masked network's threshold: the highest at which it is as accurate as the baseline.

    python examples/ersm/choose_threshold.py          # some minutes on two cores; rewrites masked.safetensors

Training ends with the threshold at 0.5, where a mask that still learns is a little too tight. Scenes are of the
training split, with a seed that training did not use; test scenes have no say. A lower threshold keeps more tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from data import Scenes
from foveate.export import load_checkpoint, read_config, save_checkpoint
from scoring import HERE, batches, update_results
from torch import nn

SEED = 99
THRESHOLDS = (0.5, 0.35, 0.2, 0.1, 0.05)


@torch.no_grad()
def accuracy(net: nn.Module, pairs: list) -> float:
    correct = [net(x).argmax(1).numpy() == labels for x, labels in batches(pairs)]
    return float(sum(c.sum() for c in correct) / sum(len(c) for c in correct))


def main() -> None:
    parser = argparse.ArgumentParser(description="Set the mask's threshold on scenes of the training split.")
    parser.add_argument("--count", default=512, type=int, help="scenes")
    parser.add_argument("--folder", default=HERE, type=Path, help="of the two checkpoints")
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    scenes = Scenes("train", SEED, path=args.fashion_mnist)
    pairs = [scenes.scene(number) for number in range(args.count)]
    masked, path = load_checkpoint(args.folder / "masked.safetensors"), args.folder / "masked.safetensors"
    wanted = accuracy(load_checkpoint(args.folder / "baseline.safetensors"), pairs)
    threshold, found = masked.get_buffer("mask0.threshold"), {}
    for value in THRESHOLDS:
        threshold.fill_(value)
        found[value] = accuracy(masked, pairs)
        print(f"threshold {value:4.2f}  accuracy {found[value]:.4f}  (baseline {wanted:.4f})", flush=True)
        if found[value] >= wanted:
            break
    save_checkpoint(masked, path, read_config(path))
    update_results(
        "threshold", {"scenes": args.count, "seed": SEED, "baseline": wanted, "accuracy_at": found}
    )


if __name__ == "__main__":
    main()
