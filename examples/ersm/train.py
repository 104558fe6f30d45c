"""Trains the two networks of the example: `baseline`, and `masked`, the same architecture with an energy mask.

    python examples/ersm/train.py --out build/ersm
    python examples/ersm/train.py --short             # the same in little

Seven runs, each a file: `small` learns the garments on small canvases, `trunk` goes on from there on whole scenes, and
from the trunk go `baseline1` → `baseline` and `masked1` → `masked2`, with the same scenes, steps and learning rates.
The masked one gets its mask inserted and learns from the silhouettes too what to keep; `masked2` learns besides to
answer as `baseline1` does. `masked` learns last, from `baseline`, to keep a rim around the garments. Every file is
written whole; --resume keeps the runs that this recipe has finished.
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
    location_loss,
    save_checkpoint,
    small_resnet,
)
from foveate.pipeline.files import write_text
from scoring import to_input
from silhouettes import SHARE, start_from_silhouettes
from torch import Tensor, nn

NET = {
    "widths": [64, 96, 128],
    "blocks": [5, 1, 1],
    "num_classes": len(CLASSES),
    "stem": 32,
    "context": [2, 4],
}
MASK = {"after": "stem", "patch": 4, "persist": "conv"}
PREPROCESS = {"size": [SIZE, SIZE], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
CONFIG = {"model": "small_resnet", "args": NET, "sample": [1, 3, SIZE, SIZE], "labels": list(CLASSES)}


@dataclass(frozen=True)
class Phase:
    size: int  # px, the canvas; a garment is as large as ever, so a small canvas is mostly garment
    steps: int


@dataclass(frozen=True)
class Run:
    """One optimiser's life: linear warm-up to `rate`, then constant, or a cosine to 0 over the run's steps.

    A masked network's loss is cross-entropy + the paper's regulariser + location · `location_loss` of weight `miss`
    + distil · the divergence from the teacher's softened answers (Hinton et al., arXiv 1503.02531)."""

    phases: tuple[Phase, ...]
    rate: float
    warmup: int  # steps
    constant: bool = False
    location: float = 0.0
    miss: float = 0.0
    distil: float = 0.0
    rim: int = 0  # px around a silhouette that count as garment

    @property
    def steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def learning_rate(self, step: int) -> float:
        cosine = 1.0 if self.constant else 0.5 + 0.5 * cos(pi * step / self.steps)
        return self.rate * min(1.0, (step + 1) / self.warmup) * cosine


@dataclass(frozen=True)
class Recipe:
    """`open`: the fraction of a scene's positions that the mask keeps at first."""

    small: Run = Run((Phase(96, 1800), Phase(160, 300)), rate=1.5e-3, warmup=100, constant=True)
    trunk: Run = Run((Phase(SIZE, 500),), rate=1.5e-3, warmup=1)
    own: Run = Run((Phase(SIZE, 800),), rate=7e-4, warmup=20, location=3.0, miss=4.0)
    last: Run = Run((Phase(SIZE, 320),), rate=4e-4, warmup=10, location=1.0, miss=10.0, distil=1.0)
    rim: Run = Run((Phase(SIZE, 150),), rate=4e-4, warmup=10, location=1.0, miss=10.0, distil=1.0, rim=8)
    batch: int = 32
    decay: float = 0.05
    open: float = 0.12
    seed: int = 0

    def run(self, name: str) -> tuple[Run, int]:
        """The run of a network, and the step that it starts at."""
        runs = (self.small, self.trunk, self.own, self.last, self.rim)
        stage = STAGE[name]
        return runs[stage], sum(run.steps for run in runs[:stage])


STAGE = {"small": 0, "trunk": 1, "baseline1": 2, "masked1": 2, "baseline": 3, "masked2": 3, "masked": 4}
PARENT = {
    "trunk": "small",
    "baseline1": "trunk",
    "masked1": "trunk",
    "baseline": "baseline1",
    "masked2": "masked1",
    "masked": "masked2",
}
TEACHER = {"masked2": "baseline1", "masked": "baseline"}
SOFTNESS = 2.0  # temperature of the teacher's and the student's answers
SHORT = Recipe(
    small=Run((Phase(96, 600), Phase(160, 60)), rate=1.5e-3, warmup=100, constant=True),
    trunk=Run((Phase(SIZE, 120),), rate=1.5e-3, warmup=1),
    own=Run((Phase(SIZE, 90),), rate=7e-4, warmup=20, location=3.0, miss=4.0),
    last=Run((Phase(SIZE, 40),), rate=4e-4, warmup=5, location=1.0, miss=10.0, distil=1.0),
    rim=Run((Phase(SIZE, 30),), rate=4e-4, warmup=5, location=1.0, miss=10.0, distil=1.0, rim=8),
)


