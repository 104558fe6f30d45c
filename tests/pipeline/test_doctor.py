from __future__ import annotations

import importlib
import json

import pytest
from foveate.pipeline import doctor as module
from foveate.pipeline.cli import main
from foveate.pipeline.doctor import can_run, doctor, lines
from foveate.runtime.device.driver import Driver

from ..runtime.device.cuda.fake_driver import FakeLibrary


@pytest.fixture
def without(monkeypatch):
    """`without("onnx")` makes importing it fail, as on a machine that lacks it."""
    doctor()  # first imports are whole: one that fails half way would break later ones of this process
    importlib.import_module("torch._dynamo")
    real = importlib.import_module

    def hide(*names: str) -> None:
        def import_module(name, *args):
            if name in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return real(name, *args)

        monkeypatch.setattr(module.importlib, "import_module", import_module)

    return hide


def test_here_everything_that_the_tests_need_is_found():
    found = {check.name: check for check in doctor()}
    assert can_run(list(found.values()))
    assert all(found[name].ok for name in ("python", "numpy", "onnxruntime", "onnx", "torch"))
    assert "CPU" in found["onnxruntime"].found


def test_what_is_missing_comes_with_the_command_that_adds_it(without):
    without("onnx", "matplotlib")
    text = "\n".join(lines(doctor()))
    assert "✗ onnx" in text and "pip install 'foveate[export]'" in text
    assert "plots of the report: pip install 'foveate[report]'" in text


def test_without_onnxruntime_nothing_runs_and_the_exit_code_is_3(without, capsys):
    without("onnxruntime")
    assert main(["doctor", "--json"]) == 3
    facts = json.loads(capsys.readouterr().out)
    assert facts["can_run"] is False
    assert {c["name"]: c["fix"] for c in facts["checks"]}["onnxruntime"] == "pip install 'foveate[cpu]'"


def test_a_package_that_breaks_on_import_counts_as_missing():
    def broken():
        raise ImportError("libmissing.so: cannot open shared object file\nmore")

    check = module._package("anything", "nothing", "reinstall", importing=broken)
    assert not check.ok and "libmissing.so" in check.found and "more" not in check.found


def test_both_onnxruntimes_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_installed", lambda name: True)
    check = next(c for c in doctor() if c.name == "onnxruntime")
    assert not check.ok and "pip uninstall" in check.fix


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    check = doctor(tmp_path / "missing")[-1]
    assert check.name == "folder" and not check.ok and "missing" in check.found


def test_without_native_kernels_the_way_to_get_them_is_named(monkeypatch):
    monkeypatch.setattr(module, "why_missing", lambda: "not built")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    check = next(c for c in doctor() if c.name == "native")
    assert not check.ok and check.found == "not built"
    assert "g++" in check.fix and "--force-reinstall" in check.fix


def test_a_gpu_is_described(monkeypatch):
    monkeypatch.setattr(module, "compute_capability", lambda: "sm90")
    monkeypatch.setattr(module, "open_driver", lambda: Driver(FakeLibrary()))
    check = module._gpu()
    assert check.ok and check.found == "Fake GPU, sm90, its driver speaks CUDA 13.0"


@pytest.mark.parametrize(
    ("providers", "ok", "said"),
    [
        (["CUDAExecutionProvider"], True, "providers cuda"),
        (["CPUExecutionProvider"], False, "without its CUDA"),
    ],
)
def test_the_provider_of_backend_cuda_is_looked_for(monkeypatch, providers, ok, said):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    check = module._cuda_provider()
    assert check.ok is ok and said in check.found and (ok or "foveate[gpu]" in check.fix)


def test_without_cuda_kernels_the_way_to_get_them_is_named(monkeypatch):
    monkeypatch.setattr(module.cuda_library, "why_missing", lambda: "not built")
    check = next(c for c in doctor() if c.name == "cuda kernels")
    assert not check.ok and check.found == "not built" and "nvcc" in check.fix
