"""Energy of a call, with a counter in the place of a card's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from foveate.pipeline.gpu.energy import SECONDS, joules_per_call


def test_it_is_the_counters_difference_over_all_calls():
    calls: list[int] = []
    now = iter(n * 0.25 for n in range(1000))
    card: Any = SimpleNamespace(joules=lambda: 50.0 + 7.0 * len(calls))
    found = joules_per_call(card, lambda: calls.append(1), lambda: next(now))
    assert found == pytest.approx(7.0) and len(calls) == pytest.approx(SECONDS / 0.25, abs=1)


def test_a_card_without_a_counter_has_none():
    card: Any = SimpleNamespace(joules=lambda: None)
    assert joules_per_call(card, lambda: pytest.fail("ran")) is None
