"""The guard: what keeps losing is demoted, probed, and welcomed back."""

from __future__ import annotations

from foveate.runtime.guard import Guard

REGIONS = ("one", "two")


def lose(guard: Guard, region: str = "one", times: int = 4) -> None:
    for _ in range(times):
        guard.saw_selective(region, predicted_ms=1.0, measured_ms=12.0, dense_ms=10.0)


def sit_out(guard: Guard, region: str = "one") -> int:
    requests = 0
    while guard.demoted(region):
        guard.pass_by(region)
        requests += 1
    return requests


def test_a_loss_or_two_is_forgiven():
    guard = Guard(REGIONS)
    lose(guard, times=3)
    guard.saw_selective("one", 1.0, 1.0, 10.0)
    lose(guard, times=3)
    assert not guard.demoted("one")


def test_a_losing_streak_demotes_that_region_alone():
    guard = Guard(REGIONS)
    lose(guard)
    assert guard.demoted("one") and not guard.demoted("two") and not guard.all_demoted
    lose(guard, "two")
    assert guard.all_demoted and guard.demotions == 2


def test_a_losing_probe_doubles_the_pause():
    guard = Guard(REGIONS)
    lose(guard)
    first = sit_out(guard)
    lose(guard, times=1)
    second = sit_out(guard)
    assert (first, second) == (32, 64)


def test_a_winning_probe_ends_it():
    guard = Guard(REGIONS)
    lose(guard)
    sit_out(guard)
    guard.saw_selective("one", 1.0, 2.0, 10.0)
    lose(guard, times=3)
    assert not guard.demoted("one")
    lose(guard, times=1)
    assert sit_out(guard) == 32


def test_predictions_are_corrected_by_experience():
    guard = Guard(REGIONS)
    guard.saw_dense("one", predicted_ms=10.0, measured_ms=10.0)
    assert guard.budget("one", 10.0) == 10.0
    for _ in range(40):
        guard.saw_selective("one", predicted_ms=2.0, measured_ms=4.0, dense_ms=10.0)
    assert 5.0 <= guard.budget("one", 10.0) < 5.2
    for _ in range(40):
        guard.saw_dense("two", predicted_ms=10.0, measured_ms=5.0)
    assert 5.0 <= guard.budget("two", 10.0) < 5.2
    for _ in range(40):
        guard.saw_dense("two", predicted_ms=10.0, measured_ms=30.0)
    assert guard.budget("two", 10.0) == 10.0, "never above the prediction"


def test_one_outlier_says_little():
    guard = Guard(REGIONS)
    guard.saw_selective("one", predicted_ms=1.0, measured_ms=1e6, dense_ms=10.0)
    assert guard.budget("one", 10.0) > 6.0


def test_experience_is_forgotten_where_only_it_keeps_the_region_dense():
    guard = Guard(REGIONS)
    for _ in range(3):
        guard.saw_selective("one", predicted_ms=4.0, measured_ms=16.0, dense_ms=10.0)
    before = guard.budget("one", 10.0)
    for _ in range(200):
        guard.saw_dense("one", predicted_ms=10.0, measured_ms=10.0)
    assert before < guard.budget("one", 10.0) <= 10.0


def test_close_calls_ask_for_a_dense_probe_now_and_then():
    guard = Guard(REGIONS)
    probes = 0
    for _ in range(200):
        probes += guard.budget("one", 10.0) == 0.0
        guard.saw_selective("one", predicted_ms=9.0, measured_ms=9.0, dense_ms=10.0)
    assert probes == 5  # after 8, 16, 32, 64, 64


def run_where_dense_takes(dense_ms: float, measured_ms: float, guard: Guard, requests: int = 200) -> int:
    """Requests of a region whose dense ms are believed to be 10. Gives how many ran dense."""
    probes = 0
    for _ in range(requests):
        if guard.budget("one", 10.0) == 0.0:
            probes += 1
            guard.saw_dense("one", 10.0, dense_ms)
        else:
            guard.saw_selective("one", predicted_ms=2.0, measured_ms=measured_ms, dense_ms=10.0)
    return probes


def test_of_clear_wins_dense_is_checked_once():
    assert run_where_dense_takes(10.0, measured_ms=2.0, guard=Guard(REGIONS)) == 1


def test_a_dense_time_that_was_measured_in_a_busy_moment_is_found_out():
    guard = Guard(REGIONS)
    run_where_dense_takes(5.0, measured_ms=5.5, guard=guard)
    assert guard.demotions, "5.5 ms look like a clear win over 10 ms, and lose against the 5 that dense takes"


def fall_back(guard: Guard, times: int) -> None:
    for _ in range(times):
        guard.saw_choices(all_dense=True)


def test_fallbacks_throughout_make_the_model_rest():
    guard = Guard(REGIONS)
    fall_back(guard, 7)
    guard.saw_choices(all_dense=False)
    fall_back(guard, 7)
    assert not guard.resting
    fall_back(guard, 1)
    assert guard.resting and not guard.all_demoted


def test_a_rest_ends_and_one_more_fallback_begins_another():
    guard = Guard(REGIONS)
    fall_back(guard, 8)
    requests = 0
    while guard.resting:
        guard.rested(promising=False)
        requests += 1
    assert requests == 16
    fall_back(guard, 1)
    assert guard.resting


def test_a_promising_image_ends_the_rest():
    guard = Guard(REGIONS)
    fall_back(guard, 8)
    guard.rested(promising=True)
    assert not guard.resting
    fall_back(guard, 1)
    assert not guard.resting
