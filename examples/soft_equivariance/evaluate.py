"""The table: accuracy and equivariance error of the example's networks on Fashion-MNIST's test images.

    python -m examples.soft_equivariance.evaluate                    # the committed checkpoints; a minute

Rotated accuracy is that of images turned by an angle of their own within ±30°, combined accuracy the geometric mean of
both. The error is ‖F(gx) − F(x)‖ ÷ ‖F(x)‖ of the scores, and KL that of their softmax, both means over images and
turns g by 90°, 180° and 270°; tilted KL is that of the ±30° ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from foveate.export import fold, load_checkpoint
from foveate.pipeline.files import write_text
from torch import Tensor, nn

from .data import load, tilted, to_input

HERE = Path(__file__).parent
ROLES = ("base", "control", "soft")


@torch.inference_mode()
def scores(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(part) for part in x.split(500)])


def measure(net: nn.Module, x: Tensor, labels: Tensor) -> dict[str, float]:
    """x: float32 [N, 1, H, W], upright."""
    upright, aslant = scores(net, x), scores(net, tilted(x, seed=1))
    turned = [scores(net, x.rot90(k, (2, 3)).contiguous()) for k in (1, 2, 3)]
    clean, rotated = _accuracy(upright, labels), _accuracy(aslant, labels)
    return {
        "accuracy": clean,
        "rotated": rotated,
        "combined": (clean * rotated) ** 0.5,
        "turned": sum(_accuracy(t, labels) for t in (upright, *turned)) / 4,
        "error": sum(((t - upright).norm(dim=1) / upright.norm(dim=1)).mean().item() for t in turned) / 3,
        "kl": sum(_kl(upright, t) for t in turned) / 3,
        "tilted_kl": _kl(upright, aslant),
    }


def _accuracy(answers: Tensor, labels: Tensor) -> float:
    return (answers.argmax(1) == labels).float().mean().item()


def _kl(upright: Tensor, other: Tensor) -> float:
    """mean KL(softmax F(x) ‖ softmax F(gx)), in nats."""
    return F.kl_div(
        other.log_softmax(1), upright.log_softmax(1), log_target=True, reduction="batchmean"
    ).item()


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [
        "| network | accuracy | rotated ±30° | combined | turned | error | KL | KL ±30° |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        shares = " | ".join(f"{row[k]:.2%}" for k in ("accuracy", "rotated", "combined", "turned"))
        lines.append(f"| {name} | {shares} | {row['error']:.3f} | {row['kl']:.3f} | {row['tilted_kl']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the example's networks.")
    parser.add_argument("--checkpoints", default=HERE, type=Path, help="folder of the safetensors files")
    parser.add_argument("--out", type=Path, help="write results.json there, too")
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    images, labels = load("test", args.fashion_mnist)
    rows = {}
    for path in sorted(args.checkpoints.glob("*_*.safetensors")):
        name, _, role = path.stem.partition("_")
        if role not in ROLES:
            continue
        net = fold(load_checkpoint(path))
        sample = {"resnet": 33, "vit": 32}[name]
        rows[f"{name} {role}"] = measure(net, to_input(images, sample), labels)
    print(table(rows))
    if args.out:
        write_text(args.out / "results.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
