"""Trains the example's networks: `base`, and from it for as long `control` and one of each softness that is asked for.

    python -m examples.soft_equivariance.train --softness 0 0.05 0.1 0.3      # to choose among: ten minutes of one core
    python -m examples.soft_equivariance.train --seeds 1                      # as chosen, by another seed: five

All see the garments turned by 0°, 90°, 180° and 270° equally often, half of them tilted by up to 30° besides. Every
file is written whole, and with it what it was made by; what a stopped run has finished is kept. None sees the
validation images, on which choose.py chooses.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from foveate.export import load_checkpoint, save_checkpoint, soften
from foveate.export.build import build_module
from foveate.pipeline.files import write_text
from torch import nn

from .data import CLASSES, MEAN, STD, augmented, load, to_input

RESNET = {
    "layers": [1, 1, 1, 1],
    "channels": [16, 24, 32, 48],
    "stem_type": "deep",
    "stem_width": 8,
    "in_chans": 1,
    "num_classes": len(CLASSES),
}
VIT = {
    "img_size": 32,
    "patch_size": 8,
    "in_chans": 1,
    "embed_dim": 48,
    "depth": 3,
    "num_heads": 3,
    "mlp_ratio": 2,
    "num_classes": len(CLASSES),
}
NETWORKS = {  # an architecture of timm with its arguments, and the canvas; 33 is odd after each of the strides
    "resnet": ("timm:resnet18", RESNET, 33),
    "vit": ("timm:vit_tiny_patch16_224", VIT, 32),
}
GROUP = "C4"


@dataclass(frozen=True)
class Run:
    """AdamW with a linear warm-up and a cosine to 0."""

    epochs: float
    rate: float
    batch: int = 128
    decay: float = 0.05
    warmup: int = 50  # steps
    smoothing: float = 0.0  # of labels


@dataclass(frozen=True)
class Recipe:
    base: Run
    tuned: Run  # from the base; of the control and of every softness alike
    seed: int = 0


RECIPES = {
    "resnet": Recipe(Run(2, 3e-3), Run(2, 2e-3)),
    "vit": Recipe(Run(3, 2e-3), Run(3, 2e-3)),
}
SOFTNESS = {"resnet": 0.05, "vit": 0.05}  # as choose.py chose


def role_of(softness: float) -> str:
    return f"soft{softness:g}"


def config(name: str, recipe: Recipe) -> dict:
    model, args, size = NETWORKS[name]
    return {
        "model": model,
        "args": args,
        "sample": [1, 1, size, size],
        "labels": list(CLASSES),
        "preprocess": {"color": "gray", "mean": [MEAN], "std": [STD]},
        "recipe": dataclasses.asdict(recipe),
    }


def fit(net: nn.Module, run: Run, size: int, seed: int, path: str | None) -> list[dict]:
    images, labels = load("train", path)
    random = np.random.default_rng(seed)
    heavy = [p for p in net.parameters() if p.ndim > 1]
    light = [p for p in net.parameters() if p.ndim == 1]
    groups = [{"params": heavy, "weight_decay": run.decay}, {"params": light, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=run.rate)
    per_epoch, log, started = len(images) // run.batch, [], time.monotonic()
    steps = int(run.epochs * per_epoch)
    net.train()
    order = torch.empty(0)
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.from_numpy(random.permutation(len(images)))
        chosen = order[step % per_epoch * run.batch :][: run.batch]
        for group in optimizer.param_groups:
            group["lr"] = run.rate * min(1, (step + 1) / run.warmup) * (0.5 + 0.5 * cos(pi * step / steps))
        scores = net(augmented(to_input(images[chosen], size), random))
        loss = F.cross_entropy(scores, labels[chosen], label_smoothing=run.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            accuracy = (scores.argmax(1) == labels[chosen]).float().mean().item()
            seconds = time.monotonic() - started
            log.append({"step": step, "loss": loss.item(), "accuracy": accuracy, "seconds": seconds})
            print(json.dumps({k: round(v, 4) for k, v in log[-1].items()}), flush=True)
    return log


def train(name: str, role: str, softness: float | None, recipe: Recipe, out: Path, path: str | None) -> None:
    """Writes out/<name>_<role>.safetensors and its log, unless this recipe has written them."""
    log_file = out / f"{name}_{role}.json"
    facts: dict = {"recipe": dataclasses.asdict(recipe), "softness": softness}
    if log_file.exists() and {**json.loads(log_file.read_text()), "log": None} == {**facts, "log": None}:
        return
    torch.manual_seed(recipe.seed)
    size, run = NETWORKS[name][2], recipe.base if role == "base" else recipe.tuned
    parent = out / f"{name}_base.safetensors"
    net = build_module(config(name, recipe)) if role == "base" else load_checkpoint(parent)
    if softness is not None:
        soften(net, GROUP, softness)
    log = fit(net, run, size, 2 * recipe.seed + (role != "base"), path)
    save_checkpoint(net, out / f"{name}_{role}.safetensors", config(name, recipe))
    write_text(log_file, json.dumps({**facts, "log": log}, indent=1))
    print(f"✓ {out / name}_{role}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example's networks.")
    parser.add_argument("--out", default=Path("build/soft"), type=Path, help="folder of seed0, seed1, …")
    parser.add_argument("--only", choices=NETWORKS, help="default: all")
    parser.add_argument("--softness", type=float, nargs="+", help="default: the one that was chosen")
    parser.add_argument("--seeds", default=[0], type=int, nargs="+")
    parser.add_argument("--epochs", type=float, help="of every run (default: its recipe's)")
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for seed in args.seeds:
        out = args.out / f"seed{seed}"
        out.mkdir(parents=True, exist_ok=True)
        for name in [args.only] if args.only else NETWORKS:
            recipe = dataclasses.replace(RECIPES[name], seed=seed)
            if args.epochs is not None:
                base, tuned = (
                    dataclasses.replace(r, epochs=args.epochs) for r in (recipe.base, recipe.tuned)
                )
                recipe = dataclasses.replace(recipe, base=base, tuned=tuned)
            soft = {role_of(s): s for s in args.softness or [SOFTNESS[name]]}
            for role, softness in {"base": None, "control": None, **soft}.items():
                train(name, role, softness, recipe, out, args.fashion_mnist)


if __name__ == "__main__":
    main()
