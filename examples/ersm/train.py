"""Trains the two networks of the example: `baseline`, and `masked`, the same architecture with an energy mask.

    python examples/ersm/train.py                     # the committed recipe
    python examples/ersm/train.py --short             # the same in little: 30 minutes on two cores

Both descend from one *trunk*: the first phase trains without a mask on small canvases. Then each network runs the
remaining phases by itself, with the same scenes, steps and learning rates; the masked one has its mask inserted, open.
Every file is written whole: an interrupted run goes on behind the last finished phase with --resume.
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
    """`active` is the fraction of a whole scene's positions that γ is steered to; a smaller canvas gets
    proportionally more. `steer` is the exponent of that: γ ← γ · (active now ÷ active wanted)^steer at each step."""

    trunk: Phase = Phase(96, 2400)
    phases: tuple[Phase, ...] = (Phase(128, 1200), Phase(SIZE, 800))
    batch: int = 32
    rate: float = 1.5e-3
    decay: float = 0.05
    warmup: int = 100  # steps
    active: float = 0.12
    steer: float = 0.02
    gamma: tuple[float, float] = (1e-2, 0.5)  # where it starts, and its bound
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.trunk.steps + sum(phase.steps for phase in self.phases)


SHORT = Recipe(trunk=Phase(96, 900), phases=(Phase(128, 400), Phase(SIZE, 200)))


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine to 0 over the trunk's and the network's own steps together."""
    if step < recipe.warmup:
        return recipe.rate * (step + 1) / recipe.warmup
    return recipe.rate * _cosine((step - recipe.warmup) / (recipe.steps - recipe.warmup))


def mask_learning_rate(recipe: Recipe, step: int) -> float:
    """The mask starts with the trunk's end, when the network's rate has fallen: it has a whole cosine to itself."""
    return recipe.rate * _cosine((step - recipe.trunk.steps) / (recipe.steps - recipe.trunk.steps))


def _cosine(share: float) -> float:
    return 0.5 + 0.5 * cos(pi * min(max(share, 0.0), 1.0))


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
                "schedule": learning_rate,
                "weight_decay": recipe.decay,
            },
            {"params": [p for p in others if p.ndim == 1], "schedule": learning_rate},
            {"params": of_masks, "schedule": mask_learning_rate},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.0)
        self.log: list[dict] = []

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
            group["lr"] = group["schedule"](self.recipe, self.step)
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.net(x).float()
        loss = F.cross_entropy(scores, labels)
        total = loss + energy_regularizer(self.net) if self.masks else loss
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self._steer(size)
        if self.step % 20 == 0:
            accuracy = (scores.argmax(1) == labels).float().mean()
            self._record(size, loss=loss.item(), accuracy=accuracy.item())

    def _steer(self, size: int) -> None:
        low, high = self.recipe.gamma
        for mask in self.masks:
            wanted = min(1.0, self.recipe.active * (SIZE / size) ** 2)
            now = mask.active_fraction().mean().clamp(min=wanted / 10)
            mask.gamma.mul_((now / wanted) ** self.recipe.steer).clamp_(low / 10, high)

    def _record(self, size: int, **values: float) -> None:
        facts = {"step": self.step, "size": size, "time_s": time.time(), **values}
        for mask in self.masks:
            facts |= {"active": mask.active_fraction().mean().item(), "gamma": mask.gamma.item()}
        self.log.append(facts)
        print(json.dumps({k: round(v, 4) for k, v in facts.items()}), flush=True)


def save(trainer: Trainer, out: Path, name: str, seconds: float) -> None:
    recipe = dataclasses.asdict(trainer.recipe)
    config = {**CONFIG, "preprocess": PREPROCESS, "recipe": recipe}
    save_checkpoint(trainer.net, out / f"{name}.safetensors", config)
    log = {"recipe": recipe, "steps": trainer.step, "seconds": round(seconds), "log": trainer.log}
    write_text(out / f"{name}.json", json.dumps(log, indent=1))


def train(out: Path, name: str, recipe: Recipe, fashion_mnist: str | None, resume: bool) -> None:
    """Writes out/<name>.safetensors, a copy behind each phase (<name>-<phase>), and the log beside each."""
    torch.manual_seed(recipe.seed)
    step, phases = 0, (recipe.trunk,)
    if name == "trunk":
        net = small_resnet(**NET)
    else:
        net = load_checkpoint(out / "trunk.safetensors")
        step, phases = recipe.trunk.steps, recipe.phases
    if name == "masked":
        net = insert_energy_mask(net, sample=torch.zeros(CONFIG["sample"]), gamma=recipe.gamma[0], **MASK)
    net = nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
    trainer, started = Trainer(net, recipe, step, fashion_mnist), time.time()
    for number, phase in enumerate(phases):
        saved = out / f"{name}-{number}.safetensors"
        if resume and saved.exists():
            trainer.net.load_state_dict(load_checkpoint(saved).state_dict())
            trainer.step += phase.steps
            continue
        trainer.run(phase)
        save(trainer, out, f"{name}-{number}", time.time() - started)
    save(trainer, out, name, time.time() - started)
    print(f"✓ {name}  {time.time() - started:.0f} s  {out / name}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example's networks.")
    parser.add_argument("--out", default=Path("build/ersm"), type=Path, help="folder of checkpoints and logs")
    parser.add_argument(
        "--only", choices=("trunk", "baseline", "masked"), help="default: all three, in this order"
    )
    parser.add_argument("--short", action="store_true", help="fewer steps")
    parser.add_argument("--resume", action="store_true", help="go on behind finished phases")
    parser.add_argument("--threads", default=2, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = dataclasses.replace(SHORT if args.short else Recipe(), seed=args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in (args.only,) if args.only else ("trunk", "baseline", "masked"):
        train(args.out, name, recipe, args.fashion_mnist, args.resume)


if __name__ == "__main__":
    main()
