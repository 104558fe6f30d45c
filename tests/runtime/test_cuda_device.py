"""The GPU as its driver tells it, with a driver in the place of a real one."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pytest
from foveate.runtime import cuda_device
from foveate.runtime.device.driver import open_driver

ask = cuda_device.compute_capability.__wrapped__
ask_bus = cuda_device.pci_bus_id.__wrapped__


@pytest.fixture
def driver(monkeypatch):
    """`driver(failing="cuInit")`: one that knows a GPU of compute capability 8.9 at bus 1."""

    def attribute(out, which, device):
        out._obj.value = {75: 8, 76: 9}[which]
        return 0

    def bus(out, size, device):
        out.value = b"0000:01:00.0"[: size - 1]
        return 0

    def install(failing: str = "") -> None:
        calls = {
            "cuInit": lambda flags: 0,
            "cuDeviceGet": lambda out, number: 0,
            "cuDeviceGetAttribute": attribute,
            "cuDeviceGetPCIBusId": bus,
        }
        calls |= {failing: lambda *_: 100} if failing else {}
        monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**calls))

    open_driver.cache_clear()
    yield install
    open_driver.cache_clear()


def test_its_compute_capability(driver):
    driver()
    assert ask() == "sm89"
    assert ask_bus() == "0000:01:00.0"


@pytest.mark.parametrize("call", ["cuInit", "cuDeviceGet", "cuDeviceGetAttribute", "cuDeviceGetPCIBusId"])
def test_a_driver_that_fails_counts_as_none(driver, call):
    driver(failing=call)
    assert (ask() == "") == (call != "cuDeviceGetPCIBusId")
    assert (ask_bus() == "") == (call != "cuDeviceGetAttribute")


def test_a_machine_without_a_driver(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert ask() == ""
