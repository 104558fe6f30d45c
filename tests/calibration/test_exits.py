"""`foveate calibrate --exits`: the gate of a bundle from images, each run once."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from foveate.calibration import latency
from foveate.calibration.answers import KEPT, Answers
from foveate.calibration.budget import Budget
from foveate.calibration.exits import calibrate_exits
from foveate.pipeline.build import build
from foveate.pipeline.cli.main import main
from foveate.pipeline.report_exits import exits_table
from foveate.runtime import load
from foveate.runtime.errors import InputError

from ..early_exits import EXITS, exit_program

SIZE = (32, 48)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exits")
    return build(exit_program(folder / "exits.onnx"), folder / "bundle", sample=(1, 3, *SIZE))


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A copy, for what is written there."""
    return Path(shutil.copytree(built, tmp_path / "bundle"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Images of low and of high contrast: labels say from which exit on an answer is good."""
    rng = np.random.default_rng(0)
    high = rng.random(96) < 0.5
    images = rng.standard_normal((96, 3, *SIZE)) * np.where(high, 6, 0.2)[:, None, None, None]
    np.savez(tmp_path / "images.npz", images=images.astype(np.float32), labels=high.astype(np.int64))
    return str(tmp_path / "images.npz")


def deep_enough(outputs: dict[str, np.ndarray], label: int) -> float:
    """1 where images of high contrast took all layers, and for all others."""
    return float(outputs["depth"][0] >= EXITS[-1] or not label)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch):
    """Its times are not what is tested."""
    monkeypatch.setattr(latency, "SECONDS", 0.05)


@pytest.fixture(autouse=True)
def _metric(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "exit_metric", sys.modules[__name__])


METRIC = "exit_metric:deep_enough"


def test_a_gate_is_trained_and_stored(bundle: Path, data: str):
    found, choices, path = calibrate_exits(bundle, data, budget=Budget(max_drop=0.05), metric=METRIC)
    point = found.chosen.point
    assert found.full == 1 and point.quality >= 0.95
    assert point.wins and 0 < point.lead[0] < point.quality - point.fixed < point.lead[1]
    assert point.quality > point.fixed + 0.1 and found.explained > 0.3
    assert 0 < found.chosen.work < 1 and found.notes == []
    assert path == bundle / "choices.json" and (bundle / "exit_tradeoff.png").is_file()
    facts = json.loads((bundle / "exit_tradeoff.json").read_text())
    assert facts["chosen"]["point"]["depth"] == point.depth
    assert len(exits_table(facts).rows) == len(found.trials) + len(EXITS)
    images = np.load(data)
    with load(bundle) as model:
        depth = model(images["images"])["depth"]
    assert (depth[images["labels"] == 1] == EXITS[-1]).mean() > 0.9
    assert (depth[images["labels"] == 0] == EXITS[0]).mean() > 0.9
    seen = {str(exit): int((depth == exit).sum()) for exit in EXITS if (depth == exit).any()}
    assert choices.depths == model.manifest.depths == seen
    assert choices.choices["gate0.offset"] == [0.0, 0.0, 0.0]


def test_no_image_is_run_twice(bundle: Path, data: str, monkeypatch: pytest.MonkeyPatch):
    """For another budget, after the gate was changed; and a run that was cut off goes on where it was."""
    runs = []
    run = Answers._run
    monkeypatch.setattr(Answers, "_run", lambda *given: runs.append(1) or run(*given))

    def stop_after(count: int) -> Iterator[None]:
        for _ in range(count):
            yield
        raise KeyboardInterrupt

    ticks = stop_after(10)
    with pytest.raises(KeyboardInterrupt):
        calibrate_exits(bundle, data, metric=METRIC, tick=lambda: next(ticks))
    assert len(runs) == 11 * len(EXITS) and (bundle / KEPT).is_file()
    calibrate_exits(bundle, data, metric=METRIC)
    assert len(runs) == 96 * len(EXITS)
    found, _, _ = calibrate_exits(bundle, data, metric=METRIC, beta=10.0)
    assert len(runs) == 96 * len(EXITS) and found.chosen.point.depth == EXITS[0]
    calibrate_exits(bundle, data, metric="agreement", limit=16)
    assert len(runs) == (96 + 16) * len(EXITS)


def test_nothing_may_be_lost(bundle: Path, data: str):
    """All layers are always among what may be chosen."""
    found, _, _ = calibrate_exits(bundle, data, metric=METRIC, budget=Budget(max_drop=0.0))
    assert found.chosen.point.quality >= found.full


def test_latency_is_measured_and_may_be_what_decides(bundle: Path, data: str):
    found, _, _ = calibrate_exits(bundle, data, metric=METRIC)
    assert all(trial.ms > 0 for trial in found.depths) and found.layout in ("chain", "per-depth", "if")
    assert found.gate is not None and found.gate.images == 8 and found.gate.measured_ms > 0
    assert found.gate.expected_ms > 0
    for trial in found.trials:
        by_exit = {int(t.point.depth): t.ms for t in found.depths}
        assert trial.ms == pytest.approx(sum(by_exit[k] * share for k, share in trial.point.shares.items()))
    found, _, _ = calibrate_exits(bundle, data, metric=METRIC, budget=Budget(latency_ms=1e6))
    assert found.chosen.point.quality == max(t.point.quality for t in [*found.trials, *found.depths])
    with pytest.raises(InputError, match="--latency-budget"):
        calibrate_exits(bundle, data, metric=METRIC, budget=Budget(latency_ms=1e-6))


def test_a_gate_that_tells_nothing_is_not_called_ahead(bundle: Path, tmp_path: Path):
    """Labels that nothing in the images tells."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((64, 3, *SIZE)).astype(np.float32)
    np.savez(tmp_path / "images.npz", images=images, labels=rng.integers(0, 2, 64))
    path = str(tmp_path / "images.npz")
    found, choices, _ = calibrate_exits(bundle, path, metric=METRIC, beta=0.1)
    assert found.explained < 0.1 and not found.chosen.point.wins
    assert found.notes == [found.verdict(), found.why()] and choices.notes == found.notes
    assert "ahead" not in found.verdict()


def test_on_the_command_line(bundle: Path, data: str, capsys: pytest.CaptureFixture[str]):
    arguments = ["calibrate", str(bundle), "--exits", "--data", data, "--metric", METRIC]
    assert main([*arguments, "--max-drop", "0.05"]) == 0
    shown = capsys.readouterr().out
    assert "one depth" in shown and "random depth" in shown and "chosen:" in shown and "ahead of" in shown
    assert main([*arguments, "--beta", "0.05", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["chosen"]["point"]["beta"] == 0.05


def test_what_cannot_be_calibrated(bundle: Path, data: str, make_program, tmp_path: Path):
    with pytest.raises(InputError, match="at least 8"):
        calibrate_exits(bundle, data, metric=METRIC, limit=7)
    plain = build(make_program(masks=0), tmp_path / "plain")
    with pytest.raises(InputError, match="ExitGate"):
        calibrate_exits(plain, data, metric=METRIC)
    with pytest.raises(InputError, match="Build it first"):
        calibrate_exits(exit_program(tmp_path / "exits.onnx"), data, metric=METRIC)
