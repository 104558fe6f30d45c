"""The table: accuracy and equivariance error of the example's networks on Fashion-MNIST's test images.

    python -m examples.soft_equivariance.evaluate                    # the committed checkpoints; a minute
    python -m examples.soft_equivariance.evaluate --checkpoints build/soft/seed* --out build/soft

Rotated accuracy is that of images turned by an angle of their own within ±30°, combined accuracy the geometric mean of
both. The error is ‖F(gx) − F(x)‖ ÷ ‖F(x)‖ of the scores, and KL that of their softmax, both means over images and
turns g by 90°, 180° and 270°. Of several folders, one a seed: means, and their standard error over the seeds.

Tilted: of the ±30° images, their KL, the share with the same class as upright, and the KL once scores are multiplied by
what gives the upright ones the control's mean entropy. Blurred: the KL of images that were tilted and tilted back,
resampled twice and not turned. Gain: of accuracy over the control's, with the standard error of the paired images.
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

from .data import blurred, load, tilted, to_input
from .train import NETWORKS, SOFTNESS, role_of

HERE = Path(__file__).parent
ROLES = ("base", "control", "soft")

Facts = dict[str, float]


@torch.inference_mode()
def scores(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(part) for part in x.split(500)])


def measure(net: nn.Module, x: Tensor, labels: Tensor, upright: Tensor) -> Facts:
    """What quarter turns do. x: float32 [N, 1, H, W], and its scores `upright`."""
    turned = [scores(net, x.rot90(k, (2, 3)).contiguous()) for k in (1, 2, 3)]
    return {
        "accuracy": _accuracy(upright, labels),
        "turned": sum(_accuracy(t, labels) for t in (upright, *turned)) / 4,
        "error": sum(((t - upright).norm(dim=1) / upright.norm(dim=1)).mean().item() for t in turned) / 3,
        "kl": sum(_kl(upright, t) for t in turned) / 3,
    }


def measure_tilted(net: nn.Module, x: Tensor, labels: Tensor, upright: Tensor, entropy: float) -> Facts:
    """What other angles do. entropy: the control's."""
    aslant = scores(net, tilted(x, seed=1))
    factor = _sharpening(upright, entropy)
    return {
        "rotated": _accuracy(aslant, labels),
        "entropy": _entropy(upright),
        "tilted_kl": _kl(upright, aslant),
        "tilted_kl_equal_entropy": _kl(upright * factor, aslant * factor),
        "tilted_same": (upright.argmax(1) == aslant.argmax(1)).float().mean().item(),
        "blurred_kl": _kl(upright, scores(net, blurred(x, seed=1))),
    }


def _accuracy(answers: Tensor, labels: Tensor) -> float:
    return (answers.argmax(1) == labels).float().mean().item()


def _kl(upright: Tensor, other: Tensor) -> float:
    """mean KL(softmax F(x) ‖ softmax F(gx)), in nats."""
    return F.kl_div(
        other.log_softmax(1), upright.log_softmax(1), log_target=True, reduction="batchmean"
    ).item()


def _entropy(answers: Tensor) -> float:
    """mean of the softmax's, in nats."""
    return torch.special.entr(answers.softmax(1)).sum(1).mean().item()


def _sharpening(answers: Tensor, entropy: float) -> float:
    """The factor of scores that have that mean entropy then, by bisection."""
    low, high = 0.1, 10.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if _entropy(answers * middle) > entropy else (low, middle)
    return low


def table(rows: dict[str, dict[str, Tensor]]) -> str:
    """rows: of each network, figures [seeds]."""
    lines = [
        "| network | accuracy | rotated ±30° | combined | turned | error | KL | KL ±30° | same class ±30° |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        shares = " | ".join(_share(row[k]) for k in ("accuracy", "rotated", "combined", "turned"))
        numbers = " | ".join(f"{row[k].mean():.3f}" for k in ("error", "kl", "tilted_kl"))
        lines.append(f"| {name} | {shares} | {numbers} | {row['tilted_same'].mean():.1%} |")
    return "\n".join(lines)


def _share(values: Tensor) -> str:
    return f"{values.mean():.2%}" + (f" ± {100 * _standard_error(values):.2f}" if len(values) > 1 else "")


def _standard_error(values: Tensor) -> float:
    return (values.std() / len(values) ** 0.5).item()


def verdicts(rows: dict[str, dict[str, Tensor]]) -> list[str]:
    """What became of the goal, network by network: half the error at no less accuracy. ±: of images, the same for all
    networks."""
    lines = []
    for name in NETWORKS:
        base, control, soft = (rows[f"{name} {role}"] for role in ROLES)
        over_base = 100 * (soft["accuracy"] - base["accuracy"]).mean()
        over_control, error = (100 * soft[key].mean() for key in ("gain", "gain_error"))
        factors = [other["error"].mean() / soft["error"].mean() for other in (base, control)]
        lines.append(
            f"{name}: {factors[0]:.1f} times less error than the base, {factors[1]:.1f} times less than the control; "
            f"accuracy {over_base:+.2f} points against the base, {over_control:+.2f} ± {error:.2f} against the control"
        )
    return lines


def evaluate(folder: Path, name: str, path: str | None = None) -> dict[str, Facts]:
    """Of one seed's base, control and soft network."""
    images, labels = load("test", path)
    x = to_input(images, NETWORKS[name][2])
    files = dict(zip(ROLES, ("base", "control", role_of(SOFTNESS[name])), strict=True))
    nets = {
        role: fold(load_checkpoint(folder / f"{name}_{file}.safetensors")) for role, file in files.items()
    }
    upright = {role: scores(net, x) for role, net in nets.items()}
    right = {role: (answers.argmax(1) == labels).float() for role, answers in upright.items()}
    entropy = _entropy(upright["control"])
    rows = {}
    for role, net in nets.items():
        facts = measure(net, x, labels, upright[role])
        facts |= measure_tilted(net, x, labels, upright[role], entropy)
        facts["combined"] = (facts["accuracy"] * facts["rotated"]) ** 0.5
        gain = right[role] - right["control"]
        facts |= {"gain": gain.mean().item(), "gain_error": _standard_error(gain)}
        rows[f"{name} {role}"] = facts
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the example's networks.")
    parser.add_argument("--checkpoints", default=[HERE], type=Path, nargs="+", help="folders, one a seed")
    parser.add_argument("--out", type=Path, help="folder of results.json (default: none is written)")
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows: dict[str, dict[str, list[float]]] = {}
    for folder in args.checkpoints:
        for network in NETWORKS:
            for name, facts in evaluate(folder, network, args.fashion_mnist).items():
                for key, value in facts.items():
                    rows.setdefault(name, {}).setdefault(key, []).append(value)
    seeds = {name: {k: torch.tensor(v) for k, v in facts.items()} for name, facts in rows.items()}
    print("\n".join([table(seeds), "", *verdicts(seeds)]))
    if args.out:
        write_text(args.out / "results.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
