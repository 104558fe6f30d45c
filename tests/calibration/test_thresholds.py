from __future__ import annotations

import json

import numpy as np
import pytest
from foveate.calibration import calibrate, read_choices
from foveate.calibration.thresholds import active_fractions, threshold_at
from foveate.pipeline.data import open_data
from foveate.pipeline.dense import Dense
from foveate.runtime.errors import InputError
from hypothesis import given
from hypothesis import strategies as st


def fractions_seen(program, data, choices, mask="mask0"):
    dense = Dense(program, 1, tensors=[f"{mask}.keep"])
    return [float((dense(image, choices)[f"{mask}.keep"] != 0).mean()) for image, _ in open_data(data)]


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.6])
def test_active_gives_the_mean_active_fraction_that_stock_onnxruntime_sees(make_program, scenes, fraction):
    program = make_program()
    found = read_choices(calibrate(program, scenes, active=fraction))
    seen = fractions_seen(program, scenes, found.choices)
    assert np.mean(seen) == pytest.approx(fraction, abs=1 / 144)
    assert found.active_fraction == pytest.approx(np.mean(seen), abs=1e-6)
    assert sum(found.activity["mask0"].histogram) == found.images == 6


def test_a_given_threshold_is_kept_and_its_activity_recorded(make_program, scenes):
    program = make_program()
    found = read_choices(calibrate(program, scenes, threshold=0.4))
    assert found.choices == {"mask0.threshold": pytest.approx(0.4)}
    seen = fractions_seen(program, scenes, found.choices)
    assert found.activity["mask0"].mean == pytest.approx(np.mean(seen), abs=1e-6)
    assert found.activity["mask0"].quantiles["100"] == pytest.approx(max(seen), abs=1e-6)


def test_without_a_wish_the_programs_own_threshold_stays(make_program, scenes):
    assert read_choices(calibrate(make_program(), scenes)).choices == {"mask0.threshold": 0.5}


def test_a_later_mask_is_calibrated_behind_the_earlier_one_at_its_new_threshold(make_program, scenes):
    program = make_program(masks=2)
    found = read_choices(calibrate(program, scenes, active={"mask0": 0.5, "mask1": 0.2}))
    dense = Dense(program, 1, tensors=["narrowed1"])
    seen = [float((dense(image, found.choices)["narrowed1"] != 0).mean()) for image, _ in open_data(scenes)]
    assert np.mean(seen) == pytest.approx(0.2, abs=1 / 144)
    assert found.activity["mask0"].mean == pytest.approx(0.5, abs=1 / 144)


def test_the_file_says_what_it_was_made_from(make_program, scenes):
    program = make_program()
    path = calibrate(program, scenes, active=0.5)
    facts = json.loads(path.read_text())
    assert path == program.with_suffix(".choices.json")
    assert facts["data"] == str(scenes) and len(facts["program_sha256"]) == 64


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"active": 1.5}, "0 to 1"),
        ({"active": {"mask7": 0.5}}, "mask7"),
        ({"active": 0.5, "threshold": 0.5}, "one of the two"),
        ({"threshold": float("nan")}, "finite"),
    ],
)
def test_wrong_wishes_are_named(make_program, scenes, wish, words):
    with pytest.raises(InputError, match=words):
        calibrate(make_program(), scenes, **wish)


def test_a_program_without_decisions_has_nothing_to_choose(make_program, scenes):
    program = make_program(masks=0)
    assert read_choices(calibrate(program, scenes)).choices == {}
    with pytest.raises(InputError, match="without decisions"):
        calibrate(program, scenes, active=0.5)


def test_a_file_that_is_no_choices_json_is_named(tmp_path):
    path = tmp_path / "choices.json"
    path.write_text('{"schema_version": 9}')
    with pytest.raises(InputError, match="schema version 9"):
        read_choices(path)


@given(
    st.lists(st.lists(st.integers(-800, 800), min_size=4, max_size=12), min_size=1, max_size=6),
    st.floats(0, 1),
)
def test_search_brackets_the_fraction_for_any_mix_of_sizes(images, fraction):
    """No threshold comes nearer than a tie allows: a little lower reaches the fraction, the one found is not above."""
    logits = [np.array(z, np.float32) / 100 for z in images]  # unequal ones have unequal probabilities
    reachable = [np.ones(z.shape, bool) for z in logits]
    found = threshold_at(logits, reachable, 1.0, fraction)
    step = max(1 / z.size for z in logits)
    ties = max(np.unique(np.concatenate(logits), return_counts=True)[1])
    assert abs(active_fractions(logits, reachable, 1.0, found).mean() - fraction) <= step * ties + 1e-9
