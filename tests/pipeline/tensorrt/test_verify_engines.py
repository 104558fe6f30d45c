"""Engines beside their programs: a good one passes, a wrong one is named, one that did not run is told as not run."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from foveate.pipeline.build import build
from foveate.pipeline.cli.main import main
from foveate.pipeline.compare import Keep, compare
from foveate.pipeline.masks import Mask, importance, margins
from foveate.pipeline.tensorrt import verify_engines as module
from foveate.pipeline.tensorrt.borders import open_session
from foveate.pipeline.tensorrt.engine_model import open_choices
from foveate.pipeline.verify import verify
from foveate.runtime.bundle import open_bundle
from foveate.runtime.errors import CheckFailed, EngineError
from foveate.runtime.manifest import Decision
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ...early_exits import exit_program

RANGES = {"batch": (1, 1, 4), "height": (16, 32, 64), "width": (16, 48, 96)}
GPU = "foveate.runtime.nvidia.compute_capability"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A mask, and exits in a chain: engines in float16 for an sm89."""
    folder = tmp_path_factory.mktemp("engines")
    program = exit_program(folder / "exits.onnx", mask=True)
    return build(
        program,
        folder / "bundle",
        sample=(1, 3, 32, 48),
        target="tensorrt:fp16@sm89",
        ranges=RANGES,
        layout="chain",
    )


def quiet_verify(bundle: Path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another backend answers
        return verify(bundle, threads=1, strategies=("rects",), **{"limit": 4, **options})


@pytest.fixture
def gpu(monkeypatch, bundle):
    """`gpu(wrong={"dense0": change})`: an sm89 whose TensorRT runs engines as onnxruntime runs their programs, but for
    what `change` makes of a model."""
    from polygraphy import config
    from polygraphy.backend import trt
    from polygraphy.backend.onnxrt import OnnxrtRunner

    monkeypatch.setattr(config, "USE_TENSORRT_RTX", True)

    def pretend(**wrong) -> None:
        class Runner(OnnxrtRunner):
            def __init__(self, engine, name):
                stem = Path(engine).name.removesuffix(".sm89.plan")
                path = bundle / "programs" / f"{stem}.onnx"
                model = onnx.load(path, load_external_data=False)
                open_choices(model)
                wrong.get(stem, lambda model: None)(model)
                super().__init__(lambda: open_session(model, path.parent), name=name)

        monkeypatch.setattr(GPU, lambda: "sm89")
        monkeypatch.setattr(trt, "EngineFromPath", lambda path: path)
        monkeypatch.setattr(trt, "TrtRunner", Runner)

    return pretend


def scaled(output: str, factor: float):
    def change(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if output in node.output)
        node.output[list(node.output).index(output)] = "unscaled"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(factor, np.float32), "factor"))
        model.graph.node.append(onnx.helper.make_node("Mul", ["unscaled", "factor"], [output]))

    return change


def test_without_a_gpu_models_are_checked_and_engines_told_as_not_run(bundle, capsys):
    report = quiet_verify(bundle)
    assert report.passed and report.require() is report
    assert {check.program for check in report.engines} == {
        engine.program for engine in open_bundle(bundle).manifest.engines
    }
    assert len(report.not_run) == len(report.engines) and "no NVIDIA GPU" in report.engines[0].not_run
    errors = {check.program: check.errors for check in report.engines if check.errors}
    assert 0 < max(errors["programs/whole.onnx"].values()) < 2e-2  # float16's, not float32's
    assert "depth" not in errors["programs/whole.onnx"] and "mask0.keep" not in errors["programs/dense0.onnx"]
    json.dumps(report.to_dict(), allow_nan=False)
    with pytest.raises(EngineError, match=r"8 of 8 engines") as caught:
        report.require(engines=True)
    assert caught.value.exit_code == 3
    assert main(["verify", str(bundle), "--limit", "1"]) == 0
    assert "NOT RUN by TensorRT: 8 of 8 engines (this machine has no NVIDIA GPU" in capsys.readouterr().out
    assert main(["verify", str(bundle), "--limit", "1", "--require-engines"]) == 3


def test_on_its_gpu_every_engine_runs(bundle, gpu):
    gpu()
    report = quiet_verify(bundle).require(engines=True)
    assert not report.not_run and all(check.images == 4 for check in report.engines)
    assert max(error for check in report.engines for error in (check.errors or {}).values()) < 1e-5


def test_a_wrong_engine_is_named_and_those_behind_it_are_not(bundle, gpu, capsys):
    gpu(exits2=scaled("t2", 1.1))
    report = quiet_verify(bundle)
    failed = [check for check in report.engines if not check.passed]
    assert [check.plan for check in failed] == ["engines/exits2.sm89.plan"]
    assert failed[0].errors == {"t2": pytest.approx(0.1, rel=1e-3)} and failed[0].flips == 0
    with pytest.raises(CheckFailed, match=r"exits2\.sm89 .*t2 0\.1; beyond 0\.02, worst: random"):
        report.require()
    assert main(["verify", str(bundle), "--limit", "1"]) == 1 and "exits2.sm89" in capsys.readouterr().err
    assert main(["verify", str(bundle), "--limit", "1", "--engine-tolerance", "0.2"]) == 0


