"""Post-processing of queries, against transformers' own image processor."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from foveate.export import import_transformers
from foveate.runtime.errors import InputError
from foveate.runtime.result import Result
from foveate.runtime.segmentation import CLASSES, MASKS, WORKING, instance, panoptic, semantic
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import_transformers()
from transformers import Mask2FormerImageProcessor  # noqa: E402

THEIRS = Mask2FormerImageProcessor()
NEAR = 1e-5  # what two orders of float sums may differ by, amply

Arrays = dict[str, np.ndarray]


def outputs(
    batch: int = 1,
    queries: int = 8,
    classes: int = 4,
    size: tuple[int, int] = (12, 16),
    *,
    sure: float = 4.0,
    seed: int = 0,
) -> Arrays:
    """Masks that share the image out among the queries, with noise and some overlap. `sure`: how far the class logits
    lie apart."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, queries, (batch, 1, *size)) == np.arange(queries)[:, None, None]
    owner |= rng.random(owner.shape) < 0.1
    masks = np.where(owner, 4.0, -4.0) + rng.standard_normal(owner.shape)
    logits = sure * rng.standard_normal((batch, queries, classes + 1))
    return {CLASSES: logits.astype(np.float32), MASKS: masks.astype(np.float32)}


def theirs(method: str, arrays: Arrays, **options: Any) -> list[Any]:
    tensors = SimpleNamespace(**{name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    return getattr(THEIRS, f"post_process_{method}_segmentation")(tensors, **options)


def resized(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return torch.nn.functional.interpolate(planes[None], size=size, mode="bilinear", align_corners=False)[0]


def assert_same_info(found: list[dict], wanted: list[dict]) -> None:
    """Scores but for the last digit of six."""
    assert [{**info, "score": None} for info in found] == [{**info, "score": None} for info in wanted]
    np.testing.assert_allclose([i["score"] for i in found], [i["score"] for i in wanted], atol=2e-6)


def assert_same_but_near(found: np.ndarray, wanted: Any, near: np.ndarray) -> None:
    assert found.shape == tuple(wanted.shape)
    assert not ((found != np.asarray(wanted)) & ~near).any()


def first_two(planes: np.ndarray) -> np.ndarray:
    """The gap between the largest and the next, [H, W]."""
    if len(planes) == 1:
        return np.full(planes.shape[1:], np.inf)
    ranked = np.partition(planes, -2, axis=0)
    return ranked[-1] - ranked[-2]


def undecided(arrays: Arrays, size: tuple[int, int], options: dict[str, Any]) -> np.ndarray:
    """Pixels, bool [H, W], of one image's panoptic answer that the last bits decide. Draws are passed over in which
    they decide whether there is a segment."""
    scores, labels = torch.from_numpy(arrays[CLASSES][0]).softmax(-1).max(-1)
    assume(bool(((scores - options["threshold"]).abs() > NEAR).all()))
    kept = (labels < arrays[CLASSES].shape[-1] - 1) & (scores > options["threshold"])
    if not kept.any():
        return np.zeros(size, bool)
    planes = resized(resized(torch.from_numpy(arrays[MASKS][0]), WORKING).sigmoid()[kept], size).numpy()
    planes *= scores[kept].numpy()[:, None, None]
    largest, near = planes.max(axis=0), first_two(planes) < NEAR
    least_area = ((planes == largest) & ~near).sum(axis=(1, 2))
    most_area = (planes > largest - NEAR).sum(axis=(1, 2))
    least_own, most_own = (
        (planes >= options["mask_threshold"] + shift).sum((1, 2)) for shift in (NEAR, -NEAR)
    )
    low, high = least_area / np.maximum(most_own, 1), most_area / np.maximum(least_own, 1)
    share = options["overlap_mask_area_threshold"]
    assume(not ((low <= share + 1e-6) & (high >= share - 1e-6)).any())
    assume(not ((least_own == 0) & (most_own > 0)).any())
    return near


SIDES = st.integers(1, 24)
SIZES = st.tuples(SIDES, SIDES)
TARGETS = st.none() | st.tuples(st.integers(1, 500), st.integers(1, 500))
SHARES = st.floats(0, 1)
DRAWN = {
    "queries": st.integers(1, 12),
    "classes": st.integers(1, 5),
    "size": SIZES,
    "sure": st.sampled_from([0.5, 2.0, 6.0]),
    "seed": st.integers(0, 10**6),
}
drawn = st.fixed_dictionaries(DRAWN)


@settings(max_examples=60, deadline=None)
@given(
    drawn,
    TARGETS,
    st.fixed_dictionaries(
        {"threshold": SHARES, "mask_threshold": SHARES, "overlap_mask_area_threshold": SHARES}
    ),
    st.sets(st.integers(0, 4)),
)
def test_panoptic_answers_are_those_of_transformers(shape, target, options, fused):
    arrays = outputs(**shape)
    sizes = None if target is None else [target]
    near = undecided(arrays, target or WORKING, options)
    more = {**options, "label_ids_to_fuse": fused, "target_sizes": sizes}
    (found,), (wanted,) = panoptic(arrays, **more), theirs("panoptic", arrays, **more)
    assert_same_info(found["segments_info"], wanted["segments_info"])
    assert_same_but_near(found["segmentation"], wanted["segmentation"], near)


@settings(max_examples=40, deadline=None)
@given(drawn, TARGETS)
def test_semantic_answers_are_those_of_transformers(shape, target):
    arrays, sizes = outputs(**shape), None if target is None else [target]
    (wanted,) = theirs("semantic", arrays, target_sizes=sizes, return_segmentation_scores=True)
    (found,) = semantic(arrays, target_sizes=sizes, return_segmentation_scores=True)
    scores = wanted.segmentation_scores.numpy()
    np.testing.assert_allclose(found["segmentation_scores"], scores, atol=NEAR)
    near = first_two(scores) < NEAR
    assert_same_but_near(found["segmentation"], wanted.segmentation, near)
    (classes,) = semantic(arrays, target_sizes=sizes)
    assert classes.dtype == np.int64
    assert_same_but_near(classes, theirs("semantic", arrays, target_sizes=sizes)[0], near)


@pytest.fixture
def ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers takes the best pairs in whatever order the library leaves them (`sorted=False`): here, the best
    first, as the library does it of its own where there are many classes."""
    topk = torch.Tensor.topk
    monkeypatch.setattr(torch.Tensor, "topk", lambda self, k, sorted=True: topk(self, k, sorted=True))


@pytest.mark.usefixtures("ranked")
@settings(max_examples=60, deadline=None)
@given(
    drawn,
    TARGETS,
    SHARES,
    st.sampled_from([{}, {"return_binary_maps": True}, {"return_coco_annotation": True}]),
)
def test_instances_are_those_of_transformers(shape, target, threshold, form):
    arrays = outputs(**shape)
    options = {"threshold": threshold, "target_sizes": None if target is None else [target], **form}
    size = target or WORKING
    logits = resized(torch.from_numpy(arrays[MASKS][0]), WORKING)
    near = (logits.abs() < NEAR).any(0)
    everything = theirs("instance", arrays, **{**options, "threshold": 0.0})[0]["segments_info"]
    assume(all(abs(info["score"] - threshold) > NEAR for info in everything))
    assume(
        not near.any() or (not form and target is None)
    )  # else a pixel's place in the answer is hard to tell
    (found,), (wanted,) = instance(arrays, **options), theirs("instance", arrays, **options)
    assert_same_info(found["segments_info"], wanted["segments_info"])
    if "return_coco_annotation" in form:
        assert found["segmentation"] == wanted["segmentation"]
    else:
        assert_same_but_near(
            found["segmentation"],
            wanted["segmentation"],
            near.numpy() if target is None else np.zeros(size, bool),
        )


def test_the_order_of_instances_is_the_librarys_where_it_has_one():
    """Of the best of many pairs torch keeps a sorted heap."""
    arrays = outputs(queries=20, classes=80, size=(32, 40), sure=3.0)
    options = {"threshold": 0.05, "target_sizes": [(123, 77)]}
    (found,), (wanted,) = instance(arrays, **options), theirs("instance", arrays, **options)
    assert len(found["segments_info"]) > 10
    assert_same_info(found["segments_info"], wanted["segments_info"])
    np.testing.assert_array_equal(found["segmentation"], wanted["segmentation"])


def test_images_of_a_batch_are_answered_each_at_its_size():
    arrays = outputs(batch=3, size=(20, 30), sure=8.0)
    sizes = [(50, 70), (384, 384), (33, 401)]
    for method, own in (("panoptic", panoptic), ("semantic", semantic), ("instance", instance)):
        found: list[Any] = own(arrays, target_sizes=sizes)
        maps = [one if method == "semantic" else one["segmentation"] for one in found]
        assert [one.shape for one in maps] == sizes
        for i, size in enumerate(sizes):
            alone = own({name: array[i : i + 1] for name, array in arrays.items()}, target_sizes=[size])[0]
            np.testing.assert_array_equal(maps[i], alone if method == "semantic" else alone["segmentation"])


def test_equal_queries_go_to_the_first():
    arrays = outputs(queries=3, classes=2, size=(8, 8))
    arrays[CLASSES][0] = [[9, 0, 0], [9, 0, 0], [0, 9, 0]]
    arrays[MASKS][0] = np.array([4.0, 4.0, -4.0])[:, None, None]
    (found,), (wanted,) = panoptic(arrays), theirs("panoptic", arrays)
    assert_same_info(found["segments_info"], wanted["segments_info"])
    np.testing.assert_array_equal(found["segmentation"], wanted["segmentation"])
    assert set(np.unique(found["segmentation"])) == {1}
    (classes,) = semantic({CLASSES: arrays[CLASSES][:, :1] * 0, MASKS: arrays[MASKS][:, :1]})
    assert not classes.any()


@pytest.mark.parametrize(("least", "kept"), [(0.79, True), (0.8, True), (0.81, False)])
def test_a_query_that_loses_a_fifth_of_its_area(least, kept):
    """Shares are compared as float32, of which 4 / 5 is above 0.8."""
    arrays = outputs(queries=2, classes=1, size=WORKING)
    arrays[CLASSES][0] = [[3, 0], [9, 0]]
    arrays[MASKS][:] = -9
    arrays[MASKS][0, 0, :, :100] = arrays[MASKS][0, 1, :, 80:100] = 9
    options = {"overlap_mask_area_threshold": least}
    (found,), (wanted,) = panoptic(arrays, **options), theirs("panoptic", arrays, **options)
    assert_same_info(found["segments_info"], wanted["segments_info"])
    assert len(found["segments_info"]) == 1 + kept
    np.testing.assert_array_equal(found["segmentation"], wanted["segmentation"])


def test_nothing_found():
    """Not one query above the threshold: −1 everywhere; one that loses its area: 0."""
    arrays = outputs(sure=0.1)
    for own, method in ((panoptic, "panoptic"), (instance, "instance")):
        for sizes in (None, [(7, 9)]):
            (found,), (wanted,) = own(arrays, target_sizes=sizes), theirs(method, arrays, target_sizes=sizes)
            assert found["segments_info"] == wanted["segments_info"] == []
            np.testing.assert_array_equal(found["segmentation"], wanted["segmentation"])
            assert (found["segmentation"] == -1).all()
    (found,) = instance(arrays, return_binary_maps=True)
    np.testing.assert_array_equal(
        found["segmentation"], theirs("instance", arrays, return_binary_maps=True)[0]["segmentation"]
    )
    (found,) = panoptic(arrays, threshold=0.0, overlap_mask_area_threshold=1.0)
    assert not found["segmentation"].any() and found["segments_info"] == []


def test_no_queries_at_all():
    empty = {CLASSES: np.zeros((1, 0, 3), np.float32), MASKS: np.zeros((1, 0, 4, 4), np.float32)}
    assert (panoptic(empty)[0]["segmentation"] == -1).all()
    assert instance(empty)[0]["segments_info"] == []


def stripes(labels: list[int]) -> Arrays:
    """A query for each stripe of the image, sure of its class among three."""
    count = len(labels)
    masks = np.where(np.eye(count, dtype=bool).repeat(4, axis=1)[:, None], 8.0, -8.0).repeat(8, axis=1)
    logits = np.where(np.eye(4)[labels] > 0, 8.0, -8.0)
    return {CLASSES: logits[None].astype(np.float32), MASKS: masks[None].astype(np.float32)}


def test_ids_behind_a_fused_segment():
    """Sky, person, sky, person: transformers gives the second person the first one's id."""
    arrays = stripes([0, 1, 0, 1])
    (found,), (wanted,) = (
        panoptic(arrays, label_ids_to_fuse={0}),
        theirs("panoptic", arrays, label_ids_to_fuse={0}),
    )
    assert_same_info(found["segments_info"], wanted["segments_info"])
    assert [info["id"] for info in found["segments_info"]] == [1, 2, 1, 2]
    (found,) = panoptic(arrays, label_ids_to_fuse={0}, distinct_ids=True)
    assert [info["id"] for info in found["segments_info"]] == [1, 2, 1, 3]
    assert found["segmentation"][0, [10, 150, 250, 350]].tolist() == [1, 2, 1, 3]
    assert [info["was_fused"] for info in found["segments_info"]] == [True, False, True, False]


def test_labels_by_name_of_a_result():
    result = Result(dict(stripes([2, 0])))
    names = ("sky", "person", "road")
    assert [i["label"] for i in panoptic(result, labels=names)[0]["segments_info"]] == ["road", "sky"]
    assert {i["label"] for i in instance(result, labels=names)[0]["segments_info"]} == {"road", "sky"}
    with pytest.raises(InputError, match="2 names"):
        panoptic(result, labels=names[:2])


def broken(name: str, change: Any) -> Arrays:
    arrays = outputs(batch=2)
    return {**arrays, name: change(arrays[name])}


def spoiled(array: np.ndarray) -> np.ndarray:
    array[1, 3] = np.nan
    return array


@pytest.mark.parametrize("own", [semantic, instance, panoptic])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.zeros(3)}, "got y; expected class_queries_logits"),
        (broken(MASKS, lambda m: m[:, :5]), r"masks_queries_logits float32 \[2, 5, 12, 16\]"),
        (broken(MASKS, lambda m: m[:1]), "equal B and Q"),
        (broken(MASKS, lambda m: m[..., 0]), "equal B and Q"),
        (broken(MASKS, lambda m: m[..., :0]), "equal B and Q"),
        (broken(CLASSES, lambda c: c[..., :1]), "equal B and Q"),
        (broken(CLASSES, lambda c: c.astype(np.int64)), "int64"),
        (broken(CLASSES, spoiled), "class_queries_logits of image 1: got 5 values"),
        (broken(MASKS, spoiled), "masks_queries_logits of image 1: got 192 values"),
    ],
)
def test_outputs_that_cannot_be_segmented_are_named(own, arrays, message):
    with pytest.raises(InputError, match=message):
        own(arrays)


@pytest.mark.parametrize("sizes", [[(4, 4)] * 3, [(4, 4)], [(4, 4), (4, 0)], [(4.0, 4.0)] * 2, [4, 4]])
def test_target_sizes_that_do_not_fit_are_named(sizes):
    with pytest.raises(InputError, match="for 2 images"):
        panoptic(outputs(batch=2), target_sizes=sizes)


def test_two_forms_at_once_are_refused():
    with pytest.raises(InputError, match="one of the two"):
        instance(outputs(), return_binary_maps=True, return_coco_annotation=True)
