"""The benchmarks on a GPU, in little and without one, so that they do not fail on the expensive machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module


def test_bandwidth(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_bandwidth", "--dry", "--rounds", "1", "--out", str(tmp_path)])
    module = benchmark("gpu_bandwidth")
    monkeypatch.setattr(module, "CALLS", 1)
    module.main()
    facts = json.loads((tmp_path / "bandwidth.json").read_text())
    assert facts["dry"] and facts["kernels"][0]["kernel"] == "copy"
    assert all(kernel["gb_per_s"] > 0 for kernel in facts["kernels"])


def test_what_misses_its_target_is_named(benchmark):
    module = benchmark("gpu_selective")
    row = {"batch": 4, "active_fraction": 0.1, "speedup": 3.2, "realization": 0.8, "auto_speedup": 3.0}
    assert module.misses([row, {**row, "batch": 1, "speedup": 1.0}]) == []
    slow = module.misses([{**row, "speedup": 3.0, "realization": 0.7, "auto_speedup": 0.9}])
    assert len(slow) == 3 and "3.00× < 3.1×" in slow[0]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_script(tmp_path):
    command = [str(BENCHMARKS / "gpu.sh"), "--dry", "device", "bandwidth", "selective", "depth", "examples"]
    folders = {"OUT": str(tmp_path / "out"), "WORK": str(tmp_path / "work"), "PYTHON": sys.executable}
    done = subprocess.run(command, env={**os.environ, **folders}, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == [
        *("bandwidth.json", "bench-eco_m2f.json", "bench-ersm.json"),
        *("depth.json", "device.json", "selective.json"),
    ]


def test_a_part_that_is_none_is_named():
    done = subprocess.run(
        [str(BENCHMARKS / "gpu.sh"), "--dry", "nothing"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1 and "no part nothing" in done.stdout
