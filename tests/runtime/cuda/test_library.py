"""Where the library of CUDA kernels is found, and what is said where it is not."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from foveate.pipeline import doctor
from foveate.runtime.cuda import kernels, library
from foveate.runtime.errors import EngineError


@pytest.fixture(autouse=True)
def load_anew():
    library._load.cache_clear()
    yield
    library._load.cache_clear()


def test_the_environment_chooses_the_library(monkeypatch, emulated_cuda):
    monkeypatch.setenv(library.SWITCH, str(emulated_cuda))
    assert library.path() == emulated_cuda and library.why_missing() == ""
    found = library.library()
    assert found is not None and found.fv_cuda_error(1) == b"cudaErrorInvalidValue"
    assert any(c.ok and c.found == str(emulated_cuda) for c in doctor.doctor() if c.name == "cuda kernels")


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(library.SWITCH, "0")
    assert library.library() is None and "switched off" in library.why_missing()
    numbers = np.zeros((1, 4), np.float32)
    with pytest.raises(EngineError, match=r"CUDA kernels: got switched off by FOVEATE_CUDA=0"):
        kernels._call("repeat", numbers.ctypes.data, numbers.ctypes.data, 1, 16, None)


def test_without_one_the_reason_is_told(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv(library.SWITCH, str(tmp_path / "none.so.1"))
    assert library.library() is None and "nvcc" in library.why_missing()
    library._load.cache_clear()
    (tmp_path / "broken.so.1").write_bytes(b"no library")
    monkeypatch.setenv(library.SWITCH, str(tmp_path / "broken.so.1"))
    with caplog.at_level(logging.WARNING, "foveate"):
        assert library.library() is None and "cannot be loaded" in library.why_missing()
    assert "CUDA kernels are off" in caplog.text


def test_another_version_is_refused(monkeypatch, emulated_cuda):
    monkeypatch.setattr(library, "ABI", 99)
    with pytest.raises(OSError, match="its ABI is 1, expected 99"):
        library.open_library(emulated_cuda)


def test_arguments_that_no_kernel_takes_are_refused(emulation):
    with pytest.raises(EngineError, match="CUDA kernel repeat: got cudaErrorInvalidValue"):
        kernels._call("repeat", 0, 0, -1, 4, None)
