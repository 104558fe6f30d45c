"""Flavours of TensorRT as installed: which load, and the link that a wheel lacks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from foveate.runtime.errors import EngineError
from foveate.runtime.tensorrt import flavour as module
from foveate.runtime.tensorrt.flavour import FULL, complete_wheel


def test_a_tensorrt_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(module.importlib, "import_module", lambda name: SimpleNamespace(__version__="8.6.1"))
    with pytest.raises(EngineError, match=r"TensorRT 8\.6\.1; expected TensorRT 10"):
        module.open_flavour.__wrapped__(FULL)


def test_one_that_does_not_load_is_named(monkeypatch):
    def fail(name):
        raise OSError("libcuda: no such file")

    monkeypatch.setattr(module.importlib, "import_module", fail)
    with pytest.raises(EngineError, match="libcuda"):
        module.open_flavour.__wrapped__(FULL)


def test_the_link_that_the_wheel_lacks_is_added(monkeypatch, tmp_path):
    (tmp_path / "libtensorrt_rtx.so.1").write_bytes(b"library")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: spec)
    assert complete_wheel() and complete_wheel()
    assert (tmp_path / "libtensorrt_rtx.so").read_bytes() == b"library"

    (tmp_path / "libtensorrt_rtx.so").unlink()
    monkeypatch.setattr(module.os, "symlink", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert not complete_wheel()
