from __future__ import annotations

import functools
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from foveate.pipeline.cli import main
from foveate.pipeline.progress import Progress
from foveate.pipeline.sample import shape_of
from foveate.pipeline.stages import Ledger, data_digest
from foveate.pipeline.verify import verify
from foveate.runtime.bundle import open_bundle
from foveate.runtime.errors import CheckFailed, InputError
from foveate.runtime.manifest import Preprocess

import foveate


class Lines(Progress):
    """Keeps "sign stage" and what follows of every line."""

    def __init__(self):
        super().__init__(stream=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
        self.lines: list[tuple[str, str]] = []

    def _line(self, sign: str, name: str, *parts: str) -> None:
        self.lines.append((f"{sign} {name}", " ".join(parts)))

    @property
    def stages(self) -> list[str]:
        return [stage for stage, _ in self.lines]


@pytest.fixture
def compile_once(make_program, scenes, tmp_path, monkeypatch):
    """`compile_once(**options)` -> the lines it printed; bench is replaced, since its figures are not looked at."""
    monkeypatch.setattr("foveate.pipeline.bench.bench", lambda *args, **options: {"options": str(options)})
    monkeypatch.setattr("foveate.pipeline.report.write_report", write_plainly)
    program = make_program()

    def run(**options) -> Lines:
        lines = Lines()
        options = {"data": scenes, "sample": (1, 3, 24, 24), **options}
        foveate.compile(options.pop("program", program), tmp_path / "bundle", progress=lines, **options)
        return lines

    return run


def write_plainly(facts: dict, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text(json.dumps(facts))


def test_a_second_run_skips_everything_and_a_new_wish_runs_what_it_touches(compile_once, tmp_path):
    done = ["✓ calibrate", "✓ build", "✓ verify", "✓ bench"]
    assert compile_once(active=0.3).stages == done
    assert compile_once(active=0.3).stages == [line.replace("✓", "·") for line in done]
    assert compile_once(active=0.6).stages == ["✓ calibrate", "· build", "✓ verify", "✓ bench"]
    assert open_bundle(tmp_path / "bundle").manifest.active_fraction == pytest.approx(0.6, abs=0.01)
    assert compile_once(active=0.6, threads=1).stages[-2:] == ["· verify", "✓ bench"]
    assert compile_once(active=0.6, threads=1, force=True).stages == done


def test_a_dry_run_says_what_would_run_and_why_and_does_nothing(compile_once, make_program, tmp_path):
    assert dict(compile_once(dry_run=True).lines) == {
        "· calibrate": "would run (no result yet)",
        "· build": "would run (no result yet)",
        "· verify": "would run (after build)",
        "· bench": "would run (after build)",
    }
    assert not (tmp_path / "bundle").exists()
    compile_once()
    before = {p: p.read_bytes() for p in (tmp_path / "bundle").rglob("*") if p.is_file()}
    other = make_program(seed=1, name="other.onnx")
    would = dict(compile_once(program=other, dry_run=True).lines)
    assert would["· build"] == "would run (changed: program)"
    assert {p: p.read_bytes() for p in (tmp_path / "bundle").rglob("*") if p.is_file()} == before


def test_changed_images_are_noticed(compile_once, scenes, tmp_path):
    compile_once()
    with np.load(scenes) as archive:
        np.savez(scenes, images=archive["images"][:4], labels=archive["labels"][:4])
    assert compile_once().stages == ["✓ calibrate", "· build", "✓ verify", "✓ bench"]


def test_an_interruption_leaves_the_earlier_bundle_intact(compile_once, make_program, tmp_path, monkeypatch):
    compile_once(active=0.3)
    before = open_bundle(tmp_path / "bundle").manifest

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    other = make_program(seed=1, name="other.onnx")
    for place in ("calibration.thresholds.measure", "pipeline.build.check_chain"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"foveate.{place}", interrupted)
            compile_once(program=other, active=0.3)
        assert open_bundle(tmp_path / "bundle").manifest == before  # every hash checked
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_bundle_that_answers_otherwise_fails_and_is_verified_again(compile_once, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(CheckFailed):
        patch.setattr("foveate.pipeline.verify.verify", functools.partial(verify, tolerance=-1.0))
        compile_once()
    assert compile_once().stages[-2:] == ["✓ verify", "✓ bench"]


def test_a_broken_bundle_is_built_anew(compile_once, tmp_path):
    compile_once()
    (tmp_path / "bundle" / "programs" / "program.onnx").unlink()
    assert "✓ build" in compile_once().stages
    open_bundle(tmp_path / "bundle")


def test_without_data_it_builds_and_verifies(make_program, tmp_path):
    lines = Lines()
    foveate.compile(make_program(), tmp_path / "x", sample=(1, 3, 24, 24), progress=lines)
    assert lines.stages == ["✓ build", "✓ verify"]
    with pytest.raises(InputError, match="no data"):
        foveate.compile(make_program(), tmp_path / "x", active=0.5)


@pytest.fixture
def budgets(monkeypatch):
    """`budgets(low)`: few settings and images, and latencies of 1 ms in floats and of `low` in low precision."""
    monkeypatch.setattr("foveate.calibration.search.LEAST", 4)
    monkeypatch.setattr("foveate.calibration.knobs.FRACTIONS", (0.3,))
    monkeypatch.setattr("foveate.calibration.variants.MIXED", ())

    def patch(low: float) -> None:
        def ms(self, tried, tick):
            return [low if "precision" in source.path.parts else 1.0 for source, _ in tried]

        monkeypatch.setattr("foveate.calibration.latency.Latency.of", ms)
        monkeypatch.setattr("foveate.calibration.latency.Latency.dense_ms", 1.0)

    return patch


def test_a_budget_is_searched_on_what_was_built_and_what_it_chose_is_verified(
    compile_once, budgets, tmp_path
):
    budgets(0.5)
    wish = {"max_drift": 1.0, "precision": "int8"}
    done = ["✓ build", "✓ calibrate", "✓ verify", "✓ bench"]
    first = compile_once(**wish)
    assert first.stages == done and "precision int8" in dict(first.lines)["✓ calibrate"]
    low = open_bundle(tmp_path / "bundle-int8").manifest
    assert any(key.startswith("verify.") for key in low.stages)
    assert (tmp_path / "bundle-int8/report/report.json").is_file()
    assert compile_once(**wish).stages == [line.replace("✓", "·") for line in done]
    would = dict(compile_once(**{**wish, "max_drift": 0.9}, dry_run=True).lines)
    assert would["· calibrate"] == "would run (changed: budget)" and would["· build"] == "unchanged"
    assert would["· verify"] == "would run (after calibrate)"
    budgets(2.0)
    floats = compile_once(**wish, seed=1)
    assert floats.stages == ["· build", *done[1:]] and "precision floats" in dict(floats.lines)["✓ calibrate"]
    assert any(key.startswith("verify.") for key in open_bundle(tmp_path / "bundle").manifest.stages)
    again = compile_once(max_drift=1.0)
    assert again.stages == [
        "· build",
        "✓ calibrate",
        "· verify",
        "✓ bench",
    ]  # the same choices; reports tell the budget


def test_budgets_that_make_no_sense_are_named(compile_once):
    for wish, words in (
        ({"precision": "int8"}, "without a budget"),
        ({"max_drop": 0.1, "data": None}, "without --data"),
        ({"max_drop": 0.1, "threshold": 0.0}, "with --threshold or --active"),
        ({"max_drop": 0.1, "target": "null"}, "target null"),
        ({"max_drop": 0.1, "max_drift": 0.1}, "--max-drop and --max-drift"),
    ):
        with pytest.raises(InputError, match=words):
            compile_once(**wish)


def test_a_profile_reaches_the_build(make_program, tmp_path, monkeypatch):
    asked = []

    def build(*_, ranges, **__):
        asked.append(ranges)
        raise InputError("build", got="a stand-in", expected="no more", fix="None.")

    monkeypatch.setattr("foveate.pipeline.build.build", build)
    command = ["compile", str(make_program()), "--out", str(tmp_path / "x"), "--sample", "1x3x24x24"]
    assert main([*command, "--profile", "batch=1:2:4,height=24"]) == 2
    assert asked == [{"batch": (1, 2, 4), "height": (24, 24, 24)}]


def test_a_missing_program_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.onnx"):
        foveate.compile(tmp_path / "nothing.onnx", tmp_path / "x")


def test_the_ledger_names_the_input_that_changed():
    ledger = Ledger()
    assert ledger.why("build", {"program": "a"}, present=False) == "no result yet"
    ledger.record("build", {"program": "a", "target": "cpu"})
    assert ledger.why("build", {"program": "a", "target": "cpu"}, present=True) is None
    assert ledger.why("build", {"program": "b", "target": "cpu"}, present=True) == "changed: program"
    assert Ledger(ledger.entries).why("build", {"program": "a"}, present=True) == "changed: target"
    assert Ledger(ledger.entries, force=True).why("build", {}, present=True) == "forced"


def test_data_is_told_apart_by_contents_or_by_names_and_sizes(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a")
    first = data_digest(folder)
    (folder / "notes.txt").write_text("no image")
    assert data_digest(folder) == first
    (folder / "b.png").write_bytes(b"b")
    assert data_digest(folder) != first
    assert data_digest(None) is None and data_digest("module:function") != data_digest("module:other")


def test_progress_prints_one_line_a_stage():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    progress = Progress(stream=stream)
    with progress.stage("build") as stage:
        stage.tick()
        stage.note = "42.1 MB"
    with pytest.raises(ZeroDivisionError), progress.stage("verify"):
        _ = 1 / 0
    progress.skipped("bench")
    stream.seek(0)
    first, second, third = stream.read().splitlines()
    assert re.fullmatch(r"✓ build +\d+\.\d s +42\.1 MB", first)
    assert re.fullmatch(r"✗ verify +\d+\.\d s", second)
    assert third == "· bench      unchanged"


@pytest.mark.parametrize(
    ("sample", "preprocess", "usual", "expected"),
    [
        ((1, 3, 8, 9), Preprocess(size=(5, 6)), (1, 3, 4, 4), (1, 3, 8, 9)),
        (np.zeros((2, 3, 8, 9)), None, None, (2, 3, 8, 9)),
        (None, Preprocess(size=(5, 6)), (1, 3, 4, 4), (1, 3, 5, 6)),
        (None, Preprocess(size=(5, 6), color="gray", layout="nhwc"), None, (1, 5, 6, 1)),
        (None, Preprocess(), (1, 3, 4, 4), (1, 3, 4, 4)),
        (None, None, None, None),
    ],
)
def test_the_sample_is_what_was_said_most_explicitly(sample, preprocess, usual, expected):
    assert shape_of(sample, preprocess, usual) == expected


def test_the_null_target_is_built_and_not_verified(compile_once):
    assert compile_once(target="null", data=None).stages == ["✓ build", "· verify"]
    with pytest.raises(InputError, match="Did you mean 'cpu'"):
        compile_once(target="cpus", data=None)