class Trainer:
    """One network's run. `log` collects one record every 20 steps."""

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        name: str,
        fashion_mnist: str | None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.net, self.recipe, self.path, self.teacher = net, recipe, fashion_mnist, teacher
        self.schedule, self.first = recipe.run(name)
        self.step = self.first
        self.masks = list(getattr(net, "masks", []))
        self.optimizer = torch.optim.AdamW(self._groups(), weight_decay=0.0)
        self.log: list[dict] = []
        self.started = time.monotonic()

    def _groups(self) -> list[dict]:
        """Convs and the head decay; norms, biases and masks do not."""
        of_masks = {id(p) for mask in self.masks for p in mask.parameters()}
        parameters = list(self.net.parameters())
        heavy = [p for p in parameters if p.ndim > 1 and id(p) not in of_masks]
        light = [p for p in parameters if p.ndim == 1 or id(p) in of_masks]
        return [{"params": heavy, "weight_decay": self.recipe.decay}, {"params": light}]

    def run(self, phase: Phase) -> None:
        scenes = Scenes("train", self.recipe.seed, phase.size, self.path)
        batch, self.net = self.recipe.batch, self.net.train()
        with ThreadPoolExecutor(1) as background:
            made = background.submit(scenes.batch, self.step * batch, batch)
            for _ in range(phase.steps):
                images, silhouettes, labels = made.result()
                made = background.submit(scenes.batch, (self.step + 1) * batch, batch)
                self._update(to_input(images), torch.from_numpy(silhouettes), torch.from_numpy(labels))
                self.step += 1

    def _update(self, x: Tensor, silhouettes: Tensor, labels: Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.learning_rate(self.step - self.first)
        with torch.autocast("cpu", torch.bfloat16):
            scores = self.net(x).float()
        loss = F.cross_entropy(scores, labels)
        total = loss + self._mask_loss(x, silhouettes, scores) if self.masks else loss
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        if self.step % 20 == 0:
            accuracy = (scores.argmax(1) == labels).float().mean()
            self._record(x.shape[2], loss=loss.item(), accuracy=accuracy.item())

    def _mask_loss(self, x: Tensor, silhouettes: Tensor, scores: Tensor) -> Tensor:
        run = self.schedule
        loss = energy_regularizer(self.net)
        silhouettes = F.max_pool2d(silhouettes[:, None], 2 * run.rim + 1, 1, run.rim)[:, 0]
        loss = loss + run.location * location_loss(self.net, silhouettes, SHARE, run.miss)
        if self.teacher is None:
            return loss
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            wanted = F.softmax(self.teacher(x).float() / SOFTNESS, 1)
        answered = F.log_softmax(scores / SOFTNESS, 1)
        return loss + run.distil * SOFTNESS**2 * F.kl_div(answered, wanted, reduction="batchmean")

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
    net = load_checkpoint(out / f"{PARENT[name]}.safetensors") if name in PARENT else small_resnet(**NET)
    if name == "masked1":
        stem = net.get_submodule(MASK["after"])
        net = insert_energy_mask(net, sample=torch.zeros(CONFIG["sample"]), **MASK)
        scenes = Scenes("train", recipe.seed + 1, SIZE, fashion_mnist)
        start_from_silhouettes(net.masks[0], stem, scenes, recipe.open)
    net = nn.utils.convert_conv2d_weight_memory_format(net, torch.channels_last)
    teacher = load_checkpoint(out / f"{TEACHER[name]}.safetensors").eval() if name in TEACHER else None
    trainer = Trainer(net, recipe, name, fashion_mnist, teacher)
    for phase in trainer.schedule.phases:
        trainer.run(phase)
        save(trainer, out, name, time.time() - started)
    print(f"✓ {name}  {time.time() - started:.0f} s  {out / name}.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example's networks.")
    parser.add_argument("--out", default=Path("build/ersm"), type=Path, help="folder of checkpoints and logs")
    parser.add_argument("--only", choices=STAGE, help="default: all, in this order")
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
    for name in (args.only,) if args.only else STAGE:
        if not (args.resume and _finished(args.out / f"{name}.json", recipe, name)):
            train(args.out, name, recipe, args.fashion_mnist)


def _finished(log: Path, recipe: Recipe, name: str) -> bool:
    """Whether the log is of this recipe's last step."""
    facts = json.loads(log.read_text()) if log.exists() else {}
    run, first = recipe.run(name)
    steps = first + run.steps
    return facts.get("steps") == steps and facts.get("recipe") == json.loads(
        json.dumps(dataclasses.asdict(recipe))
    )


if __name__ == "__main__":
    main()
