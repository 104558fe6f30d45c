"""The committed checkpoint segments the shipped scenes at every exit, and scenes can be made again."""

from __future__ import annotations

import gzip
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from foveate.runtime.segmentation import CLASSES, MASKS

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "eco_m2f"
MODULES = ("scenes", "model", "train", "evaluate")


@pytest.fixture(scope="module")
def example():
    """The example's modules, importable as `python -m` sees them."""
    sys.path.insert(0, str(ROOT))
    try:
        return {name: import_module(f"examples.eco_m2f.{name}") for name in MODULES}
    finally:
        sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def parent(example):
    return example["model"].load_parent()


@pytest.fixture(scope="module")
def shipped():
    """Images uint8 [N, 128, 128, 3] and truths int32 [N, 128, 128]."""
    with np.load(EXAMPLE / "scenes.npz") as file:
        return file["images"], file["labels"]


@pytest.fixture
def garments(tmp_path):
    """A Fashion-MNIST folder of 20 made-up garments a split: a bright box with a dark hole."""
    grey = np.zeros((20, 28, 28), np.uint8)
    grey[:, 6:22, 8:20] = np.linspace(60, 250, 20).astype(np.uint8)[:, None, None]
    for stem in ("train", "t10k"):
        images, labels = bytes(16) + grey.tobytes(), bytes(8) + bytes(i % 10 for i in range(20))
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (tmp_path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return tmp_path


def test_a_scene_depends_on_split_seed_and_number_alone(example, garments):
    Scenes = example["scenes"].Scenes
    scenes, again = Scenes("train", seed=3, path=garments), Scenes("train", seed=3, path=garments)
    image, truth = scenes.scene(5)
    scenes.scene(6)
    assert image.shape == (128, 128, 3) and image.dtype == np.uint8
    assert truth.shape == (128, 128) and truth.dtype == np.int32
    assert np.array_equal(image, again.scene(5)[0]) and np.array_equal(truth, again.scene(5)[1])
    others = (
        (scenes, 6),
        (Scenes("train", seed=4, path=garments), 5),
        (Scenes("test", seed=3, path=garments), 5),
    )
    assert not any(np.array_equal(image, other.scene(number)[0]) for other, number in others)


def test_truth_has_every_garment_and_enough_of_it(example, garments):
    data = example["scenes"]
    scenes = data.Scenes("train", seed=0, path=garments)
    for number in range(20):
        _, truth = scenes.scene(number)
        found, made = data.segments(truth), scenes.difficulty(number)
        things = [identity for identity, _, thing in found if thing]
        assert 1 <= len(things) <= made.garments <= data.MOST
        assert 1 <= len(found) - len(things) <= made.textures <= len(data.TEXTURES)
        assert all(identity % data.INSTANCES > 0 for identity in things)
        assert all(identity % data.INSTANCES == 0 for identity, _, thing in found if not thing)
        assert min(np.count_nonzero(truth == identity) for identity in things) > 30


def test_harder_scenes_have_more_garments_and_half_of_all_are_seen_by_night(example):
    made = [example["scenes"].difficulty(np.random.default_rng(i)) for i in range(400)]
    easy, hard = ([d for d in made if (d.level > 0.5) == is_hard] for is_hard in (False, True))
    assert np.mean([d.garments for d in hard]) > np.mean([d.garments for d in easy]) + 2
    dark = [d.photons for d in made if d.photons < np.inf]
    assert 0.4 < len(dark) / len(made) < 0.6 and 2 <= min(dark) < 3 and 14 < max(dark) <= 16
    assert {d.garments for d in made} == set(range(1, example["scenes"].MOST + 1))


def test_targets_cover_the_scene_once(example, shipped):
    for truth in shipped[1][:4]:
        masks, categories = example["train"].targets(truth)
        assert (masks.sum(0) == 1).all()
        assert torch.equal((masks * categories[:, None, None]).sum(0), torch.tensor(truth // 1000).float())


def test_an_exit_is_as_deep_as_asked_for_and_leaves_the_model_whole(example, parent, shipped):
    encoder = parent.model.pixel_level_module.decoder.encoder
    seen = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda *_: seen.append(1))
    for depth in example["model"].EXITS:
        seen.clear()
        example["model"].predict(parent, shipped[0][:1], depth)
        assert len(seen) == depth
    assert len(encoder.layers) == 6


def test_quality_is_one_of_truth_and_less_of_anything_else(example, shipped):
    truth = shipped[1][:3]
    quality, perfect = example["evaluate"].quality, answering(example, truth)
    assert quality(perfect, truth) == 1.0
    assert quality({**perfect, MASKS: -perfect[MASKS]}, truth) == 0.0
    one_right = perfect[MASKS] * np.array([1, -1, -1], np.float32)[:, None, None, None]
    assert 0 < quality({**perfect, MASKS: one_right}, truth) < 1


def answering(example, truths):
    """What a network would answer that knows the truth: a query for each segment."""
    data = example["scenes"]
    classes = np.full((len(truths), 20, len(data.CATEGORIES) + 1), -9.0, np.float32)
    masks = np.full((len(truths), 20, *truths.shape[1:]), -9.0, np.float32)
    classes[..., -1] = 0.0
    for number, truth in enumerate(truths):
        for query, (identity, category, _) in enumerate(data.segments(truth)):
            classes[number, query, category] = 9.0
            masks[number, query][truth == identity] = 9.0
    return {CLASSES: classes, MASKS: masks}


def test_the_oracle_trades_depth_for_quality(example):
    qualities = np.array([[0.5, 0.1], [0.5, 0.2], [0.5, 0.3], [0.5, 0.4], [0.5, 0.5], [0.5, 0.9]])
    free, dear = (example["evaluate"].oracle(qualities, beta) for beta in (0.01, 1.0))
    assert (free["depth"], free["pq_per_image"], free["fixed_at_that_depth"]) == (3.5, 70.0, 42.5)
    assert (dear["depth"], dear["pq_per_image"]) == (1.0, 30.0)


def test_a_step_of_training_moves_what_it_should(example, garments, tmp_path):
    train = example["train"]
    trainer = train.Trainer(train.Recipe(alone=1, joint=1, batch=2), str(garments))
    backbone, head = (
        (lambda: next(trainer.backbone.parameters())),
        (lambda: trainer.net.class_predictor.weight),
    )
    before = [backbone().detach().clone(), head().detach().clone()]
    facts = trainer._update(*trainer.scenes.batch(0, 2))
    assert "pixels" in facts and not torch.equal(backbone(), before[0]) and torch.equal(head(), before[1])
    trainer.run(tmp_path / "out")
    assert trainer.step == 2 and not torch.equal(head(), before[1])
    again = train.Trainer(trainer.recipe, str(garments))
    again.resume(tmp_path / "out")
    assert again.step == 2 and torch.equal(again.net.class_predictor.weight, head())


def test_every_exit_of_the_checkpoint_segments_shipped_scenes(example, parent, shipped):
    images, truths = shipped[0][:8], shipped[1][:8]
    for depth in example["model"].EXITS:
        found = example["model"].predict(parent, images, depth)
        assert (
            example["evaluate"].quality(found, truths) >= 0.4
        )  # all of the scene as one texture: below 0.05


def test_checkpoint_and_scenes_are_small():
    assert (EXAMPLE / "parent" / "model.safetensors").stat().st_size <= 10e6
    assert (EXAMPLE / "scenes.npz").stat().st_size <= 3e6
