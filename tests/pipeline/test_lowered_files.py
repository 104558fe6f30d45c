"""Bundles in float16 and bfloat16: what lies in their files, and that they answer as those in float32 do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from foveate.pipeline.build import build
from foveate.pipeline.inspect import inspect, lines
from foveate.pipeline.verify import verify
from foveate.runtime import load
from foveate.runtime.bundle import open_bundle
from foveate.runtime.engine import OrtConfig, TorchConfig
from foveate.runtime.errors import BackendWarning
from foveate.runtime.manifest import ExitChain
from onnx import TensorProto

from ..early_exits import exit_program

ON_CPU = TorchConfig(device="cpu")
SAMPLE = (1, 3, 64, 96)
OFF = {"fp16": 5e-3, "bf16": 4e-2}  # at most, of the largest value


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """A mask ahead of convolutions, and exits in three layouts behind."""
    torch.set_num_threads(1)
    return exit_program(tmp_path_factory.mktemp("program") / "exits.onnx", mask=True, convs=1)


@pytest.fixture(scope="module")
def fp16(program, tmp_path_factory) -> Path:
    return build(program, tmp_path_factory.mktemp("fp16") / "bundle", sample=SAMPLE, target="cuda:fp16")


@pytest.fixture(scope="module")
def bf16(program, tmp_path_factory) -> Path:
    return build(program, tmp_path_factory.mktemp("bf16") / "bundle", sample=SAMPLE, target="torch:bf16")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 3, 64, 96)).astype(np.float32)


def borders(model: onnx.ModelProto) -> dict[str, int]:
    initial = {i.name for i in model.graph.initializer}
    values = [*(v for v in model.graph.input if v.name not in initial), *model.graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def test_what_crosses_between_engines_is_of_one_type(fp16):
    manifest = open_bundle(fp16).manifest
    assert {"p", "t1", "exit1.chosen"} <= set(manifest.lowered)
    assert not {"mask0.keep", "mask0.logits", "gate0.scores", "images", "classes"} & set(manifest.lowered)
    for engine in manifest.engines:
        for name, kind in borders(onnx.load(fp16 / engine.plan, load_external_data=False)).items():
            assert (kind == TensorProto.FLOAT16) == (name in manifest.lowered), (engine.plan, name)
    chain = manifest.exit_step
    assert isinstance(chain, ExitChain)
    files = {engine.program for engine in manifest.engines}
    assert {stage.file for stage in chain.stages} | {"programs/exits.onnx", "programs/depth4.onnx"} <= files


def test_weights_are_stored_once_and_programs_stay(fp16, bf16, program, tmp_path):
    plain = build(program, tmp_path / "plain", sample=SAMPLE, target="cuda")
    for path in (plain / "programs").iterdir():
        assert path.read_bytes() == (fp16 / "programs" / path.name).read_bytes()
    weights = [(folder / "weights.bin").stat().st_size for folder in (plain / "programs", fp16 / "engines")]
    assert weights[1] < 0.6 * weights[0]
    assert open_bundle(bf16).manifest.lowered == ()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("layout", ["chain", "per-depth"])
def test_selective_answers_are_the_dense_ones_of_that_precision(request, precision, layout, images):
    bundle = request.getfixturevalue(precision)
    with (
        load(bundle, backend=ON_CPU, strategy="rects", layout=layout) as selective,
        load(bundle, backend="ort", threads=1) as exact,
    ):
        assert selective.config == TorchConfig(device="cpu", precision=precision)
        threshold = {"mask0.threshold": 0.0}  # all is active: a flip by rounding would be another image
        for model in (selective, exact):
            model.set_choices(threshold)
        found, dense, expected = selective(images), selective.dense(images), exact(images)
        np.testing.assert_array_equal(found.depth, expected.depth)
        scale = np.abs(expected["classes"]).max()
        assert found["classes"].dtype == np.float32
        assert 1e-5 < np.abs(found["classes"] - expected["classes"]).max() / scale < OFF[precision]
        assert np.abs(found["classes"] - dense["classes"]).max() / scale < OFF[precision]


def test_the_cpu_runs_the_program_itself(fp16, images):
    with pytest.warns(BackendWarning, match="not on the GPU"):
        model = load(fp16, threads=1)
    with model, load(fp16, backend="ort", threads=1) as plain:
        assert isinstance(model.config, OrtConfig)
        np.testing.assert_array_equal(model(images)["classes"], plain(images)["classes"])


def test_the_program_itself_runs_on_a_device_too(fp16, images):
    config = TorchConfig(device="cpu", precision="fp32")
    with load(fp16, backend=config) as model, load(fp16, backend="ort", threads=1) as plain:
        np.testing.assert_allclose(model.dense(images)["classes"], plain.dense(images)["classes"], atol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_verify_compares_every_file_with_its_program(request, precision):
    bundle = request.getfixturevalue(precision)
    with pytest.warns(BackendWarning):
        report = verify(bundle, limit=1, strategies=("rects",), threads=1)
    assert report.passed and not report.not_run
    assert {check.program for check in report.engines} == {
        e.program for e in open_bundle(bundle).manifest.engines
    }
    errors = [e for check in report.engines for e in (check.errors or {}).values()]
    assert max(errors) > 1e-4  # of that precision
    assert verify(bundle, limit=2, strategies=("rects",), threads=1, backend=ON_CPU).passed


def test_inspect_says_what_is_in_fewer_bits(fp16):
    facts = inspect(fp16)
    (line,) = [line for line in lines(facts) if line.startswith("engine")]
    assert f"{len(facts['engines'])} ONNX files in fp16" in line and "exit1.chosen" in line
