"""Panoptic labels and what is measured on them, against hand-made cases, the definition and the libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foveate.calibration.exits import calibrate_exits
from foveate.export import import_transformers
from foveate.pipeline.build import build
from foveate.pipeline.cli import main
from foveate.pipeline.data import open_data
from foveate.pipeline.metrics import metric_for, open_metric
from foveate.pipeline.panoptic import Panoptic, save_panoptic
from foveate.pipeline.panoptic_metrics import matched
from foveate.runtime import load
from foveate.runtime.errors import InputError
from foveate.runtime.manifest import Preprocess
from foveate.runtime.segmentation import CLASSES, MASKS, panoptic
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ..early_exits import EXITS, exit_program

THINGS = frozenset({0, 1})  # 2 and 3 are stuff
COUNT = 4


def answer(ids: np.ndarray, scores: dict[int, float] | None = None) -> dict[str, np.ndarray]:
    """The outputs of a network that is sure of the segments of a map, or of those with a score: of so much. What is
    negative goes to a query that is too weak to be a segment."""
    found = [int(i) for i in np.unique(ids)]
    classes, masks = np.full((1, len(found), COUNT + 1), -12.0), np.full((1, len(found), *ids.shape), -12.0)
    for query, identity in enumerate(found):
        score = (scores or {}).get(identity, 0.999 if identity >= 0 else 0.8)
        classes[0, query, max(identity, 0) // 1000] = np.log(score / (1 - score))
        classes[0, query, COUNT] = 0
        masks[0, query][ids == identity] = 12 if identity >= 0 else 0
    return {CLASSES: classes.astype(np.float32), MASKS: masks.astype(np.float32)}


def value(metric: str, *pairs: tuple[np.ndarray, np.ndarray]) -> float:
    """Of maps found against maps wanted."""
    opened = open_metric(metric)
    for found, wanted in pairs:
        outputs = answer(found)
        opened.update(outputs, Panoptic(wanted, THINGS), outputs)
    return opened.value()


def blocks(rows: list[list[int]]) -> np.ndarray:
    """Blocks of 96: at 384 the network's masks have the truth's size, and nothing is resized."""
    return np.array(rows).repeat(96, axis=0).repeat(96, axis=1)


SCENE = blocks([[1, 1, 2000, 2000], [1, 1, 2, 2], [3000, 3000, 1001, 3000], [3000, 3000, 3000, 3000]])


@pytest.mark.parametrize("metric", ["pq", "ap", "mean_iou"])
def test_what_is_perfect_has_one(metric):
    assert value(metric, (SCENE, SCENE), (SCENE.T, SCENE.T)) == pytest.approx(1)


def test_panoptic_quality_by_hand():
    """Class 0: 2 of 3 blocks of one thing, the other missed: ⅔ / (1 + ½). Class 1: found where there is none of it: 0.
    Stuff: 2 is found with two blocks too many, which are no half; 3 is missed."""
    wanted = blocks([[1, 1, 2000, 2000], [1, 2, 2000, 3000]])
    found = blocks([[1, 1, 2000, 2000], [2000, 1001, 2000, 2000]])
    assert value("pq", (found, wanted)) == pytest.approx((2 / 3 / 1.5 + 0 + 3 / 5 + 0) / 4)


def test_nothing_found_is_nothing_won():
    """Neither is anything forgiven where an answer has no segment."""
    nothing = np.full_like(SCENE, -1)
    assert value("pq", (nothing, SCENE)) == 0
    assert value("ap", (np.full_like(SCENE, 3000), SCENE)) == 0
    assert value("pq", (np.where(SCENE == 3000, -1, SCENE), SCENE)) == pytest.approx(3 / 4)


def test_what_is_not_labelled_counts_for_nothing():
    wanted = np.where(SCENE == 1, -1, SCENE)
    assert [value(metric, (SCENE, wanted)) for metric in ("pq", "mean_iou")] == pytest.approx([1, 1])
    assert np.isnan(value("pq", (SCENE, np.full_like(SCENE, -1))))
    assert np.isnan(value("ap", (SCENE, np.where(SCENE < 2000, -1, SCENE))))


def test_a_crowd_is_neither_missed_nor_found():
    """Things of its class in it are forgiven, those of another class are not."""
    crowd = np.where(SCENE == 1, 0, SCENE)
    assert [value(metric, (SCENE, crowd)) for metric in ("pq", "ap")] == pytest.approx([1, 1])
    assert value("pq", (np.where(SCENE == 1, -1, SCENE), crowd)) == pytest.approx(1)
    most = blocks([[1, 1, 0, 0], [1, 0, 0, 0], [0] * 4, [0] * 4]) == 1
    assert value("pq", (np.where((SCENE == 1) & ~most, -1, SCENE), crowd)) == pytest.approx(1)
    assert value("pq", (np.where(SCENE == 1, 1002, SCENE), crowd)) == pytest.approx((1 + 2 / 3 + 1 + 1) / 4)


SEGMENTS = st.sampled_from([1, 2, 1001, 2000, 3000, -1])
MAPS = st.lists(st.lists(SEGMENTS, min_size=4, max_size=4), min_size=3, max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(MAPS, MAPS), min_size=1, max_size=3))
def test_panoptic_quality_is_the_librarys(rows):
    """torchmetrics forgives what an answer without a segment misses: there "nothing" is one more kind of stuff."""
    import_transformers()  # torchmetrics imports torchvision as well
    from torchmetrics.detection import PanopticQuality

    library = PanopticQuality(set(THINGS), {2, 3, COUNT}, return_per_class=True)
    counts = np.zeros((COUNT, 2))
    for found, wanted in (np.array(pair) for pair in rows):
        classes = {int(i): int(i) // 1000 for i in np.unique(found) if i >= 0}
        counts += matched(found, classes, Panoptic(wanted, THINGS), COUNT)
        theirs = np.where(found < 0, COUNT, found // 1000), wanted // 1000
        pairs = (np.stack([c, i % 1000], -1)[None] for c, i in zip(theirs, (found, wanted), strict=True))
        library.update(*map(torch.from_numpy, pairs))
    ours = counts[:, 0] / np.maximum(counts[:, 1], 0.5)
    np.testing.assert_allclose(ours, library.compute()[0, :COUNT], atol=1e-6)


def test_average_precision_by_hand():
    """Two things wanted; the surer answer is right, the other wrong: precision 1 up to half of the recall, 0 beyond. Of
    101 recalls 51 are up to a half."""
    wanted, found = blocks([[1, 3000, 2, 3000]]), blocks([[1, 2, 3000, 3000]])
    opened = open_metric("ap")
    opened.update(answer(found, {1: 0.9, 2: 0.6}), Panoptic(wanted, THINGS), {})
    assert opened.value() == pytest.approx(51 / 101)


def test_average_precision_falls_with_overlap():
    """An IoU of 0.75 passes six of ten thresholds, .50 to .75."""
    wanted, found = blocks([[1, 1, 1, 1]]), blocks([[1, 1, 1, 3000]])
    assert value("ap", (found, wanted)) == pytest.approx(0.6)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(MAPS, MAPS), min_size=1, max_size=3))
def test_mean_iou_is_the_librarys(rows):
    import_transformers()
    from torchmetrics.classification import MulticlassJaccardIndex

    library, opened = MulticlassJaccardIndex(COUNT, ignore_index=-1), open_metric("mean_iou")
    pairs = [(np.maximum(blocks(found), 1), blocks(wanted)) for found, wanted in rows]
    for found, wanted in pairs:
        opened.update(answer(found), Panoptic(wanted, THINGS), {})
        library.update(*(torch.from_numpy(ids // 1000)[None] for ids in (found, wanted)))
    if any((wanted >= 0).any() for _, wanted in pairs):
        assert opened.value() == pytest.approx(float(library.compute()), abs=1e-6)


def test_agreement_of_queries_is_that_of_their_maps():
    opened = open_metric("agreement")
    opened.update(answer(SCENE), None, answer(SCENE))
    assert opened.value() == 1
    other = SCENE.copy()
    other[:96] = 1
    opened = open_metric("agreement")
    opened.update(answer(SCENE), None, answer(other))
    assert opened.value() == pytest.approx(7 / 8, abs=0.01)


@pytest.mark.parametrize("metric", ["pq", "ap"])
def test_what_cannot_be_measured_is_named(metric):
    outputs, truth = answer(SCENE), Panoptic(SCENE, THINGS)
    for found, label, message in (
        (outputs, None, "no label"),
        (outputs, 3, "type int"),
        ({"y": SCENE}, truth, "outputs y"),
        (outputs, Panoptic(SCENE + 1000, THINGS), "category 4"),
        (outputs, Panoptic(SCENE, frozenset({7})), "category 7"),
    ):
        with pytest.raises(InputError, match=message):
            open_metric(metric).update(found, label, found)


def scenes(count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.choice([1, 2, 1001, 2000, 3000, -1], (count, 6, 8))
    return rng.integers(0, 256, (count, 6, 8, 3), np.uint8), labels


def test_an_npz_has_maps_and_things(tmp_path: Path):
    images, labels = scenes()
    save_panoptic(tmp_path / "scenes.npz", images, labels, THINGS)
    data = open_data(tmp_path / "scenes.npz", limit=2)
    found = [label for _, label in data]
    assert data.count == len(found) == 2 and metric_for(found[0]) == "pq"
    np.testing.assert_array_equal(np.stack([label.ids for label in found]), labels[:2])
    assert found[0].things == THINGS


def test_an_npz_that_does_not_fit_is_named(tmp_path: Path):
    images, labels = scenes()
    with pytest.raises(InputError, match=r"labels int64 \[2, 6, 8\]"):
        save_panoptic(tmp_path / "scenes.npz", images, labels[:2], THINGS)
    for broken in (labels.astype(np.float32), labels[:, 0]):
        np.savez(tmp_path / "broken.npz", images=images, things=np.array([0]), labels=broken)
        with pytest.raises(InputError, match="things int64"):
            open_data(tmp_path / "broken.npz")
    save_panoptic(tmp_path / "scenes.npz", images, labels, THINGS)
    with pytest.raises(InputError, match="letterbox"):
        open_data(tmp_path / "scenes.npz", Preprocess(size=(32, 32), letterbox=True))
    with pytest.raises(InputError, match="category · 1000"):
        Panoptic(labels, THINGS)
    with pytest.raises(InputError, match="float32"):
        Panoptic(labels[0].astype(np.float32), THINGS)


def coco(folder: Path) -> dict[str, Any]:
    """Two images of different sizes, the second with a crowd and a segment id beyond one byte. Written; the facts."""
    for name, size in (("a.jpg", (4, 6)), ("b.jpg", (2, 3))):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(path)
    maps = {
        "a.png": np.array([[5, 5, 7, 7, 9, 0]] * 4),
        "b.png": np.array([[70000, 70000, 300], [300, 300, 300]]),
    }
    for name, ids in maps.items():
        path = folder / "panoptic" / name
        path.parent.mkdir(exist_ok=True)
        pixels = np.stack([ids % 256, ids // 256 % 256, ids // 256**2], axis=-1)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    facts = {
        "images": [{"id": 11, "file_name": "a.jpg"}, {"id": 12, "file_name": "b.jpg"}],
        "annotations": [
            {
                "image_id": 12,
                "file_name": "b.png",
                "segments_info": [
                    {"id": 70000, "category_id": 17, "iscrowd": 1},
                    {"id": 300, "category_id": 200, "iscrowd": 0},
                ],
            },
            {
                "image_id": 11,
                "file_name": "a.png",
                "segments_info": [
                    {"id": number, "category_id": category, "iscrowd": 0}
                    for number, category in ((5, 17), (7, 17), (9, 200))
                ],
            },
        ],
        "categories": [
            {"id": 17, "name": "cat", "isthing": 1},
            {"id": 200, "name": "rug", "isthing": 0},
        ],
    }
    (folder / "panoptic.json").write_text(json.dumps(facts))
    return facts


def test_a_folder_in_cocos_format(tmp_path: Path):
    coco(tmp_path)
    samples = list(open_data(tmp_path).samples())
    assert [Path(sample.name).name for sample in samples] == ["b.jpg", "a.jpg"]
    assert [sample.image.shape[2:] for sample in samples] == [(2, 3), (4, 6)]
    assert samples[0].label.ids.tolist() == [[0, 0, 1001], [1001, 1001, 1001]]
    assert samples[1].label.ids[0].tolist() == [1, 1, 2, 2, 1001, -1]
    assert samples[0].label.things == {0}
    by_name = list(open_data(tmp_path, classes=("rug", "cat"), limit=1))
    assert len(by_name) == 1 and by_name[0][1].things == {1}
    assert by_name[0][1].ids.tolist() == [[1000, 1000, 1], [1, 1, 1]]


def test_a_folder_that_does_not_fit_is_named(tmp_path: Path):
    facts = coco(tmp_path)
    with pytest.raises(InputError, match="no label for \\(rug\\)"):
        open_data(tmp_path, classes=("cat", "dog"))
    for broken in ("{", "[]", json.dumps({**facts, "categories": []}), json.dumps({"images": []})):
        (tmp_path / "panoptic.json").write_text(broken)
        with pytest.raises(InputError, match="COCO's panoptic format"):
            open_data(tmp_path)
    coco(tmp_path)
    (tmp_path / "panoptic" / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png"):
        list(open_data(tmp_path))


def own_answers(bundle: Path, images: np.ndarray, exits: np.ndarray) -> np.ndarray:
    """As truth [N, H, W]: what the program itself finds in each image at the exit of that place."""
    truth = np.full(images.shape[:3], -1)
    with load(bundle) as model:
        for place in np.unique(exits):
            model.set_choices({"gate0.offset": [1e6 if i == place else 0.0 for i in range(len(EXITS))]})
            for number in np.flatnonzero(exits == place):
                sizes = [images.shape[1:3]]
                (found,) = panoptic(model(images[number]), target_sizes=sizes, label_ids_to_fuse={2, 3})
                for info in found["segments_info"]:
                    label = info["label_id"]
                    identity = label * 1000 + (info["id"] if label in THINGS else 0)
                    truth[number][found["segmentation"] == info["id"]] = identity
    return truth


def test_exits_and_their_gate_by_panoptic_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Images of low contrast are right at the first exit, the others at the last: a gate can tell them apart."""
    program = exit_program(tmp_path / "queries.onnx", queries=True)
    bundle = build(program, tmp_path / "bundle", sample=(1, 3, 32, 48))
    rng = np.random.default_rng(0)
    deep = rng.random(64) < 0.5
    noise = rng.uniform(-1, 1, (64, 32, 48, 3)) * np.where(deep, 120, 4)[:, None, None, None]
    images = (128 + noise).astype(np.uint8)
    truth = own_answers(bundle, images, np.where(deep, len(EXITS) - 1, 0))
    truth[0] = -1
    empty = int((truth < 0).all(axis=(1, 2)).sum())
    save_panoptic(tmp_path / "scenes.npz", images, truth, THINGS)
    arguments = [str(bundle), "--data", str(tmp_path / "scenes.npz")]
    assert (
        main(["calibrate", *arguments, "--exits", "--metric", "pq", "--latency-budget", "1000", "--json"])
        == 0
    )
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["metric"] == "pq" and found["images"] == 64 - empty
    assert f"{empty} images were left out: pq is not defined on them" in told.err
    assert found["chosen"]["point"]["quality"] > max(one["point"]["quality"] for one in found["depths"])
    assert main(["verify", *arguments, "--limit", "4", "--json"]) == 0
    capsys.readouterr()
    assert main(["bench", *arguments, "--limit", "4", "--images", "2", "--rounds", "1", "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    assert accuracy["metric"] == "pq" and accuracy["adaptive"] == accuracy["masked_dense"] > 0.5


def test_images_without_an_object_leave_no_precision(tmp_path: Path):
    program = exit_program(tmp_path / "queries.onnx", queries=True)
    bundle = build(program, tmp_path / "bundle", sample=(1, 3, 32, 48))
    images, truth = np.zeros((8, 32, 48, 3), np.uint8), np.full((8, 32, 48), 2000)
    save_panoptic(tmp_path / "stuff.npz", images, truth, THINGS)
    with pytest.raises(InputError, match="8 images on which ap is not defined"):
        calibrate_exits(bundle, tmp_path / "stuff.npz", metric="ap")
