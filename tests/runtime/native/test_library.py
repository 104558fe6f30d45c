from __future__ import annotations

import subprocess
import sys

import pytest
from foveate.runtime.native import library as module


@pytest.fixture
def load(monkeypatch):
    """Loads anew, as a fresh process would, after the test has changed what it finds."""
    monkeypatch.setattr(module, "library", lambda: module._load.__wrapped__())
    return module.library


def test_the_library_is_there_and_of_this_version(load):
    found, reason = load()
    assert found is not None and not reason
    assert found.fv_abi() == module.ABI


def test_without_the_file_there_is_none(load, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "path", lambda: tmp_path / "libfoveate.so")
    assert load() == (None, "not built: the installation found no C++ compiler")


def test_a_library_of_another_version_is_refused(load, monkeypatch, caplog):
    monkeypatch.setattr(module, "ABI", 999)
    found, reason = load()
    assert found is None and "expected 999" in reason
    assert "--force-reinstall" in caplog.text


def test_a_file_that_is_no_library_is_refused(load, monkeypatch, tmp_path, caplog):
    broken = tmp_path / "libfoveate.so"
    broken.write_bytes(b"not a library")
    monkeypatch.setattr(module, "path", lambda: broken)
    found, reason = load()
    assert found is None and "cannot be loaded" in reason


def test_it_can_be_switched_off():
    code = "from foveate.runtime.native.library import library, why_missing; print(library(), why_missing())"
    environment = {"FOVEATE_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None switched off by FOVEATE_NATIVE=0"
