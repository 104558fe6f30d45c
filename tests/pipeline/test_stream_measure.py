"""Laws of what `foveate stream` measures: deadlines, errors beside their control, and pictures."""

from __future__ import annotations

import numpy as np
import pytest
from foveate.pipeline.statistics import TOO_SMALL
from foveate.pipeline.streams.errors import SAMPLED, Comparison
from foveate.pipeline.streams.measure import Frame
from foveate.pipeline.streams.pace import pace
from foveate.pipeline.streams.record import overlay_of
from foveate.runtime.manifest import Preprocess
from foveate.runtime.result import Result
from hypothesis import given
from hypothesis import strategies as st

clips = st.tuples(st.integers(1, 20), st.integers(1, 5))


@given(clips, st.floats(1, 100), st.floats(0.01, 0.99))
def test_below_the_period_divided_by_the_streams_nothing_is_missed(clip, fps, load):
    service = np.full(clip, load * 1e3 / fps / clip[1])
    found = pace(service, fps)
    assert found.misses == 0 and found.frames == service.size
    assert found.load == pytest.approx(load) and found.latest_ms == pytest.approx(service[0, 0])


@given(clips, st.floats(1, 100))
def test_frames_that_take_longer_than_the_period_are_all_missed(clip, fps):
    found = pace(np.full(clip, 1.5e3 / fps), fps)
    assert found.misses == found.frames and found.load == pytest.approx(1.5 * clip[1])


def test_a_slow_frame_delays_those_behind_it():
    service = np.full((10, 1), 20.0)
    service[3] = 290.0  # three periods late at 10 a second, then it catches up by 80 ms a frame
    found = pace(service, 10.0)
    assert found.misses == 3 and found.latest_ms == 290.0


def test_errors_stand_beside_holding_the_previous_output():
    dense = [np.full((1, 1, 4, 4), float(n), np.float32) for n in range(4)]
    found = Comparison()
    for number, wanted in enumerate(dense):
        found.add(number, {"y": wanted + 0.25}, {"y": wanted})
    [error] = found.facts()
    assert (error["range"], error["mean"], error["max"]) == (3.0, 0.25, 0.25)
    assert error["hold"]["mean"] == 1.0 and error["of_hold"] == 0.25
    assert error["relative_mean"] == pytest.approx(0.25 / 3)
    assert error["p99"] == TOO_SMALL  # 64 values
    assert error["hold_means"] == [None, 1.0, 1.0, 1.0]


def test_a_frame_whose_predecessor_was_not_compared_has_no_control():
    found = Comparison()
    for number in (0, 3, 4):
        value = {"y": np.full((1, 2), float(number))}
        found.add(number, value, value)
    [error] = found.facts()
    assert error["hold_means"] == [None, None, 1.0] and error["of_hold"] == 0.0


def test_outputs_of_another_shape_have_no_error():
    found = Comparison()
    found.add(0, {"boxes": np.zeros((3, 4))}, {"boxes": np.zeros((2, 4))})
    [error] = found.facts()
    assert error["means"] == [None] and error["mean"] is None and error["relative_mean"] is None


def test_the_percentile_of_a_large_output_is_that_of_its_values():
    rng, found = np.random.default_rng(0), Comparison()
    wanted = np.zeros((1, 1, 400, 400), np.float32)
    wrong = rng.random(wanted.shape).astype(np.float32)
    assert wanted.size > SAMPLED
    found.add(0, {"y": wrong}, {"y": wanted})
    assert found.facts()[0]["p99"] == pytest.approx(0.99, abs=0.01)


def test_the_overlay_tints_what_changed_and_nothing_else():
    changed = np.zeros((40, 330), bool)
    changed[10:20, 30:60] = True
    picture = np.full((1, 3, 40, 330), 100 / 255, np.float32)
    frame = Frame(7, picture, Result({}), changed, 0.25, 1.5, "")
    shown = np.asarray(overlay_of(frame, Preprocess()))
    assert shown.shape[0] > 40 and shown.shape[1] == 330
    inside = shown[12:18, 35:55].reshape(-1, 3)
    assert (inside == inside[0]).all() and inside[0, 1] > inside[0, 0] and inside[0, 1] > 110
    outside = shown[:40].copy()
    outside[9:22, 29:62] = 100
    assert (outside == 100).all()
    assert (shown[42:] > 150).any()  # the line of figures


def test_a_frame_computed_whole_is_tinted_everywhere_and_small_ones_are_enlarged():
    frame = Frame(0, np.zeros((1, 3, 10, 20), np.float32), Result({}), None, 1.0, 1.5, "first")
    shown = np.asarray(overlay_of(frame, Preprocess()))
    assert shown.shape[1] == 320 and (shown[:160, :, 1] > 50).all()
