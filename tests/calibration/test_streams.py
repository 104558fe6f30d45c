"""`foveate calibrate --stream`: the policy of streams, searched within a budget on a clip."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from foveate.calibration import stream_trials, streams
from foveate.calibration.budget import Budget
from foveate.calibration.stream_trials import in_blocks
from foveate.calibration.streams import calibrate_stream
from foveate.calibration.tradeoff import BROKEN, HOLDS, Tradeoff
from foveate.pipeline.build import build
from foveate.pipeline.cli.main import main
from foveate.pipeline.data import open_data
from foveate.pipeline.dense import Dense
from foveate.pipeline.metrics import open_metric
from foveate.pipeline.report_budget import TITLE, read_stream_tradeoff
from foveate.runtime import load
from foveate.runtime.bundle import open_bundle
from foveate.runtime.errors import InputError
from foveate.runtime.policy import StreamPolicy
from hypothesis import given
from hypothesis import strategies as st

from ..clips import SIZE, edges_program, moving_square
from ..early_exits import EXITS, exit_program
from .test_search import Killing

FRAMES = 12


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch):
    """A few settings are as good as many."""
    monkeypatch.setattr(streams, "LEVELS", (4, 12))
    monkeypatch.setattr(streams, "LAYERS", (0.0, 0.1))
    monkeypatch.setattr(stream_trials, "TOGETHER", 2)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("net")
    program = edges_program(folder / "edges.onnx")
    return build(program, folder / "bundle", sample=(1, 3, *SIZE))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("video")
    return str(moving_square(folder / "noisy.avi", noise=5, frames=FRAMES))


@pytest.fixture
def bundle(built: Path, tmp_path: Path) -> Path:
    """A copy, for what is written there."""
    return Path(shutil.copytree(built, tmp_path / "bundle"))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many streams each run had."""
    found: list[int] = []
    measure = stream_trials._Run.measure

    def counted(run: stream_trials._Run, tick):
        times = measure(run, tick)
        found.append(len(run.work))
        return times

    monkeypatch.setattr(stream_trials._Run, "measure", counted)
    return found


