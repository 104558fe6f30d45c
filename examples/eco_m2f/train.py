"""Step A of ECO-M2F: trains the example's Mask2Former with weighted stochastic depth.

    python -m examples.eco_m2f.train --out build/eco_m2f

Each step draws an exit k, runs layers 1 … k of the encoder only, decodes, and multiplies the whole loss by α_k ∝ k.
Exits are drawn ∝ k²: layer 6 learns in no other steps than those of exit 6.

Steps are functions of (seed, number), and a run that was interrupted goes on where its last checkpoint was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from foveate.pipeline.files import replacing, write_text
from torch import Tensor, nn

from examples.eco_m2f.model import EXITS, PREPROCESSING, exit_at, load_parent, new_model, to_input
from examples.eco_m2f.scenes import CATEGORIES, INSTANCES, Scenes, segments

ALPHA = {k: k / np.mean(EXITS) for k in EXITS}
STRIDE = 4  # px, of the features that masks are made of
DRAW = np.square(EXITS) / np.sum(np.square(EXITS))


@dataclass(frozen=True)
class Recipe:
    """Learning rate: linear warm-up, constant, then linear to 0 over the last `decay` of the steps."""

    alone: int = 1000  # first steps: the backbone learns, without encoder and decoder
    joint: int = 8000
    batch: int = 8
    rates: tuple[float, float] = (2e-3, 5e-4)  # of either
    warmup: int = 100  # steps
    decay: float = 0.6
    weight_decay: float = 0.02
    clip: float = 100.0  # norm of the gradient: spikes only, or else it would undo α
    pixels: float = 4.0  # weight of the loss of pixels
    seed: int = 0

    @property
    def steps(self) -> int:
        return self.alone + self.joint

    def learning_rate(self, step: int) -> float:
        alone = step < self.alone
        rate, length = (self.rates[0], self.alone) if alone else (self.rates[1], self.joint)
        step = step if alone else step - self.alone
        return rate * min(1.0, (step + 1) / self.warmup, (length - step) / (self.decay * length))


class Trainer:
    """`probes` read each pixel's category from features of the backbone (strides 8, 16, 32) and from those that masks
    are made of: categories are learned long before queries find their segments. They are not kept."""

    def __init__(self, recipe: Recipe, fashion_mnist: str | None, start: Path | None = None) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.step, self.seconds = recipe, 0, 0.0
        self.scenes = Scenes("train", recipe.seed, path=fashion_mnist)
        self.net: Any = (load_parent(start) if start else new_model()).train()
        self.backbone = self.net.model.pixel_level_module.encoder
        channels = [*self.backbone.channels[1:], self.net.config.mask_feature_size]
        self.probes = nn.ModuleList(nn.Conv2d(c, len(CATEGORIES), 1) for c in channels)
        parameters = [*self.net.parameters(), *self.probes.parameters()]
        heavy, light = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim == 1]
        groups = [{"params": heavy, "weight_decay": recipe.weight_decay}, {"params": light}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0)

    def run(self, out: Path, every: float = 120.0) -> None:
        """Trains to the end; a checkpoint every so many seconds."""
        started = saved = time.monotonic()
        before, log = self.seconds, []
        with ThreadPoolExecutor(1) as background:
            made = background.submit(self._batch, self.step)
            while self.step < self.recipe.steps:
                images, truths = made.result()
                made = background.submit(self._batch, self.step + 1)
                log.append(self._update(images, truths))
                self.step += 1
                self.seconds = before + time.monotonic() - started
                if self.step % 100 == 0:
                    self._tell(log)
                    log.clear()
                if time.monotonic() - saved > every:
                    self.save(out)
                    saved = time.monotonic()
        self.save(out)

    def _batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return self.scenes.batch(step * self.recipe.batch, self.recipe.batch)

    def _update(self, images: np.ndarray, truths: np.ndarray) -> dict[str, float]:
        """One step; what it found."""
        torch.manual_seed(self.recipe.seed * 10**6 + self.step)  # of the points that the loss samples
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(self.step)
        categories = torch.from_numpy(
            truths[:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE] // INSTANCES
        ).long()
        alone = self.step < self.recipe.alone
        loss, facts = (self._of_backbone if alone else self._of_exit)(to_input(images), truths, categories)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.clip)
        self.optimizer.step()
        return {**facts, "norm": norm.item()}

    def _of_backbone(
        self, x: Tensor, truths: np.ndarray, categories: Tensor
    ) -> tuple[Tensor, dict[str, float]]:
        maps = self.backbone(x).feature_maps[1:]
        losses = [self._pixels(i, features, categories) for i, features in enumerate(maps)]
        return torch.stack(losses).sum(), {"pixels": losses[1].item()}

    def _of_exit(self, x: Tensor, truths: np.ndarray, categories: Tensor) -> tuple[Tensor, dict[str, float]]:
        depth = int(np.random.default_rng([self.recipe.seed, self.step]).choice(EXITS, p=DRAW))
        masks, classes = zip(*(targets(truth) for truth in truths), strict=True)
        with exit_at(self.net, depth):
            found = self.net(pixel_values=x, mask_labels=masks, class_labels=classes)
        pixels = self._pixels(-1, found.pixel_decoder_last_hidden_state, categories)
        loss = ALPHA[depth] * (found.loss + self.recipe.pixels * pixels).sum()
        return loss, {f"exit {depth}": found.loss.item(), "pixels": pixels.item()}

    def _pixels(self, probe: int, features: Tensor, categories: Tensor) -> Tensor:
        scores = F.interpolate(self.probes[probe](features), categories.shape[1:], mode="bilinear")
        return F.cross_entropy(scores, categories)

    def _tell(self, log: list[dict[str, float]]) -> None:
        names = sorted({name for facts in log for name in facts})
        means = {name: np.mean([facts[name] for facts in log if name in facts]) for name in names}
        facts = {"step": self.step, "seconds": round(self.seconds)}
        print(json.dumps(facts | {name: round(float(mean), 3) for name, mean in means.items()}), flush=True)

    def save(self, out: Path) -> None:
        self.net.save_pretrained(out / "parent")
        write_text(out / "parent" / "preprocessor_config.json", json.dumps(PREPROCESSING, indent=1) + "\n")
        facts = {
            "recipe": dataclasses.asdict(self.recipe),
            "steps": self.step,
            "seconds": round(self.seconds),
        }
        write_text(out / "training.json", json.dumps(facts, indent=1) + "\n")
        with replacing(out / "state.pt") as temporary:
            state = {"net": self.net, "probes": self.probes, "optimizer": self.optimizer}
            torch.save(facts | {name: part.state_dict() for name, part in state.items()}, temporary)

    def resume(self, out: Path) -> None:
        state = torch.load(out / "state.pt", weights_only=True)
        self.step, self.seconds = state["steps"], state["seconds"]
        for name in ("net", "probes", "optimizer"):
            getattr(self, name).load_state_dict(state[name])


def targets(truth: np.ndarray) -> tuple[Tensor, Tensor]:
    """int32 [H, W] -> masks float32 [segments, H, W] and categories int64 [segments]."""
    found = segments(truth)
    masks = np.stack([truth == identity for identity, _, _ in found])
    return torch.from_numpy(masks).float(), torch.tensor([category for _, category, _ in found])


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the example's Mask2Former.")
    parser.add_argument(
        "--out", default=Path("build/eco_m2f"), type=Path, help="folder of checkpoints and log"
    )
    parser.add_argument("--alone", default=Recipe.alone, type=int, help="steps of the backbone alone")
    parser.add_argument("--joint", default=Recipe.joint, type=int, help="steps of all")
    parser.add_argument("--start", type=Path, help="checkpoint folder to start from")
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(Recipe(args.alone, args.joint, seed=args.seed), args.fashion_mnist, args.start)
    if (args.out / "state.pt").exists():
        trainer.resume(args.out)
    trainer.run(args.out)
    print(f"✓ parent  {trainer.step} steps  {trainer.seconds / 60:.0f} min  {args.out / 'parent'}")


if __name__ == "__main__":
    main()
