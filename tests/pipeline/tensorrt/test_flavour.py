"""Flavours: which is taken, for which GPUs it builds, and what it refuses."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
from foveate.pipeline.tensorrt import flavour as module
from foveate.pipeline.tensorrt.flavour import ANY, FULL, RTX, Flavour, find_flavour
from foveate.runtime.errors import InputError, MissingExtraError

FULL_11 = Flavour(FULL, "11.1.0", SimpleNamespace(NetworkDefinitionCreationFlag=object()))


@pytest.fixture
def machine(monkeypatch):
    """`machine("sm89", FULL, RTX)`: with this GPU and these flavours installed."""

    def pretend(gpu: str, *installed: str) -> None:
        monkeypatch.setattr(module, "compute_capability", lambda: gpu)
        monkeypatch.setattr(module, "open_flavour", lambda name: Flavour(name, "11.0", None))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)

    return pretend


@pytest.mark.parametrize(
    ("gpu", "compute", "expected"), [("", (), RTX), ("sm89", (), FULL), ("sm89", ("sm120",), RTX)]
)
def test_full_tensorrt_is_taken_where_it_can_build(machine, gpu, compute, expected):
    machine(gpu, FULL, RTX)
    assert find_flavour(compute).name == expected


def test_the_one_that_is_installed_is_taken(machine):
    machine("", FULL)
    assert find_flavour(("sm89",)).name == FULL
    machine("sm89", RTX)
    assert find_flavour().name == RTX
    machine("sm89")
    with pytest.raises(MissingExtraError, match=r"foveate\[tensorrt\]"):
        find_flavour()


def test_rtx_builds_for_the_gpus_that_it_knows(rtx):
    assert rtx.compute_of(()) == (ANY,)
    assert rtx.compute_of(("sm120", "sm89", "sm89")) == ("sm89", "sm120")
    with pytest.raises(
        InputError, match=r"sm90.*TensorRT-RTX(.|\n)*H100 or H200 build for cpu, or with full TensorRT"
    ):
        rtx.compute_of(("sm90",))
    with pytest.raises(InputError, match="sm42"):
        rtx.compute_of(("sm89", "sm42"))


def test_full_tensorrt_builds_for_its_own_gpu(monkeypatch):
    with pytest.raises(InputError, match=r"@sm89(.|\n)*the GPU that it runs on"):
        FULL_11.compute_of(("sm89",))
    monkeypatch.setattr(module, "compute_capability", lambda: "sm90")
    assert FULL_11.compute_of(()) == ("sm90",)


@pytest.mark.parametrize(("known", "flags"), [({"STRONGLY_TYPED": 1}, 2), ({}, 0)])
def test_networks_are_strongly_typed_with_and_without_a_flag_for_it(known, flags):
    trt = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(**known))
    builder = SimpleNamespace(create_network=lambda given: given)
    assert Flavour(FULL, "10.13", trt).network(builder) == flags
