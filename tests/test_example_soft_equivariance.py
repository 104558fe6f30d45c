"""The example's committed checkpoints, figures and data."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "soft_equivariance"


@pytest.fixture(scope="module")
def example():
    """The example's modules, importable as its scripts see them."""
    sys.path.insert(0, str(ROOT))
    try:
        names = ("data", "train", "evaluate", "masks")
        yield {name: import_module(f"examples.soft_equivariance.{name}") for name in names}
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def results():
    return json.loads((EXAMPLE / "results.json").read_text())


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_soft_halves_the_error_at_no_less_accuracy(results, name):
    base, control, soft = (results[f"{name} {role}"] for role in ("base", "control", "soft"))
    assert soft["error"] <= base["error"] / 2 and soft["accuracy"] >= base["accuracy"]
    assert soft["error"] <= control["error"] / 1.9
    readme = (EXAMPLE / "README.md").read_text()
    assert f"{soft['accuracy']:.2%}" in readme and f"{soft['error']:.3f}" in readme


def test_the_checkpoints_are_small():
    assert sum(path.stat().st_size for path in EXAMPLE.glob("*.safetensors")) <= 2e6


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_soft_network_is_the_less_disturbed_one(example, name):
    from foveate.export import fold, load_checkpoint

    size = example["train"].NETWORKS[name][2]
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (8, 7, 7), np.uint8)).repeat_interleave(4, 1)
    x = example["data"].to_input(images.repeat_interleave(4, 2), size)
    errors = {}
    for role in ("control", "soft"):
        net = fold(load_checkpoint(EXAMPLE / f"{name}_{role}.safetensors"))
        errors[role] = example["evaluate"].measure(net, x, torch.zeros(8, dtype=torch.long))["error"]
    assert errors["soft"] < errors["control"]


def test_masks_of_a_strict_backbone_turn_with_the_image(example, results):
    from foveate.export import fold, load_checkpoint

    masks = example["masks"]
    net = fold(load_checkpoint(EXAMPLE / "ersm_strict.safetensors"))
    x = torch.nn.functional.avg_pool2d(torch.randn(2, 3, masks.SIZE, masks.SIZE), 9, 1, 4) * 9
    with torch.no_grad():
        keep, moved = (masks.decide(net, image)[0] for image in (x, x.rot90(1, (2, 3))))
    assert (moved.rot90(-1, (2, 3)) == keep).float().mean() > 0.999
    facts = json.loads((EXAMPLE / "masks.json").read_text())
    assert facts["strict"]["agreement"] > facts["plain"]["agreement"]


def test_turned_images_are_turned(example):
    data = example["data"]
    x = data.to_input(torch.arange(28 * 28).reshape(1, 28, 28).div(4).byte(), 33)
    assert x.shape == (1, 1, 33, 33)
    assert torch.allclose(data.turned(x, np.array([90.0])), x.rot90(1, (2, 3)), atol=1e-4)
    same = [data.augmented(x.repeat(8, 1, 1, 1), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])
    tilted = data.tilted(x.repeat(2, 1, 1, 1), seed=0)
    assert not torch.allclose(tilted[0], tilted[1], atol=0.1)
