"""What a budget leaves of what was tried, on made-up figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from foveate.calibration.budget import NEAR, Budget, pareto
from foveate.calibration.tradeoff import BROKEN, HOLDS, UNCLEAR, UNTRIED, confirm, drop_of
from foveate.runtime.errors import InputError
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Tried:
    quality: float
    ms: float

    @property
    def cost(self) -> float:
        return self.ms


TRIED = [Tried(0.9, 10.0), Tried(0.89, 5.0), Tried(0.7, 2.0), Tried(0.6, 3.0)]
several = st.lists(st.builds(Tried, st.floats(0, 1), st.floats(0.1, 100)), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (Budget(max_drop=0.005), 0),
        (Budget(max_drop=0.01), 1),
        (Budget(max_drift=0.3), 2),
        (Budget(min_metric=0.8), 1),
        (Budget(latency_ms=6.0), 1),
        (Budget(latency_ms=2.5), 2),
        (Budget(max_drop=0.25, latency_ms=6.0), 2),
    ],
)
def test_the_cheapest_within_the_budget(budget: Budget, chosen: int):
    assert budget.pick(TRIED, 0.9) == TRIED[chosen]


@given(several, st.floats(0, 1))
def test_nothing_within_the_budget_is_cheaper_by_more_than_latencies_are_known(
    tried: list[Tried], drop: float
):
    reference = max(t.quality for t in tried)
    chosen = Budget(max_drop=drop).pick(tried, reference)
    allowed = [t for t in tried if t.quality >= reference - drop - 1e-9]
    assert chosen in allowed and chosen.ms <= min(t.ms for t in allowed) * (1 + NEAR)
    assert all(t.quality <= chosen.quality for t in allowed if t.ms < chosen.ms)


@given(several)
def test_nothing_beats_the_front(tried: list[Tried]):
    front = pareto(tried)
    for each in tried:
        assert any(f.ms <= each.ms and f.quality >= each.quality for f in front)
    for f in front:
        assert not any(t.ms <= f.ms and t.quality > f.quality for t in tried)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(latency_ms=1.0), "at least 2 ms.*Raise --latency-budget"),
        (Budget(min_metric=0.95), "min-metric 95 %.*at most 0.9000"),
        (Budget(max_drop=0.01, latency_ms=4.0), "latency-budget 4 ms.*at most 0.7000"),
    ],
)
def test_a_budget_that_nothing_fits_is_named(budget: Budget, words: str):
    with pytest.raises(InputError, match=f"(?s){words}"):
        budget.pick(TRIED, 0.9)


def test_budgets_that_make_no_sense():
    for wrong in ({"max_drop": -0.1}, {"max_drift": float("nan")}, {"latency_ms": float("inf")}):
        with pytest.raises(InputError, match="0 or more"):
            Budget(**wrong)
    with pytest.raises(InputError, match="one limit of quality"):
        Budget(max_drop=0.1, min_metric=0.5)


def hits(*values: float) -> np.ndarray:
    """Counts [N, 1, 2] of a metric that is a mean over images."""
    return np.stack([np.array(values), np.ones(len(values))], axis=1)[:, None]


def test_drop_and_its_interval():
    random = np.random.default_rng(0)
    before = random.random(400)
    after = before - 0.1 + 0.2 * random.standard_normal(400)
    drop, (low, high) = drop_of(hits(*after), hits(*before))
    assert drop == pytest.approx((before - after).mean())
    error = 1.96 * (before - after).std() / 20
    assert (low, high) == (pytest.approx(drop - error, rel=0.1), pytest.approx(drop + error, rel=0.1))


def test_a_drop_of_classes_that_only_one_of_the_two_has_met():
    more = np.concatenate([hits(1, 1, 0), hits(0, 0, 0)], axis=1)  # [3, 2, 2]
    before = hits(1, 1, 1)
    assert drop_of(more, before)[0] == pytest.approx(1 - (2 / 3 + 0) / 2)
    assert drop_of(before, more)[0] == pytest.approx((2 / 3 + 0) / 2 - 1)


def test_a_latency_confirms_where_it_is_measured_again():
    right, budget = hits(1, 1), Budget(latency_ms=2.0)
    found = [confirm(budget, right, right, ms).verdict for ms in (2.0, 2.03, 2.1)]
    assert found == [HOLDS, HOLDS, BROKEN]


def test_held_out_images_confirm_or_do_not():
    right, few, many = np.ones(100), np.ones(100), np.ones(100)
    few[0], many[:30] = 0, 0
    verdicts = [
        confirm(Budget(max_drop=0.005), hits(*right), hits(*found)).verdict for found in (right, few, many)
    ]
    assert verdicts == [HOLDS, UNCLEAR, BROKEN]
    least = [confirm(Budget(min_metric=m), hits(*right), hits(*many)).verdict for m in (0.7, 0.72, 0.9)]
    assert least == [HOLDS, UNCLEAR, BROKEN]
    assert confirm(Budget(latency_ms=1.0), hits(*right), hits(*many)).verdict == UNTRIED
