"""A picture of what the mask keeps: one shipped scene of each class, and below it the same with dropped tokens dark.

python examples/ersm/overlay.py                   # writes overlay.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from data import CLASSES, read_scenes
from foveate.export import load_checkpoint
from foveate.export.trace import MaskedModule
from foveate.pipeline.files import replacing
from PIL import Image
from scoring import HERE, to_input

DIM = 0.25  # brightness of what is dropped
GAP = 4  # px between pictures


@torch.inference_mode()
def kept(net: MaskedModule, scene: np.ndarray) -> np.ndarray:
    """Whether each pixel's token is kept: bool [H, W]."""
    net(to_input(scene[None]))
    mask = net.masks[0]
    decided = (mask.probability() > mask.threshold)[0, 0].numpy()
    scale = scene.shape[0] // decided.shape[0], scene.shape[1] // decided.shape[1]
    return decided.repeat(scale[0], 0).repeat(scale[1], 1)


def sheet(net: MaskedModule, number: int) -> np.ndarray:
    """The `number`-th scene of each class above its overlay: uint8 [2·H + GAP, 10·(W + GAP) − GAP, 3]."""
    seen = dict.fromkeys(range(len(CLASSES)), 0)
    columns = []
    for scene, label in read_scenes(HERE / "scenes"):
        if seen[label] == number:
            overlay = np.where(kept(net, scene)[..., None], scene, scene * DIM).astype(np.uint8)
            gap = np.full((GAP, scene.shape[1], 3), 255, np.uint8)
            columns += [np.concatenate([scene, gap, overlay])]
            columns += [np.full((columns[-1].shape[0], GAP, 3), 255, np.uint8)]
        seen[label] += 1
    return np.concatenate(columns[:-1], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw scenes with what the mask keeps.")
    parser.add_argument("--checkpoint", default=HERE / "masked.safetensors", type=Path)
    parser.add_argument("--out", default=HERE / "overlay.jpg", type=Path)
    parser.add_argument("--number", default=0, type=int, help="which scene of each class")
    args = parser.parse_args()
    net = load_checkpoint(args.checkpoint)
    assert isinstance(net, MaskedModule)
    with replacing(args.out) as temporary:
        Image.fromarray(sheet(net, args.number)).save(temporary, format="jpeg", quality=85)
    print(f"✓ overlay  {args.out}")


if __name__ == "__main__":
    main()
