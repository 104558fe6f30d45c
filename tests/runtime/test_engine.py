"""Engines: the registry, and onnxruntime's errors in our words."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from foveate.runtime import engine
from foveate.runtime.backends.ort import spin
from foveate.runtime.engine import NullConfig, OrtConfig, Ports, config_for, open_engine, register
from foveate.runtime.errors import EngineError, InputError, InternalError, MissingExtraError
from foveate.runtime.manifest import TensorSpec

A = TensorSpec("a", "float32", ("batch", 8, "height/2", "width/2"))
KEEP2 = TensorSpec("keep2", "float32", ("batch", 1, "height/4", "width/4"))
B = TensorSpec("b", "float32", ("batch", 8, "height/4", "width/4"))
PORTS = Ports((A, KEEP2), (B,))


def feeds(size: int = 8) -> dict[str, np.ndarray]:
    return {
        "a": np.ones((1, 8, size, size), np.float32),
        "keep2": np.ones((1, 1, size // 2, size // 2), np.float32),
    }


def test_names_and_their_configs():
    assert config_for("ort", 2) == OrtConfig(threads=2)
    assert config_for("null", None) == NullConfig()


def test_an_unknown_backend():
    with pytest.raises(InputError, match=r"got 'orrt'.*\n.*Did you mean 'ort'\?"):
        config_for("orrt", None)


@pytest.mark.parametrize("threads", [-1, 1.5, True])
def test_threads_that_are_none(threads: object):
    with pytest.raises(InputError, match="threads"):
        config_for("ort", threads)  # type: ignore[arg-type]


def test_a_second_opener_is_refused(handmade: Path):
    open_engine(handmade / "programs/b.onnx", OrtConfig(1), PORTS).close()
    with pytest.raises(InternalError, match="two openers for engines of OrtConfig"):
        register(OrtConfig)(engine._OPENERS[OrtConfig])


def test_ort_runs(handmade: Path):
    opened = open_engine(handmade / "programs/b.onnx", OrtConfig(1), PORTS)
    assert (opened.inputs, opened.outputs) == (("a", "keep2"), ("b",))
    (b,) = opened.run(feeds())
    assert b.shape == (1, 8, 4, 4) and b.any()


@pytest.mark.parametrize(
    ("version", "us", "allowed", "duration"),
    [
        ("1.31.1", 10, "1", "10"),
        ("1.31.1", 0, "0", None),
        ("1.31.1", None, "1", None),
        ("1.26.0.dev1", 10, "1", "10"),
        ("1.25.1", 10, "0", None),  # it knows no durations, and would spin throughout
        ("1.25.1", None, "1", None),
    ],
)
def test_spinning(monkeypatch, version, us, allowed, duration):
    monkeypatch.setattr("onnxruntime.__version__", version)
    entries = {}
    spin(SimpleNamespace(add_session_config_entry=entries.__setitem__), us)
    assert entries["session.intra_op.allow_spinning"] == allowed
    assert entries.get("session.intra_op.spin_duration_us") == duration
    assert entries["session.force_spinning_stop"] == "1"


@pytest.mark.parametrize("us", [-1, 0.5])
def test_a_time_that_is_none(handmade: Path, us: Any):
    with pytest.raises(InputError, match="spin_us"):
        open_engine(handmade / "programs/b.onnx", OrtConfig(1, spin_us=us), PORTS)


def test_choices_are_optional_inputs(handmade: Path):
    c = TensorSpec("c", "float32", B.shape)
    opened = open_engine(handmade / "programs/c.onnx", OrtConfig(1), Ports((B,), (c,)))
    assert (opened.inputs, opened.optional) == (("b",), ("gain",))
    b = np.ones((1, 8, 4, 4), np.float32)
    (plain,), (scaled,) = opened.run({"b": b}), opened.run({"b": b, "gain": np.array(2, np.float32)})
    np.testing.assert_allclose(scaled, 2 * plain, rtol=1e-6)


def test_a_failing_run_says_what_was_fed(handmade: Path):
    opened = open_engine(handmade / "programs/b.onnx", OrtConfig(1), PORTS)
    with pytest.raises(EngineError, match=r"b\.onnx: got .*fed a float32 \[1, 8, 8, 8\]"):
        opened.run({**feeds(), "keep2": np.ones((1, 1, 3, 3), np.float32)})


def test_a_run_after_close(handmade: Path):
    opened = open_engine(handmade / "programs/b.onnx", OrtConfig(1), PORTS)
    opened.close()
    with pytest.raises(EngineError, match=r"after close"):
        opened.run(feeds())


def test_a_file_that_is_no_program(tmp_path: Path):
    path = tmp_path / "x.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(EngineError, match=r"cannot open .*x\.onnx"):
        open_engine(path, OrtConfig(1), PORTS)


def test_a_program_with_another_border(handmade: Path):
    with pytest.raises(EngineError, match=r"c\.onnx does not fit its manifest"):
        open_engine(handmade / "programs/c.onnx", OrtConfig(1), PORTS)


def test_onnxruntime_missing(handmade: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"foveate\[cpu\]"):
        open_engine(handmade / "programs/b.onnx", OrtConfig(1), PORTS)


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_null_answers_in_shape(fill: float):
    opened = open_engine(Path("nowhere.onnx"), NullConfig(fill=fill), PORTS)
    (b,) = opened.run(feeds(10))
    assert b.shape == (1, 8, 5, 5) and b.dtype == np.float32 and (b == fill).all()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's own figures")
def test_engines_share_the_memory_of_their_runs(tmp_path: Path):
    """What one engine's largest run took is there for the next, and not kept by each."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]>\n'
        "spread (float[n] x) => (float s) {\n  m = Exp (x)\n  t = Sin (m)\n  u = Sub (m, t)\n"
        "  s = ReduceSum <keepdims = 0> (u)\n}"
    )
    onnx.save(model, tmp_path / "spread.onnx")
    ports = Ports((TensorSpec("x", "float32", ("n",)),), (TensorSpec("s", "float32", ()),))
    fed, held = {"x": np.zeros(8_000_000, np.float32)}, []
    engines = [open_engine(tmp_path / "spread.onnx", OrtConfig(1), ports) for _ in range(4)]
    for opened in engines:
        before = resident()
        opened.run(fed)
        held.append(resident() - before)
    assert max(held[1:]) < 16 * 2**20  # an engine alone takes 64 of them


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