def test_decisions_of_an_engine_are_compared_apart_from_values(bundle, gpu):
    gpu(dense0=scaled("mask0.logits", -1.0), dense1=scaled("gate0.scores", 0.0))
    report = quiet_verify(bundle)
    assert [Path(check.program).stem for check in report.engines if not check.passed] == ["dense0", "dense1"]

    gpu(dense0=scaled("mask0.keep", 0.0))  # no position is active
    report = quiet_verify(bundle)
    (check,) = [check for check in report.engines if not check.passed]
    assert check.program == "programs/dense0.onnx" and check.flips > check.near_flips
    assert "of them (" in check.line() and not report.passed


def test_an_engine_that_does_not_run_fails_with_what_it_said(bundle, gpu):
    def broken(model: onnx.ModelProto) -> None:
        del model.graph.node[0]

    gpu(dense0=broken)
    report = quiet_verify(bundle)
    (check,) = [check for check in report.engines if not check.passed]
    assert check.program == "programs/dense0.onnx" and check.failed and check.failed in check.line()
    with pytest.raises(CheckFailed, match="dense0"):
        report.require()


def test_images_outside_of_a_profile_are_counted_and_never_pass_for_checked(bundle, gpu, tmp_path):
    from foveate.pipeline.data import open_data

    gpu()
    images = np.random.default_rng(0).normal(size=(2, 3, 72, 104)).astype(np.float32)
    np.savez(tmp_path / "large.npz", images=images)
    report = quiet_verify(bundle, data=open_data(tmp_path / "large.npz"))
    assert all(check.images == 0 and check.outside == 2 for check in report.engines)
    assert "its profile takes none of the images" in report.lines()[1]
    with pytest.raises(EngineError, match="no image within its profile"):
        report.require(engines=True)


def test_engines_for_another_gpu_are_not_run(bundle, monkeypatch):
    monkeypatch.setattr(GPU, lambda: "sm120")
    report = quiet_verify(bundle, limit=1)
    assert "built for sm89, this GPU is sm120" in report.not_run[0].not_run and report.passed


def test_without_polygraphy_nothing_is_claimed(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "polygraphy.comparator", None)
    report = quiet_verify(bundle, limit=1)
    assert report.passed and len(report.not_run) == len(report.engines) == 8
    assert "foveate[tensorrt]" in report.lines()[-1] and "not checked" in report.lines()[1]
    with pytest.raises(EngineError, match="Polygraphy"):
        report.require(engines=True)


def test_one_process_runs_engines_of_one_flavour(bundle, monkeypatch):
    """Polygraphy keeps the one that it was imported with."""
    import polygraphy.backend.trt
    import polygraphy.config

    engine = open_bundle(bundle).manifest.engines[0]
    monkeypatch.setattr(polygraphy.config, "USE_TENSORRT_RTX", False)
    assert "other flavour of TensorRT than tensorrt_rtx" in module._why_other_flavour(engine)
    monkeypatch.setattr(polygraphy.config, "USE_TENSORRT_RTX", True)
    assert module._why_other_flavour(engine) == ""


logits = arrays.arrays(np.float32, (1, 1, 4, 5), elements=st.floats(-6, 6, width=32))


@settings(deadline=None)
@given(
    logits, arrays.arrays(np.float32, (1, 1, 4, 5), elements=st.floats(-1, 1, width=32)), st.floats(0.1, 0.9)
)
def test_an_error_within_the_tolerance_excuses_every_flip_that_it_makes(z, noise, threshold):
    """The law by which flips are near: nothing that moves logits by less than the share of their range can fail."""
    share, mask = 0.02, Mask(Decision("mask0", "energy_mask", "keep"), "t", "T", 1)
    moved = z + noise * share * np.ptp(z) * np.float32(0.99)
    keep, other = ((importance(v, 1.0) > np.float32(threshold)).astype(np.float32) for v in (z, moved))
    margin = margins(mask, z, (4, 5), {"t": threshold, "T": 1.0})
    check = compare("a", {}, [other], {}, [Keep(keep, margin)], share)
    assert check.flips == check.near_flips


def test_depths_differ_where_they_are_not_equal():
    expected = Keep(np.array([1, 2, 4]), np.array([0.5, 0.01, 0.5]))
    check = compare("a", {}, [np.array([1, 4, 4])], {}, [expected], 0.02)
    assert (check.positions, check.flips, check.near_flips) == (3, 1, 1)
    check = compare("a", {}, [np.array([2, 2, 4])], {}, [expected], 0.02)
    assert (check.flips, check.near_flips) == (1, 0)
