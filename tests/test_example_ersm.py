"""The example's committed checkpoints and scenes are what its README says, and its scenes can be made again."""

from __future__ import annotations

import gzip
import sys
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

MODULES = ("data", "deletion", "evaluate", "scoring", "silhouettes", "train")
EXAMPLE = Path(__file__).parent.parent / "examples" / "ersm"


@pytest.fixture(scope="module")
def example():
    """The example's modules, importable as its scripts see them."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return {name: import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(EXAMPLE))


@pytest.fixture(scope="module")
def networks():
    from foveate.export import load_checkpoint

    return {name: load_checkpoint(EXAMPLE / f"{name}.safetensors") for name in ("baseline", "masked")}


@pytest.fixture
def garments(tmp_path, example):
    """A Fashion-MNIST folder of 20 made-up garments a split: a bright box with a dark hole."""
    grey = np.zeros((20, 28, 28), np.uint8)
    grey[:, 6:22, 8:20] = np.linspace(60, 250, 20).astype(np.uint8)[:, None, None]
    grey[:, 14, 14] = 0
    for stem in ("train", "t10k"):
        images, labels = bytes(16) + grey.tobytes(), bytes(8) + bytes(i % 10 for i in range(20))
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return tmp_path


def test_shipped_scenes_are_complete_and_small(example):
    labels = [label for _, label in example["data"].read_scenes(EXAMPLE / "scenes")]
    assert np.bincount(labels).tolist() == [40] * 10
    assert sum(p.stat().st_size for p in (EXAMPLE / "scenes").rglob("*.jpg")) <= 8e6


@pytest.mark.parametrize("name", ["baseline", "masked"])
def test_checkpoints_are_small(name):
    assert (EXAMPLE / f"{name}.safetensors").stat().st_size <= 5e6


def test_accuracy_and_active_fraction_on_shipped_scenes(example, networks):
    pairs = list(islice(example["data"].read_scenes(EXAMPLE / "scenes"), 0, None, 4))
    found = example["evaluate"].evaluate(networks, pairs)
    assert found["scenes"] == 100
    assert found["masked"]["accuracy"] >= 0.65
    assert found["masked_minus_baseline"]["mean"] >= -0.08  # 100 scenes: the interval is wide
    assert 0.02 <= found["active_fraction"]["mean"] <= 0.30


def test_a_scene_depends_on_split_seed_and_number_alone(example, garments):
    scenes = example["data"].Scenes("train", seed=3, path=garments)
    again = example["data"].Scenes("train", seed=3, path=garments)
    first, label = scenes.scene(5)
    scenes.scene(6)
    assert first.shape == (256, 256, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again.scene(5)[0])
    assert label == again.scene(5)[1]
    assert not np.array_equal(first, scenes.scene(6)[0])
    assert not np.array_equal(first, example["data"].Scenes("train", seed=4, path=garments).scene(5)[0])
    assert not np.array_equal(first, example["data"].Scenes("test", seed=3, path=garments).scene(5)[0])


def test_splits_share_no_columns_of_a_photograph(example):
    train, test = (example["data"].load_photographs(split) for split in ("train", "test"))
    assert all(a.shape[0] == b.shape[0] for a, b in zip(train, test, strict=True))
    assert all(min(b.shape[:2]) >= 170 for b in test)


def test_silhouettes_close_small_gaps(example, garments):
    alpha = example["data"].load_garments("train", garments).alpha
    assert set(np.unique(alpha)) == {0, 255}
    assert alpha[:, 14, 14].min() == 255
    assert alpha[:, :4].max() == 0


def test_deletion_keeps_what_its_ranking_says(example):
    from foveate.export import EnergyMaskLayer

    mask = EnergyMaskLayer(2, patch=2)
    torch.nn.init.normal_(mask.weight)
    keep = example["deletion"].RankedKeep(mask)
    x = torch.rand(3, 2, 8, 8)
    for keep.ranking in example["deletion"].RANKINGS:
        for keep.removed, kept in ((0.0, 64), (0.5, 32), (1.0, 0)):
            assert keep(x).sum((1, 2, 3)).tolist() == [kept] * 3
    keep.ranking, keep.removed = "learned", 0.75
    chosen = keep(x)[:, 0, ::2, ::2].flatten(1).bool()
    assert mask.logits is not None
    z = mask.logits.flatten(1)
    assert (z.masked_fill(~chosen, -1e9).amax(1) <= z.masked_fill(chosen, 1e9).amin(1)).all()


def test_a_batch_has_the_scenes_and_their_silhouettes(example, garments):
    scenes = example["data"].Scenes("train", seed=3, path=garments)
    images, silhouettes, labels = scenes.batch(5, 2)
    assert np.array_equal(images[0], scenes.scene(5)[0]) and labels[1] == scenes.scene(6)[1]
    assert silhouettes.shape == (2, 256, 256) and silhouettes.dtype == np.float32
    assert silhouettes.min() == 0 and silhouettes.max() == 1
    rows, columns = np.nonzero(silhouettes[0])
    assert max(np.ptp(rows), np.ptp(columns)) < example["data"].OBJECT[1]


def test_the_first_guess_finds_garments(example, garments):
    from foveate.export import EnergyMaskLayer, small_resnet
    from foveate.export.mask_losses import wanted_tokens

    silhouettes, data = example["silhouettes"], example["data"]
    torch.manual_seed(0)
    stem, mask = small_resnet(stem=16, context=(2,)).stem, EnergyMaskLayer(16, patch=4)
    silhouettes.start_from_silhouettes(mask, stem, data.Scenes("train", seed=1, path=garments), 0.2)
    images, opacity, _ = data.Scenes("train", seed=2, path=garments).batch(0, 32)
    with torch.no_grad():
        keep = mask(stem(example["scoring"].to_input(images)))[:, 0, ::4, ::4].flatten()
    wanted = wanted_tokens(torch.from_numpy(opacity), (16, 16), 0.1).flatten()
    assert 0.1 < keep.mean() < 0.3
    assert (keep * wanted).sum() / wanted.sum() > 2 * keep.mean()  # twice what chance would find


@pytest.mark.parametrize("name", ["masked1", "masked2", "masked"])
def test_a_step_of_training_moves_the_mask(example, garments, name):
    from foveate.export import insert_energy_mask, small_resnet

    train = example["train"]
    run = train.Run((train.Phase(96, 2),), rate=1e-3, warmup=1, location=1.0, miss=4.0, distil=1.0, rim=8)
    recipe = train.Recipe(batch=4, own=run, last=run, rim=run)
    teacher = small_resnet((8, 8, 8), (1, 1, 1), 10, stem=8).eval()
    net = insert_energy_mask(
        small_resnet((8, 8, 8), (1, 1, 1), 10, stem=8), sample=torch.zeros(1, 3, 96, 96), **train.MASK
    )
    before = net.masks[0].weight.detach().clone()
    trainer = train.Trainer(net, recipe, name, str(garments), teacher if name in train.TEACHER else None)
    trainer.run(run.phases[0])
    assert trainer.step - trainer.first == 2
    assert not torch.equal(before, net.masks[0].weight)


def test_a_student_is_drawn_to_its_teacher(example, garments):
    from foveate.export import EnergyMaskLayer

    class Answers(torch.nn.Module):
        """The same scores for every image, behind a mask."""

        def __init__(self, scores: list[float]) -> None:
            super().__init__()
            self.scores = torch.nn.Parameter(torch.tensor(scores))
            self.mask = EnergyMaskLayer(3)
            self.masks = [self.mask]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.mask(x)
            return self.scores.expand(len(x), -1)

    train = example["train"]
    run = train.Run((train.Phase(96, 1),), rate=0.1, warmup=1, distil=100.0)
    student, teacher = Answers([0.0] * 10), Answers([3.0, *[0.0] * 9])
    train.Trainer(student, train.Recipe(batch=4, last=run), "masked2", str(garments), teacher).run(
        run.phases[0]
    )
    assert student.scores.argmax() == 0
    assert not teacher.scores.grad
