"""The GPU as its driver tells it, with a driver in the place of a real one."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
from foveate.runtime import cuda_device

ask = cuda_device.compute_capability.__wrapped__


@pytest.fixture
def driver(monkeypatch):
    """`driver(failing="cuInit")`: one that knows a GPU of compute capability 8.9."""

    def attribute(out, which, device):
        out._obj.value = {75: 8, 76: 9}[which]
        return 0

    def install(failing: str = "") -> None:
        calls = {
            "cuInit": lambda flags: 0,
            "cuDeviceGet": lambda out, number: 0,
            "cuDeviceGetAttribute": attribute,
        }
        calls |= {failing: lambda *_: 100} if failing else {}
        monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**calls))

    return install


def test_its_compute_capability(driver):
    driver()
    assert ask() == "sm89"


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDeviceGetAttribute"])
def test_a_driver_that_fails_counts_as_none(driver, call):
    driver(failing=call)
    assert ask() == ""


def test_a_machine_without_a_driver(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert ask() == ""
