"""The deletion test: which tokens can go first? The learned ranking against magnitude and chance.

    python examples/ersm/deletion.py                  # shipped scenes; writes results.json and deletion.png

At the masked network's feature map, tokens are removed least important first by a binary mask that takes the
learned mask's place (and persists as it does): by logit, highest z first (learned), by L2 norm of the token's
features, smallest first (magnitude), or in random order. The better a ranking, the longer accuracy lasts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from data import read_scenes
from foveate.export import EnergyMaskLayer, load_checkpoint
from foveate.export.energy_mask import to_tokens
from foveate.export.trace import MaskedModule
from foveate.pipeline.files import replacing
from scoring import HERE, batches, mean_interval, update_results
from torch import Tensor, nn

RANKINGS = ("learned", "magnitude", "random")
REMOVED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)  # fractions of the tokens


class RankedKeep(nn.Module):
    """Stands in for an EnergyMaskLayer: keeps all but the fraction `removed` of each image's tokens."""

    def __init__(self, mask: EnergyMaskLayer, seed: int = 0) -> None:
        super().__init__()
        self.mask, self.ranking, self.removed = mask, "learned", 0.0
        self.chance = torch.Generator().manual_seed(seed)

    def forward(self, x: Tensor) -> Tensor:
        importance = self._importance(x)  # [B, tokens]
        order = importance.argsort(dim=1)  # least important first
        keep = torch.ones_like(importance)
        keep.scatter_(1, order[:, : round(self.removed * order.shape[1])], 0.0)
        patch = self.mask.patch
        keep = keep.reshape(x.shape[0], 1, -(-x.shape[2] // patch), -(-x.shape[3] // patch))
        keep = keep.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
        return keep[:, :, : x.shape[2], : x.shape[3]]

    def _importance(self, x: Tensor) -> Tensor:
        if self.ranking == "magnitude":
            return to_tokens(x, self.mask.patch).norm(dim=1).flatten(1)
        self.mask(x)
        assert self.mask.logits is not None
        z = self.mask.logits.flatten(1)
        return -z if self.ranking == "learned" else torch.rand(z.shape, generator=self.chance)


@torch.inference_mode()
def curves(net: nn.Module, keep: RankedKeep, folder: Path, limit: int | None) -> dict[str, np.ndarray]:
    """Whether each image is answered correctly, by ranking: bool [fractions, images]."""
    pairs = list(read_scenes(folder))
    pairs = pairs[:: max(1, len(pairs) // limit)] if limit else pairs
    columns: dict[str, list[np.ndarray]] = {ranking: [] for ranking in RANKINGS}
    for x, labels in batches(pairs):
        for keep.ranking in RANKINGS:
            rows = []
            for keep.removed in REMOVED:
                rows.append(net(x).argmax(1).numpy() == labels)
            columns[keep.ranking].append(np.stack(rows))
    return {ranking: np.concatenate(parts, axis=1) for ranking, parts in columns.items()}


def summary(correct: dict[str, np.ndarray]) -> dict:
    """Mean curve and area under it (accuracy over fraction removed, 0 … 1) with paired 95 % intervals."""
    areas = {ranking: _area(rows.astype(float)) for ranking, rows in correct.items()}
    facts: dict = {"scenes": correct["learned"].shape[1], "removed": list(REMOVED)}
    for ranking, rows in correct.items():
        facts[ranking] = {
            "area": round(float(areas[ranking].mean()), 4),
            "interval95": mean_interval(areas[ranking]),
            "accuracy": [round(float(v), 4) for v in rows.mean(axis=1)],
        }
    for other in RANKINGS[1:]:
        facts[f"learned_minus_{other}"] = mean_interval(areas["learned"] - areas[other])
    return facts


def _area(rows: np.ndarray) -> np.ndarray:
    """Trapezoids under each column of [fractions, images] over REMOVED."""
    return (np.diff(REMOVED)[:, None] * (rows[1:] + rows[:-1]) / 2).sum(axis=0)


def plot(facts: dict, active: float, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for ranking, style in zip(RANKINGS, ("-o", "--s", ":^"), strict=True):
        label = f"{ranking}, area {facts[ranking]['area']:.3f}"
        axes.plot(facts["removed"], facts[ranking]["accuracy"], style, markersize=4, label=label)
    axes.axvline(1 - active, color="grey", linewidth=0.8)
    axes.annotate("the mask's own fraction", (1 - active, 0.03), ha="right", fontsize=8, color="grey")
    axes.set(xlabel="fraction of tokens removed", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Deletion curves; writes results.json and deletion.png.")
    parser.add_argument("--checkpoints", default=HERE, type=Path, help="folder of masked.safetensors")
    parser.add_argument("--limit", type=int, help="scenes; default: all shipped ones")
    parser.add_argument("--threads", default=2, type=int)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    net = load_checkpoint(args.checkpoints / "masked.safetensors")
    assert isinstance(net, MaskedModule)
    mask = net.masks[0]
    active = _active(net, mask)
    keep = RankedKeep(mask)
    net.add_submodule(net.insertions[0]["name"], keep)
    facts = summary(curves(net.eval(), keep, HERE / "scenes", args.limit))
    update_results("deletion", facts, args.checkpoints / "results.json")
    plot(facts, active, args.checkpoints / "deletion.png")
    print("✓ deletion  " + "  ".join(f"{r} {facts[r]['area']:.4f}" for r in RANKINGS))


@torch.inference_mode()
def _active(net: nn.Module, mask: EnergyMaskLayer) -> float:
    fractions = []
    for x, _ in batches(read_scenes(HERE / "scenes")):
        net(x)
        fractions.append(mask.active_fraction())
    return float(torch.cat(fractions).mean())


if __name__ == "__main__":
    main()
