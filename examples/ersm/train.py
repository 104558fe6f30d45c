"""Trains the two networks of the example: `baseline`, and `masked`, the same architecture with an energy mask.

    python examples/ersm/train.py                     # the committed recipe
    python examples/ersm/train.py --short             # the same in little: 30 minutes on two cores

Both descend from one *trunk*, trained without a mask on small canvases. Then each goes on by itself on whole scenes,
with the same scenes, steps and learning rates; the masked one has its mask inserted half open.
Every file is written whole: an interrupted run goes on behind the last finished network with --resume.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path

import torch
import torch.nn.functional as F
from data import CLASSES, SIZE, Scenes
from foveate.export import (
    energy_regularizer,
    insert_energy_mask,
    load_checkpoint,
    save_checkpoint,
    small_resnet,
)
from foveate.pipeline.files import write_text
from scoring import to_input
from sensitivity import start_from_sensitivity
from torch import Tensor, nn

NET = {"widths": [48, 96, 192], "blocks": [3, 3, 1], "num_classes": len(CLASSES), "stem": 48}
MASK = {"after": "stem", "patch": 4, "persist": "conv"}
PREPROCESS = {"size": [SIZE, SIZE], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
CONFIG = {"model": "small_resnet", "args": NET, "sample": [1, 3, SIZE, SIZE], "labels": list(CLASSES)}


@dataclass(frozen=True)
class Phase:
    size: int  # px, the canvas; a garment is as large as ever, so a small canvas is mostly garment
    steps: int


@dataclass(frozen=True)
class Recipe:
    """What the mask shall keep falls from `half_open` of a scene's positions to `active`, geometrically, in the first
    `closing` of the masked network's own steps: the loss has the term pressure · (kept − wanted) · mean(m)."""

    trunk: tuple[Phase, ...] = (Phase(96, 1200), Phase(128, 500))
    own: Phase = Phase(SIZE, 500)
    batch: int = 32
    rate: float = 1.5e-3
    mask_rate: float = 2e-3
    decay: float = 0.05
    warmup: int = 100  # steps
    half_open: float = 0.5
    active: float = 0.12
    closing: float = 0.4
    pressure: float = 3.0
    seed: int = 0

    @property
    def shared(self) -> int:
        """Steps of the trunk."""
        return sum(phase.steps for phase in self.trunk)


SHORT = Recipe(trunk=(Phase(96, 900), Phase(128, 300)), own=Phase(SIZE, 250))


def learning_rate(recipe: Recipe, step: int, rate: float) -> float:
    """Linear warm-up, constant through the trunk, then a cosine to 0."""
    own = max(0, step - recipe.shared) / recipe.own.steps
    return rate * min(1.0, (step + 1) / recipe.warmup) * (0.5 + 0.5 * cos(pi * min(own, 1.0)))


