"""docs/quickstart.md, with a few steps of training: from a timm network to a measured bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: object) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_a_timm_network_to_a_measured_bundle(tmp_path):
    import foveate

    train = "examples/quickstart/train.py"
    options = ["--out", tmp_path, "--size", 64, "--steps", 3, "--batch", 4, "--model", "resnet10t"]
    run(train, "examples/ersm/scenes", *options, "--after", "layer1")
    run(train, "examples/ersm/scenes", *options, "--after", "none")
    command = ["-m", "foveate.pipeline.cli", "compile", tmp_path / "masked.safetensors", "--json", "--quiet"]
    command += ["--baseline", tmp_path / "baseline.safetensors", "--out", tmp_path / "bundle"]
    report = json.loads(run(*command, "--data", "examples/ersm/scenes", "--limit", 4))
    assert report["parity"]["passed"] and report["baseline"]["kind"] == "unmasked"
    assert (tmp_path / "bundle" / "report" / "report.html").is_file()
    with foveate.load(tmp_path / "bundle") as model:
        assert model.manifest.labels[0] == "0_tshirt"
        assert model(np.zeros((2, 3, 64, 64), np.float32))["output"].shape == (2, 10)
