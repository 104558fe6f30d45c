"""Engines by Torch-TensorRT: its place is taken by a stand-in that runs what torch.export gives, on the CPU."""

from __future__ import annotations

import importlib.machinery
import itertools
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from foveate.pipeline.build import build
from foveate.pipeline.inspect import inspect
from foveate.pipeline.lean import lean
from foveate.pipeline.tensorrt import flavour
from foveate.pipeline.tensorrt.borders import open_session
from foveate.pipeline.tensorrt.engine_model import open_choices
from foveate.pipeline.tensorrt.torch_module import OnnxModule
from foveate.pipeline.verify import verify
from foveate.runtime.errors import BackendWarning, EngineError, InputError, MissingExtraError, ProgramError
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from foveate import load

from ...early_exits import exit_program

RANGES = {"batch": (1, 2, 4), "height": (16, 32, 64), "width": (16, 48, 96)}
GPU = ("pipeline.tensorrt.flavour", "runtime.nvidia", "runtime.backends.torch_tensorrt")


class StandIn(ModuleType):
    """The documented calls that Foveate makes. A plan is a number; engines answer as the exported programs do, within
    their profiles."""

    __version__ = "2.13.0"

    def __init__(self) -> None:
        super().__init__("torch_tensorrt")
        self.__spec__ = importlib.machinery.ModuleSpec("torch_tensorrt", None)
        self.built: dict[bytes, tuple] = {}
        self.number = itertools.count()
        self.dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=self.convert)
        self.runtime = SimpleNamespace(TorchTensorRTModule=self.open)
        self.Input = lambda **given: given

    def convert(
        self, program, *, arg_inputs, arg_input_binding_names, output_binding_names, **options
    ) -> bytes:
        assert options == {"use_explicit_typing": True, "disable_tf32": True}
        plan = b"plan %d" % next(self.number)
        self.built[plan] = program.module(), arg_inputs, arg_input_binding_names, output_binding_names
        return plan

    def open(self, *, serialized_engine, input_binding_names, output_binding_names, name):
        module, shapes, inputs, outputs = self.built[serialized_engine]
        assert (tuple(input_binding_names), tuple(output_binding_names)) == (inputs, outputs) and name

        def run(*tensors: torch.Tensor):
            for tensor, limits in zip(tensors, shapes, strict=True):
                least, most = (
                    limits.get("min_shape", limits.get("shape")),
                    limits.get("max_shape", limits.get("shape")),
                )
                assert tensor.dtype == limits["dtype"]
                assert all(a <= n <= b for a, n, b in zip(least, tensor.shape, most, strict=True))
            return module(*tensors)

        return run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    """A mask, and exits in a chain."""
    folder = tmp_path_factory.mktemp("torch")
    program = exit_program(folder / "exits.onnx", mask=True, exits=(1, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FOVEATE_CACHE", str(folder / "cache"))
        stand_in = StandIn()
        install(patch, stand_in)
        sample = (1, 3, 32, 48)
        out = build(
            program, folder / "bundle", sample=sample, target="torch_tensorrt", ranges=RANGES, layout="chain"
        )
    PLANS[out] = stand_in
    return out


PLANS: dict[Path, StandIn] = {}


def install(patch: pytest.MonkeyPatch, stand_in: StandIn) -> None:
    patch.setitem(sys.modules, "torch_tensorrt", stand_in)
    for module in GPU:
        patch.setattr(f"foveate.{module}.compute_capability", lambda: "sm89")
    flavour.open_flavour.cache_clear()


@pytest.fixture
def installed(bundle, monkeypatch):
    install(monkeypatch, PLANS[bundle])
    yield
    flavour.open_flavour.cache_clear()


def images(count: int) -> np.ndarray:
    contrast = np.linspace(0.2, 8, count)[:, None, None, None]
    return (np.random.default_rng(0).normal(size=(count, 3, 32, 48)) * contrast).astype(np.float32)


def test_the_bundle_dispatches_to_its_engines_and_answers_as_onnxruntime_does(bundle, installed):
    batch = images(4)
    with load(bundle) as model, load(bundle, backend="ort") as other:
        assert (model.backend, model.layout, other.backend) == ("torch_tensorrt", "chain", "ort")
        found, expected = model(batch), other(batch)
        assert len(set(expected["depth"])) > 1 and np.array_equal(found["depth"], expected["depth"])
        assert np.allclose(found["classes"], expected["classes"], rtol=1e-3, atol=1e-4)
        mask = found.decisions["mask0"].keep, expected.decisions["mask0"].keep
        assert np.array_equal(*mask) and 0 < mask[0].mean() < 1
        model.set_choices({"mask0.threshold": 2.0})
        assert not model(batch).decisions["mask0"].keep.any()  # choices are inputs of the engines


def test_its_engines_are_told_and_verified_like_others(bundle, installed):
    engines = inspect(bundle)["engines"]
    assert {(e["flavour"], e["compute"], e["version"]) for e in engines} == {
        ("torch_tensorrt", "sm89", "2.13.0")
    }
    report = verify(bundle, limit=2, threads=1, strategies=("rects",))
    assert report.checks[0].backend == "torch_tensorrt" and report.checks[0].passed
    assert "rects by torch_tensorrt: decisions agree on 2 of 2 images" in report.lines()[0]


def test_elsewhere_onnxruntime_answers(bundle):
    with pytest.warns(BackendWarning, match="not on Torch-TensorRT: this machine has no NVIDIA GPU"):
        model = load(bundle)
    with model:
        assert model.backend == "ort" and model(images(1))["classes"].shape == (1, 24, 4)


def test_without_it_the_extra_is_named(tmp_path):
    program = exit_program(tmp_path / "exits.onnx")
    with pytest.raises(MissingExtraError, match=r"foveate\[torch-tensorrt\]"):
        build(program, tmp_path / "out", sample=(1, 3, 32, 32), target="torch_tensorrt:fp16")
    assert not (tmp_path / "out").exists()


def test_it_builds_for_its_own_gpu_alone(tmp_path, installed):
    program = exit_program(tmp_path / "exits.onnx")
    with pytest.raises(InputError, match=r"target torch_tensorrt: got @sm120"):
        build(program, tmp_path / "out", sample=(1, 3, 32, 32), target="torch_tensorrt@sm120")


def test_what_it_refuses_is_told_with_the_file(tmp_path, installed, bundle, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no converter for aten.foo")

    monkeypatch.setattr(PLANS[bundle].dynamo, "convert_exported_program_to_serialized_trt_engine", refuse)
    program = exit_program(tmp_path / "exits.onnx")
    with pytest.raises(EngineError, match=r"whole\.onnx: got RuntimeError: no converter for aten\.foo"):
        build(program, tmp_path / "out", sample=(1, 3, 32, 48), target="torch_tensorrt", ranges=RANGES)


def test_an_operator_without_a_function_is_named_with_its_node():
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]>\ng (float[n, 4] x) => (float[n, 4] y) { y = Det (x) }'
    )
    model.graph.node[0].name = "middle"
    with pytest.raises(ProgramError, match=r"node middle \(Det\)(.|\n)*Build for tensorrt"):
        OnnxModule(model)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_programs_compute_in_torch_what_they_compute_in_onnxruntime(random_program, tmp_path, data):
    model = lean(random_program(data.draw, data.draw(st.integers(1, 6)), native=True))
    session = open_session(model, tmp_path)
    image = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 4, 24, 24)).astype(np.float32)
    expected = session.run(None, {"images": image})
    open_choices(model)
    choices = {i.name: torch.tensor(v) for i, v in zip(model.graph.input[1:], CHOICES, strict=False)}
    with torch.no_grad():
        try:
            found = OnnxModule(model)(torch.from_numpy(image), *choices.values())
        except ProgramError as refused:  # by name, which is no wrong answer
            assert "Build for tensorrt" in refused.fix
            reject()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert np.allclose(ours.numpy(), theirs, rtol=1e-3, atol=1e-4 * max(1.0, float(np.abs(theirs).max())))


CHOICES = (0.5, 1.0)  # of the mask: its threshold and temperature
