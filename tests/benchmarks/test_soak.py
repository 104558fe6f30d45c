"""The soak test in little: every kind of frame and incident, and no wrong answer."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def soak(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("soak")


def test_some_hundred_frames(soak, tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "HAPPENS", 0.1)
    monkeypatch.setattr(soak, "CHECKS", 10)
    facts = soak.measure(tmp_path, frames=80, streams=3, size=32, threads=2)
    counts = facts["counts"]
    assert counts["frames"] == 240 == sum(counts[kind] for kind in ("spans", "whole", "dense"))
    assert all(counts[incident] > 0 for incident in soak.INCIDENTS)
    assert facts["max_rel_error"] <= soak.ERROR
    assert facts["resident_bytes"]["warm"] > 1e7
    assert "largest error" in soak.table(facts)


def test_a_wrong_answer_shows(soak, tmp_path, monkeypatch):
    from foveate.runtime import Model

    exact = Model.stream
    monkeypatch.setattr(Model, "stream", lambda model, **_: exact(model, threshold=1.0, fallback=False))
    facts = soak.measure(tmp_path, frames=20, streams=2, size=32, threads=1)
    assert facts["max_rel_error"] > soak.ERROR
