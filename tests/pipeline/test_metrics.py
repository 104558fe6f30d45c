"""Task metrics and their label formats."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from foveate.pipeline.metrics import COUNTS, metric_for, open_metric
from foveate.runtime.errors import InputError
from hypothesis import given
from hypothesis import strategies as st


def scores(*values):
    return {"y": np.array([values], np.float32)}


def value(metric, *samples):
    opened = open_metric(metric)
    for outputs, label in samples:
        opened.update(outputs, label, outputs)
    return opened.value()


def test_top1_and_top5_count_hits():
    six = scores(6, 5, 4, 3, 2, 1)
    assert value("top1", (six, 0), (six, 1)) == 0.5
    assert value("top5", (six, 0), (six, 4), (six, 5), (six, np.int64(1))) == 0.75


def test_a_constant_or_broken_output_does_not_score():
    assert value("top1", (scores(1, 1, 1), 2)) == 0
    assert value("top1", (scores(np.nan, np.nan, np.nan), 0)) == 0


def test_agreement_compares_with_the_reference():
    metric = open_metric("agreement")
    metric.update(scores(1, 2), None, scores(3, 4))
    metric.update(scores(1, 2), None, scores(4, 3))
    assert metric.value() == 0.5


def test_agreement_of_maps_counts_pixels():
    ours, theirs = np.zeros((1, 2, 2, 2), np.float32), np.zeros((1, 2, 2, 2), np.float32)
    theirs[0, 1, 0, 0] = 1
    metric = open_metric("agreement")
    metric.update({"y": ours}, None, {"y": theirs})
    assert metric.value() == 0.75


@given(st.lists(st.integers(0, 64), min_size=2, max_size=5), st.floats(0, 0.1))
def test_closeness_is_one_less_the_error_as_a_share_of_the_range(spans, shift):
    """By output: of the sums over images; of integers the share that is equal."""
    metric, errors, ranges = open_metric("closeness"), [], [span / 64 for span in spans]
    for number, span in enumerate(ranges):
        wanted = {"y": np.array([[-1, span - 1]]), "n": np.array([[1, 2, 3, 4]])}
        sign = (-1) ** number
        metric.update({"y": wanted["y"] + sign * shift, "n": np.array([[1, 2, 3, 0]])}, None, wanted)
        errors.append(shift)
    expected = [1 - sum(errors) / sum(ranges)] if sum(ranges) > 0 else []
    assert metric.value() == pytest.approx(np.mean([*expected, 0.75]), rel=1e-5, abs=1e-5)


def test_closeness_refuses_outputs_of_another_shape():
    with pytest.raises(InputError, match="module:function"):
        open_metric("closeness").update({"boxes": np.zeros((1, 3, 4))}, None, {"boxes": np.zeros((1, 2, 4))})


def one_hot(labels, classes):
    return {"y": np.eye(classes, dtype=np.float32)[labels].transpose(2, 0, 1)[None]}


@given(st.integers(2, 5), st.integers(0, 100))
def test_mean_iou_equals_the_definition_over_all_images(classes, seed):
    random = np.random.default_rng(seed)
    pairs = [(random.integers(0, classes, (4, 5)), random.integers(0, classes, (4, 5))) for _ in range(3)]
    wanted, got = (np.stack(side) for side in zip(*pairs, strict=True))
    each = [
        ((wanted == c) & (got == c)).sum() / ((wanted == c) | (got == c)).sum()
        for c in range(classes)
        if ((wanted == c) | (got == c)).any()
    ]
    assert value("mean_iou", *((one_hot(g, classes), w) for w, g in pairs)) == pytest.approx(np.mean(each))


def test_mean_iou_ignores_marked_pixels_and_reads_single_channel_logits():
    logits = {"y": np.array([[[[1.0, -1.0], [1.0, -1.0]]]], np.float32)}
    assert value("mean_iou", (logits, np.array([[1, 0], [255, -1]]))) == 1.0


def test_a_function_of_the_user_is_averaged(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(
        "def error(outputs, label):\n    return abs(outputs['y'][0, 0] - label)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert value("own_metric:error", (scores(3), 1), (scores(5), 1)) == 3.0
    sys.modules.pop("own_metric", None)


@pytest.mark.parametrize(
    ("metric", "label", "message"),
    [
        ("top1", None, "no label"),
        ("top1", 7, "label 7"),
        ("top5", 0.5, "label 0.5"),
        ("mean_iou", None, "labels|no label"),
        ("mean_iou", np.zeros((3, 3), np.int64), r"\[3, 3\]"),
    ],
)
def test_a_label_of_the_wrong_format_is_named(metric, label, message):
    outputs = one_hot(np.zeros((2, 2), np.int64), 3) if metric == "mean_iou" else scores(1, 2, 3)
    with pytest.raises(InputError, match=message):
        value(metric, (outputs, label))


def test_an_unknown_metric_lists_the_known_ones():
    with pytest.raises(InputError, match="top1, top5, agreement, closeness, mean_iou"):
        open_metric("accuracy")


def test_the_default_metric_follows_from_the_label():
    assert [metric_for(label) for label in (None, 3, np.zeros((2, 2), int))] == [
        "agreement",
        "top1",
        "mean_iou",
    ]


@pytest.mark.parametrize("metric", COUNTS)
def test_a_metric_without_images_is_nan(metric):
    assert np.isnan(open_metric(metric).value())