def test_the_cheapest_within_the_budget_is_chosen_confirmed_and_stored(bundle: Path, video: str):
    found, choices, path = calibrate_stream(bundle, video, budget=Budget(max_drift=0.002))
    assert found.metric == "closeness" and found.unit == "frames"
    assert found.images == FRAMES / 2 - 1 == found.held_out.images
    fits = [trial for trial in found.trials if trial.drop <= 0.002 + 1e-9]
    assert 1 < len(fits) < len(found.trials) == 1 + 2 * 1 + 2 * 2
    assert found.chosen in fits and found.chosen.ms <= min(trial.ms for trial in fits) * 1.021
    assert found.trials[0].settings == {"stream": "exact"} and found.trials[0].drop == 0
    assert found.reference == pytest.approx(1, abs=1e-6)
    policy = dict(found.choices)
    assert path == bundle / "choices.json" and json.loads(path.read_text())["stream"] == policy
    assert choices.stream == policy == open_bundle(bundle).manifest.stream_policy
    facts = json.loads((bundle / "stream_tradeoff.json").read_text())
    assert facts["chosen"] == json.loads(json.dumps(dataclasses.asdict(found.chosen)))
    assert (bundle / "stream_tradeoff.png").read_bytes().startswith(b"\x89PNG")
    quality, work, hold = run_by_hand(bundle, video, 0, FRAMES // 2)
    assert found.chosen.quality == pytest.approx(quality, abs=1e-6) and found.chosen.work == pytest.approx(
        work
    )
    assert found.hold == pytest.approx(hold, abs=1e-6)
    quality, _, _ = run_by_hand(bundle, video, FRAMES // 2, FRAMES)
    assert found.held_out.quality == pytest.approx(quality, abs=1e-6)


def run_by_hand(bundle: Path, video: str, first: int, end: int) -> tuple[float, float, float]:
    """Of the bundle's own policy on these frames: closeness, work, and what it is to hold the frame before."""
    metric, hold, work, before = open_metric("closeness"), open_metric("closeness"), [], {}
    with load(bundle, threads=1) as model:
        dense = Dense(bundle / model.manifest.program, 1)
        stream = model.stream(fallback=False)
        assert model.manifest.stream is not None
        saved = model.manifest.stream.share
        for number, (image, _) in enumerate(open_data(video, model.manifest.preprocess)):
            if not first <= number < end:
                continue
            answer, wanted = stream(image), dense(image)
            if number > first:
                metric.update({name: np.asarray(value) for name, value in answer.items()}, None, wanted)
                hold.update(before, None, wanted)
                work.append(1 - saved + saved * stream.work / stream.full_work)
            before = wanted
    return metric.value(), float(np.mean(work)), hold.value()


def test_the_bundles_streams_take_the_policy(bundle: Path, video: str):
    found, _, _ = calibrate_stream(bundle, video, budget=Budget(max_drift=0.05), limit=6)
    policy = dict(found.choices)
    with load(bundle, threads=1) as model:
        assert model.stream_policy == model.stream().policy == StreamPolicy(**policy)
        assert model.stream(refresh=9).policy == StreamPolicy(**policy, refresh=9)
        assert model.stream(StreamPolicy()).policy == StreamPolicy()
    assert main(["build", str(bundle), "--quiet"]) == 0
    assert open_bundle(bundle).manifest.stream_policy == policy  # a rebuilt bundle keeps it
    found, _, _ = calibrate_stream(bundle, video, budget=Budget(max_drift=0.0), limit=6)
    assert all(t.drop <= 1e-9 for t in found.trials if t.settings == found.chosen.settings)


def test_the_same_budget_chooses_the_same_and_another_repeats_nothing(
    bundle: Path, video: str, runs: list[int]
):
    budget = Budget(latency_ms=1e6)
    first, choices, _ = calibrate_stream(bundle, video, budget=budget)
    assert first.chosen.quality == max(trial.quality for trial in first.trials)
    before = len(runs)
    again, same, _ = calibrate_stream(bundle, video, budget=budget)
    assert again == first and same == choices and len(runs) == before
    least = sorted(trial.quality for trial in first.trials)[3]
    other, _, _ = calibrate_stream(bundle, video, budget=Budget(min_metric=least))
    assert (
        facts(other) == facts(first) and sum(runs[before:]) <= 1
    )  # what is chosen, on the frames that confirm
    calibrate_stream(bundle, video, budget=Budget(max_drop=0.01), metric="agreement")
    assert sum(runs[before:]) > len(first.trials)
    same_again, _, _ = calibrate_stream(bundle, video, budget=budget)
    assert same_again == first


def facts(found: Tradeoff) -> list:
    return [(trial.settings, trial.quality, trial.ms) for trial in found.trials]


def test_a_search_that_was_killed_goes_on_where_it_was(bundle: Path, video: str, runs: list[int]):
    ticks = stream_trials.ROUNDS * (FRAMES // 2 - 1)
    with pytest.raises(KeyboardInterrupt):
        calibrate_stream(bundle, video, progress=Killing(4 * ticks))  # in the second run of two streams
    assert runs == [1, 2]
    found, _, _ = calibrate_stream(bundle, video)
    assert sum(runs) == len(found.trials) + len({"exact", found.chosen.settings["stream"]})


def test_another_clip_that_does_not_confirm_is_told(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Noise below the least threshold, where there was none."""
    exact: list[str] = []

    def ms(times, name: str) -> float:
        if name != "dense" and not exact:
            exact.append(name)  # runs first
        return 5.0 if name in ("dense", *exact) else 2.0

    monkeypatch.setattr(stream_trials, "_ms", ms)
    random = np.random.default_rng(0)
    scene = random.integers(60, 190, (*SIZE, 3))
    still, noisy = str(tmp_path / "still.npz"), str(tmp_path / "noisy.npz")
    np.savez(still, images=np.stack([scene] * 4).astype(np.uint8))
    moving = [scene + random.integers(-2, 3, scene.shape) for _ in range(4)]
    np.savez(noisy, images=np.stack(moving).astype(np.uint8))
    found, choices, _ = calibrate_stream(bundle, still, held_out=noisy, budget=Budget(max_drift=1e-4))
    assert found.images == found.held_out.images == 3
    assert found.choices and found.chosen.drop == pytest.approx(0, abs=1e-6) and found.hold == 1
    assert found.held_out.drop > 1e-4 and found.held_out.verdict == BROKEN
    assert choices.notes == found.notes
    assert "held-out frames" in found.notes[0] and BROKEN in found.notes[0]
    assert "Holding the previous frame's answer is worth no less" in found.notes[1]


def test_a_latency_that_other_frames_exceed_is_told(
    bundle: Path, video: str, monkeypatch: pytest.MonkeyPatch
):
    took, budget = {"dense": 6.0}, Budget(latency_ms=2.5)
    monkeypatch.setattr(stream_trials, "_ms", lambda times, name: took.get(name, 2.0))
    found, _, _ = calibrate_stream(bundle, video, budget=budget, limit=4)
    assert found.chosen.ms == found.held_out.ms == 2 and found.held_out.verdict == HOLDS
    took["dense"] = 3.0  # by the ratio to the dense engine in the same run, streams take twice as long
    other = str(moving_square(bundle / "other.avi", frames=3))
    found, _, _ = calibrate_stream(bundle, video, budget=budget, limit=2, held_out=other)
    assert found.chosen.ms == 2 and found.held_out.ms == 4 and found.held_out.verdict == BROKEN


def test_no_policy_costs_more_than_the_dense_engine(
    bundle: Path, video: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stream_trials, "_ms", lambda times, name: 1.0 if name == "dense" else 2.0)
    found, _, _ = calibrate_stream(bundle, video, budget=Budget(latency_ms=1.0), limit=4)
    assert found.chosen.quality == max(trial.quality for trial in found.trials)
    assert found.chosen.ms == found.held_out.ms == found.reference_ms == 1
    assert "Nothing within the budget is faster than the dense engine" in found.notes[-1]


labels: list[int | None] = []


def labelled(until: int = 8) -> Iterator[tuple[np.ndarray, int | None]]:
    """Every second frame has a label, before `until`."""
    random = np.random.default_rng(0)
    for number in range(8):
        image = random.random((3, *SIZE)).astype(np.float32)
        yield image, number // 2 if number % 2 and number < until else None


def labelled_at_first() -> Iterator[tuple[np.ndarray, int | None]]:
    return labelled(4)


def seen(outputs: dict[str, np.ndarray], label: int) -> float:
    labels.append(label)
    return float(outputs["edges"].mean() + label)


def test_frames_without_a_label_do_not_count_where_others_have_one(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    labels.clear()
    budget = Budget(max_drop=0.5)
    found, _, _ = calibrate_stream(bundle, "own:labelled", budget=budget, metric="own:seen")
    assert set(labels) == {0, 1, 2, 3}
    assert found.metric == "own:seen" and 0.5 < found.reference < 1.5  # of the labels 0 and 1
    with pytest.raises(InputError, match="not defined in one of its halves"):
        calibrate_stream(bundle, "own:labelled_at_first", budget=budget, metric="own:seen")


def test_streams_of_exits_keep_and_follow_what_was_chosen_for_these(tmp_path: Path):
    offsets = [0.0, 1e6, 0.0]  # all images leave at the second exit
    bundle = build(
        exit_program(tmp_path / "exits.onnx"),
        tmp_path / "bundle",
        sample=(1, 3, 32, 32),
        choices={"gate0.offset": offsets},
    )
    frames = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    np.save(tmp_path / "clip.npy", frames)
    found, choices, _ = calibrate_stream(bundle, str(tmp_path / "clip.npy"))
    assert found.reference == pytest.approx(1, abs=1e-5)  # the dense program's choices are the bundle's
    assert choices.choices["gate0.offset"] == offsets
    with load(bundle, threads=1) as model:
        assert model.stream()(frames[:1]).depth == EXITS[1]


def test_in_the_report_of_the_stream(
    bundle: Path, video: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    calibrate_stream(bundle, video, budget=Budget(max_drift=0.01), limit=6)
    given = [
        "stream",
        str(bundle),
        video,
        "--frames",
        "3",
        "--outputs",
        "none",
        "--quiet",
        "--out",
        str(tmp_path),
    ]
    assert main(given) == 0
    page = (tmp_path / "report.html").read_text()
    assert TITLE in page and "held-out frames" in page and page.count("<svg") == 3
    capsys.readouterr()
    manifest = open_bundle(bundle).manifest
    assert read_stream_tradeoff(bundle, manifest) is not None
    other = dataclasses.replace(manifest, stream_policy={"threshold": 0.5})
    assert read_stream_tradeoff(bundle, other) is None  # chosen otherwise since


def test_on_the_command_line(bundle: Path, built: Path, video: str, capsys: pytest.CaptureFixture[str]):
    arguments = ["calibrate", str(bundle), "--stream", video, "--limit", "6", "--threads", "1"]
    assert main([*arguments, "--max-drop", "1%"]) == 0
    shown = capsys.readouterr()
    assert "chosen: stream" in shown.out and "of the work" in shown.out and "held-out frames" in shown.out
    assert all(stage in shown.err for stage in ("reference", "stream", "confirm"))
    assert main([*arguments, "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["budget"]["max_drift"] == 0.01 and found["unit"] == "frames"  # by default
    refused = {
        ("--data", "photos"): "run it twice, with --data first",
        ("--max-drift", "1%", "--metric", "top1"): "Give --max-drop instead",
        ("--metric", "mean"): "closeness",
        ("--exits",): "one of them",
        ("--latency-budget", "1e-9"): "Raise --latency-budget",
        ("--limit", "3"): "at least 2 to choose on and 2 to confirm",
    }
    for wrong, words in refused.items():
        assert main([*arguments, *wrong]) == 2
        assert words in capsys.readouterr().err
    assert main(["calibrate", str(bundle)]) == 2
    assert "neither --data nor --stream" in capsys.readouterr().err
    assert main(["calibrate", str(bundle), "--data", "x", "--held-out", video, "--max-drop", "1%"]) == 2
    assert "--stream VIDEO" in capsys.readouterr().err
    program = built.parent / "edges.onnx"
    assert main(["calibrate", str(program), "--stream", video]) == 2
    assert "Build it first" in capsys.readouterr().err


@given(st.integers(1, 60), st.integers(1, 3))
def test_blocks_hold_every_frame_once(frames: int, classes: int):
    counts = np.random.default_rng(frames).random((frames, classes, 2))
    blocks = in_blocks(counts)
    assert len(blocks) <= frames and np.allclose(blocks.sum(axis=0), counts.sum(axis=0))
    length = -(-frames // len(blocks))
    assert np.allclose(blocks[0], counts[:length].sum(axis=0))
