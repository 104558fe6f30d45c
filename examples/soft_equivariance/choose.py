"""Chooses the softness of each network on validation images, which no training saw: of those with half the control's
error or less, the most accurate one, by means over the seeds.

    python -m examples.soft_equivariance.choose --checkpoints build/soft      # what train.py made; minutes

What was chosen becomes <network>_soft.safetensors beside the others of its seed. Strict networks (softness 0) are
measured like the others, and not chosen: the example is of soft ones.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from foveate.export import fold, load_checkpoint
from foveate.pipeline.files import write_text

from .data import load, to_input
from .evaluate import measure
from .train import NETWORKS

Rows = dict[str, dict[str, list[float]]]  # role -> figure -> of each seed


def validate(folders: list[Path], name: str, path: str | None = None) -> Rows:
    """Of every role that all seeds have, in the order of its softness."""
    images, labels = load("validation", path)
    x = to_input(images, NETWORKS[name][2])
    roles = set.intersection(
        *({p.stem.partition("_")[2] for p in f.glob(f"{name}_*.safetensors")} for f in folders)
    )
    rows: Rows = {}
    for role in sorted(roles - {"soft"}):
        found = [measure(fold(load_checkpoint(f / f"{name}_{role}.safetensors")), x, labels) for f in folders]
        rows[role] = {key: [facts[key] for facts in found] for key in ("accuracy", "turned", "error", "kl")}
    return rows


def choose(rows: Rows) -> str:
    """A role. Raises ValueError where none has half the control's error."""
    limit = _mean(rows["control"]["error"]) / 2
    fit = {role: row for role, row in rows.items() if _is_soft(role) and _mean(row["error"]) <= limit}
    return max(fit, key=lambda role: _mean(fit[role]["accuracy"]))


def _is_soft(role: str) -> bool:
    return role.startswith("soft") and float(role.removeprefix("soft")) > 0


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(found: Mapping[str, tuple[Rows, str]]) -> str:
    lines = ["| network | softness | accuracy | turned | error | KL |", "|---|---|---|---|---|---|"]
    for name, (rows, chosen) in found.items():
        for role, row in rows.items():
            softness = role.removeprefix("soft")
            cells = [name, f"**{softness}**" if role == chosen else softness]
            cells += [f"{_mean(row[key]):.2%}" for key in ("accuracy", "turned")]
            cells += [f"{_mean(row[key]):.3f}" for key in ("error", "kl")]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose the example's softness.")
    parser.add_argument(
        "--checkpoints", default=Path("build/soft"), type=Path, help="folder of seed0, seed1, …"
    )
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--fashion-mnist", help="folder of the .gz files; default: Debian's package")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folders = sorted(args.checkpoints.glob("seed*"))
    found = {}
    for name in NETWORKS:
        rows = validate(folders, name, args.fashion_mnist)
        chosen = choose(rows)
        for folder in folders:
            shutil.copyfile(folder / f"{name}_{chosen}.safetensors", folder / f"{name}_soft.safetensors")
        found[name] = rows, chosen
    print(table(found))
    facts = {name: {"chosen": chosen, "validation": rows} for name, (rows, chosen) in found.items()}
    write_text(args.checkpoints / "choice.json", json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
