"""`foveate calibrate --max-drop …`: masks and exits of small bundles, searched within a budget."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.calibration import answers, calibrate, knobs, latency, variants
from foveate.calibration.answers import Answers
from foveate.calibration.budget import Budget
from foveate.calibration.layers import layers_of
from foveate.calibration.search import calibrate_budget
from foveate.calibration.source import Source, open_source
from foveate.calibration.tradeoff import HOLDS, Tradeoff
from foveate.export.program import load_program
from foveate.pipeline.build import build
from foveate.pipeline.cli.main import main
from foveate.pipeline.progress import Progress, Stage
from foveate.pipeline.report import write_report
from foveate.pipeline.report_budget import TITLE, read_tradeoff
from foveate.runtime import Model, load
from foveate.runtime.errors import InputError

from ..conftest import make_masked_program
from ..early_exits import EXITS, exit_program
from ..pipeline.report_sample import sample_report

SIZE, IMAGES = 24, 40


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch):
    """Times are not what is tested, and a few settings are as good as many."""
    monkeypatch.setattr(latency, "SECONDS", 0.02)
    monkeypatch.setattr(knobs, "FRACTIONS", (1.0, 0.6, 0.3, 0.1, 0.03))
    monkeypatch.setattr(knobs, "BETAS", (0.0, 0.01, 0.1))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("search")
    sample = (1, 3, SIZE, SIZE)
    programs = {
        "masks": make_masked_program(folder / "masks.onnx", masks=2),
        "exits": exit_program(folder / "exits.onnx", mask=True),
        "plain": make_masked_program(folder / "plain.onnx", masks=0),
    }
    return {name: build(program, folder / name, sample=sample) for name, program in programs.items()}


@pytest.fixture
def bundle(built: dict[str, Path], tmp_path: Path) -> Path:
    """A copy, for what is written there."""
    return Path(shutil.copytree(built["masks"], tmp_path / "bundle"))


def answer(model: Model, image: np.ndarray, **choices) -> int:
    model.set_choices(choices)
    return int(np.argmax(next(iter(model(image[None]).values()))[0]))


@pytest.fixture
def data(built: dict[str, Path], tmp_path: Path) -> str:
    """Images whose labels are what the first program, as it was built, answers."""
    random = np.random.default_rng(0)
    images = random.standard_normal((IMAGES, 3, SIZE, SIZE)) + 2 * random.standard_normal((IMAGES, 3, 1, 1))
    images = images.astype(np.float32)
    with load(built["masks"]) as model:
        labels = [answer(model, image) for image in images]
    np.savez(tmp_path / "images.npz", images=images, labels=np.array(labels))
    return str(tmp_path / "images.npz")


def facts(found: Tradeoff) -> list:
    return [(trial.settings, trial.quality, trial.drop_interval) for trial in found.trials]


def test_the_cheapest_within_the_budget_is_chosen_and_stored(
    bundle: Path, data: str, monkeypatch: pytest.MonkeyPatch
):
    def ms(self, timed, tick):
        """Masks are tried from the open one on: what comes later is cheaper."""
        return {key: 60.0 if key == latency.DENSE else 50.0 / (1 + n) for n, key in enumerate(timed)}

    monkeypatch.setattr(latency.Latency, "ms", ms)
    found, choices, path = calibrate_budget(bundle, data, budget=Budget(max_drop=0.1))
    assert found.metric == "top1" and found.reference == 1 and found.images == IMAGES / 2
    assert found.chosen.drop <= 0.1 + 1e-9
    fits = [trial for trial in found.trials if trial.drop <= 0.1 + 1e-9]
    assert len(fits) < len(found.trials)  # the masks matter
    assert found.chosen.ms <= min(trial.ms for trial in fits) * 1.021
    assert any(
        set(t.settings) == {"mask0", "mask1"} and "as built" not in t.settings.values() for t in found.trials
    )
    assert path == bundle / "choices.json" and (bundle / "tradeoff.png").is_file()
    facts = json.loads((bundle / "tradeoff.json").read_text())
    assert facts["chosen"] == json.loads(json.dumps(dataclasses.asdict(found.chosen)))
    with load(bundle) as model:
        stored = {choice.name: choice.value for choice in model.manifest.choices}
        archive = np.load(data)
        held_out = sorted(np.random.default_rng(0).permutation(IMAGES)[IMAGES // 2 :])
        right = [answer(model, archive["images"][n]) == archive["labels"][n] for n in held_out]
        assert model.manifest.active_fraction == choices.active_fraction
    assert all(stored[name] == value for name, value in choices.choices.items())
    assert found.held_out.images == IMAGES / 2
    assert found.held_out.quality == pytest.approx(np.mean(right)) and found.held_out.reference == 1


def test_the_same_seed_finds_the_same_and_another_budget_repeats_nothing(
    built: dict[str, Path], bundle: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    runs = counted(monkeypatch)
    budget = Budget(latency_ms=1e6)
    first, choices, _ = calibrate_budget(bundle, data, budget=budget)
    assert first.chosen.quality == max(trial.quality for trial in first.trials)
    before = len(runs)
    again, same, _ = calibrate_budget(bundle, data, budget=budget)
    assert again == first and same == choices and len(runs) == before
    tighter, _, _ = calibrate_budget(bundle, data, budget=Budget(min_metric=first.chosen.quality))
    assert tighter.chosen.quality == first.chosen.quality
    other = Path(shutil.copytree(built["masks"], tmp_path / "other"))
    monkeypatch.setattr(latency.Latency, "ms", lambda self, timed, tick: dict.fromkeys(timed, 1.0))
    one, _, _ = calibrate_budget(other, data, budget=budget)
    shutil.rmtree(other)
    shutil.copytree(built["masks"], other)
    two, _, _ = calibrate_budget(other, data, budget=budget)
    assert one == two
    three, _, _ = calibrate_budget(other, data, budget=budget, seed=1)
    assert facts(three) != facts(two)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    runs: list[int] = []
    run = Answers._run
    monkeypatch.setattr(Answers, "_run", lambda *given: runs.append(1) or run(*given))
    return runs


class Killing(Progress):
    """Kills what it shows after so many ticks."""

    def __init__(self, ticks: int):
        super().__init__(quiet=True)
        self.left = ticks

    @contextlib.contextmanager
    def stage(self, name: str, count: int | None = None) -> Iterator[Stage]:
        with super().stage(name, count) as stage:
            stage.tick = self._tick
            yield stage

    def _tick(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_search_that_was_killed_goes_on_where_it_was(
    bundle: Path, data: str, monkeypatch: pytest.MonkeyPatch
):
    """Also where nothing could be saved at the end."""
    monkeypatch.setattr(answers, "SECONDS", 0.0)
    monkeypatch.setattr(latency.Latency, "ms", lambda self, timed, tick: dict.fromkeys(timed, 1.0))
    runs, budget = counted(monkeypatch), Budget(max_drop=0.1)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Answers, "__exit__", lambda *_: None)
        calibrate_budget(bundle, data, budget=budget, progress=Killing(60))
    done = len(runs)
    assert done > IMAGES
    found, _, _ = calibrate_budget(bundle, data, budget=budget)
    whole = Path(shutil.copytree(bundle, bundle.parent / "whole"))
    (whole / answers.KEPT).unlink()
    first = len(runs) - done
    expected, _, _ = calibrate_budget(whole, data, budget=budget)
    assert found == expected
    assert len(runs) - first - done > first  # it had not to begin anew


def test_held_out_images_that_do_not_confirm_are_told(
    built: dict[str, Path], bundle: Path, data: str, monkeypatch: pytest.MonkeyPatch
):
    """Half of the images have the answers of closed masks for labels, so that to drop all seems to cost nothing."""
    monkeypatch.setattr(latency.Latency, "ms", lambda self, timed, tick: dict.fromkeys(timed, 1.0))
    archive = dict(np.load(data))
    closed = {"mask0.threshold": 1.0, "mask1.threshold": 1.0}
    with load(built["masks"]) as model:
        for number in np.random.default_rng(0).permutation(IMAGES)[: IMAGES // 2]:
            archive["labels"][number] = answer(model, archive["images"][number], **closed)
    np.savez(data, **archive)
    found, choices, _ = calibrate_budget(bundle, data, budget=Budget(max_drop=0.005))
    assert found.chosen.drop < 0 < found.held_out.drop
    assert found.held_out.verdict != HOLDS
    assert choices.notes == found.notes and found.held_out.verdict in found.notes[0]


def test_without_labels_it_is_agreement_with_the_program_as_built(bundle: Path, data: str, tmp_path: Path):
    np.save(tmp_path / "images.npy", np.load(data)["images"])
    found, _, _ = calibrate_budget(bundle, tmp_path / "images.npy", budget=Budget(max_drift=0.1))
    assert found.metric == "agreement" and found.reference == 1
    labelled, _, _ = calibrate_budget(bundle, data, budget=Budget(max_drop=0.1), metric="top1")
    ours, theirs = ({str(t.settings): t.quality for t in f.trials} for f in (found, labelled))
    assert {**ours, **theirs} == {**theirs, **ours}  # the labels are those answers


def brightness(outputs: dict[str, np.ndarray], label: int) -> float:
    """NaN: not defined on the images of class 0."""
    return float(outputs["output"].max()) if label else float("nan")


def test_a_metric_of_the_user(bundle: Path, data: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "own", sys.modules[__name__])
    labels = np.load(data)["labels"]
    found, _, _ = calibrate_budget(bundle, data, budget=Budget(max_drop=0.05), metric="own:brightness")
    assert 0 < (labels == 0).sum() < IMAGES and found.metric == "own:brightness"
    with load(bundle) as model:
        model.set_choices({"mask0.threshold": 0.5, "mask1.threshold": 0.5})
        chosen = np.random.default_rng(0).permutation(IMAGES)[: IMAGES // 2]
        values = [model(np.load(data)["images"][n][None])["output"].max() for n in chosen if labels[n]]
    assert found.reference == pytest.approx(np.mean(values), rel=1e-5)


def test_masks_and_exits_are_searched_together(built: dict[str, Path], data: str, tmp_path: Path):
    bundle = Path(shutil.copytree(built["exits"], tmp_path / "exits"))
    found, choices, _ = calibrate_budget(bundle, data, budget=Budget(max_drift=0.2))
    mask, gate = found.chosen.settings
    assert gate == "gate0"
    layers = {trial.settings[gate] for trial in found.trials}
    assert {f"{exit} layers" for exit in EXITS} <= layers
    full = next(t for t in found.trials if t.settings == {mask: "as built", gate: f"{EXITS[-1]} layers"})
    assert full.quality == found.reference == 1 and full.drop == 0
    assert sum((choices.depths or {}).values()) == found.images and choices.active_fraction is not None
    with load(bundle) as model:
        stored = {choice.name: choice.value for choice in model.manifest.choices}
        assert stored["gate0.offset"] == [0.0] * len(EXITS)
        for image in np.load(data)["images"][:4]:
            taken = str(int(model(image[None])["depth"][0]))
            assert taken in (choices.depths or {}) or "gate" in found.chosen.settings[gate]


def test_in_a_report(bundle: Path, data: str, tmp_path: Path):
    found, _, _ = calibrate_budget(bundle, data, budget=Budget(max_drop=0.1))
    with load(bundle) as model:
        read = read_tradeoff(bundle, model.manifest)
    assert read is not None and read["chosen"]["quality"] == found.chosen.quality
    page = write_report({**sample_report(), "budget": read}, tmp_path / "report").read_text()
    assert TITLE in page and "held-out" in page and page.count("<svg") > 1
    assert " *" in (tmp_path / "report/report.md").read_text()
    calibrate(bundle, data, threshold=0.123)
    with load(bundle) as model:
        assert read_tradeoff(bundle, model.manifest) is None  # chosen otherwise since


def test_on_the_command_line(bundle: Path, data: str, capsys: pytest.CaptureFixture[str]):
    arguments = ["calibrate", str(bundle), "--data", data]
    assert main([*arguments, "--max-drop", "10%"]) == 0
    shown = capsys.readouterr()
    assert "chosen:" in shown.out and "drop, points" in shown.out and "held-out" in shown.out
    assert all(stage in shown.err for stage in ("reference", "mask0", "mask1", "confirm"))
    assert main([*arguments, "--max-drift", "0.1", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["budget"]["max_drift"] == 0.1
    for wrong, words in {
        ("--max-drop", "0.5"): "0.5%",
        ("--max-drop", "1%", "--active", "0.5"): "searches thresholds",
        ("--max-drop", "1%", "--max-drift", "1%"): "not allowed",
        ("--beta", "0.1"): "--exits",
        ("--min-metric", "101%"): "the best that was tried",
        ("--latency-budget", "1e-9"): "Raise --latency-budget",
    }.items():
        with contextlib.suppress(SystemExit):  # argparse's own
            assert main([*arguments, *wrong]) == 2
        assert words in capsys.readouterr().err


def test_what_cannot_be_searched(built: dict[str, Path], bundle: Path, data: str):
    with pytest.raises(InputError, match="no energy mask and no gate"):
        calibrate_budget(built["plain"], data, budget=Budget(max_drop=0.1))
    with pytest.raises(InputError, match="at least 8"):
        calibrate_budget(bundle, data, budget=Budget(max_drop=0.1), limit=7)
    with pytest.raises(InputError, match="Build it first"):
        calibrate_budget(built["masks"] / "programs/program.onnx", data, budget=Budget(max_drop=0.1))


def test_a_budget_that_holds_is_said_to(bundle: Path, data: str):
    found, _, _ = calibrate_budget(bundle, data, budget=Budget(max_drop=1.0))
    assert found.held_out.verdict == HOLDS and found.notes == [] and "holds" in found.confirmed()


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch):
    """`timed(floats, low)`: ms of a bundle in floats and in low precision. Few settings."""

    monkeypatch.setattr(variants, "MIXED", (1,))
    monkeypatch.setattr(knobs, "FRACTIONS", (1.0, 0.3))

    def patch(floats: float, low: float) -> None:
        def ms(self: latency.Latency, tried: Sequence[tuple[Source, dict]], tick: Callable) -> list[float]:
            return [low if variants.FOLDER in source.path.parts else floats for source, _ in tried]

        monkeypatch.setattr(latency.Latency, "of", ms)
        monkeypatch.setattr(latency.Latency, "dense_ms", floats)

    return patch


def test_low_precision_that_wins_is_a_bundle_of_its_own(
    bundle: Path, data: str, timed: Callable, monkeypatch: pytest.MonkeyPatch
):
    timed(2.0, 1.0)
    before = (bundle / "manifest.json").read_bytes()
    budget = Budget(max_drop=0.3)
    found, choices, path = calibrate_budget(bundle, data, budget=budget, precision="int8")
    out = bundle.with_name("bundle-int8")
    assert path == out / "choices.json" and (bundle / "manifest.json").read_bytes() == before
    assert found.chosen.settings["precision"].startswith("int8") and found.precision.startswith("int8 pays")
    tried = {trial.settings["precision"] for trial in found.trials}
    assert {"floats", "int8"} < tried and all(
        name.startswith("int8 but ") for name in tried - {"floats", "int8"}
    )
    low = [trial.settings["mask0"] for trial in found.trials if trial.settings["precision"] != "floats"]
    assert set(low) > {"as built"}  # searched together
    archive = np.load(data)
    held_out = sorted(np.random.default_rng(0).permutation(IMAGES)[IMAGES // 2 :])
    with load(out) as model:
        assert model.manifest.name == "bundle-int8"
        right = [answer(model, archive["images"][n]) == archive["labels"][n] for n in held_out]
        assert read_tradeoff(out, model.manifest) is not None
        program = onnx.load(out / model.manifest.program)
    assert found.held_out.quality == pytest.approx(np.mean(right))
    assert any(node.op_type == "QuantizeLinear" for node in program.graph.node)
    with load(bundle) as model:
        assert read_tradeoff(bundle, model.manifest) is None  # it is of the other bundle

    def not_again(*_, **__):
        raise AssertionError("built anew")

    monkeypatch.setattr(variants, "build", not_again)
    runs = counted(monkeypatch)
    again, same, _ = calibrate_budget(bundle, data, budget=budget, precision="int8")
    assert again == found and same == choices and runs == []
    wider, _, _ = calibrate_budget(bundle, data, budget=Budget(max_drop=1.0), precision="int8")
    assert wider.chosen.quality == found.chosen.quality  # all are as fast: the best


def test_where_low_precision_does_not_pay_the_bundle_takes_the_choices(
    bundle: Path, data: str, timed: Callable, capsys: pytest.CaptureFixture[str]
):
    timed(1.0, 2.0)
    command = ["calibrate", str(bundle), "--data", data, "--max-drop", "30%", "--precision", "int8"]
    assert main(command) == 0
    shown = capsys.readouterr()
    last = shown.out.strip().splitlines()[-1]
    assert last.startswith(f"use {bundle}: int8 does not pay: within the budget") and "precision" in shown.err
    assert not bundle.with_name("bundle-int8").exists()
    found = json.loads((bundle / "tradeoff.json").read_text())
    assert found["chosen"]["settings"]["precision"] == "floats"
    for wrong, words in {
        ("--agreement", "0.9"): "finds what stays in floats",
        ("--active", "0.5"): "one of them",
        ("--out", str(bundle)): "the bundle itself",
    }.items():
        assert main([*command, *wrong]) == 2
        assert words in capsys.readouterr().err
    assert main([*command[:-1], "fp8"]) == 2
    assert "computed in floats, slowly" in capsys.readouterr().err
    program = str(bundle / "programs/program.onnx")
    assert main(["calibrate", program, "--data", data, "--max-drift", "1%", "--precision", "int8"]) == 2
    assert "a bundle, or --max-drop alone" in capsys.readouterr().err


def test_what_suffers_most_for_the_work_it_saves_stays_in_floats(data: str, timed: Callable, tmp_path: Path):
    """Of the whole program without masks, one segment, there is nothing between floats and int8."""
    timed(2.0, 1.0)
    bundle = build(
        make_masked_program(tmp_path / "plain.onnx", masks=0), tmp_path / "plain", sample=(1, 3, SIZE, SIZE)
    )
    found, _, _ = calibrate_budget(bundle, data, budget=Budget(max_drift=1.0), precision="int8")
    assert [trial.settings for trial in found.trials] == [{"precision": "floats"}, {"precision": "int8"}]


def test_segments_are_what_an_engine_runs(built: dict[str, Path]):
    source = open_source(built["exits"])
    assert source.manifest is not None
    layers = layers_of(load_program(source.program))
    found = variants.segments_of(source.path, source.manifest, layers)
    assert [name for names in found.values() for name in names] == [layer.name for layer in layers]
    assert list(found) == ["dense0", "region0.0", "dense1", "layers to exit 2", "layers to exit 4", "dense2"]
