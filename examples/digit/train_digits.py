"""Trains the example's network on digits anywhere on the canvas, and writes its checkpoint in half precision.

python examples/digit/train_digits.py                    # some five minutes on one core
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from digits import CANVAS, CHECKPOINT, DIGIT, load_digits, network, place
from foveate.export import save_checkpoint
from torch import Tensor, nn

STEPS, BATCH, RATE, SEED = 1200, 64, 2e-3, 0


def scatter(digits: Tensor, generator: torch.Generator) -> Tensor:
    """[n, 1, 64, 64]: each digit somewhere."""
    tops, lefts = torch.randint(CANVAS - DIGIT + 1, (2, len(digits)), generator=generator)
    return place(digits, tops, lefts)


def train(net: nn.Module, steps: int, seed: int) -> None:
    digits, labels = load_digits(train=True)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        chosen = torch.randint(len(digits), (BATCH,), generator=generator)
        loss = F.cross_entropy(net(scatter(digits[chosen], generator)), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}", flush=True)


@torch.inference_mode()
def accuracy(net: nn.Module, seed: int) -> float:
    """Of the test digits, each once, somewhere."""
    digits, labels = load_digits(train=False)
    found = net(scatter(digits, torch.Generator().manual_seed(seed))).argmax(1)
    return (found == labels).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=CHECKPOINT)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums are added in one order: the seed decides all
    torch.manual_seed(args.seed)
    net = network()
    train(net, args.steps, args.seed)
    found = accuracy(net.half().float(), args.seed)
    recipe = {"steps": args.steps, "batch": BATCH, "rate": RATE, "seed": args.seed}
    save_checkpoint(net.half(), args.out, {"recipe": recipe, "accuracy": found})
    print(f"✓ {args.out}  accuracy {found:.4f}")


if __name__ == "__main__":
    main()
