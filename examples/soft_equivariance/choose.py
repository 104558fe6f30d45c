"""Chooses the softness of each network on the validation images, which no training saw: of the soft ones with half the
control's error or less, the most accurate.

    python -m examples.soft_equivariance.choose        # among what train.py made; a minute

Strict networks (softness 0) are measured, too, and not chosen: the example is of soft ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from foveate.export import fold, load_checkpoint
from foveate.pipeline.files import write_text

from .data import load, to_input
from .evaluate import Facts, measure, scores
from .train import NETWORKS

Rows = Mapping[str, Facts]  # by role


def validate(folder: Path, name: str, path: str | None = None) -> dict[str, Facts]:
    images, labels = load("validation", path)
    x = to_input(images, NETWORKS[name][2])
    files = {file.stem.partition("_")[2]: file for file in folder.glob(f"{name}_*.safetensors")}
    found = {}
    for role in sorted(files, key=lambda role: (role.startswith("soft"), role != "soft0", role)):
        net = fold(load_checkpoint(files[role]))
        found[role] = measure(net, x, labels, scores(net, x))
    return found


def choose(rows: Rows) -> float:
    """The softness. Raises ValueError where no soft network has half the control's error or less."""
    soft = {float(role.removeprefix("soft")): row for role, row in rows.items() if role.startswith("soft")}
    limit = rows["control"]["error"] / 2
    fit = {softness: row for softness, row in soft.items() if softness > 0 and row["error"] <= limit}
    return max(fit, key=lambda softness: fit[softness]["accuracy"])


def table(networks: Mapping[str, Rows]) -> str:
    lines = ["| network | accuracy | turned | error | KL |", "|---|---|---|---|---|"]
    for name, rows in networks.items():
        for role, row in rows.items():
            shares = " | ".join(f"{row[key]:.2%}" for key in ("accuracy", "turned"))
            lines.append(f"| {name} {role} | {shares} | {row['error']:.3f} | {abs(row['kl']):.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose the example's softness.")
    parser.add_argument(
        "--checkpoints", default=Path("build/soft/seed0"), type=Path, help="folder of one seed"
    )
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = {name: validate(args.checkpoints, name, args.fashion_mnist) for name in NETWORKS}
    chosen = {name: choose(found) for name, found in rows.items()}
    print("\n".join([table(rows), "", *(f"{name}: softness {s:g}" for name, s in chosen.items())]))
    facts = {"chosen": chosen, "validation": rows}
    write_text(args.checkpoints / "choice.json", json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