class Trainer:
    """One network's run. `log` collects one record every 20 steps."""

    def __init__(self, net: nn.Module, recipe: Recipe, step: int, fashion_mnist: str | None) -> None:
        self.net, self.recipe, self.step, self.path = net, recipe, step, fashion_mnist
        self.masks = list(getattr(net, "masks", []))
        of_masks = [p for mask in self.masks for p in mask.parameters()]
        others = [p for p in net.parameters() if not any(p is q for q in of_masks)]
        groups = [
            {
                "params": [p for p in others if p.ndim > 1],
                "rate": recipe.rate,
                "weight_decay": recipe.decay,
            },
            {"params": [p for p in others if p.ndim == 1], "rate": recipe.rate},
            {"params": of_masks, "rate": recipe.mask_rate},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.0)
        self.log: list[dict] = []
        self.started = time.monotonic()

    def run(self, phase: Phase) -> None:
        scenes = Scenes("train", self.recipe.seed, phase.size, self.path)
        batch, self.net = self.recipe.batch, self.net.train()
        with ThreadPoolExecutor(1) as background:
            made = background.submit(scenes.batch, self.step * batch, batch)
            for _ in range(phase.steps):
                images, labels = made.result()
                made = background.submit(scenes.batch, (self.step + 1) * batch, batch)
                self._update(to_input(images), torch.from_numpy(labels), phase.size)
                self.step += 1

    def _update(self, x: Tensor, labels: Tensor, size: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.step, group["rate"])
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.net(x).float()
        loss = F.cross_entropy(scores, labels)
        total = loss + energy_regularizer(self.net) + self._sparsity() if self.masks else loss
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        if self.step % 20 == 0:
            accuracy = (scores.argmax(1) == labels).float().mean()
            self._record(size, loss=loss.item(), accuracy=accuracy.item())

    def _sparsity(self) -> Tensor:
        """A pull towards the wanted active fraction: ERSM's own regulariser is too weak to close a mask (README)."""
        recipe = self.recipe
        progress = (self.step - recipe.shared) / (recipe.closing * recipe.own.steps)
        wanted = max(recipe.active, recipe.half_open * (recipe.active / recipe.half_open) ** progress)
        pulls = [(m.active_fraction().mean() - wanted) * m.probability().mean() for m in self.masks]
        return recipe.pressure * torch.stack(pulls).sum()

    def _record(self, size: int, **values: float) -> None:
        facts = {"step": self.step, "size": size, "seconds": time.monotonic() - self.started, **values}
        for mask in self.masks:
            active, m = mask.active_fraction().mean(), mask.probability().mean()
            facts |= {"active": active.item(), "m": m.item()}
        self.log.append(facts)
        print(json.dumps({k: round(v, 4) for k, v in facts.items()}), flush=True)


def save(trainer: Trainer, out: Path, name: str, seconds: float) -> None:
    recipe = dataclasses.asdict(trainer.recipe)
    config = {**CONFIG, "preprocess": PREPROCESS, "recipe": recipe}
    save_checkpoint(trainer.net, out / f"{name}.safetensors", config)
    log = {"recipe": recipe, "steps": trainer.step, "seconds": round(seconds), "log": trainer.log}
    write_text(out / f"{name}.json", json.dumps(log, indent=1))


def train(out: Path, name: str, recipe: Recipe, fashion_mnist: str | None) -> None:
    """Writes out/<name>.safetensors and its log, behind each phase."""
    torch.manual_seed(recipe.seed)
    started = time.time()
    net = small_resnet(**NET) if name == "trunk" else load_checkpoint(out / "trunk.safetensors")
    if name == "masked":
        net = insert_energy_mask(net, sample=torch.zeros(CONFIG["sample"]), **MASK)
        start_from_sensitivity(net, Scenes("train", recipe.seed + 1, SIZE, fashion_mnist), recipe.half_open)
    net = nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
    trainer = Trainer(net, recipe, 0 if name == "trunk" else recipe.shared, fashion_mnist)
    for phase in recipe.trunk if name == "trunk" else (recipe.own,):
        trainer.run(phase)
        save(trainer, out, name, time.time() - started)
    print(f"✓ {name}  {time.time() - started:.0f} s  {out / name}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example's networks.")
    parser.add_argument("--out", default=Path("build/ersm"), type=Path, help="folder of checkpoints and logs")
    parser.add_argument(
        "--only", choices=("trunk", "baseline", "masked"), help="default: all three, in this order"
    )
    parser.add_argument("--short", action="store_true", help="fewer steps")
    parser.add_argument(
        "--resume", action="store_true", help="keep the networks that this recipe has finished"
    )
    parser.add_argument("--threads", default=2, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = dataclasses.replace(SHORT if args.short else Recipe(), seed=args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in (args.only,) if args.only else ("trunk", "baseline", "masked"):
        if not (args.resume and _finished(args.out / f"{name}.json", recipe, name)):
            train(args.out, name, recipe, args.fashion_mnist)


def _finished(log: Path, recipe: Recipe, name: str) -> bool:
    """Whether the log is of this recipe's last step."""
    facts = json.loads(log.read_text()) if log.exists() else {}
    steps = recipe.shared + (0 if name == "trunk" else recipe.own.steps)
    return facts.get("steps") == steps and facts.get("recipe") == json.loads(
        json.dumps(dataclasses.asdict(recipe))
    )


if __name__ == "__main__":
    main()
