"""Does an equivariant backbone keep energy masks equivariant? Two small ERSM networks, trained alike: one as it is, one
whose convs are strictly C4-equivariant.

    python -m examples.soft_equivariance.masks --out build/soft     # trains both (12 minutes of a core), measures them

Both learn the garments first, then with a mask behind the stem, which persists. Scenes are those of examples/ersm at
97 × 97, a size that every stride leaves centered. Agreement is the share of positions that the mask of a turned scene,
turned back, decides as the scene's own; overlap that of the kept positions (intersection ÷ union).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from foveate.export import (
    EnergyMaskLayer,
    energy_regularizer,
    fold,
    insert_energy_mask,
    load_checkpoint,
    location_loss,
    save_checkpoint,
    small_resnet,
    soften,
)
from foveate.export.mask_losses import wanted_tokens
from foveate.pipeline.files import write_text
from torch import Tensor, nn

from examples.ersm.data import CLASSES, Scenes

SIZE = 97  # px
NET = {
    "widths": [16, 32, 64],
    "blocks": [1, 1, 1],
    "num_classes": len(CLASSES),
    "stem": 16,
    "context": [2, 4],
}
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
CONFIG = {"model": "small_resnet", "args": NET, "sample": [1, 3, SIZE, SIZE], "preprocess": PREPROCESS}
ROLES = {"plain": None, "strict": 0.0}  # with the softness of the backbone
STEPS = (3000, 1500)  # without the mask, and with it
RATES = (3e-3, 1.5e-3)
BATCH, SEED = 32, 0


def masked(net: nn.Module) -> nn.Module:
    return insert_energy_mask(net, "stem", sample=torch.zeros(CONFIG["sample"]), start=0.0)


def to_input(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W]."""
    return ((torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).contiguous()


def train(net: nn.Module, first: int, steps: int, rate: float, path: str | None) -> None:
    """From scene first · BATCH on. A mask, where there is one, also learns from the silhouettes what to keep."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    source = Scenes("train", SEED, SIZE, path)
    has_mask = any(isinstance(m, EnergyMaskLayer) for m in net.modules())
    net.train()
    right = 0
    for step in range(first, first + steps):
        images, silhouettes, labels = source.batch(step * BATCH, BATCH)
        with torch.autocast("cpu", torch.bfloat16):
            scores = net(to_input(images)).float()
        loss = F.cross_entropy(scores, torch.from_numpy(labels))
        if has_mask:
            loss = loss + energy_regularizer(net) + location_loss(net, torch.from_numpy(silhouettes))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right += (scores.argmax(1) == torch.from_numpy(labels)).sum().item()
        if step % 100 == 99:
            print(
                f"step {step + 1:4d}  loss {loss.item():.3f}  accuracy {right / 100 / BATCH:.1%}", flush=True
            )
            right = 0


@torch.inference_mode()
def measure(net: nn.Module, count: int, path: str | None) -> dict[str, float]:
    """Means over test scenes and the three turns."""
    images, silhouettes, labels = Scenes("test", SEED, SIZE, path).batch(0, count)
    x, labels = to_input(images), torch.from_numpy(labels)
    keep, scores = decide(net, x)
    wanted = wanted_tokens(torch.from_numpy(silhouettes), (keep.shape[2], keep.shape[3]), 0.1) > 0
    facts = {
        "active": keep.float().mean().item(),
        "found": (keep & wanted).sum().item() / wanted.sum().item(),
    }
    facts["accuracy"] = (scores.argmax(1) == labels).float().mean().item()
    agreement, overlap, errors, turned = [], [], [], []
    for turns in (1, 2, 3):
        moved, answers = decide(net, x.rot90(turns, (2, 3)).contiguous())
        moved = moved.rot90(-turns, (2, 3))
        agreement.append((moved == keep).float().mean())
        overlap.append((moved & keep).sum() / (moved | keep).sum())
        errors.append(((answers - scores).norm(dim=1) / scores.norm(dim=1)).mean())
        turned.append((answers.argmax(1) == labels).float().mean())
    means = {"agreement": agreement, "overlap": overlap, "error": errors, "turned": turned}
    return facts | {name: torch.stack(values).mean().item() for name, values in means.items()}


def decide(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Keep masks bool [N, 1, h, w] and scores."""
    masks = []
    (mask,) = (m for m in net.modules() if isinstance(m, EnergyMaskLayer))
    hook = mask.register_forward_hook(lambda module, inputs, keep: masks.append(keep != 0))
    scores = torch.cat([net(part) for part in x.split(50)])
    hook.remove()
    return torch.cat(masks), scores


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [
        "| backbone | masks agree | kept positions overlap | active | accuracy | turned | error of the scores |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        shares = " | ".join(f"{row[k]:.1%}" for k in ("agreement", "overlap", "active", "accuracy", "turned"))
        lines.append(f"| {name} | {shares} | {row['error']:.2g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Masks of two small ERSM networks under rotation.")
    parser.add_argument("--out", default=Path("build/soft"), type=Path, help="folder of the checkpoints")
    parser.add_argument("--only", choices=ROLES, help="default: both")
    parser.add_argument("--measure", action="store_true", help="only measure the checkpoints that are there")
    parser.add_argument("--steps", default=STEPS, type=int, nargs=2, help="without the mask, and with it")
    parser.add_argument("--count", default=1000, type=int, help="test scenes")
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {}
    for name, softness in {args.only: ROLES[args.only]}.items() if args.only else ROLES.items():
        path = args.out / f"ersm_{name}.safetensors"
        if not args.measure:
            torch.manual_seed(SEED)
            net = small_resnet(**NET)
            if softness is not None:
                soften(net, "C4", softness)
            alone, with_mask = args.steps
            train(net, 0, alone, RATES[0], args.fashion_mnist)
            net = masked(net)
            train(net, alone, with_mask, RATES[1], args.fashion_mnist)
            save_checkpoint(net, path, {**CONFIG, "labels": list(CLASSES)})
        rows[name] = measure(fold(load_checkpoint(path)), args.count, args.fashion_mnist)
    print(table(rows))
    write_text(args.out / "masks.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
