"""The example's committed checkpoints, figures and data."""

from __future__ import annotations

import gzip
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
        names = ("data", "train", "choose", "evaluate", "masks")
        yield {name: import_module(f"examples.soft_equivariance.{name}") for name in names}
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def results():
    return json.loads((EXAMPLE / "results.json").read_text())


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_soft_halves_the_error_at_no_less_accuracy(results, name):
    """Of every seed; against the control, but for the standard error of the images."""
    base, control, soft = (results[f"{name} {role}"] for role in ("base", "control", "soft"))
    for seed, error in enumerate(soft["error"]):
        assert error <= min(base["error"][seed], control["error"][seed]) / 2
        assert soft["accuracy"][seed] >= base["accuracy"][seed]
        assert soft["gain"][seed] >= -soft["gain_error"][seed]


def test_the_readme_has_the_tables_that_were_measured(example, results):
    readme = (EXAMPLE / "README.md").read_text()
    tensors = {name: {key: torch.tensor(v) for key, v in row.items()} for name, row in results.items()}
    masks = json.loads((EXAMPLE / "masks.json").read_text())
    choice = json.loads((EXAMPLE / "choice.json").read_text())
    assert example["evaluate"].table(tensors) in readme
    assert example["choose"].table(choice["validation"]) in readme
    assert example["masks"].table(masks) in readme


def test_the_softness_is_the_one_that_validation_images_choose(example):
    choose = example["choose"].choose
    choice = json.loads((EXAMPLE / "choice.json").read_text())
    assert choice["chosen"] == {name: choose(rows) for name, rows in choice["validation"].items()}
    assert choice["chosen"] == example["train"].SOFTNESS
    rows = {"control": {"error": 0.2, "accuracy": 0.9}, "soft0": {"error": 0.0, "accuracy": 0.9}}
    rows["soft0.05"], rows["soft0.1"] = {"error": 0.05, "accuracy": 0.7}, {"error": 0.1, "accuracy": 0.8}
    assert choose(rows) == 0.1  # the most accurate of those with half the error
    rows["soft0.1"]["error"] = 0.11
    assert choose(rows) == 0.05


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A folder like Fashion-MNIST's, of 12,000 images that hold their numbers."""
    folder = tmp_path_factory.mktemp("numbers")
    images = np.zeros((12_000, 28, 28), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(12_000), 256)
    for stem, values, header in (("images-idx3", images, 16), ("labels-idx1", images[:, 0, 1] % 10, 8)):
        packed = gzip.compress(bytes(header) + values.tobytes(), compresslevel=1)
        (folder / f"train-{stem}-ubyte.gz").write_bytes(packed)
    return folder


def test_what_is_trained_is_kept(example, numbers, tmp_path):
    train = example["train"]
    run = train.Run(0.1, 1e-3)  # one step
    for role, softness in {"base": None, "soft0.1": 0.1}.items():
        train.train("vit", role, softness, train.Recipe(run, run), tmp_path, numbers)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 4
    train.train("vit", "base", None, train.Recipe(run, run), tmp_path, numbers)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    train.train("vit", "base", None, train.Recipe(run, run, seed=1), tmp_path, numbers)
    changed = {path.name for path in tmp_path.iterdir() if path.stat().st_mtime_ns != files[path]}
    assert changed == {"vit_base.safetensors", "vit_base.json"}


def test_training_and_validation_images_are_apart(example, numbers):
    """10,000 are for validation, the same every time."""
    load = example["data"].load
    seen = {}
    for split in ("train", "validation"):
        images, labels = load(split, numbers)
        assert torch.equal(images[:, 0, 1].long() % 10, labels)
        assert torch.equal(images, load(split, numbers)[0])
        seen[split] = set((256 * images[:, 0, 0].int() + images[:, 0, 1]).tolist())
    assert len(seen["validation"]) == 10_000 and len(seen["train"]) == 2_000
    assert not seen["train"] & seen["validation"]


def test_the_checkpoints_are_small():
    assert sum(path.stat().st_size for path in EXAMPLE.glob("*.safetensors")) <= 2.5e6


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_the_soft_network_is_the_less_disturbed_one(example, name):
    from foveate.export import fold, load_checkpoint

    size = example["train"].NETWORKS[name][2]
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(0, 256, (8, 7, 7), np.uint8)).repeat_interleave(4, 1)
    x = example["data"].to_input(images.repeat_interleave(4, 2), size)
    errors, evaluate = [], example["evaluate"]
    for role in ("control", example["train"].role_of(example["train"].SOFTNESS[name])):
        net = fold(load_checkpoint(EXAMPLE / f"{name}_{role}.safetensors"))
        labels = torch.zeros(8, dtype=torch.long)
        errors.append(evaluate.measure(net, x, labels, evaluate.scores(net, x))["error"])
    assert errors[1] < errors[0]


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
    assert min(row["accuracy"] for row in facts.values()) > 0.5


def test_turned_images_are_turned(example):
    data = example["data"]
    x = data.to_input(torch.arange(28 * 28).reshape(1, 28, 28).div(4).byte(), 33)
    assert x.shape == (1, 1, 33, 33)
    assert torch.allclose(data.turned(x, np.array([90.0])), x.rot90(1, (2, 3)), atol=1e-4)
    same = [data.augmented(x.repeat(8, 1, 1, 1), np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert torch.equal(same[0], same[1]) and not torch.equal(same[0], same[2])
    tilted = data.tilted(x.repeat(2, 1, 1, 1), seed=0)
    assert not torch.allclose(tilted[0], tilted[1], atol=0.1)
