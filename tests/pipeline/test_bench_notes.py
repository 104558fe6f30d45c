"""Notes of a benchmark: what they say of the worst case."""

from __future__ import annotations

import pytest
from foveate.pipeline.bench_notes import notes_of

from .report_sample import sample_report


@pytest.mark.parametrize(("interval", "told"), [([1.0, 1.2], False), ([1.06, 1.2], True)])
def test_a_slow_worst_case_is_told_where_chance_does_not_explain_it(interval, told):
    found = sample_report()
    found["worst_case"] |= {"ratio": 1.1, "ratio_interval": interval}
    notes = [note for note in notes_of(found) if "should be at most 1.05" in note]
    assert bool(notes) is told
    assert all("every position active" in note and "1.06 to 1.20" in note for note in notes)
